"""A subscribed connection of the asyncio flavour, and the boxes that its messages are put into."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

from redis import exceptions

from coordkit._asyncio.wire import hang_up
from coordkit._threads.runtime import now


class Box:
    """The messages for one holder, and its bell."""

    __slots__ = ("__weakref__", "_bell", "address", "messages", "refusal")

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: deque[str] = deque()
        self.refusal: Exception | None = None
        self._bell: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for a message, at most so long."""
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        timer = loop.call_later(seconds, self.ring)
        try:
            await self._bell
        finally:
            timer.cancel()
            self._bell = None


class Line:
    """A connection that is subscribed to some channels, and the tasks that read and watch it."""

    def __init__(self, node: str, connection: Any, patience: float) -> None:
        self.node = node
        self.connection = connection
        self.patience = patience
        self.addresses: dict[str, str] = {}  # by channel, once confirmed
        self.asked: dict[str, Box] = {}  # by channel, until confirmed
        self.heard = now()
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, *words: str) -> None:
        packed = self.connection.pack_command(*(word.encode() for word in words))
        await self.connection.send_packed_command(packed, check_health=False)

    async def close(self) -> None:
        """Hang up, and end the tasks; it may be one of them that does it."""
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        with contextlib.suppress(exceptions.RedisError, OSError):
            await hang_up(self.connection)
