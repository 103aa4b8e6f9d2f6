"""Fences in SQL without a database: what is refused at once, what is sent, and what is imported."""

from __future__ import annotations

import asyncio
import inspect
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import postgres
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio

import coordkit.aio.sql
import coordkit.sql
from coordkit.core.sql import rendered
from coordkit.testing import plugin

MODULES = [coordkit.sql, coordkit.aio.sql]
modules = pytest.mark.parametrize("module", MODULES, ids=["blocking", "asyncio"])


def settle(value: Any) -> Any:
    return asyncio.run(value) if inspect.isawaitable(value) else value


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


@modules
@pytest.mark.parametrize(
    "name", ["", "a b", "1a", "a;b", "a'b", 'a"b', '"a"b"', "a--", "a%s", "a:b", 'a."b', "ä", "a\n", '"a:b"', "(a)"]
)
def test_a_name_that_could_be_more_than_a_name(module: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"table must be the name of a table: .*" + re.escape(repr(name))):
        module.SqlFence("ledger", table=name)
    for argument in ("key_column", "token_column", "holder_column"):
        with pytest.raises(ValueError, match=f"{argument} must be the name of a column"):
            module.RowFence("accounts", **{argument: name})


@modules
@pytest.mark.parametrize("name", ["accounts", "bank.accounts", '"order"', 'bank."an order-2"', "`order`", "_a1"])
def test_a_name_of_a_table(module: Any, name: str) -> None:
    assert name in module.SqlFence("ledger", table=name).ddl


