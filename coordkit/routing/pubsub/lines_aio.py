"""The subscribed connections of a `ShardedPubSub`, asyncio: one to each shard that something is heard on.

Each is read by a task of its own, which makes it anew when it is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis import exceptions

from coordkit._asyncio.runtime import life
from coordkit._asyncio.wire import hang_up
from coordkit._inbox import AGAIN
from coordkit._threads.runtime import now
from coordkit.routing.directory.shards import Directory
from coordkit.routing.pubsub.line_aio import Bell, Line, opened
from coordkit.routing.pubsub.subscriptions import (
    Handler,
    Orders,
    Subscriptions,
    greeting_of,
    heed,
    is_elsewhere,
    meant,
    pool_of,
)
from coordkit.routing.ways.errors import NO_ANSWER, answered

_MANY = 1000  # messages that wait for whoever asks; from then on they wait at the server, as ever in redis-py


class PubSubLines:
    """The lines of one ``PubSub``: what is ``wanted`` is asked for over them, and what ``came`` is kept."""

    def __init__(self, shards: Directory[Any], *, ignore: bool) -> None:
        self._shards = shards
        self._ignore = ignore
        self.wanted = self._nothing_wanted()
        self.came: deque[dict[str, Any] | Exception] = deque()
        self._lines: dict[str, Line] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by shard: it reads, or makes the connection anew
        self._opening: dict[str, asyncio.Lock] = {}
        self._bell = Bell()  # of those who wait for a message
        self._room = asyncio.Event()

    def _nothing_wanted(self) -> Subscriptions:
        return Subscriptions(self._shards.router, self._shards.get_encoder(), ignore=self._ignore)

    async def next(self, timeout: float | None) -> dict[str, Any] | Exception | None:
        """Return what came first; None if nothing came in so many seconds (None: wait for ever)."""
        await self._follow()
        if not self.came:
            await self._bell.wait(timeout)
        if not self.came:
            return None
        came = self.came.popleft()
        self._room.set()
        return came

    async def close(self) -> None:
        """Forget everything and close the connections."""
        self.wanted = self._nothing_wanted()
        for shard in [*self._tasks, *self._lines]:
            await self._hang_up(shard)
        self.came.clear()
        self._bell.ring()

    # -- what is wanted

    async def subscribe(self, kind: str, args: tuple[Any, ...], handlers: dict[str, Handler]) -> None:
        """Want names of a kind; raise ShardDown if a shard cannot be reached."""
        failed: list[Exception] = []
        for shard in await self._order(self.wanted.subscribe(kind, args, handlers)):
            try:
                await self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                failed.append(meant(shard, error))
                self._run(shard, self._reopen(shard, told=True))
        if failed:
            raise failed[0]

    async def unsubscribe(self, kind: str, args: tuple[Any, ...]) -> None:
        """Want names of a kind no more; none named: no name of the kind."""
        orders, at_once = self.wanted.unsubscribe(kind, args)
        self._tell(at_once)
        await self._order(orders)
        await self._settle()

    async def _order(self, orders: Orders) -> list[str]:
        """Send orders where there is a connection; return the shards where there is none, which come to know later."""
        missing = [shard for shard in orders if shard not in self._lines]
        for shard in set(orders) & set(self._lines):
            await self._send(shard, self._lines[shard], orders[shard])
        return missing

    async def _follow(self) -> None:
        for shard in await self._order(self.wanted.follow()):
            self._run(shard, self._reopen(shard, told=False))
        await self._settle()

    async def _settle(self) -> None:
        """Close what nothing is wanted of any more; follow a shard to another server."""
        for shard, line in list(self._lines.items()):
            if self.wanted.is_idle(shard):
                await self._hang_up(shard)
            elif is_elsewhere(self._shards, shard, line.pool):
                await self._lost(shard)

    # -- connections

    async def _open(self, shard: str) -> None:
        async with self._opening.setdefault(shard, asyncio.Lock()):
            if shard in self._lines:
                return
            line = self._lines[shard] = await opened(pool_of(self._shards, shard))
            greeting = greeting_of(self._shards)
            line.owed = len(greeting)
            self._run(shard, self._serve(shard, line))
            await self._send(shard, line, [*greeting, *self.wanted.opened(shard)])
        await self._settle()  # perhaps it is not wanted any more

    async def _send(self, shard: str, line: Line, commands: list[tuple[Any, ...]]) -> None:
        try:
            await line.send(commands)
        except NO_ANSWER:
            if self._lines.get(shard) is line:  # whoever reads it notices, too
                await self._lost(shard)

    async def _hang_up(self, shard: str) -> None:
        line, task = self._lines.pop(shard, None), self._tasks.pop(shard, None)
        if line is not None:
            self._tell(self.wanted.closed(shard))
            await hang_up(line.connection)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _lost(self, shard: str) -> None:
        await self._hang_up(shard)
        if shard in self.wanted.shards():
            self._run(shard, self._reopen(shard, told=False))

    async def _reopen(self, shard: str, *, told: bool) -> None:
        """Make a connection anew, as long as it takes; say once that it takes long."""
        if told:
            await asyncio.sleep(AGAIN)
        while shard in self.wanted.shards():
            try:
                await self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                if not told:
                    self._tell([meant(shard, error)])
                told = True
                await asyncio.sleep(AGAIN)
            else:
                return

    def _run(self, shard: str, work: Any) -> None:
        before = self._tasks.get(shard)
        if before is not None and before is not asyncio.current_task():
            before.cancel()
        self._tasks[shard] = life().spawn(work)

    # -- reading

    async def _serve(self, shard: str, line: Line) -> None:
        watching = life().spawn(line.watch())
        try:
            while True:
                while len(self.came) >= _MANY:
                    self._room.clear()
                    line.unread = True  # which is no silence of the server's
                    await self._room.wait()
                    line.unread, line.heard = False, now()
                try:
                    reply = await line.connection.read_response(disable_decoding=True)
                    line.heard = now()
                    if line.owed:
                        line.owed -= 1
                        heed(self._shards, reply)
                        continue
                except exceptions.ResponseError as error:
                    if line.owed:  # it is not allowed to ask
                        line.owed -= 1
                        continue
                    await self._order(self.wanted.refused(shard))
                    self._tell([answered(shard, error)])
                else:
                    message = self.wanted.heard(shard, reply)
                    if message is not None:
                        self._tell([message])
                if self.wanted.is_idle(shard):
                    return
        except NO_ANSWER:
            if self._lines.get(shard) is line:
                await self._lost(shard)
        finally:
            watching.cancel()
            if self._lines.get(shard) is line:  # nothing is wanted of it, or the event loop ends
                await self._hang_up(shard)

    def _tell(self, came: Any) -> None:
        self.came += came
        if self.came:
            self._bell.ring()
