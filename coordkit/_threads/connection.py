"""Connections of our own, by the recipe of a client's pool: for the blocking flavour."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit import _redis, _redis_packing


def bounded(pool: Any, within: float | None = None) -> dict[str, Any]:
    """Return a pool's own arguments for a connection, bounded in time and without retries."""
    return _redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection, within)


def connection_of(pool: Any, within: float | None = None, **otherwise: Any) -> Any:
    """Return a connection of a pool's own class, not connected yet, with these arguments and others."""
    connection = pool.connection_class(**{**bounded(pool, within), **otherwise})
    packer: Any = getattr(connection, "_command_packer", None)
    if packer is pool.connection_kwargs.get("command_packer"):
        return connection  # the client's own, which all its connections share
    if packs := getattr(packer, "pack", None):
        # What redis-py says while it connects has numbers in it (HELLO 3, SELECT 1).
        packer.pack = lambda *args: packs(*_redis_packing.without_numbers(args))
    return connection
