"""A subscribed connection of the asyncio flavour, and the bell of those who wait for what comes over it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.lines import connect
from coordkit._inbox import QUIET
from coordkit._threads.runtime import now
from coordkit.routing.pubsub.subscriptions import KEEPALIVE
from coordkit.routing.ways.errors import NO_ANSWER


class Line:
    """A connection that somebody reads; ``pool`` is the one by whose recipe it was made."""

    def __init__(self, pool: Any, connection: Any, patience: float) -> None:
        self.pool = pool
        self.connection = connection
        self.heard = now()
        self.unread = False  # whether what came waits, because nobody takes what was read
        self.owed = 0  # replies to what was asked before anything was wanted
        self._patience = patience

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands; whoever reads gets the replies."""
        await self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)

    async def watch(self) -> None:
        """Ask it whether it is alive when it is quiet; end it when it is not."""
        while True:
            await asyncio.sleep(QUIET)
            asked = now()
            if self.unread or asked - self.heard < QUIET / 2:
                continue
            try:
                await self.send([("PING", KEEPALIVE)])
            except NO_ANSWER:
                return  # whoever reads notices
            await asyncio.sleep(self._patience)
            if self.heard < asked and not self.unread:
                self.connection._writer.transport.abort()  # noqa: SLF001  wakes whoever reads
                return


async def opened(pool: Any) -> Line:
    """Return a connection by the recipe of a client's pool; raise redis-py's errors."""
    patience = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)["socket_timeout"]
    # What is pushed comes as plain lists, whatever the version of the client; and it may be long in coming.
    return Line(pool, await connect(pool, patience, protocol=2, decode_responses=False), patience)


class Bell:
    """Wakes everybody who waits."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for one in self._waiting:
            _wake(one)

    async def wait(self, seconds: float | None) -> None:
        """Wait until it rings, at most so long (None: for ever)."""
        loop = asyncio.get_running_loop()
        one: asyncio.Future[None] = loop.create_future()
        self._waiting.add(one)
        timer = None if seconds is None else loop.call_later(seconds, _wake, one)
        try:
            await one
        finally:
            self._waiting.discard(one)
            if timer is not None:
                timer.cancel()


def _wake(one: asyncio.Future[None]) -> None:
    if not one.done():
        one.set_result(None)
