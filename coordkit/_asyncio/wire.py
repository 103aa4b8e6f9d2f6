"""One connection to Redis, of the asyncio flavour: bytes go out, replies come in.

redis-py makes it, with TLS, password and handshake, and then it is spoken to as directly as its parts allow: redis-py's
own layers, and those of asyncio's streams, take as long as the network.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, Protocol

from redis import exceptions

from coordkit import _reader
from coordkit._asyncio.runtime import life


def wire_on(connection: Any, made: float) -> Wire:
    """Return the fastest wire that a connection of redis-py allows."""
    reader = _reader.reader_for(connection)
    stream = getattr(connection, "_reader", None)
    if reader is not None and isinstance(stream, asyncio.StreamReader) and not stream._buffer:  # type: ignore[attr-defined]  # noqa: SLF001  what came already would be lost
        return FastWire(connection, made, reader)
    return Wire(connection, made)


def piped_on(connection: Any, made: float) -> PipedWire:
    """Return the fastest wire that can have many requests under way."""
    wire = wire_on(connection, made)
    return wire if isinstance(wire, PipedWire) else ReadWire(connection, made)


async def hang_up(connection: Any) -> None:
    """Close a connection of redis-py at once: TLS would say goodbye first, and not have come to it when a loop ends."""
    stream = getattr(connection, "_writer", None)
    await connection.disconnect(nowait=True)
    if stream is not None:
        _cut(stream)


def _cut(stream: Any) -> None:
    """Close the transport of a stream without a goodbye; what stands for one in tests (fakeredis) may only close."""
    getattr(stream.transport, "abort", stream.close)()


class Wire:
    """A connection, spoken to as redis-py speaks."""

    def __init__(self, connection: Any, made: float) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.epoch = 0  # of the sharding topology that it saw when it was made
        self.number = 0  # how many had been made by its way, with it
        self.made = self.used = made  # and when it was asked last what it answered
        self.until = math.inf  # when whoever waits for an answer has waited long enough
        self.late = False
        self._replies: list[Any] = []  # to the request under way

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        stream = getattr(self.connection, "_reader", None)
        return not (isinstance(stream, asyncio.StreamReader) and stream.at_eof())

    async def ask(self, data: bytes, count: int) -> list[Any]:
        """Send commands and return their replies; one that is an error is in the list."""
        return await self._ask(data, count)

    async def undecoded(self, data: bytes, count: int) -> list[Any]:
        """Send commands and return their replies as bytes, whatever the client decodes; while no other is under way."""
        return await self._ask(data, count, disable_decoding=True)

    async def _ask(self, data: bytes, count: int, **options: bool) -> list[Any]:
        self._replies = replies = []
        await self.connection.send_packed_command([data], check_health=False)
        for _ in range(count):
            try:
                replies.append(await self.connection.read_response(**options))
            except exceptions.ResponseError as error:
                replies.append(error)
        return replies

    def came(self, request: Any = None) -> list[Any]:  # noqa: ARG002  there is one at a time
        """Return the replies that came to a request before the connection broke."""
        return self._replies

    def give_up(self) -> None:
        """End the wait of whoever waits: it took too long."""
        self.late = True
        _cut(self.connection._writer)  # noqa: SLF001  wakes whoever reads; its own timeouts cost tasks

    async def close(self) -> None:
        await hang_up(self.connection)


class Waiter(Protocol):
    """Who waits for the replies to a request: a future, or what takes them at once."""

    def done(self) -> bool: ...
    def set_result(self, result: list[Any], /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class PipedWire(Wire):
    """A connection on which many requests may be under way at once.

    Replies come in the order of the requests, whoever still waits for them. Who reads them gives them to ``_took``.
    """

    def __init__(self, connection: Any, made: float) -> None:
        super().__init__(connection, made)
        self._asked: deque[tuple[Waiter, int, float]] = deque()  # waiter, replies, until when
        self._cut: Waiter | None = None  # who was being answered when it broke
        self._open = True
        self._retired = False
        self.shared = False
        self._transport = connection._writer.transport  # noqa: SLF001  redis-py has no other name for it, from 5 to 8

    @property
    def usable(self) -> bool:
        """Whether it is open, and nothing came that nobody asked for."""
        return self._open and not (self._replies and not self._asked)

    @property
    def waited_for(self) -> bool:
        return bool(self._asked)

    @property
    def due(self) -> float:
        """Until when the first of the answers that are owed is waited for; infinity if none is."""
        return self._asked[0][2] if self._asked else math.inf

    @property
    def unread(self) -> int:
        """Return how many bytes wait here because the server does not read."""
        return int(self._transport.get_write_buffer_size())

    def put(self, waiter: Waiter, data: bytes, count: int, until: float) -> None:
        """Send commands; ``waiter`` gets the list of their replies. ``until`` is when to give up."""
        if not self._open:
            _tell(waiter, exceptions.ConnectionError("the server closed the connection"))
            return
        self._asked.append((waiter, count, until))
        self._transport.write(data)

    def retire(self) -> None:
        """Close it once nobody waits any more."""
        self._retired = True
        if not self._asked:
            life().spawn(self._close_retired())

    async def _close_retired(self) -> None:
        if not self._asked:  # whoever has just had an answer may have asked again: the server did not know the script
            await self.close()

    def give_up(self) -> None:
        self.late = True
        self._over(exceptions.TimeoutError("no answer in time"))
        self._transport.abort()

    def _took(self, reply: Any) -> None:
        self._replies.append(reply)
        if self._asked and len(self._replies) == self._asked[0][1]:
            self._answered()

    def _answered(self) -> None:
        waiter, _, _ = self._asked.popleft()
        replies, self._replies = self._replies, []
        if self.shared:  # whoever comes next has a time of its own
            self.until = self.due
        if not waiter.done():
            waiter.set_result(replies)
        if self._retired and not self._asked:
            life().spawn(self._close_retired())

    def came(self, request: Any = None) -> list[Any]:
        return self._replies if request is None or request is self._cut else []

    def _over(self, error: Exception) -> None:
        self._open = False
        asked, self._asked = self._asked, deque()
        if asked:
            self._cut = asked[0][0]
        for waiter, _, _ in asked:
            if not waiter.done():
                _tell(waiter, error)


def _tell(waiter: Waiter, error: Exception) -> None:
    """Tell whoever waits; if he has gone (a coroutine that was closed), the loop need not complain that he has not."""
    waiter.set_exception(error)
    if isinstance(waiter, asyncio.Future):
        waiter.exception()


class ReadWire(PipedWire):
    """A connection whose replies a task reads, by redis-py's own parser."""

    def __init__(self, connection: Any, made: float) -> None:
        super().__init__(connection, made)
        self._reading = life().spawn(self._read())

    async def _read(self) -> None:
        try:
            while True:
                try:
                    self._took(await self.connection.read_response())
                except exceptions.ResponseError as error:
                    self._took(error)
        except Exception as error:  # noqa: BLE001  whatever redis-py makes of it: whoever waits is told
            self._over(error)

    async def close(self) -> None:
        self._reading.cancel()
        await super().close()


