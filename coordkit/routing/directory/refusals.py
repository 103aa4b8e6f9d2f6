"""What a sharded client refuses, because it belongs to one connection or one server: each says what to use instead."""

from __future__ import annotations

from typing import Any, NoReturn

from coordkit.errors import CrossShardError
from coordkit.routing.commands.keyless import refused


class Refusals:
    """Methods of redis-py's clients that mean nothing for many servers."""

    def client(self) -> NoReturn:
        """Refuse: one connection is one shard's, ``on(shard).client()``."""
        raise _one_shard("client", "it is one connection, to one shard: use on(shard).client()")

    def monitor(self) -> NoReturn:
        """Refuse: one server is watched at a time, ``on(shard).monitor()``."""
        raise _one_shard("monitor", "it watches one server: use on(shard).monitor()")

    def lock(self, name: Any, *_: Any, **__: Any) -> NoReturn:
        """Refuse: redis-py's lock has no fencing token; use coordkit's ``Lock``, on this client."""
        raise _one_shard("lock", f"use coordkit's Lock(shards, {name!r}, ...), whose token fences late writers")

    def keyspace_notifications(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a pattern is heard on all shards, ``pubsub().psubscribe("__keyevent@0__:*")``."""
        raise _one_shard(
            "keyspace_notifications",
            "redis-py's object for them speaks to one client: a pattern is heard on all shards, "
            "pubsub().psubscribe('__keyevent@0__:*')",
        )

    def himport_prepare(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse, as ``himport_set``: redis-py prepares a fieldset for the connections of one client."""
        raise refused("HIMPORT")

    def himport_discard(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse, as `himport_prepare` does."""
        raise refused("HIMPORT")

    def himport_discard_all(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse, as `himport_prepare` does."""
        raise refused("HIMPORT")

    def watch(self, *_: Any) -> NoReturn:
        """Refuse: WATCH belongs to one connection, that of a `pipeline`."""
        raise _one_shard("WATCH", "it belongs to one connection: use pipeline().watch(), or transaction()")

    def unwatch(self) -> NoReturn:
        """Refuse, as `watch` does."""
        raise _one_shard("UNWATCH", "it belongs to one connection: use pipeline().watch(), or transaction()")


def _one_shard(name: str, why: str) -> CrossShardError:
    return CrossShardError(name, why, shards={})
