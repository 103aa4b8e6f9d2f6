"""How a member's data get into its znode; and finding out that they are too large for the servers, which hang up.

A request larger than the servers' ``jute.maxbuffer`` (1 MiB unless they are told otherwise, for all of the request)
costs the connection, and with it what else the client leads or holds. Asked for again and again, it would do so for
ever.

That it is them, and no bad line or ensemble without a quorum, is known by a small write that is answered before each
further attempt.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coordkit._ports_zookeeper import Check, Multi, Request, SetData, Stat
from coordkit.core.own_znode import OwnZnode
from coordkit.core.session import Session
from coordkit.errors import StoreRefused, StoreUnavailable

Ask = Callable[[str, Sequence[Request]], Awaitable[list[Any]]]

LARGE = 16_384
"""Bytes of data that no server is taken to refuse: there, a connection that is lost over them is a bad line."""

_DROPS = 3  # in a row, after which data are taken to be too large
_PAUSE, _LONGEST = 0.2, 5.0  # seconds before they are written again, doubled each time


class Oversize:
    """The data of one member: they are written by this, and it counts how often in a row there was no answer."""

    def __init__(self, session: Session, name: str, data: bytes, refused: Callable[[str], None]) -> None:
        self.data = data  # what is to be there
        self.kept = data  # what the servers were last known to take, or what we joined with
        self.refused: StoreRefused | None = None  # what became of the last change of it
        self.settled = session.runtime.event()  # that is known
        self._name = name
        self._refused_for_good = refused  # the former data, too: nothing is left that could be there
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

    async def put(self, znode: OwnZnode, session: int, replaced: Stat | None, mark: Any) -> bool:
        """Have the znode made with the data; return False if something else is there."""
        await self.before()
        data, sent = self.data, self._runtime.now()
        try:
            made = await znode.put(session, data, replaced, mark)
        except StoreUnavailable as error:
            self._unanswered(data, sent, error)
            raise
        self.answered(data if made else None)
        return made

    async def write(self, ask: Ask, node: str, data: bytes, version: int) -> Any:
        """Write data into the znode; return the answer. Raises ``StoreRefused`` once they must be too large."""
        sent = self._runtime.now()
        answer = (await ask(self._name, [SetData(node, data, version)]))[0]
        if isinstance(answer, StoreUnavailable):
            self._unanswered(data, sent, answer)
        return answer

    def _unanswered(self, data: bytes, sent: float, error: StoreUnavailable) -> None:
        """Take note that there was none; if the data are too large, put the former ones back, and say so."""
        if sent <= self._dropped:
            return  # under way when the connection was lost over another write
        self._dropped = self._runtime.now()
        self._drops += 1
        if self._drops > 1:
            self._next = self._runtime.now() + min(_LONGEST, _PAUSE * 2.0**self._drops)
        if self._drops < _DROPS or len(data) <= LARGE:
            return
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
        else:
            self._refused_for_good(refused.why)
        raise refused
