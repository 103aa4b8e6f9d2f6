"""Servers that went back in time: restored from a backup, they refuse every client that has seen what came later.

To such a client they look like servers that hang up: kazoo is suspended and tries again for ever. So when an ensemble
has hung up on it for one session timeout, the servers are asked where they stand, as somebody who has seen nothing
would ask; who knows less than we do has gone back (or is a follower that lags, but not for that long).
"""

from __future__ import annotations

import logging
import struct
import time
from contextlib import suppress
from typing import Any

from coordkit import _companion

_log = logging.getLogger("coordkit")

_EXISTS = 3
_PATIENCE = 1.0  # seconds for one step of asking: kazoo's connection thread asks, and has nothing better to do


class Past:
    """What one client has seen, and what the servers that refuse it have."""

    def __init__(self, client: Any, where: Any) -> None:
        self._client = client
        self._where = where
        self._since: float | None = None  # the first refusal in a row
        self._asked = float("-inf")
        self._behind = ""

    @property
    def behind(self) -> str:
        """What is wrong, for a message; an empty text if nothing is."""
        return self._behind

    def accepted(self) -> None:
        """Be told that a server took us."""
        self._since = None
        self._behind = ""

    def refused(self, host: str, address: str, port: int, timeout: float) -> None:
        """Be told that a server hung up on us; ``timeout`` (seconds) is the session's."""
        client, now = self._client, time.monotonic()
        if not client.last_zxid:
            return  # whoever has seen nothing cannot have seen too much
        if self._since is None:
            self._since = now
        if now - self._since < timeout or now - self._asked < timeout / 3:
            return
        self._asked = now
        seen: int = client.last_zxid
        theirs = None
        with suppress(OSError, EOFError, struct.error):
            theirs = self._stand(host, address, port)
        if theirs is None or theirs >= seen:
            return
        if not self._behind:
            self._behind = (
                f"the servers went back in time, to {theirs:#x}, and refuse this client, which has seen {seen:#x} "
                "(were they restored from a backup?): start this process anew; tokens that are given now may be lower "
                "than some that were given before"
            )
            _log.error("%s: %s", self._where, self._behind)

    def _stand(self, host: str, address: str, port: int) -> int | None:
        """Return the last zxid that a server has seen; None if it will not say."""
        client = self._client
        connection = client.handler.create_connection(
            address=(address, port),
            hostname=host,
            timeout=_PATIENCE,
            use_ssl=client.use_ssl,
            keyfile=client.keyfile,
            certfile=client.certfile,
            ca=client.ca,
            keyfile_password=client.keyfile_password,
            verify_certs=client.verify_certs,
            check_hostname=client.check_hostname,
        )
        with connection:
            connection.settimeout(_PATIENCE)
            if not _companion.connect(connection, 0, b"\0" * 16, _PATIENCE):
                return None
            _companion.send(connection, struct.pack(">iii", 1, _EXISTS, 1) + b"/\0")
            _, zxid, _ = struct.unpack_from(">iqi", _companion.receive(connection))
            _companion.send(connection, struct.pack(">ii", 2, _companion.CLOSE))
            return zxid if zxid > 0 else None
