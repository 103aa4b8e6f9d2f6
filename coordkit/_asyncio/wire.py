"""One connection to Redis, of the asyncio flavour: bytes go out, replies come in.

redis-py makes it, with TLS, password and handshake, and then it is spoken to as directly as its parts allow: redis-py's
own layers, and those of asyncio's streams, take as long as the network.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from redis import exceptions

from coordkit import _reader


def wire_on(connection: Any, made: float) -> Wire:
    """Return the fastest wire that a connection of redis-py allows."""
    reader = _reader.reader_for(connection)
    stream = getattr(connection, "_reader", None)
    if reader is not None and isinstance(stream, asyncio.StreamReader) and not stream._buffer:  # type: ignore[attr-defined]  # noqa: SLF001  what came already would be lost
        return FastWire(connection, made, reader)
    return Wire(connection, made)


class Wire:
    """A connection, spoken to as redis-py speaks."""

    def __init__(self, connection: Any, made: float) -> None:
        self.connection = connection
        self.made = made
        self.until = math.inf  # when whoever waits for an answer has waited long enough
        self.late = False

    @property
    def usable(self) -> bool:
        return True

    async def ask(self, data: bytes, count: int) -> list[Any]:
        """Send commands and return their replies; one that is an error is in the list."""
        replies: list[Any] = []
        await self.connection.send_packed_command([data], check_health=False)
        for _ in range(count):
            try:
                replies.append(await self.connection.read_response())
            except exceptions.ResponseError as error:
                replies.append(error)
        return replies

    def give_up(self) -> None:
        """End the wait of whoever waits: it took too long."""
        self.late = True
        self.connection._writer.transport.abort()  # noqa: SLF001  wakes whoever reads; its own timeouts cost tasks

    async def close(self) -> None:
        await self.connection.disconnect(nowait=True)


class FastWire(Wire, asyncio.Protocol):
    """A transport that is ours, and a parser of our own."""

    def __init__(self, connection: Any, made: float, reader: Any) -> None:
        super().__init__(connection, made)
        self._loop = asyncio.get_running_loop()
        self._feed = reader.feed
        self._gets = reader.gets
        self._empty = reader.gets()  # what it says while there is nothing
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._count = 0
        self._replies: list[Any] = []
        self._open = True
        self._transport = connection._writer.transport  # noqa: SLF001  redis-py has no other name for it, from 5 to 8
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether it is open, and nothing came that nobody asked for."""
        return self._open and not self._replies

    async def ask(self, data: bytes, count: int) -> list[Any]:
        if not self._open:
            raise exceptions.ConnectionError("the server closed the connection")
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter = waiter
        self._count = count
        self._transport.write(data)
        return await waiter

    def data_received(self, data: bytes) -> None:
        replies, waiter = self._replies, self._waiter
        try:
            self._feed(data)
            while (reply := self._gets()) is not self._empty:
                if isinstance(reply, exceptions.ConnectionError):  # e.g. the server is loading its data
                    raise reply
                if not _reader.is_push(reply):
                    replies.append(reply)
        except exceptions.RedisError as error:
            self._open = False
            self._settle(error)
        if len(replies) >= self._count and waiter is not None and not waiter.done():
            self._replies, self._waiter = [], None
            waiter.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._settle(exceptions.ConnectionError("the server closed the connection") if exc is None else exc)
        self._before.connection_lost(exc)

    def _settle(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def give_up(self) -> None:
        self.late = True
        self._settle(exceptions.TimeoutError("no answer in time"))
        self._transport.abort()
