"""One connection to Redis, of the blocking flavour: bytes go out, replies come in.

redis-py makes it, with TLS, password and handshake, and then it is spoken to as directly as its parts allow: redis-py's
own layers take as long as the network. A timeout of Python's costs a ``poll`` before each read and each write. So the
kernel bounds each read of a plain socket (``SO_RCVTIMEO``) to a moment, in which nearly all replies come, and only what
takes longer is polled for. A ``poll`` keeps its deadline also where signals interrupt it, a read begins anew.
"""

from __future__ import annotations

import math
import select
import socket
import struct
from typing import Any

from redis import exceptions

from coordkit import _reader

_READ, _LITTLE = 65536, 4096
_REPLY = 400  # bytes; nearly all replies are shorter, and Python has memory for so many at hand
_MOMENT = 0.01
_PLAIN = _reader.PLAIN


def wire_on(connection: Any, made: float, patience: float) -> Wire:
    """Return the fastest wire that a connection of redis-py allows."""
    reader = _reader.reader_for(connection)
    sock = connection._sock  # noqa: SLF001  redis-py has no other name for it, from 5 to 8
    # TLS, gevent and what else only looks like a socket wait in their own way.
    if reader is not None and getattr(type(sock), "recv", None) is socket.SocketType.recv:
        return FastWire(connection, made, patience, reader, sock)
    return Wire(connection, made, patience)


class Wire:
    """A connection, spoken to as redis-py speaks."""

    __slots__ = ("connection", "epoch", "made", "number", "patience", "used")

    def __init__(self, connection: Any, made: float, patience: float) -> None:
        self.connection = connection
        self.epoch = 0  # of the sharding topology that it saw when it was made
        self.number = 0  # how many had been made by its way, with it
        self.made = self.used = made  # and when it was asked last what it answered
        self.patience = patience  # seconds it waits for an answer, unless it is bound to another time

    def bound(self, seconds: float) -> None:
        """Wait so long for each answer from now on."""
        # The parsers of redis-py 5 to 8 read this very socket.
        self.connection._sock.settimeout(None if seconds == math.inf else seconds)  # noqa: SLF001  see above

    def is_stale(self) -> bool:
        """Whether the server closed it, or said what nobody asked for; costs a system call."""
        try:
            return bool(self.connection.can_read(0))
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            return True

    def send(self, data: bytes) -> None:
        self.connection.send_packed_command([data], check_health=False)

    def reply(self) -> Any:
        """Return the next reply; one that is an error is returned, not raised."""
        try:
            return self.connection.read_response()
        except exceptions.ResponseError as error:
            return error

    def ask(self, data: bytes) -> Any:
        """Send one command and return its reply."""
        self.send(data)
        return self.reply()

    def replies(self, count: int) -> list[Any]:
        """Return the next replies."""
        return [self.reply() for _ in range(count)]

    def read_into(self, replies: list[Any], count: int, *, decoding: bool = True) -> None:
        """Append the next replies, as bytes without ``decoding``; those before an error stay."""
        for _ in range(count):
            try:
                replies.append(self.connection.read_response(disable_decoding=not decoding))
            except exceptions.ResponseError as error:
                replies.append(error)

    def received(self, most: int) -> list[Any]:
        """Return the replies that are there, one at least, once there is something to be read."""
        replies = [self.reply()]
        while len(replies) < most and self.connection.can_read(0):
            replies.append(self.reply())
        return replies

    def close(self) -> None:
        self.connection.disconnect()


class FastWire(Wire):
    """A plain socket, and a parser of our own."""

    __slots__ = ("_empty", "_feed", "_gets", "_poll", "_recv", "_send", "_within")

    def __init__(self, connection: Any, made: float, patience: float, reader: Any, sock: socket.socket) -> None:
        super().__init__(connection, made, patience)
        self._send = sock.sendall
        self._recv = sock.recv
        self._feed = reader.feed
        self._gets = reader.gets
        self._empty = reader.gets()  # what it says while there is nothing
        self._poll: Any = None
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _span(_MOMENT))
        self.bound(self.patience)

    def bound(self, seconds: float) -> None:
        self._within = None if seconds == math.inf else seconds * 1000  # in ms, as poll has it
        sock = self.connection._sock  # noqa: SLF001  see above
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _span(seconds))

    def is_stale(self) -> bool:
        try:
            return bool(self._poll(0))
        except TypeError:  # the first look
            return bool(self._polling()(0))

    def _polling(self) -> Any:
        if self._poll is None:
            poll = select.poll()
            poll.register(self.connection._sock, select.POLLIN)  # noqa: SLF001  see above
            self._poll = poll.poll
        return self._poll

    def _late(self, most: int) -> bytes:
        """Receive what took longer than a moment; BlockingIOError if it takes too long."""
        if not self._polling()(self._within):
            raise BlockingIOError("no answer in time")
        return bytes(self._recv(most))

    def send(self, data: bytes) -> None:
        self._send(data)

    def ask(self, data: bytes) -> Any:
        self._send(data)
        try:
            came = self._recv(_REPLY)
        except BlockingIOError:
            came = self._late(_REPLY)
        self._feed(came)
        reply = self._gets()
        if type(reply) in _PLAIN:
            return reply
        return self._looked_at(reply)

    def reply(self) -> Any:
        return self._looked_at(self._gets())

    def replies(self, count: int) -> list[Any]:
        gets, looked_at = self._gets, self._looked_at
        return [reply if type(reply := gets()) in _PLAIN else looked_at(reply) for _ in range(count)]

    def read_into(self, replies: list[Any], count: int, *, decoding: bool = True) -> None:
        own, looked_at, append = self._gets, self._looked_at, replies.append
        if not decoding:
            self._gets = lambda: own(False)
        gets = self._gets
        try:
            for _ in range(count):
                reply = gets()
                append(reply if type(reply) in _PLAIN else looked_at(reply))
        finally:
            self._gets = own

    def received(self, most: int) -> list[Any]:  # noqa: ARG002  more than were asked for is the caller's affair
        """Return the replies that are complete, perhaps none yet, once there is something to be read."""
        try:
            data = self._recv(_LITTLE, socket.MSG_DONTWAIT)  # if that is not all, it is said again that there is more
        except BlockingIOError:
            return []
        if not data:
            raise exceptions.ConnectionError("the server closed the connection")
        self._feed(data)
        replies: list[Any] = []
        while (reply := self._gets()) is not self._empty:
            if type(reply) is not int and type(reply) is not list:
                if isinstance(reply, exceptions.ConnectionError):
                    raise reply
                if _reader.is_push(reply):
                    continue
            replies.append(reply)
        return replies

    def _looked_at(self, reply: Any) -> Any:
        while reply is self._empty:
            try:
                data = self._recv(_READ)
            except BlockingIOError:
                data = self._late(_READ)
            if not data:
                raise exceptions.ConnectionError("the server closed the connection")
            self._feed(data)
            reply = self._gets()
        if isinstance(reply, Exception):
            if isinstance(reply, exceptions.ConnectionError):  # e.g. the server is loading its data
                raise reply
        elif _reader.is_push(reply):
            return self.reply()
        return reply


def _span(seconds: float) -> bytes:
    # 0 is for ever
    whole, part = (0, 0) if seconds == math.inf else divmod(max(1, round(seconds * 1e6)), 1_000_000)
    return struct.pack("@ll", whole, part)
