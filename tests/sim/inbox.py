"""A simulated subscription, and the weather that it and every request share.

A message is never lost by itself, as on TCP; it is lost with its connection, and then whoever waits is told, sooner or
later. The server may take a connection for alive that is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.world import Process, Wait

from coordkit._inbox import Boxes
from coordkit._ports import BROKEN

if TYPE_CHECKING:
    from sim.redis import SimRedis


class Weather:
    """What the network does, and for how long: after ``until`` (world time) the sun shines."""

    def __init__(
        self,
        *,
        latency: float = 0.001,
        lost_requests: float = 0.0,
        lost_replies: float = 0.0,
        repeated: float = 0.0,
        slow: float = 0.0,
        until: float = float("inf"),
    ) -> None:
        self.latency = latency
        self.lost_requests = lost_requests
        self.lost_replies = lost_replies
        self.repeated = repeated
        self.slow = slow
        self.until = until


class SimBox:
    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: deque[str] = deque()
        self.bell = Wait()

    def ring(self) -> None:
        self.bell.settle()


class SimInbox:
    """The Inbox port of one process."""

    def __init__(self, process: Process, server: SimRedis, weather: Weather) -> None:
        self._process = process
        self._server = server
        self._weather = weather
        self._boxes: Boxes[SimBox] = Boxes()
        self._connection = 0
        self._channel: bytes = b""  # "" while it is not connected
        self._arrives = 0.0

    # -- the port

    def address(self, _name: str) -> str:
        return f"PUBLISH {self._channel.decode()}" if self._channel else ""

    async def open(self, name: str, _until: float) -> str:
        if not self._channel:
            if self._process.world.random.random() < 0.05:
                return ""  # it did not work out; the contender asks again, and tries again
            await self._process.sleep(2 * self._weather.latency)
            if not self._channel:
                self._connection += 1
                self._channel = f"inbox:{self._process.name}:{self._connection}".encode()
                self._server.inboxes[self._channel] = self
        return self.address(name)

    def expect(self, holder: str, address: str) -> SimBox:
        box = SimBox(address)
        self._boxes.add(holder, box)
        return box

    def forget(self, holder: str, stray: Callable[[], None] | None) -> None:
        self._boxes.remove(holder, stray)

    async def receive(self, holder: str, until: float) -> str | None:
        box = self._boxes[holder]
        if not box.messages and until > self._process.now():
            if box.address != self.address(""):
                return BROKEN
            bell = box.bell
            self._process.after(until - self._process.now(), bell.settle)
            await bell
            box.bell = Wait()  # one that has rung, or whose time is up, is of no use again
        return box.messages.popleft() if box.messages else None

    # -- the world's side

    def send(self, data: bytes) -> None:
        """Deliver a message after a while, in order, unless the connection breaks before."""
        world, connection = self._process.world, self._connection
        delay = self._weather.latency * world.random.uniform(0.5, 2.0)
        if world.time < self._weather.until and world.random.random() < self._weather.slow:
            delay += world.random.uniform(0, 0.6)
        self._arrives = max(self._arrives, world.time + delay)

        def arrive() -> None:
            if connection == self._connection and self._channel:
                self._boxes.deliver(data)

        world.after(self._arrives - world.time, arrive, self._process)

    def cut(self, *, unnoticed: bool) -> None:
        """Break the connection; the server, or we ourselves, may be slow to notice."""
        channel, address, self._channel = self._channel, self.address(""), b""
        if not channel:
            return
        world = self._process.world
        world.after(world.random.uniform(0, 2.0) if unnoticed else 0.0, lambda: self._server.inboxes.pop(channel, None))
        world.after(world.random.uniform(0, 0.5), lambda: self._boxes.broken(address), self._process)
