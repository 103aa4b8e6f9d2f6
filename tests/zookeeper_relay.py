"""A relay before a ZooKeeper server that knows where a request begins: it loses one that is named by its number.

Pings, credentials and the handshake are no requests. After a loss both sides' connections are reset, as a network that
loses something for good does to TCP.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

Loss = Literal["request", "reply"]

_NAMES = {1: "create", 2: "delete", 3: "exists", 4: "get", 5: "set", 8: "list", 9: "sync", 12: "list", 14: "multi"}
_NAMES |= {15: "create", 18: "unwatch", 19: "create", 106: "watch"}
_NOT_COUNTED = (11, 100, 102, -11)  # ping, auth, sasl, close


class Relay:
    """One relay, for any number of connections; ``seen`` has what was asked since ``arm``, ``lost`` what was lost."""

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"{self.host}:{self.port}"
        self._mutex = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._number = 0
        self._loss: Loss = "request"
        self.lost = b""  # the request that was
        self.seen: list[str] = []
        self._start(self._accept)

    def arm(self, number: int, loss: Loss) -> None:
        """Lose the ``number``-th request from now on (the first is 1), or its reply; 0 loses none."""
        with self._mutex:
            self._number, self._loss, self.seen = number, loss, []

    def fired(self) -> bool:
        """Return whether what was to be lost came by."""
        return 0 < self._number <= len(self.seen)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._reset(*self._sockets)
        for thread in self._threads:
            thread.join()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="zookeeper-relay", daemon=True)  # type: ignore[arg-type]  # of several types
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, server}
            lost: set[int] = set()
            self._start(self._requests, client, server, lost)
            self._start(self._replies, server, client, lost)

    def _requests(self, client: socket.socket, server: socket.socket, lost: set[int]) -> None:
        with contextlib.suppress(OSError):
            for at, frame in enumerate(_frames(client)):
                if at and not self._passes(frame, lost):
                    break
                server.sendall(frame)
        self._reset(client, server)

    def _passes(self, frame: bytes, lost: set[int]) -> bool:
        xid, kind = struct.unpack_from(">ii", frame, 4)
        if kind in _NOT_COUNTED:
            return True
        with self._mutex:
            self.seen.append(_NAMES.get(kind, str(kind)))
            if len(self.seen) != self._number:
                return True
            if self._loss == "request":
                self.lost = frame
                return False
            lost.add(xid)
            return True

    def _replies(self, server: socket.socket, client: socket.socket, lost: set[int]) -> None:
        with contextlib.suppress(OSError):
            for at, frame in enumerate(_frames(server)):
                if at and struct.unpack_from(">i", frame, 4)[0] in lost:
                    break
                client.sendall(frame)
        self._reset(client, server)

    def _reset(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes whoever reads it
            each.close()
            self._sockets.discard(each)


def _frames(source: socket.socket) -> Iterator[bytes]:
    """Yield whole frames, their lengths included, until the end."""
    rest = b""
    while part := source.recv(65536):
        rest += part
        while len(rest) >= 4 and len(rest) >= (end := 4 + struct.unpack_from(">i", rest)[0]):
            yield rest[:end]
            rest = rest[end:]