class FastWire(PipedWire, asyncio.Protocol):
    """A transport that is ours, and a parser of our own."""

    def __init__(self, connection: Any, made: float, reader: Any) -> None:
        super().__init__(connection, made)
        self._feed = reader.feed
        self._gets = reader.gets
        self._empty = reader.gets()  # what it says while there is nothing
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    async def ask(self, data: bytes, count: int) -> list[Any]:
        return await self.send(data, count, math.inf)

    async def undecoded(self, data: bytes, count: int) -> list[Any]:
        gets = self._gets
        self._gets = lambda: gets(False)
        try:
            return await self.ask(data, count)
        finally:
            self._gets = gets

    def send(self, data: bytes, count: int, until: float) -> asyncio.Future[list[Any]]:
        """Send commands; return what will be the list of their replies. ``until`` is when to give up."""
        waiter: asyncio.Future[list[Any]] = self.loop.create_future()
        self.put(waiter, data, count, until)
        return waiter

    def data_received(self, data: bytes) -> None:
        try:
            self._feed(data)
            while True:
                try:
                    reply = self._gets()
                except UnicodeDecodeError as undecodable:
                    reply = undecodable  # one request's affair; the parser goes on with the next reply
                if type(reply) in _reader.PLAIN:  # what nearly all are
                    self._replies.append(reply)
                    if self._asked and len(self._replies) == self._asked[0][1]:
                        self._answered()
                    continue
                if reply is self._empty:
                    break
                if isinstance(reply, exceptions.ConnectionError):  # e.g. the server is loading its data
                    raise reply
                if not _reader.is_push(reply):
                    self._took(reply)
        except exceptions.RedisError as error:
            self._over(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(exceptions.ConnectionError("the server closed the connection") if exc is None else exc)
        self._before.connection_lost(exc)
