"""Refuse the past in a SQL database: fences for DB-API connections and for SQLAlchemy, without depending on either.

Begin each transaction with a claim; then nothing in it can be late, whichever tables it touches. A claim compares and
writes in one statement, and keeps its row locked until the commit.

``SqlFence`` has a table of its own (PostgreSQL, SQLite); ``RowFence`` keeps the token beside the data (any database).
``coordkit.aio.sql`` has the same names for asyncio. The drivers' own errors are not changed: a serialization failure, a
lock timeout or a deadlock means what it always means, run the transaction again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordkit import _sql
from coordkit._run import run
from coordkit.core import checks
from coordkit.core import sql as core

__all__ = ["RowFence", "SqlFence"]


class SqlFence:
    """Refuse the past for everything in a transaction, by a row for ``name`` in a table of its own.

    Put ``ddl`` into your migrations, or execute it. ``paramstyle`` is the driver's; None: as its module says.
    PostgreSQL and SQLite (INSERT ... ON CONFLICT); elsewhere use ``RowFence``. The row stays: a fence never forgets.
    """

    def __init__(self, name: str, *, table: str = "coordkit_fences", paramstyle: str | None = None) -> None:
        self.name = checks.check_name("name", name)
        self._core = core.SqlFence(name, table)
        self._paramstyle = core.check_paramstyle(paramstyle)

    @property
    def ddl(self) -> str:
        """The statement that makes the table, once for all fences."""
        return self._core.ddl

    def claim(self, connection: Any, *, token: int) -> None:
        """Raise the fence to ``token`` and lock it until the transaction ends; call it first in each transaction.

        ``connection`` is a DB-API connection, or a Connection or Session of SQLAlchemy; nothing of it is
        committed or rolled back here. Waits, as the database waits for a locked row, until another transaction that
        claimed has ended. Raises ``StaleToken`` if a later holder was here: roll back and stop. ValueError if the
        connection commits by itself, as far as one can see (sqlite3, psycopg, and both under SQLAlchemy).
        """
        run(self._core.claim(_database(connection, self._paramstyle), token))

    def __repr__(self) -> str:
        return f"<SqlFence {self.name}>"


class RowFence:
    """Refuse the past for one row, or for all in a transaction, by a token that is kept beside the data.

    ``table`` has a ``key_column`` that names one row, a ``token_column`` of 64 bits (BIGINT) and a ``holder_column`` of
    text. Names are plain, or quoted as the database quotes them. ``paramstyle`` is the driver's; None: as its module
    says. MySQL: connect with CLIENT.FOUND_ROWS (SQLAlchemy does).
    """

    def __init__(
        self,
        table: str,
        *,
        key_column: str = "id",
        token_column: str = "fence",  # noqa: S107  the name of a column
        holder_column: str = "fence_holder",
        paramstyle: str | None = None,
    ) -> None:
        self._core = core.RowFence(table, key_column, token_column, holder_column)
        self._paramstyle = core.check_paramstyle(paramstyle)

    def claim(self, connection: Any, key: Any, *, token: int) -> None:
        """Raise the row's fence to ``token`` and keep it locked until the transaction ends; call it before you read.

        Raises as ``SqlFence.claim`` does, and ``StoreRefused`` if there is no such row.
        """
        run(self._core.claim(_database(connection, self._paramstyle), key, token))

    def update(self, connection: Any, key: Any, values: Mapping[str, Any], *, token: int) -> None:
        """Claim the row and set columns of it to ``values``, in one statement; also where each one commits by itself.

        It guards this write, not what you read to compute it: read after a ``claim`` in the same transaction, or an
        earlier holder may have written in between. Raises as ``claim`` does; after an error nothing was written.
        """
        run(self._core.update(_database(connection, self._paramstyle), key, values, token))

    def __repr__(self) -> str:
        return f"<RowFence {self._core.columns.table}>"


class _Driver:
    """A DB-API connection."""

    def __init__(self, connection: Any, paramstyle: str) -> None:
        self._connection = connection
        self._paramstyle = paramstyle

    async def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        return int(self._ask(statement, parameters, lambda cursor: cursor.rowcount))

    async def row(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any] | None:
        return _sql.values_of(self._ask(statement, parameters, lambda cursor: cursor.fetchone()))

    async def autocommits(self) -> bool:
        return _sql.autocommits(self._connection)

    def _ask(self, statement: str, parameters: Mapping[str, Any], answer: Any) -> Any:
        cursor = self._connection.cursor()
        try:
            cursor.execute(*core.rendered(statement, parameters, self._paramstyle))
            return answer(cursor)
        finally:
            cursor.close()


class _SqlAlchemy:
    """A Connection or Session of SQLAlchemy."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        return int(self._ask(statement, parameters).rowcount)

    async def row(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any] | None:
        return _sql.values_of(self._ask(statement, parameters).fetchone())

    async def autocommits(self) -> bool:
        connection = self._connection
        if not hasattr(connection, "exec_driver_sql"):
            connection = connection.connection()  # of a Session
        return _sql.autocommits(connection.connection.driver_connection)

    def _ask(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        from sqlalchemy import text  # whoever passed such a connection has it

        return self._connection.execute(text(statement), dict(parameters))


def _database(connection: Any, paramstyle: str | None) -> core.Database:
    if _sql.is_sqlalchemy(connection, flavour="blocking"):
        return _SqlAlchemy(connection)
    return _Driver(connection, _sql.paramstyle_of(connection, paramstyle))
