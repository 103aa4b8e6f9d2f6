"""A subscribed connection of the blocking flavour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import TimeoutError  # noqa: A004  redis-py's own

from coordkit._inbox import QUIET
from coordkit._threads import line as subscribed
from coordkit._threads.connection import bounded, connection_of
from coordkit._threads.runtime import now
from coordkit.routing.pubsub.subscriptions import KEEPALIVE


class Line(subscribed.Line):
    """A connection, read by whoever waits for a message; ``pool`` is the one by whose recipe it was made."""

    pool: Any = None
    owed = 0  # replies to what was asked before anything was wanted
    pinged_at = 0.0

    def order(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands; whoever reads gets the replies."""
        with self.writing:
            self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)

    def came(self) -> list[Any]:
        """Return what is there, errors of the server too; ask a quiet server whether it is alive."""
        replies = self.replies(0)
        present = now()
        if replies:
            self.heard, self.pinged = present, False
        elif self.pinged:  # not before it was asked: nobody may have read for long
            if present - self.pinged_at > self.patience:
                raise TimeoutError(f"no answer within {self.patience} s")
        elif present - self.heard > QUIET:
            self.pinged, self.pinged_at = True, present
            self.send("PING", KEEPALIVE)
        return replies


def opened(shard: str, pool: Any) -> Line:
    """Return a connection by the recipe of a client's pool; raise redis-py's errors."""
    # What is pushed comes as plain lists, whatever the version of the client.
    connection = connection_of(pool, protocol=2, decode_responses=False)
    connection.connect()
    line = Line(shard, connection, bounded(pool)["socket_timeout"])
    line.pool = pool
    return line
