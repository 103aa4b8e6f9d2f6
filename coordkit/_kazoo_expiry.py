"""A session that is over although its connection stands.

A node of an ensemble may take a client back in the moment in which the client's session is closed at another. From then
on the connection stands, pings are answered, and every request is told that the session has expired. kazoo hands that
to whoever asked, and stays as it is for ever; here it begins a new session, as when it hears that on connecting.
"""

from __future__ import annotations

from typing import Any

from kazoo.exceptions import SessionExpiredError

_EXPIRED = -112  # the code of SessionExpiredError, which kazoo sets by a decorator


def hook(connection: Any) -> None:
    """Have kazoo's connection take an answer that the session has expired as the end of it."""
    respond = connection._read_response  # noqa: SLF001  no public way

    def responding(header: Any, buffer: Any, offset: int) -> Any:
        answered = respond(header, buffer, offset)
        if header.err == _EXPIRED:
            raise SessionExpiredError
        return answered

    connection._read_response = responding  # noqa: SLF001  the hook
