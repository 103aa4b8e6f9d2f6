"""Who leads, as a stream: first the present state, then what is new (``core/stream.py``).

Two znodes are watched, the epoch record and the leader's own: never the line, where everybody who comes or goes would
wake all who watch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from coordkit._ports_zookeeper import GetData, GetStat, NoNode
from coordkit.core import records
from coordkit.core.session import Session
from coordkit.core.stream import Stream
from coordkit.core.token import Token

State = Literal["leading", "resigned", "lost", "none"]


class View(NamedTuple):
    """Who leads: ``leader`` is its identity and ``token`` its token, both None while nobody does.

    ``state`` is "leading"; or "resigned", when the last leader's work has ended; or "lost", when it is gone without
    having said so (a crash, a session that ended, an eviction by force); or "none" before the first leader.
    """

    leader: str | None
    token: Token | None
    state: State


class Views(Stream[View]):
    """One reader's stream."""

    def __init__(self, session: Session, election: str) -> None:
        super().__init__(session, election)
        self._epoch = f"{election}/epoch"
        self._node = ""  # the leader's, which we watch

    async def _look(self, deadline: float) -> View | None:
        """Return the present state, and watch it; None to look again."""
        session = self._session
        soon = min(deadline, session.soon())
        epoch = (await session.read(self.name, [self._record()], soon))[0]
        if isinstance(epoch, NoNode):
            self._forget()
            there = (await session.read(self.name, [self._birth()], soon))[0]
            return View(None, None, "none") if there is None else None
        record = records.unpack_record(epoch[0])
        if record is None or record.resigned:
            self._forget()
            return View(None, None, "none" if record is None else "resigned")
        node = f"{self.name}/candidates/{record.candidate}"
        if node != self._node:
            self._forget()
            self._node = node
        theirs, after = await session.read(self.name, [self._leader(), self._record()], soon)
        if isinstance(after, NoNode) or after[1].modified != epoch[1].modified:
            return None
        if isinstance(theirs, NoNode):
            return View(None, None, "lost")
        return View(record.identity, Token(epoch[1].modified, record.holder), "leading")

    # -- watches

    def _record(self) -> GetData:
        return GetData(self._epoch, self._ring)

    def _birth(self) -> GetStat:
        return GetStat(self._epoch, self._ring)

    def _leader(self) -> GetData:
        return GetData(self._node, self._ring)

    def _forget(self) -> None:
        if self._node:
            self._session.ensemble.unwatch(self._leader())
            self._node = ""

    def _unwatch(self) -> None:
        self._forget()
        self._session.ensemble.unwatch(self._record())
        self._session.ensemble.unwatch(self._birth())
