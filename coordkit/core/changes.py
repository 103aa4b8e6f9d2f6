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
from coordkit.core.rolls import Reader, Shown
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
        self._reader = Reader(session, group, self._wake.ring)
        self._told: Shown | None = None
        self._closed = False

    async def next_change(self, timeout: float | None = None) -> Change | None:
        """Wait for a change and return it; None once the stream is closed, or after ``timeout`` seconds without one.

        Raises ``StoreUnavailable`` if the first state cannot be had in one session timeout, or the client is stopped.
        """
        ensemble, now = self._session.ensemble, self._runtime.now
        ensemble.may_wait(self.name)
        patience = now() + ensemble.session_timeout()
        deadline = math.inf if timeout is None else now() + timeout
        polled = False  # then the look goes on, so that who never waits for as long as one takes sees all the same
        self._reader.begin()
        try:
            while True:
                self._wake.reset()
                if self._closed:
                    break
                link = ensemble.link()
                if link is Link.FORKED:
                    raise CoordError(self.name, FORKED)
                until = math.inf if self._told is not None else patience
                if link not in (Link.CONNECTED, Link.CONNECTING):
                    await self._session.connected(self.name)  # says why it is not, and will not be
                shown = self._reader.present()
                if shown is not None:
                    if (change := self._difference(shown)) is not None:
                        return change
                    until = math.inf
                elif now() >= until:  # also while there is no connection
                    await self._session.connected(self.name, now())
                    raise self._reader.trouble() or StoreUnavailable(
                        self.name, f"{ensemble} did not list the members in time"
                    )
                if now() >= deadline:
                    polled = True
                    return None
                await self._wake.wait(min(until, deadline))
        finally:
            self._reader.waiting = polled
        self.let_go()  # what was attached while it was closed
        return None

    def _difference(self, shown: Shown) -> Change | None:
        before, self._told = self._told, shown
        members = shown.members
        if before is None:
            return Change(dict(members), frozenset(members), frozenset(), frozenset())
        news, old = shown.news(before), before.members
        there, were = news & members.keys(), news & old.keys()
        joined, left = frozenset(there - were), frozenset(were - there)
        updated = frozenset(each for each in there & were if members[each] != old[each])
        if not (joined or left or updated):
            return None
        return Change(dict(members), joined, left, updated, shown.resynced(before))

    def close(self) -> None:
        """End the stream; a reader that waits for it ends as well."""
        if self._closed:
            return
        self._closed = True
        self.let_go()
        self._wake.ring()

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._reader.let_go()
