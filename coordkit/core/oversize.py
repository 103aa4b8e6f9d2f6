"""Finding out that data are too large for the servers, which do not say so: they hang up.

A request larger than the servers' ``jute.maxbuffer`` (1 MiB unless they are told otherwise, for all of the request)
costs the connection, and with it what else the client leads or holds. Asked for again and again, it would do so for
ever.

That it is them, and no bad line or ensemble without a quorum, is known by a small write that is answered before each
further attempt.
"""

from __future__ import annotations

import math

from coordkit._ports_zookeeper import Check, Multi
from coordkit.core.session import Session
from coordkit.errors import StoreRefused, StoreUnavailable

LARGE = 16_384
"""Bytes of data that no server is taken to refuse: there, a connection that is lost over them is a bad line."""

_DROPS = 3  # in a row, after which data are taken to be too large
_PAUSE, _LONGEST = 0.2, 5.0  # seconds before they are written again, doubled each time


class Oversize:
    """The data of one member, and how often in a row they were written without an answer."""

    def __init__(self, session: Session, name: str, data: bytes) -> None:
        self.data = data  # what is to be there
        self.kept = data  # what the servers were last known to take, or what we joined with
        self.refused: StoreRefused | None = None  # what became of the last change of it
        self.settled = session.runtime.event()  # that is known
        self._name = name
        self._session = session
        self._runtime = session.runtime
        self._drops = 0
        self._next = 0.0
        self._dropped = -math.inf

    def change(self, data: bytes) -> None:
        """Have other data written from now on."""
        self.data = data
        self.refused, self.settled = None, self._runtime.event()

    def pause(self) -> float:
        """Return the seconds to wait before the data are written again."""
        return max(0.0, self._next - self._runtime.now())

    async def before(self) -> None:
        """See that small writes are answered, if large ones were not; raises ``StoreUnavailable``."""
        if self._drops and len(self.data) > LARGE:
            answer = (await self._session.ask(self._name, [Multi((Check(self._name),))]))[0]
            if isinstance(answer, StoreUnavailable):
                raise answer

    def answered(self, data: bytes | None) -> None:
        """Be told of an answer, and of the data that are there since, if they are."""
        self._drops, self._next = 0, 0.0
        if data is not None:
            self.kept = data
            self.settled.set()

    def unanswered(self, data: bytes, sent: float, error: StoreUnavailable) -> StoreRefused | None:
        """Be told that there was none; return what to say if the data are too large. The former ones are back then."""
        if sent <= self._dropped:
            return None  # under way when the connection was lost over another write
        self._dropped = self._runtime.now()
        self._drops += 1
        if self._drops > 1:
            self._next = self._runtime.now() + min(_LONGEST, _PAUSE * 2.0**self._drops)
        if self._drops < _DROPS or len(data) <= LARGE:
            return None
        self.answered(None)
        refused = StoreRefused(
            self._name,
            f"the connection was lost {_DROPS} times in a row over writing {len(data)} bytes of data: give less, or "
            "raise jute.maxbuffer on all servers (it bounds the whole request)",
        )
        refused.__cause__ = error
        if self.data != self.kept:
            self.data, self.refused = self.kept, refused
            self.settled.set()
        return refused
