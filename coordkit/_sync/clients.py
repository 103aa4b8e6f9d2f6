"""What the blocking flavour takes for a client of Redis."""

from __future__ import annotations

from typing import Any, Protocol


class RedisClient(Protocol):
    """A blocking client of Redis, as locks and fences take it, for annotations.

    redis-py's ``Redis`` (a Sentinel's master is one), its ``RedisCluster``, and ``ShardedRedis`` are such; so is what
    stands in front of one of them and passes on what it does not know. A client of redis.asyncio is none.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply."""
        ...

    def __enter__(self) -> Any:  # by which a checker tells the flavours apart, whatever the version of redis-py
        ...
