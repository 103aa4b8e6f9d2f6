"""Refusing the past in SQL, in both flavours, on SQLite and on a real PostgreSQL, by drivers and by SQLAlchemy."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.exc
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
from postgres import PostgresProcess, start_postgres
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from coordkit import StaleToken, StoreRefused, Token

COMBINATIONS = [
    ("blocking", "sqlite3"),
    ("blocking", "SQLite by SQLAlchemy"),
    ("blocking", "psycopg"),
    ("blocking", "PostgreSQL by SQLAlchemy"),
    ("blocking", "PostgreSQL by a Session"),
    ("asyncio", "aiosqlite"),
    ("asyncio", "SQLite by SQLAlchemy"),
    ("asyncio", "psycopg"),
    ("asyncio", "asyncpg by SQLAlchemy"),
    ("asyncio", "PostgreSQL by SQLAlchemy"),
    ("asyncio", "PostgreSQL by a Session"),
]
everywhere = pytest.mark.parametrize(
    ("flavour", "kind"), COMBINATIONS, indirect=["flavour"], ids=[": ".join(each) for each in COMBINATIONS]
)
ISOLATION = ["read committed", "repeatable read", "serializable"]
AGAIN = (psycopg.OperationalError, sqlalchemy.exc.OperationalError, sqlite3.OperationalError)  # "could not serialize"


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresProcess]:
    with start_postgres(request.config) as server:
        yield server


@pytest.fixture
def kind() -> str:
    return "psycopg"


class Database:
    """One table of accounts, reached by connections of one kind."""

    def __init__(self, flavour: Any, kind: str, postgres: PostgresProcess | None, file: Path) -> None:
        self.flavour, self.kind, self.postgres, self.file = flavour, kind, postgres, file
        self.is_sqlite = postgres is None
        self.maybe = flavour.maybe

    async def connect(self, isolation: str = "read committed") -> Any:
        connection = await self._open(isolation)
        self.flavour.on_exit(connection.close)
        return connection

    async def _open(self, isolation: str) -> Any:
        setting = f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}"
        if self.kind == "sqlite3":
            return sqlite3.connect(self.file, timeout=10, check_same_thread=False)
        if self.kind == "aiosqlite":
            return await aiosqlite.connect(self.file, timeout=10)
        if self.kind == "psycopg":
            if self.flavour.is_async:
                return await psycopg.AsyncConnection.connect(self.postgres.dsn, options=setting)
            return psycopg.connect(self.postgres.dsn, options=setting)
        return await self._open_sqlalchemy({"options": setting})

    async def _open_sqlalchemy(self, arguments: dict[str, Any]) -> Any:
        url, pool = self.postgres.url if self.postgres else f"sqlite:///{self.file}", sqlalchemy.pool.NullPool
        if self.is_sqlite:
            arguments = {"timeout": 10, "check_same_thread": False}
            url = url.replace("sqlite", "sqlite+aiosqlite" if self.flavour.is_async else "sqlite", 1)
        elif "asyncpg" in self.kind:
            arguments, url = {}, url.replace("psycopg", "asyncpg", 1)
        make = sqlalchemy.ext.asyncio.create_async_engine if self.flavour.is_async else sqlalchemy.create_engine
        engine: Any = make(url, poolclass=pool, connect_args=arguments)
        if not self.kind.endswith("Session"):
            return await self.maybe(engine.connect())
        return sqlalchemy.ext.asyncio.AsyncSession(engine) if self.flavour.is_async else sqlalchemy.orm.Session(engine)

    async def do(self, connection: Any, statement: str) -> Any:
        """Execute a statement; return the first value of its first row, if it has rows."""
        if "SQLAlchemy" in self.kind or "Session" in self.kind:
            result = await self.maybe(connection.execute(sqlalchemy.text(statement)))
            row = result.fetchone() if result.returns_rows else None
        else:
            cursor = await self.maybe(connection.execute(statement))
            row = await self.maybe(cursor.fetchone()) if cursor.description else None
        return None if row is None else row[0]

    async def commit(self, connection: Any) -> None:
        await self.maybe(connection.commit())

    async def rollback(self, connection: Any) -> None:
        await self.maybe(connection.rollback())

    async def balance(self, connection: Any) -> int:
        return int(await self.do(connection, "SELECT balance FROM accounts WHERE id = 42"))

    async def set_balance(self, connection: Any, balance: int) -> None:
        await self.do(connection, f"UPDATE accounts SET balance = {balance} WHERE id = 42")  # noqa: S608 - a number

    async def set_up(self) -> None:
        connection = await self.connect()
        for name in ("accounts", "coordkit_fences", "twice"):
            await self.do(connection, f"DROP TABLE IF EXISTS {name}")
        await self.do(connection, self.named().ddl)
        columns = "id INTEGER, balance INTEGER, fence BIGINT, fence_holder TEXT"
        await self.do(connection, f"CREATE TABLE accounts ({columns}, PRIMARY KEY (id))")
        await self.do(
            connection, "INSERT INTO accounts (id, balance) VALUES (42, 100)"
        )  # the fence is NULL: never claimed
        await self.commit(connection)

    def named(self, name: str = "ledger") -> Any:
        return self.flavour.sql.SqlFence(name)

    def row(self, **options: Any) -> Any:
        return self.flavour.sql.RowFence("accounts", **options)

    async def somebody_waits(self) -> None:
        """Wait until a transaction waits for another one's lock; SQLite cannot say so, and needs no such order."""
        if self.is_sqlite:
            return
        async with await psycopg.AsyncConnection.connect(self.postgres.dsn, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            for _ in range(2000):
                if (await (await watcher.execute(waiting)).fetchone())[0]:
                    return
                await asyncio.sleep(0.005)
        pytest.fail("nobody waits for a lock")


@pytest.fixture
def database(flavour: Any, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    server = None if "sqlite" in kind.lower() else request.getfixturevalue("postgres")
    return Database(flavour, kind, server, tmp_path / "file.db")


CLAIMS: dict[str, Callable[[Database], Callable[[Any, int], Any]]] = {
    "a table of its own": lambda database: lambda connection, token: database.named().claim(connection, token=token),
    "beside the data": lambda database: lambda connection, token: database.row().claim(connection, 42, token=token),
}
both_ways = pytest.mark.parametrize("how", CLAIMS)


async def waits(database: Database) -> None:
    """The same in both flavours: the watcher is a coroutine of asyncio."""
    if database.flavour.is_async:
        await database.somebody_waits()
    else:
        asyncio.run(database.somebody_waits())


# -- what is refused


@everywhere
@both_ways
async def test_a_late_holder_is_refused_before_it_reads(database: Database, maybe: Any, how: str) -> None:
    await database.set_up()
    claim = CLAIMS[how](database)
    connection = await database.connect()
    await maybe(claim(connection, 8))
    await database.commit(connection)
    with pytest.raises(StaleToken, match=r"token 7 is late: the resource has seen 8; stop working") as caught:
        await maybe(claim(connection, 7))
    assert (caught.value.token, caught.value.seen) == (7, 8)
    await database.rollback(connection)

    await maybe(claim(connection, 8))  # the next transaction of the same holder
    await maybe(claim(connection, 9))


@everywhere
@both_ways
async def test_what_is_remembered_is_what_the_rule_says(database: Database, maybe: Any, how: str) -> None:
    """Random tokens and holders against the rule in five lines: it is the rule of the Fence on Redis."""
    await database.set_up()
    claim = CLAIMS[how](database)
    connection = await database.connect()
    chance, seen, by = random.Random(7), 0, ""
    for _ in range(25):
        number, holder = chance.randint(max(1, seen - 1), seen + 1), chance.choice(["", "me", "you"])
        token = Token(number, holder) if holder else number
        if number < seen or (number == seen and "" not in (holder, by) and holder != by):
            with pytest.raises(StaleToken):
                await maybe(claim(connection, token))
            await database.rollback(connection)
        else:
            await maybe(claim(connection, token))
            await database.commit(connection)
            seen, by = number, holder or (by if number == seen else "")
        table, key = ("coordkit_fences", "name = 'ledger'") if "own" in how else ("accounts", "id = 42")
        columns = ("token", "holder") if "own" in how else ("fence", "fence_holder")
        for column, expected in zip(columns, (seen, by), strict=True):
            question = f"SELECT {column} FROM {table} WHERE {key}"  # noqa: S608 - names of this file
            assert await database.do(connection, question) == expected
        await database.rollback(connection)


@everywhere
async def test_tokens_beyond_53_bits_keep_their_order(database: Database, maybe: Any) -> None:
    await database.set_up()
    connection = await database.connect()
    for claim in (CLAIMS[how](database) for how in CLAIMS):
        await maybe(claim(connection, 2**63 - 1))
        with pytest.raises(StaleToken):
            await maybe(claim(connection, 2**63 - 2))


@everywhere
async def test_a_guarded_update(database: Database, maybe: Any) -> None:
    await database.set_up()
    connection, row = await database.connect(), database.row()
    await maybe(row.update(connection, 42, {"balance": 150}, token=8))
    await database.commit(connection)
    with pytest.raises(StaleToken, match=r"accounts id=42: token 7 is late"):
        await maybe(row.update(connection, 42, {"balance": 0}, token=7))
    await database.rollback(connection)

    assert await database.balance(connection) == 150


@everywhere
async def test_a_row_that_is_not_there(database: Database, maybe: Any) -> None:
    await database.set_up()
    connection = await database.connect()
    with pytest.raises(StoreRefused, match="accounts id=43: accounts has no row of that key: insert it first"):
        await maybe(database.row().claim(connection, 43, token=8))


@everywhere
async def test_a_key_that_names_two_rows(database: Database, maybe: Any) -> None:
    await database.set_up()
    connection = await database.connect()
    await database.do(connection, "CREATE TABLE twice AS SELECT * FROM accounts UNION ALL SELECT * FROM accounts")
    with pytest.raises(StoreRefused, match="2 rows were counted where one was to be changed"):
        await maybe(database.flavour.sql.RowFence("twice").claim(connection, 42, token=8))
    await database.rollback(connection)


# -- what is lost without it, and not with it


async def read_modify_write(database: Database, claim: Callable[[Any, int], Any], isolation: str) -> int:
    """Have a late holder (5) wake up when the new one (6) has read; return what is lost of what was acknowledged."""
    new, late = await database.connect(isolation), await database.connect(isolation)

    async def add(connection: Any, token: int, amount: int) -> int:
        try:
            await database.maybe(claim(connection, token))
            balance = await database.balance(connection)
            if connection is new:
                await wake_up()
            await database.set_balance(connection, balance + amount)
            await database.commit(connection)
        except (StaleToken, *AGAIN):
            await database.rollback(connection)
            return 0
        return amount

    late_work: list[Any] = []

    async def wake_up() -> None:
        late_work.append(database.flavour.spawn(add, late, 5, 50))
        if claim is nothing:
            await late_work[0].result()
        else:
            await waits(database)  # the late one, for us

    acknowledged = [await add(new, 6, 7), await late_work[0].result()]
    assert acknowledged[0] == 7
    kept = await database.balance(await database.connect()) - 100
    return sum(acknowledged) - kept


async def nothing(*_: Any) -> None: ...


@everywhere
async def test_without_a_claim_an_acknowledged_update_is_lost(database: Database) -> None:
    """The control: else the tests below prove nothing. (From REPEATABLE READ on, PostgreSQL itself notices.)"""
    await database.set_up()

    assert await read_modify_write(database, nothing, "read committed") == 50


@everywhere
async def test_a_guarded_write_alone_loses_it_too(database: Database, maybe: Any) -> None:
    """The trap: when the late one writes, its token is still the highest that was seen."""
    await database.set_up()
    new, late, row = await database.connect(), await database.connect(), database.row()
    balance = await database.balance(new)
    await database.commit(new)
    await maybe(row.update(late, 42, {"balance": balance + 50}, token=5))
    await database.commit(late)
    await maybe(row.update(new, 42, {"balance": balance + 7}, token=6))
    await database.commit(new)

    assert await database.balance(new) == 107


@everywhere
@both_ways
async def test_with_a_claim_nothing_is_lost(database: Database, how: str) -> None:
    await database.set_up()

    assert await read_modify_write(database, CLAIMS[how](database), "read committed") == 0


@pytest.mark.parametrize("isolation", ISOLATION[1:])
@both_ways
async def test_nor_at_the_higher_levels(database: Database, how: str, isolation: str) -> None:
    await database.set_up()

    assert await read_modify_write(database, CLAIMS[how](database), isolation) == 0


@pytest.mark.parametrize("isolation", ISOLATION)
@both_ways
async def test_a_new_holder_waits_for_the_transaction_of_the_earlier_one(
    database: Database, flavour: Any, maybe: Any, how: str, isolation: str
) -> None:
    """And reads what that one wrote; from REPEATABLE READ on the database says: run it again."""
    await database.set_up()
    claim = CLAIMS[how](database)
    earlier, new = await database.connect(isolation), await database.connect(isolation)
    await maybe(claim(earlier, 5))
    await database.set_balance(earlier, 150)

    async def take_over() -> int:
        await maybe(claim(new, 6))
        return await database.balance(new)

    running = flavour.spawn(take_over)
    await waits(database)
    await database.commit(earlier)
    if isolation != "read committed":
        with pytest.raises(AGAIN, match="could not serialize"):
            await running.result()
        await database.rollback(new)
        running = flavour.spawn(take_over)

    assert await running.result() == 150


@pytest.mark.parametrize("order", [(5, 6), (6, 5)], ids=["in order", "the late one waits"])
async def test_two_who_claim_a_new_name_at_once(
    database: Database, flavour: Any, maybe: Any, order: tuple[int, int]
) -> None:
    await database.set_up()
    fence = database.named("never seen before")
    first, second = await database.connect(), await database.connect()
    await maybe(fence.claim(first, token=order[0]))

    async def claim() -> None:
        await maybe(fence.claim(second, token=order[1]))

    running = flavour.spawn(claim)
    await waits(database)
    await database.commit(first)
    if order == (5, 6):
        await running.result()
    else:
        with pytest.raises(StaleToken):
            await running.result()


@pytest.mark.parametrize("isolation", ISOLATION)
@both_ways
async def test_many_holders_at_once_lose_nothing(
    database: Database, flavour: Any, maybe: Any, how: str, isolation: str
) -> None:
    await database.set_up()
    claim, tokens = CLAIMS[how](database), itertools.count(1)

    async def work() -> int:
        connection, acknowledged = await database.connect(isolation), 0
        for _ in range(15):
            token = next(tokens)
            try:
                await maybe(claim(connection, token))
                await database.set_balance(connection, await database.balance(connection) + 1)
                await database.commit(connection)
                acknowledged += 1
            except (StaleToken, *AGAIN):
                await database.rollback(connection)
        return acknowledged

    acknowledged = sum(await flavour.gather(*(work() for _ in range(4))))

    assert acknowledged >= 1
    assert await database.balance(await database.connect()) == 100 + acknowledged


async def test_a_holder_that_stops_inside_its_transaction_is_thrown_out(
    database: Database, flavour: Any, maybe: Any
) -> None:
    """By PostgreSQL, when it is told to; else the next one would wait for ever."""
    await database.set_up()
    stopped, new = await database.connect(), await database.connect()
    await database.do(stopped, "SET idle_in_transaction_session_timeout = 200")
    await database.commit(stopped)
    await maybe(database.named().claim(stopped, token=5))
    await database.set_balance(stopped, 0)

    await maybe(database.named().claim(new, token=6))

    assert await database.balance(new) == 100
    with pytest.raises(psycopg.Error, match=r"idle-in-transaction timeout|connection"):
        await database.commit(stopped)


# -- connections that commit by themselves


@everywhere
async def test_a_claim_where_each_statement_commits_by_itself(database: Database, maybe: Any) -> None:
    """It would guard nothing that follows; a guarded update is whole in itself."""
    await database.set_up()
    connection = await commits_by_itself(database)
    for claim in (CLAIMS[how](database) for how in CLAIMS):
        with pytest.raises(ValueError, match="connection must be in a transaction, got one that commits by itself"):
            await maybe(claim(connection, 8))

    await maybe(database.row().update(connection, 42, {"balance": 1}, token=9))
    with pytest.raises(StaleToken):
        await maybe(database.row().update(connection, 42, {"balance": 2}, token=8))
    assert await database.balance(await database.connect()) == 1


async def commits_by_itself(database: Database) -> Any:
    if database.kind == "aiosqlite":
        connection = await aiosqlite.connect(database.file, isolation_level=None)
        database.flavour.on_exit(connection.close)
        return connection
    connection = await database.connect()
    if database.kind == "sqlite3":
        connection.isolation_level = None
    elif database.kind == "psycopg":
        await database.maybe(
            connection.set_autocommit(True) if database.flavour.is_async else setattr(connection, "autocommit", True)
        )
    elif database.kind.endswith("Session"):
        await database.maybe(connection.connection(execution_options={"isolation_level": "AUTOCOMMIT"}))
    else:
        await database.maybe(connection.execution_options(isolation_level="AUTOCOMMIT"))
    return connection


def test_a_transaction_that_was_begun_by_hand(tmp_path: Path) -> None:
    from coordkit.sql import SqlFence

    connection = sqlite3.connect(tmp_path / "file.db", isolation_level=None)
    fence = SqlFence("ledger")
    connection.execute(fence.ddl)
    connection.execute("BEGIN")
    fence.claim(connection, token=8)
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    fence.claim(connection, token=7)
    connection.execute("COMMIT")
    connection.close()


# -- drivers differ


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "paramstyle"),
    [("sqlite3", "qmark"), ("sqlite3", "named"), ("psycopg", "format"), ("psycopg", "pyformat")],
)
async def test_every_way_to_mark_a_parameter(database: Database, paramstyle: str) -> None:
    await database.set_up()
    connection, row = await database.connect(), database.row(paramstyle=paramstyle)
    row.update(connection, 42, {"balance": 1}, token=Token(8, "me"))
    row.update(connection, 42, {"balance": 2}, token=8)
    with pytest.raises(StaleToken, match="8 of me"):
        row.update(connection, 42, {"balance": 3}, token=Token(8, "you"))

    assert await database.balance(connection) == 2


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
@pytest.mark.parametrize("kind", ["sqlite3", "psycopg"])
async def test_rows_that_are_no_tuples(database: Database) -> None:
    await database.set_up()
    connection = await database.connect()
    connection.row_factory = sqlite3.Row if database.is_sqlite else psycopg.rows.dict_row
    database.row().claim(connection, 42, token=8)
    with pytest.raises(StaleToken):
        database.row().claim(connection, 42, token=7)


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
async def test_names_that_must_be_quoted(database: Database, flavour: Any) -> None:
    await database.set_up()
    connection = await database.connect()
    await database.do(connection, 'CREATE TABLE "order" ("Key" TEXT PRIMARY KEY, "to ken" BIGINT, holder TEXT)')
    await database.do(connection, "INSERT INTO \"order\" VALUES ('it''s', 0, '')")
    fence = flavour.sql.RowFence('public."order"', key_column='"Key"', token_column='"to ken"', holder_column="holder")
    fence.claim(connection, "it's", token=8)
    with pytest.raises(StaleToken):
        fence.claim(connection, "it's", token=7)
    await database.rollback(connection)


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
@pytest.mark.parametrize("kind", ["PostgreSQL by a Session"])
async def test_mapped_objects_under_a_claim(database: Database, flavour: Any) -> None:
    await database.set_up()

    class Base(DeclarativeBase): ...

    class Account(Base):
        __tablename__ = "accounts"
        id: Mapped[int] = mapped_column(primary_key=True)
        balance: Mapped[int]

    session = await database.connect()
    with session.begin():
        database.named().claim(session, token=8)
        account = session.get(Account, 42)
        account.balance += 1
    with pytest.raises(StaleToken), session.begin():
        database.named().claim(session, token=7)

    assert await database.balance(session) == 101


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
@pytest.mark.parametrize("kind", ["SQLite by SQLAlchemy", "PostgreSQL by a Session"])
async def test_a_scoped_session_stands_for_its_session(database: Database) -> None:
    await database.set_up()
    engine = (await database.connect()).get_bind() if "Session" in database.kind else (await database.connect()).engine
    scoped = sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine))
    database.named().claim(scoped, token=8)
    with pytest.raises(StaleToken):
        database.named().claim(scoped, token=7)
    scoped.remove()
