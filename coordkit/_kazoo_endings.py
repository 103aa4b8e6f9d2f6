"""What a connection cannot go on after, and kazoo would; and what it can, and kazoo's thread would die of.

A session may be over although its connection stands: a node of an ensemble takes a client back in the moment in which
the client's session is closed at another. Pings are answered, and every request is told that the session has expired.
kazoo hands that to whoever asked, and stays as it is for ever; here it begins a new session, as when it hears that on
connecting.

A node that learns that the session has moved to another drops a request, and may answer the next one before it hangs
up. kazoo's thread dies of an answer out of order, and the client is closed for good; here it connects again, as after
whatever else goes wrong in that thread.

A node may hang. kazoo takes what it sends for pings, so whoever asks often enough has it wait there for ever; here it
waits for two thirds of a session timeout, as ZooKeeper's own client for Java does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from kazoo.exceptions import AuthFailedError, SessionExpiredError
from kazoo.protocol.connection import AUTH_XID, ConnectionDropped, RWServerAvailable

_log = logging.getLogger("coordkit")

_EXPIRED = -112  # the code of SessionExpiredError, which kazoo sets by a decorator


def hook(client: Any) -> None:
    """Have kazoo's connection end with such an answer, with silence, and with nothing worse than its end."""
    connection = client._connection  # noqa: SLF001  no public way
    _end_with_answers(client, connection)
    _match_credentials(client, connection)
    _end_with_silence(client, connection)
    for name in ("_connect", "_read_socket", "_send_request", "_send_ping"):  # all that its loop does
        setattr(connection, name, _survived(connection, getattr(connection, name)))


def _end_with_answers(client: Any, connection: Any) -> None:
    respond = connection._read_response  # noqa: SLF001  no public way

    def responding(header: Any, buffer: Any, offset: int) -> Any:
        pending = client._pending  # noqa: SLF001  no public way
        if not pending or pending[0][2] != header.xid:
            raise ConnectionDropped(f"the server dropped a request: its next answer is to request {header.xid}")
        answered = respond(header, buffer, offset)
        if header.err == _EXPIRED:
            raise SessionExpiredError
        return answered

    connection._read_response = responding  # noqa: SLF001  the hook


def _match_credentials(client: Any, connection: Any) -> None:
    """Credentials are answered out of turn, and kazoo gives that answer to whoever waits longest."""
    read = connection._read_header  # noqa: SLF001  no public way

    def reading(timeout: float) -> Any:
        found = read(timeout)
        if found[0].xid == AUTH_XID:
            pending = client._pending  # noqa: SLF001  only kazoo's thread changes it
            at = next((at for at, (_, _, xid) in enumerate(pending) if xid == AUTH_XID), None)
            if at is not None:
                asked = pending[at]
                del pending[at]
                pending.appendleft(asked)
            elif pending:
                raise ConnectionDropped("the server answered credentials that it was not given")
        return found

    connection._read_header = reading  # noqa: SLF001  the hook


def _end_with_silence(client: Any, connection: Any) -> None:
    read, send, ping = connection._read_socket, connection._send_request, connection._send_ping  # noqa: SLF001  as above
    outstanding = connection.ping_outstanding
    heard = time.monotonic()  # or when we began to wait for something

    def reading(read_timeout: float) -> Any:
        nonlocal heard
        response = read(read_timeout)
        heard = time.monotonic()
        return response

    def sending(read_timeout: float, connect_timeout: float) -> None:
        nonlocal heard
        if not (client._pending or outstanding.is_set()):  # noqa: SLF001  as above
            heard = time.monotonic()
        elif time.monotonic() - heard > read_timeout and not _readable(connection):
            raise ConnectionDropped(f"the server said nothing for {read_timeout:.1f} s")
        send(read_timeout, connect_timeout)

    def pinging(connect_timeout: float) -> None:
        nonlocal heard
        if not (client._pending or outstanding.is_set()):  # noqa: SLF001  as above
            heard = time.monotonic()
        ping(connect_timeout)

    connection._read_socket, connection._send_request, connection._send_ping = reading, sending, pinging  # noqa: SLF001  as above


def _readable(connection: Any) -> bool:
    """Return whether there is something to read: it was this process that stood still."""
    return bool(connection.handler.select([connection._socket], [], [], 0)[0])  # noqa: SLF001  as above


def _survived(connection: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Have what kazoo does not expect end a connection, not its thread: the client would be closed for good."""
    timeout: type[Exception] = connection.handler.timeout_exception
    expected = (ConnectionDropped, timeout, AuthFailedError, SessionExpiredError, RWServerAvailable)

    def surviving(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except expected:
            raise
        except OSError as error:
            raise ConnectionDropped(f"socket connection error: {error}") from error
        except Exception as error:
            _log.exception("kazoo's connection failed unexpectedly; it connects again")
            raise ConnectionDropped(f"unexpected: {error!r}") from error

    return surviving