@modules
def test_what_is_no_argument(module: Any) -> None:
    with pytest.raises(TypeError, match="table must be the name of a table, got None"):
        module.RowFence(None)
    with pytest.raises(ValueError, match="column must be the name of a column"):
        module.RowFence("accounts", key_column="bank.id")
    with pytest.raises(ValueError, match=r"paramstyle must be None or one of qmark, .*, got '\$1'"):
        module.SqlFence("ledger", paramstyle="$1")
    with pytest.raises(ValueError, match="name must not be empty"):
        module.SqlFence("")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"balance = 0 --": 1}, "values must be the name of a column"),
        ({"fence": 1}, r"values must not contain the fence's own columns, got \['fence'\]"),
        ({"id": 1, "fence_holder": ""}, r"got \['fence_holder', 'id'\]"),
    ],
)
def test_columns_that_cannot_be_set(connection: sqlite3.Connection, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        coordkit.sql.RowFence("accounts").update(connection, 42, values, token=1)


@pytest.mark.parametrize("token", [0, 1 << 63])
def test_a_token_out_of_range(connection: sqlite3.Connection, token: int) -> None:
    with pytest.raises(ValueError, match="token must be between"):
        coordkit.sql.SqlFence("ledger").claim(connection, token=token)


@modules
@pytest.mark.parametrize(
    "thing", [None, "sqlite://", object(), sqlalchemy.create_engine("sqlite://"), sqlite3.Connection]
)
def test_what_is_no_connection(module: Any, thing: Any) -> None:
    """An Engine would take another connection, and so another transaction, for each statement."""
    with pytest.raises(TypeError, match="connection must be a driver's connection, or a Connection or Session"):
        settle(module.SqlFence("ledger").claim(thing, token=1))


@pytest.mark.parametrize(
    "awaited", [psycopg.AsyncConnection, sqlalchemy.ext.asyncio.AsyncConnection, sqlalchemy.ext.asyncio.AsyncSession]
)
def test_connections_of_the_other_flavour(connection: sqlite3.Connection, awaited: type) -> None:
    with pytest.raises(TypeError, match=r"of the asyncio flavour, got .*: import from coordkit\.sql"):
        asyncio.run(coordkit.aio.sql.SqlFence("ledger").claim(connection, token=1))
    with pytest.raises(TypeError, match=r"of the blocking flavour, got .*: import from coordkit\.aio\.sql"):
        coordkit.sql.SqlFence("ledger").claim(awaited.__new__(awaited), token=1)


def test_a_driver_that_does_not_say_how_it_marks_parameters() -> None:
    class Wrapped:
        def cursor(self) -> None: ...

    with pytest.raises(ValueError, match="paramstyle must be given for"):
        coordkit.sql.SqlFence("ledger").claim(Wrapped(), token=1)


@pytest.mark.parametrize(
    ("paramstyle", "text", "parameters"),
    [
        ("qmark", "a = ? AND b = ? OR a = ?", (1, 2, 1)),
        ("format", "a = %s AND b = %s OR a = %s", (1, 2, 1)),
        ("numeric", "a = :1 AND b = :2 OR a = :3", (1, 2, 1)),
        ("named", "a = :x AND b = :y OR a = :x", {"x": 1, "y": 2}),
        ("pyformat", "a = %(x)s AND b = %(y)s OR a = %(x)s", {"x": 1, "y": 2}),
    ],
)
def test_how_parameters_are_marked(paramstyle: str, text: str, parameters: Any) -> None:
    assert rendered("a = :x AND b = :y OR a = :x", {"x": 1, "y": 2}, paramstyle) == (text, parameters)


class Counting:
    """A DB-API connection that counts rows as told, as MySQL's drivers count those that differ after an UPDATE."""

    def __init__(self, rowcount: int, row: tuple[int, str]) -> None:
        self.rowcount, self.row = rowcount, row

    def cursor(self) -> Any:
        return self

    def execute(self, *_: Any) -> None: ...

    def fetchone(self) -> tuple[int, str]:
        return self.row

    def close(self) -> None: ...


@pytest.mark.parametrize("rowcount", [0, -1, 2])
def test_a_count_that_proves_nothing_is_not_taken_for_a_pass(rowcount: int) -> None:
    fence = coordkit.sql.RowFence("accounts", paramstyle="format")

    with pytest.raises(coordkit.StoreRefused, match=f"{rowcount} rows were counted.*FOUND_ROWS.*; roll back"):
        fence.claim(Counting(rowcount, (8, "")), 42, token=8)


def test_a_later_holder_is_one_whatever_was_counted() -> None:
    with pytest.raises(coordkit.StaleToken, match="token 8 is late"):
        coordkit.sql.RowFence("accounts", paramstyle="format").claim(Counting(-1, (9, "")), 42, token=8)


@pytest.mark.parametrize(("required", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_where_postgresql_is_missing(monkeypatch: pytest.MonkeyPatch, required: bool, outcome: Any) -> None:
    """Skipped on a desk, and a failure in CI: what a test proves there must not hang on a package."""
    config: Any = SimpleNamespace(stash={plugin._settings: SimpleNamespace(require=required)})
    monkeypatch.setattr(postgres, "binaries", lambda: None)

    with pytest.raises(outcome, match=r"no initdb on PATH .*apt-get install postgresql"):
        postgres.start_postgres(config)


@pytest.mark.parametrize("name", coordkit.sql.__all__)
def test_the_flavours_are_one(name: str) -> None:
    blocking, awaited = getattr(coordkit.sql, name), getattr(coordkit.aio.sql, name)
    methods = [each for each in vars(blocking) if not each.startswith("_") or each == "__init__"]

    assert coordkit.aio.sql.__all__ == coordkit.sql.__all__
    assert [each for each in vars(awaited) if not each.startswith("_") or each == "__init__"] == methods
    for method in methods:
        one, other = getattr(blocking, method), getattr(awaited, method)
        if callable(one):
            assert inspect.signature(one).parameters == inspect.signature(other).parameters
        assert method == "__init__" or (one.__doc__ and other.__doc__)


def test_neither_a_driver_nor_sqlalchemy_is_imported() -> None:
    code = "import coordkit.sql, coordkit.aio.sql, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert {"sqlalchemy", "psycopg", "sqlite3"} & set(done.stdout.split()) == set()
