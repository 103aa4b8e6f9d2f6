"""Answers after which a connection cannot go on, and kazoo would.

A session may be over although its connection stands: a node of an ensemble takes a client back in the moment in which
the client's session is closed at another. Pings are answered, and every request is told that the session has expired.
kazoo hands that to whoever asked, and stays as it is for ever; here it begins a new session, as when it hears that on
connecting.

A node that learns that the session has moved to another drops a request, and may answer the next one before it hangs
up. kazoo's thread dies of an answer out of order, and the client is closed for good; here it connects again.
"""

from __future__ import annotations

from typing import Any

from kazoo.exceptions import SessionExpiredError
from kazoo.protocol.connection import ConnectionDropped

_EXPIRED = -112  # the code of SessionExpiredError, which kazoo sets by a decorator


def hook(connection: Any) -> None:
    """Have kazoo's connection end with such an answer."""
    respond = connection._read_response  # noqa: SLF001  no public way

    def responding(header: Any, buffer: Any, offset: int) -> Any:
        pending = connection.client._pending  # noqa: SLF001  no public way
        if not pending or pending[0][2] != header.xid:
            raise ConnectionDropped(f"the server dropped a request: its next answer is to request {header.xid}")
        answered = respond(header, buffer, offset)
        if header.err == _EXPIRED:
            raise SessionExpiredError
        return answered

    connection._read_response = responding  # noqa: SLF001  the hook
