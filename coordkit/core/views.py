"""Who leads, as a stream: first the present state, then what is new.

The stream conflates: whoever looks late may miss a leader that has come and gone, never the latest state. It goes on
through reconnects, new sessions and an election whose znodes are deleted and made again; while ZooKeeper does not
answer, the last state stands. Two znodes are watched, the epoch record and the leader's own: never the line, where
everybody who comes or goes would wake all who watch.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from coordkit._ports import GetData, GetStat, Link, NoNode, Watch
from coordkit.core import znodes
from coordkit.core.session import GRACE, Session, Wake
from coordkit.core.token import Token
from coordkit.errors import StoreUnavailable

State = Literal["leading", "resigned", "lost", "none"]


class View(NamedTuple):
    """Who leads: ``leader`` is its identity and ``token`` its token, both None while nobody does.

    ``state`` is "leading"; or "resigned", when the last leader's work has ended; or "lost", when it is gone without
    having said so (a crash, a session that ended, an eviction by force); or "none" before the first leader.
    """

    leader: str | None
    token: Token | None
    state: State


class Views:
    """One reader's stream."""

    def __init__(self, session: Session, election: str) -> None:
        self.name = election
        self.closed = False
        self._session = session
        self._runtime = session.runtime
        self._wake = Wake(session.runtime)
        self._ring: Watch = self._wake.ring
        self._epoch = f"{election}/epoch"
        self._node = ""  # the leader's, which we watch
        self._told: View | None = None
        session.subscribe(self._heard)

    def _heard(self, link: Link) -> None:  # noqa: ARG002  whatever it is, look again
        self._wake.ring()

    async def next_view(self, timeout: float | None = None) -> View | None:
        """Wait for a state that is not the one told last, and return it; None once the stream is closed.

        None as well after ``timeout`` seconds without news. Raises ``StoreUnavailable`` if the first state cannot be
        had in one session timeout, or the client is stopped.
        """
        ensemble, now = self._session.ensemble, self._runtime.now
        patience = now() + ensemble.session_timeout()
        deadline = math.inf if timeout is None else now() + timeout
        while True:
            self._wake.reset()
            if self.closed:
                break
            until = math.inf if self._told is not None else patience
            if ensemble.link() is Link.CONNECTING and now() < until:
                if now() >= deadline:
                    return None
                await self._wake.wait(min(until, deadline))
                continue
            try:
                view = await self._look(deadline)
            except StoreUnavailable:
                if now() >= until or ensemble.link() is Link.CLOSED:
                    raise
                if now() >= deadline:
                    return None
                await self._runtime.sleep(0.05)
                continue
            if view is not None and view != self._told:
                self._told = view
                return view
            if view is None:
                continue
            if now() >= deadline:
                return None
            await self._wake.wait(deadline)
        self.let_go()  # what a look that was under way has hung up since
        return None

    async def _look(self, deadline: float) -> View | None:
        """Return the present state, and watch it; None to look again."""
        session = self._session
        soon = min(deadline, self._runtime.now() + GRACE)
        epoch = (await session.read(self.name, [self._record()], soon))[0]
        if isinstance(epoch, NoNode):
            self._forget()
            there = (await session.read(self.name, [self._birth()], soon))[0]
            return View(None, None, "none") if there is None else None
        record = znodes.unpack_record(epoch[0])
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

    def close(self) -> None:
        """End the stream; a reader that waits for it ends as well."""
        if self.closed:
            return
        self.closed = True
        self.let_go()
        self._wake.ring()

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._session.unsubscribe(self._heard)
        self._forget()
        self._session.ensemble.unwatch(self._record())
        self._session.ensemble.unwatch(self._birth())
