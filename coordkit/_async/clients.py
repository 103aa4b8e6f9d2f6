"""What the asyncio flavour takes for a client of Redis."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol


class RedisClient(Protocol):
    """An asyncio client of Redis, as locks and fences take it, for annotations.

    The ``Redis`` of redis.asyncio (a Sentinel's master is one), its ``RedisCluster``, and ``aio.ShardedRedis`` are
    such; so is what stands in front of one of them and passes on what it does not know. A blocking client is none.
    """

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send a command; awaited, return its reply."""
        ...

    def __aenter__(self) -> Awaitable[Any]:  # by which a checker tells the flavours apart
        ...
