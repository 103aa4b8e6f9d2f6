"""What is kept of the connections to one server under one event loop, and whose turn it is to use them."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from redis import exceptions

from coordkit import _redis, _redis_answers
from coordkit._asyncio.runtime import life
from coordkit._asyncio.watch import Watch
from coordkit._asyncio.wire import FastWire, Wire
from coordkit._threads.runtime import now

_AT_ONCE = 32
"""Connections to one server under one loop: a thousand tasks take turns on them."""


class Home:
    """What is kept under one event loop: connections belong to the loop that made them."""

    def __init__(self) -> None:
        self.idle: list[Wire] = []  # the one used last is last
        self.shared: FastWire | None = None  # on which any number of requests may be under way
        self.connecting: asyncio.Task[None] | None = None
        self.wanting = 0  # tasks that wait for it to be made, and use it next
        self.alone = False  # whether each request needs a connection to itself
        self.used = 0.0
        self.primary = _redis_answers.Primary()
        self.silent = (0.0, 0.0)  # since when a wait went on that ended without an answer, and how long it was
        self.watch = Watch()
        self.free = _AT_ONCE
        self.busy = 0  # connections that somebody has to himself
        self._sweep: asyncio.TimerHandle | None = None
        self._retired: WeakSet[FastWire] = WeakSet()  # closed once nobody waits for their answers
        self._waiting: deque[asyncio.Future[None]] = deque()
        life().closing.add(self)

    def sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_redis.IDLE, self._sweep_out)

    async def close(self) -> None:
        """Close all, for nobody uses them any more."""
        await self.close_dead()
        for wire in list(self._retired):
            await wire.close()

    async def close_dead(self) -> None:
        """Close all that is idle or shared: the server went away."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self.idle = self.idle, []
        if self.shared is not None:
            self.watch.end(self.shared)
            idle.append(self.shared)
            self.shared = None
        for wire in idle:
            await wire.close()

    async def close_idle(self) -> None:
        """Close what nobody uses; what is shared once nobody waits for its answers."""
        for wire in self._taken():
            await wire.close()

    def retire(self, wire: FastWire) -> None:
        """Have what was shared closed once nobody waits for its answers; and with all else, if that comes first."""
        self._retired.add(wire)
        wire.retire()

    def _taken(self) -> list[Wire]:
        """Take out what nobody uses, at once: whoever comes before it is closed makes a connection anew."""
        idle, self.idle = self.idle, []
        if self.shared is not None and not self.wanting:
            shared, self.shared = self.shared, None
            self.retire(shared)  # in a moment, also if no answer is owed: who has just had one may ask again
        return idle

    # -- turns

    async def turn(self, patience: float) -> None:
        """Wait for one of the turns; those before us wait for a server no longer than ``patience``, nor do we."""
        if self.free:
            self.free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(patience, _too_late, turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.done()  # it was ours when we were cancelled
            raise
        finally:
            timer.cancel()

    def done(self) -> None:
        """Hand the turn on."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def keep(self, wire: Wire) -> None:
        """Keep a connection for the next who asks, for a while."""
        self.idle.append(wire)
        self.sweep_later()

    def _sweep_out(self) -> None:
        rest = self.used + _redis.IDLE - now()
        if self.shared is not None and self.shared.waited_for:
            rest = _redis.IDLE  # a server that is slow, and a client that has the patience
        if rest > 0:
            self._sweep = asyncio.get_running_loop().call_later(rest, self._sweep_out)
            return
        self._sweep = None
        for wire in self._taken():
            life().spawn(wire.close())


def _too_late(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(exceptions.TimeoutError(f"{_AT_ONCE} requests before this one have no answer yet"))
