"""What both flavours know of the connections that users pass in, without importing any driver or SQLAlchemy."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from coordkit.core.sql import PARAMSTYLES


def is_sqlalchemy(connection: Any, *, flavour: str) -> bool:
    """Whether it is a Connection or Session of SQLAlchemy; TypeError unless it is that, or a driver's connection.

    ``flavour`` is "blocking" or "asyncio". What subclasses it, or stands for it (a scoped session), is one as well.
    """
    execute = getattr(connection, "execute", None)
    awaited = hasattr(connection, "__aenter__") or inspect.iscoroutinefunction(execute)
    ours = any(kind.__module__.split(".")[0] == "sqlalchemy" for kind in type(connection).__mro__)
    # A blocking driver need not offer more than cursor(); those of asyncio all have execute().
    usable = callable(execute) if ours or awaited else callable(getattr(connection, "cursor", None))
    if not usable or isinstance(connection, type) or awaited != (flavour == "asyncio"):
        home = f": import from {'coordkit.aio.sql' if awaited else 'coordkit.sql'}" if usable else ""
        wanted = "a driver's connection, or a Connection or Session of SQLAlchemy (no Engine),"
        raise TypeError(f"connection must be {wanted} of the {flavour} flavour, got a {_kind(connection)}{home}")
    return ours


def _kind(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"  # its repr may show a password, or fail


def paramstyle_of(connection: Any, chosen: str | None) -> str:
    """Return how this connection's driver marks parameters; every DB-API module says so of itself."""
    if chosen is not None:
        return chosen
    for kind in type(connection).__mro__:
        style = getattr(sys.modules.get(kind.__module__.split(".")[0]), "paramstyle", None)
        if style in PARAMSTYLES:
            return str(style)
    raise ValueError(
        f"paramstyle must be given for a {_kind(connection)}, whose module names none: {', '.join(PARAMSTYLES)}"
    )


def autocommits(connection: Any) -> bool:
    """Whether a driver's connection is outside of a transaction although it has just changed a row; unknown is no."""
    inside = getattr(connection, "in_transaction", None)  # sqlite3, aiosqlite
    if isinstance(inside, bool):
        return not inside
    ask = getattr(connection, "is_in_transaction", None)  # asyncpg, under SQLAlchemy
    if callable(ask):
        return not ask()
    status = getattr(getattr(connection, "info", None), "transaction_status", None)  # psycopg 2 and 3
    return status is not None and int(status) == 0


def values_of(row: Any) -> Sequence[Any] | None:
    """Return a row's values, whichever row factory made it."""
    if row is None:
        return None
    return tuple(row.values()) if isinstance(row, Mapping) else tuple(row)
