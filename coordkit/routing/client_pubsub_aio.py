"""Publish and subscribe over many shards, asyncio: as `coordkit.routing.client_pubsub`, which says what is promised.

Each connection is read by a task of its own; ``run()`` stands where the blocking flavour has ``run_in_thread()``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from redis import exceptions

from coordkit._asyncio.runtime import life
from coordkit._asyncio.wire import hang_up
from coordkit._inbox import AGAIN
from coordkit._threads.runtime import now
from coordkit.routing.client_errors import NO_ANSWER, answered
from coordkit.routing.client_pubsub_line_aio import Bell, Line, opened
from coordkit.routing.client_subscriptions import (
    Handler,
    Names,
    Orders,
    Subscriptions,
    greeting_of,
    heed,
    is_elsewhere,
    meant,
    pool_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from coordkit.routing.client_aio import ShardedRedis

_MANY = 1000  # messages that wait for whoever asks; from then on they wait at the server, as ever in redis-py


class ShardedPubSub(Names):
    """What `ShardedRedis.pubsub` returns. Tasks of one event loop may share one; each message goes to one. Close it."""

    def __init__(self, shards: ShardedRedis, *, ignore_subscribe_messages: bool = False) -> None:
        self._shards = shards
        self._wanted = Subscriptions(shards.router, shards.get_encoder(), ignore=ignore_subscribe_messages)
        self._lines: dict[str, Line] = {}
        self._came: deque[dict[str, Any] | Exception] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by shard: it reads, or makes the connection anew
        self._opening: dict[str, asyncio.Lock] = {}
        self._bell = Bell()  # of those who wait for a message
        self._room = asyncio.Event()

    @property
    def subscribed(self) -> bool:
        """Whether anything is wanted."""
        return bool(self._wanted)

    async def subscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear channels, each on its shard; a keyword's value is called with each message of the channel it names.

        Raise ShardDown if a shard cannot be reached; its channels are wanted all the same, and it is tried again.
        """
        await self._subscribe("", args, kwargs)

    async def psubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear patterns, each on all shards; as `subscribe`."""
        await self._subscribe("p", args, kwargs)

    async def ssubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear sharded channels (SSUBSCRIBE, Redis 7), each on its shard; as `subscribe`."""
        await self._subscribe("s", args, kwargs)

    async def unsubscribe(self, *args: Any) -> None:
        """Hear these channels no more; none named: no channel."""
        await self._unsubscribe("", args)

    async def punsubscribe(self, *args: Any) -> None:
        """Hear these patterns no more; none named: no pattern."""
        await self._unsubscribe("p", args)

    async def sunsubscribe(self, *args: Any) -> None:
        """Hear these sharded channels no more; none named: none."""
        await self._unsubscribe("s", args)

    async def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None:
        """Return the next message of any shard; None if none came in ``timeout`` seconds (None: wait for ever).

        None, too, for a message that a handler was called with. Raise ShardDown once for each time that a shard is away
        and StoreRefused for what a server does not let be heard; what comes after is heard all the same.
        """
        await self._follow()
        if not self._came:
            await self._bell.wait(timeout)
        if not self._came:
            return None
        came = self._came.popleft()
        self._room.set()
        if isinstance(came, Exception):
            raise came
        message, handler = self._wanted.deliver(came, ignore=ignore_subscribe_messages)
        if handler is None:
            return message
        answer = handler(came)
        if inspect.isawaitable(answer):
            await answer
        return None

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages for as long as anything is wanted; raise as `get_message`, and may be called anew then."""
        while self.subscribed or self._came:
            if (message := await self.get_message(timeout=1.0)) is not None:
                yield message

    async def run(self, *, exception_handler: Any = None, poll_timeout: float = 1.0) -> None:
        """Call the handlers until this is cancelled. As redis-py's."""
        self._wanted.check_handlers()
        while True:
            try:
                await self.get_message(ignore_subscribe_messages=True, timeout=poll_timeout)
            except Exception as error:
                if exception_handler is None:
                    raise
                answer = exception_handler(error, self)
                if inspect.isawaitable(answer):
                    await answer
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Forget everything and close the connections."""
        self._wanted = Subscriptions(self._shards.router, self._shards.get_encoder(), ignore=False)
        for shard in [*self._tasks, *self._lines]:
            await self._hang_up(shard)
        self._came.clear()
        self._bell.ring()

    close = reset = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- what is wanted

    async def _subscribe(self, kind: str, args: tuple[Any, ...], handlers: dict[str, Handler]) -> None:
        failed: list[Exception] = []
        for shard in await self._order(self._wanted.subscribe(kind, args, handlers)):
            try:
                await self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                failed.append(meant(shard, error))
                self._run(shard, self._reopen(shard, told=True))
        if failed:
            raise failed[0]

    async def _unsubscribe(self, kind: str, args: tuple[Any, ...]) -> None:
        orders, at_once = self._wanted.unsubscribe(kind, args)
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
        for shard in await self._order(self._wanted.follow()):
            self._run(shard, self._reopen(shard, told=False))
        await self._settle()

    async def _settle(self) -> None:
        """Close what nothing is wanted of any more; follow a shard to another server."""
        for shard, line in list(self._lines.items()):
            if self._wanted.is_idle(shard):
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
            await self._send(shard, line, [*greeting, *self._wanted.opened(shard)])
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
            self._tell(self._wanted.closed(shard))
            await hang_up(line.connection)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _lost(self, shard: str) -> None:
        await self._hang_up(shard)
        if shard in self._wanted.shards():
            self._run(shard, self._reopen(shard, told=False))

    async def _reopen(self, shard: str, *, told: bool) -> None:
        """Make a connection anew, as long as it takes; say once that it takes long."""
        if told:
            await asyncio.sleep(AGAIN)
        while shard in self._wanted.shards():
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
                while len(self._came) >= _MANY:
                    self._room.clear()
                    await self._room.wait()
                try:
                    reply = await line.connection.read_response(disable_decoding=True)
                    if line.owed:
                        line.owed -= 1
                        heed(self._shards, reply)
                        continue
                except exceptions.ResponseError as error:
                    if line.owed:  # it is not allowed to ask
                        line.owed -= 1
                        continue
                    await self._order(self._wanted.refused(shard))
                    self._tell([answered(shard, error)])
                else:
                    line.heard = now()
                    message = self._wanted.heard(shard, reply)
                    if message is not None:
                        self._tell([message])
                if self._wanted.is_idle(shard):
                    return
        except NO_ANSWER:
            if self._lines.get(shard) is line:
                await self._lost(shard)
        finally:
            watching.cancel()
            if self._lines.get(shard) is line:  # nothing is wanted of it, or the event loop ends
                await self._hang_up(shard)

    def _tell(self, came: Any) -> None:
        self._came += came
        if self._came:
            self._bell.ring()
