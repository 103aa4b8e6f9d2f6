"""Refuse the past in a SQL database: one statement that compares and writes, and so locks its row until the commit.

The claim is an UPDATE, because that compares with the newest committed row and keeps it locked, at every isolation
level: a later claim waits for our commit, an earlier one that comes after it matches nothing. (PostgreSQL waits for the
row, and from REPEATABLE READ on raises a serialization failure if it has changed meanwhile; SQLite takes its one write
lock.) So everything in a transaction that *begins* with a claim is fenced, whichever tables it touches. What was read
before the claim is not.

Not promised: anything where each statement is a transaction of its own (autocommit); there only the write that carries
the comparison itself is safe. A holder that stops inside its transaction keeps the row locked, and the next one waits
for the database to end that: see idle_in_transaction_session_timeout and lock_timeout of PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from coordkit.core.fence import stale
from coordkit.core.token import check_token
from coordkit.errors import CoordError, StoreRefused

PARAMSTYLES = ("qmark", "numeric", "named", "format", "pyformat")

# One part of a name: plain, or quoted as the database quotes it, without what could end the quotation.
_PART = r'(?:[A-Za-z_][A-Za-z0-9_]*|"[A-Za-z0-9_ -]+"|`[A-Za-z0-9_ -]+`)'
_COLUMN, _TABLE = re.compile(_PART), re.compile(rf"{_PART}(?:\.{_PART})*")
_PLACE = re.compile(r":(\w+)")


class Database(Protocol):
    """A connection, inside the user's transaction; statements have ``:name`` where a parameter goes."""

    async def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Return how many rows were changed."""
        ...

    async def row(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any] | None: ...

    async def autocommits(self) -> bool:
        """Return whether the last statement was a transaction of its own, as far as one can tell."""
        ...


class Columns(NamedTuple):
    """Where a fence lies: one row for each key, with the highest token and its holder."""

    table: str
    key: str
    token: str
    holder: str


class RowFence:
    """The highest token seen, kept in the very row that it guards."""

    def __init__(self, table: str, key: str, token: str, holder: str) -> None:
        names = (check_column("key_column", key), check_column("token_column", token))
        self.columns = Columns(check_table(table), *names, check_column("holder_column", holder))

    async def claim(self, database: Database, key: Any, token: int) -> None:
        await self.update(database, key, {}, token)
        await _check_transaction(self._name(key), database)

    async def update(self, database: Database, key: Any, values: Mapping[str, Any], token: int) -> None:
        number, holder = check_token(token)
        mine = self.columns
        own = [f"{check_column('values', column)} = :value{i}" for i, column in enumerate(values)]
        if taken := {*mine[1:]} & {*values}:
            raise ValueError(f"values must not contain the fence's own columns, got {sorted(taken)}")
        sets = ", ".join([*own, _sets(mine, "", holder)])
        statement = f"UPDATE {mine.table} SET {sets} WHERE {mine.key} = :key AND {_passes(mine, '', holder)}"  # noqa: S608  names are checked
        parameters = {f"value{i}": value for i, value in enumerate(values.values())}
        parameters |= {"key": key, "token": number, "holder": holder}
        if (count := await database.change(statement, parameters)) != 1:
            raise await _refusal(database, mine, name=self._name(key), key=key, offered=(number, holder), count=count)

    def _name(self, key: Any) -> str:
        return f"{self.columns.table} {self.columns.key}={key!r}"


class SqlFence:
    """The highest token seen for a name, in a table of its own; a name that is not there yet is inserted."""

    def __init__(self, name: str, table: str) -> None:
        self.name = name
        self.columns = Columns(check_table(table), "name", "token", "holder")

    @property
    def ddl(self) -> str:
        columns = "name TEXT NOT NULL PRIMARY KEY, token BIGINT NOT NULL, holder TEXT NOT NULL"
        return f"CREATE TABLE IF NOT EXISTS {self.columns.table} ({columns})"

    async def claim(self, database: Database, token: int) -> None:
        number, holder = check_token(token)
        mine = self.columns
        statement = (
            f"INSERT INTO {mine.table} AS seen (name, token, holder) VALUES (:key, :token, :holder) "  # noqa: S608  names are checked
            f"ON CONFLICT (name) DO UPDATE SET {_sets(mine, 'seen.', holder)} WHERE {_passes(mine, 'seen.', holder)}"
        )
        parameters = {"key": self.name, "token": number, "holder": holder}
        if (count := await database.change(statement, parameters)) != 1:
            raise await _refusal(database, mine, name=self.name, key=self.name, offered=(number, holder), count=count)
        await _check_transaction(self.name, database)


def _sets(columns: Columns, of: str, holder: str) -> str:
    """Return the assignments; a number without its holder does not wipe out the holder that is known of it."""
    kept = f"CASE WHEN {of}{columns.token} = :token THEN COALESCE({of}{columns.holder}, '') ELSE :holder END"
    # The holder first: MySQL sees in an assignment what those to its left have made.
    return f"{columns.holder} = {':holder' if holder else kept}, {columns.token} = :token"


def _passes(columns: Columns, of: str, holder: str) -> str:
    """Return the condition: a lower token is late, an equal one of another holder is a duplicate."""
    if not holder:
        return f"COALESCE({of}{columns.token}, 0) <= :token"
    same = f"{of}{columns.token} = :token AND COALESCE({of}{columns.holder}, '') IN (:holder, '')"
    return f"(COALESCE({of}{columns.token}, 0) < :token OR ({same}))"


async def _refusal(
    database: Database, columns: Columns, *, name: str, key: Any, offered: tuple[int, str], count: int
) -> CoordError:
    statement = f"SELECT {columns.token}, {columns.holder} FROM {columns.table} WHERE {columns.key} = :key"  # noqa: S608  names are checked
    row = await database.row(statement, {"key": key})
    if row is None:
        return StoreRefused(name, f"{columns.table} has no row of that key: insert it first, and commit")
    seen, by = int(row[0] or 0), str(row[1] or "")
    if seen > offered[0] or (seen == offered[0] and "" not in (by, offered[1]) and by != offered[1]):
        return stale(name, offered[0], seen, by)
    return StoreRefused(
        name,
        f"{count} rows were counted where one was to be changed; the key must name one row, and the driver must count "
        "the rows that it found (MySQL: connect with CLIENT.FOUND_ROWS); roll back",
    )


async def _check_transaction(name: str, database: Database) -> None:
    if await database.autocommits():
        raise ValueError(
            f"connection must be in a transaction, got one that commits by itself: the claim of {name} guards nothing "
            "that follows it"
        )


def check_column(argument: str, value: object) -> str:
    """Return ``value`` if it is the name of a column: plain, or quoted as the database wants it."""
    return _check_identifier(argument, value, _COLUMN, "the name of a column")


def check_table(value: object) -> str:
    """Return ``value`` if it is the name of a table, perhaps with its schema."""
    return _check_identifier("table", value, _TABLE, "the name of a table")


def _check_identifier(argument: str, value: object, allowed: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be {what}, got {value!r}")
    if not allowed.fullmatch(value):
        raise ValueError(f"{argument} must be {what}: letters, digits, underscores, or quoted, got {value!r}")
    return value


def check_paramstyle(value: object) -> str | None:
    """Return ``value`` if it is None or one of the five ways in which a DB-API driver marks parameters."""
    if value is not None and value not in PARAMSTYLES:
        raise ValueError(f"paramstyle must be None or one of {', '.join(PARAMSTYLES)}, got {value!r}")
    return None if value is None else str(value)


def rendered(statement: str, parameters: Mapping[str, Any], paramstyle: str) -> tuple[str, Any]:
    """Return the statement and its parameters as a DB-API driver of this paramstyle takes them."""
    used = _PLACE.findall(statement)
    if paramstyle == "named":
        return statement, {name: parameters[name] for name in used}
    if paramstyle == "pyformat":
        return _PLACE.sub(r"%(\1)s", statement), {name: parameters[name] for name in used}
    counter = iter(range(1, len(used) + 1))
    mark = {"qmark": "?", "format": "%s", "numeric": ":"}[paramstyle]
    number = paramstyle == "numeric"
    text = _PLACE.sub(lambda _: f"{mark}{next(counter)}" if number else mark, statement)
    return text, tuple(parameters[name] for name in used)
