"""The members of a group as a stream: first the present state, then what changed since the last look.

The stream conflates: whoever looks late sees one change that says all, and always the last state. It goes on through
reconnects, new sessions and a group that is deleted and made again; while ZooKeeper does not answer, the last state
stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from coordkit._ports_zookeeper import Link
from coordkit.core.roll import Roll
from coordkit.core.session import FORKED, Session, Wake
from coordkit.errors import CoordError, StoreUnavailable


class Change(NamedTuple):
    """Who is there, and what is different from the change before; ``members`` maps identities to data.

    ``resync`` says that the connection was lost in between: all was read anew, and what came and went while nobody
    looked is not told.
    """

    members: Mapping[str, bytes]
    joined: frozenset[str]
    left: frozenset[str]
    updated: frozenset[str]
    resync: bool = False


class Changes:
    """One reader's stream."""

    def __init__(self, session: Session, group: str) -> None:
        self.name = group
        self._session = session
        self._runtime = session.runtime
        self._wake = Wake(session.runtime)
        self._roll = Roll(session, group, self._wake.ring)
        self._told: dict[str, bytes] | None = None  # what the reader knows
        self._closed = False

    async def next_change(self) -> Change | None:
        """Wait for a change and return it; None once the stream is closed.

        Raises ``StoreUnavailable`` if the first state cannot be had in one session timeout, or the client is stopped.
        """
        ensemble, now = self._session.ensemble, self._runtime.now
        patience = now() + ensemble.session_timeout()
        while True:
            self._wake.reset()
            if self._closed:
                break
            if ensemble.link() is Link.FORKED:
                raise CoordError(self.name, FORKED)
            until = math.inf if self._told is not None else patience
            if ensemble.link() is Link.CONNECTING and now() < until:
                await self._wake.wait(until)
                continue
            try:
                complete = await self._roll.look()
            except StoreUnavailable:
                if now() >= until or ensemble.link() is Link.CLOSED:
                    raise
                await self._runtime.sleep(0.05)
                continue
            if not complete:
                continue
            if (change := self._difference()) is not None:
                return change
            await self._wake.wait(math.inf)
        self.let_go()  # what a look that was under way has hung up since
        return None

    def _difference(self) -> Change | None:
        members, news = self._roll.members, self._roll.news
        self._roll.news = set()
        before, first = self._told or {}, self._told is None
        there, were = news & members.keys(), news & before.keys()
        joined, left = frozenset(there - were), frozenset(were - there)
        updated = frozenset(each for each in there & were if members[each] != before[each])
        resync, self._roll.resynced = self._roll.resynced and not first, False
        if not (first or joined or left or updated):
            return None
        self._told = dict(members)
        return Change(dict(members), joined, left, updated, resync)

    def close(self) -> None:
        """End the stream; a reader that waits for it ends as well."""
        if self._closed:
            return
        self._closed = True
        self.let_go()
        self._wake.ring()

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._roll.let_go()
