"""A subscribed connection of the blocking flavour, and the boxes that its messages are put into."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from typing import Any

from redis import exceptions

from coordkit import _reader
from coordkit._threads.runtime import now
from coordkit._threads.turns import Turns

_LOOK = 1.0  # seconds after which a thread that waits for another's reading looks by itself


class Box:
    """The messages for one holder, and its bell."""

    __slots__ = ("__weakref__", "_bell", "address", "messages", "refusal")

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: deque[str] = deque()
        self.refusal: Exception | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        try:  # noqa: SIM105  contextlib.suppress takes its time, and a grant waits for this
            self._bell.release()
        except RuntimeError:  # it rings already
            pass

    def wait(self, seconds: float) -> None:
        self._bell.acquire(timeout=min(seconds, _LOOK))


class Line:
    """A connection that is subscribed to some channels."""

    def __init__(self, node: str, connection: Any, patience: float) -> None:
        self.node = node
        self.connection = connection
        self.patience = patience
        self.reading = Turns()
        self.writing = threading.Lock()
        self.addresses: dict[str, str] = {}  # by channel, once confirmed
        self.asked: dict[str, Box] = {}  # by channel, until confirmed
        self.heard = self.used = now()
        self.pinged = False
        self._parser = _reader.reader_for(connection)
        self.sock = connection._sock  # noqa: SLF001  redis-py has no other name for it, from 5 to 8
        self.sock.settimeout(patience)  # whoever connected may have been in a hurry
        if getattr(type(self.sock), "recv", None) is not socket.SocketType.recv or not hasattr(select, "poll"):
            self._parser = None  # TLS, gevent and what else only looks like a socket wait in their own way
        else:
            self._poll = select.poll()
            self._poll.register(self.sock, select.POLLIN)
        self._nothing = self._parser.gets() if self._parser is not None else None

    def send(self, *words: str) -> None:
        with self.writing:
            packed = self.connection.pack_command(*(word.encode() for word in words))
            self.connection.send_packed_command(packed, check_health=False)

    def replies(self, timeout: float) -> list[Any]:
        """Wait for replies at most so long; return what came, errors of the server too. Raises as redis-py."""
        if self._parser is None:
            if not self.connection.can_read(timeout=timeout):
                return []
            try:
                return [self.connection.read_response(disable_decoding=True)]
            except exceptions.ResponseError as error:
                return [error]
        if not self._poll.poll(timeout * 1000):
            return []
        data = self.sock.recv(65536)
        if not data:
            raise exceptions.ConnectionError("the server closed the connection")
        self._parser.feed(data)
        came = []
        while (reply := self._parser.gets()) is not self._nothing:
            if isinstance(reply, Exception) and not isinstance(reply, exceptions.ResponseError):
                raise reply
            came.append(reply)
        return came
