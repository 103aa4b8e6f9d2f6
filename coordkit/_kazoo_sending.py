"""How requests go out: put down one by one, sent together by one write.

kazoo's connection thread is woken once for each request, and sends one at each turn of its loop: that costs more than
the request itself where fifty are sent at once, and makes two threads compete for every one of them. So whoever asks
puts down all that it has, then wakes the thread once, and that sends all that lies there.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from kazoo.exceptions import AuthFailedError, ConnectionClosedError, SessionExpiredError
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import _CONNECTION_DROP, _SESSION_EXPIRED, AUTH_XID, ConnectionHandler
from kazoo.protocol.serialization import Auth, int_struct
from kazoo.protocol.states import KeeperState

from coordkit._kazoo_answers import Answer
from coordkit._kazoo_unwatching import RemoveWatches

_MOST = 200  # requests in one write, and bytes after which there is no next: answers are read in between
_FULL = 1 << 16
_WAKES = 4096  # bytes: whoever wakes the thread sends one for each request
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)

_REFUSALS: dict[str, type[Exception]] = {
    KeeperState.AUTH_FAILED: AuthFailedError,
    KeeperState.CLOSED: ConnectionClosedError,
    KeeperState.EXPIRED_SESSION: SessionExpiredError,
}


class Sending:
    """The requests of ours that are on their way into one KazooClient; safe for many threads, and never blocks."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._lying: deque[Answer] = deque()  # put down since the thread was woken last
        self._together = _hook(client)
        self.noticed: Callable[[Any], None] = _ignore
        """Called with each request that was put down, as what hangs around kazoo's ``_call`` is with all others."""

    def put(self, request: Any, answer: Answer) -> None:
        """Put ``request``, in kazoo's words, behind those that wait to be sent; ``send`` sends it."""
        client = self.client
        if not self._together:
            if _may_go(client, request, client._queue, client._pending):  # noqa: SLF001  what is not answered yet
                client._call(request, answer)  # noqa: SLF001  it has no method for requests that it does not know
            else:
                answer.set()
            return
        refusal = _REFUSALS.get(client._state)  # noqa: SLF001  what its _call looks at
        if refusal is not None:
            answer.set_exception(refusal())
            return
        client._queue.append((request, answer))  # noqa: SLF001  what its _call does
        self._lying.append(answer)
        self.noticed(request)

    def send(self) -> None:
        """Wake the connection thread, if anything was put down."""
        woken = []
        while self._lying:
            try:
                woken.append(self._lying.popleft())
            except IndexError:  # another thread wakes it for that
                break
        if not woken:
            return
        try:
            self.client._connection._write_sock.send(b"\0" * len(woken), _AT_ONCE)  # noqa: SLF001  as above
        except BlockingIOError:
            return  # it was woken often enough, and has not looked since
        except (OSError, AttributeError):  # closed in this moment
            for answer in woken:
                answer.set_exception(ConnectionClosedError("Connection has been closed"))


def _ignore(_request: Any) -> None:
    """Do nothing."""


def _may_go(client: Any, request: Any, *under_way: Iterable[Any]) -> bool:
    if not isinstance(request, RemoveWatches):
        return True
    return request.may_go(client, [each[0] for some in under_way for each in list(some)])


def _framed(connection: Any, request: Any) -> tuple[int, bytes]:
    """Return the number of a request, and what is written."""
    xid: int = AUTH_XID
    if request.type != Auth.type:
        xid = connection._xid = (connection._xid % 2147483647) + 1  # noqa: SLF001  as in the original
    connection.logger.log(logging.DEBUG, "Sending request(xid=%s): %s", xid, request)
    body = bytes(request.serialize())
    return xid, int_struct.pack(len(body) + 8) + int_struct.pack(xid) + int_struct.pack(request.type) + body


def _hook(client: Any) -> bool:
    """Have the connection send together what lies there; return False where it is not kazoo's own, of threads."""
    connection = client._connection  # noqa: SLF001  no public way
    kinds = type(connection), type(client.handler)
    if kinds != (ConnectionHandler, SequentialThreadingHandler) or not _AT_ONCE:
        return False
    alone = connection._send_request  # noqa: SLF001  what is replaced

    def sending(read_timeout: float, connect_timeout: float) -> None:
        # The wakes are taken first: whoever puts something down from here on wakes us again.
        connection._read_sock.recv(_WAKES)  # noqa: SLF001  as in the original
        lying, pending = client._queue, client._pending  # noqa: SLF001  as in the original
        if lying and lying[0][0] in (_SESSION_EXPIRED, _CONNECTION_DROP):
            alone(read_timeout, connect_timeout)  # which raises what these stand for
        batch: list[tuple[Any, Any, int | None]] = []
        written = bytearray()
        for request, answer in [lying[at] for at in range(min(len(lying), _MOST))]:
            if request in (_SESSION_EXPIRED, _CONNECTION_DROP) or len(written) > _FULL:
                break
            xid = None
            if _may_go(client, request, pending, batch):
                xid, frame = _framed(connection, request)
                written += frame
            batch.append((request, answer, xid))
        if batch:
            connection._write(bytes(written), connect_timeout)  # noqa: SLF001  as in the original
            for request, answer, xid in batch:
                lying.popleft()
                if xid is None:
                    answer.set()
                else:
                    pending.append((request, answer, xid))
        if lying:
            with suppress(BlockingIOError):  # woken often enough
                connection._write_sock.send(b"\0", _AT_ONCE)  # noqa: SLF001  the next turn sends what is left

    connection._send_request = sending  # noqa: SLF001  the hook
    return True
