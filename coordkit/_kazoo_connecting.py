"""How kazoo connects: to whom, for how long it waits for each, and what a refusal is.

kazoo waits one whole session timeout for each host, so that a host that is off costs the session at a mere reset of the
connection; here it is that divided by the number of hosts, as in ZooKeeper's own client for Java.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kazoo import exceptions
from kazoo.exceptions import AuthFailedError, SASLException
from kazoo.protocol.connection import ConnectionDropped

if TYPE_CHECKING:
    from coordkit._kazoo import Wire

_REFUSALS: Any = (
    SASLException,
    getattr(exceptions, "SessionClosedRequireSaslError", SASLException),
)  # since kazoo 2.11

_FRESH = 1.0  # seconds for which an address is what its name has


def hook(wire: Wire) -> None:
    """Learn the negotiated timeout of every connection to come, and where it is.

    ``_connect`` returns two thirds of it as its read timeout (Patroni wraps the same method, in production).
    """
    client = wire.client
    connection = client._connection  # noqa: SLF001  kazoo#769
    connect, expand = connection._connect, connection._expand_client_hosts  # noqa: SLF001  kazoo tells it nowhere else
    looked_up = float("-inf")

    def expanding() -> Any:
        nonlocal looked_up
        found = expand()
        looked_up = time.monotonic()
        return found

    def connecting(host: str, address: str, port: int) -> Any:
        if time.monotonic() - looked_up > _FRESH:
            address = _at_present(host, address, port)
        wire.near = host, address, port
        handler = connection.handler
        connection.handler = _Hurried(handler, client._session_timeout / 1000 / len(client.hosts))  # noqa: SLF001  as above
        try:
            timeouts = connect(host, address, port)
        except ConnectionDropped:
            if connection._socket is not None:  # noqa: SLF001  it was there, and hung up
                wire.past.refused(host, address, port, wire.session_timeout())
            raise
        except AuthFailedError as error:
            if isinstance(error.__cause__, ConnectionDropped):  # a server that refuses says so, before it hangs up
                raise error.__cause__ from error
            raise
        except _REFUSALS as error:
            raise AuthFailedError from error  # else kazoo's thread dies of it, and the client looks stopped
        finally:
            connection.handler = handler
        wire.past.accepted()
        wire.negotiated = timeouts[0] / 1000 * 1.5
        return timeouts

    connection._expand_client_hosts = expanding  # noqa: SLF001  the same hook, put back around
    connection._connect = connecting  # noqa: SLF001  the same


class _Hurried:
    """kazoo's handler, with at most so many seconds for a connection to be made."""

    def __init__(self, handler: Any, most: float) -> None:
        self._handler = handler
        self._most = most

    def create_connection(self, *where: Any, timeout: float | None = None, **how: Any) -> Any:
        create: Callable[..., Any] = self._handler.create_connection
        return create(*where, timeout=self._most if timeout is None else min(timeout, self._most), **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


def _at_present(host: str, address: str, port: int) -> str:
    """Return ``address`` if ``host`` still has it, else what it has now.

    kazoo asks once for all hosts, then tries one after the other, for as long as each lets it wait (kazoo#794).
    """
    with suppress(OSError):  # no answer, no news
        found = [each[4][0] for each in socket.getaddrinfo(host, port, 0, 0, socket.IPPROTO_TCP)]
        if found and address not in found:
            return str(found[0])
    return address
