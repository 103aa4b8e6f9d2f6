"""The members of a group as a stream: first the present state, then what changed since the last look.

The stream conflates: whoever looks late sees one change that says all, and always the last state. It goes on through
reconnects, new sessions and a group that is deleted and made again; while ZooKeeper does not answer, the last state
stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from coordkit._ports import GetChildren, GetData, GetStat, Link, NodeError, NoNode, Stat, Watch
from coordkit.core import znodes
from coordkit.core.session import GRACE, Session, Wake
from coordkit.errors import StoreUnavailable


class Change(NamedTuple):
    """Who is there, and what is different from the change before; ``members`` maps identities to data."""

    members: Mapping[str, bytes]
    joined: frozenset[str]
    left: frozenset[str]
    updated: frozenset[str]


class Changes:
    """One reader's stream."""

    def __init__(self, session: Session, group: str) -> None:
        self.name = group
        self._session = session
        self._runtime = session.runtime
        self._wake = Wake(session.runtime)
        self._told: dict[str, bytes] | None = None  # what the reader knows
        self._known: dict[str, tuple[bytes, Stat]] = {}  # by name, and watched unless in _changed
        self._changed: set[str] = set()
        self._watches: dict[str, Watch] = {}
        self._closed = False
        session.subscribe(self._heard)

    def _heard(self, link: Link) -> None:
        # What was watched over the old connection is not watched over the new one.
        self._wake.ring()
        if link is Link.CONNECTED:
            self._changed.update(list(self._known))

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
            until = math.inf if self._told is not None else patience
            if ensemble.link() is Link.CONNECTING and now() < until:
                await self._wake.wait(until)
                continue
            try:
                complete = await self._look()
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

    async def _look(self) -> bool:
        """Bring what we know up to date, and watch it; return False to look again."""
        session = self._session
        soon = self._runtime.now() + GRACE
        names = (await session.read(self.name, [self._parent()], soon))[0]
        if isinstance(names, NoNode):
            there = (await session.read(self.name, [self._birth()], soon))[0]
            if there is not None:
                return False
            names = []
        for name in set(self._known) - set(names):
            self._forget(name)
        changed = set()
        while self._changed:  # a watch may add to it meanwhile, from another thread
            changed.add(self._changed.pop())
        wanted = [name for name in names if name not in self._known or name in changed]
        if not wanted:
            return True
        try:
            answers = await session.read(self.name, [self._member(name) for name in wanted], soon)
        except BaseException:
            self._changed |= changed
            raise
        for name, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, NodeError):
                self._forget(name)  # left between the two looks; the watch on the parent tells us more
            else:
                self._known[name] = answer
        return True

    def _difference(self) -> Change | None:
        members = {znodes.identity_of(name): data for name, (data, stat) in self._known.items() if stat.owner}
        before, first = self._told or {}, self._told is None
        joined = frozenset(members.keys() - before.keys())
        left = frozenset(before.keys() - members.keys())
        updated = frozenset(each for each in members.keys() & before.keys() if members[each] != before[each])
        if not (first or joined or left or updated):
            return None
        self._told = members
        return Change(dict(members), joined, left, updated)

    # -- watches

    def _parent(self) -> GetChildren:
        return GetChildren(self.name, self._wake.ring)

    def _birth(self) -> GetStat:
        return GetStat(self.name, self._wake.ring)

    def _member(self, name: str) -> GetData:
        def changed(gone: bool) -> None:  # noqa: ARG001  either way it is to be read again
            self._changed.add(name)
            self._wake.ring()

        return GetData(f"{self.name}/{name}", self._watches.setdefault(name, changed))

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        if name in self._watches:
            self._session.ensemble.unwatch(self._member(name))
            del self._watches[name]

    def close(self) -> None:
        """End the stream; a reader that waits for it ends as well."""
        if self._closed:
            return
        self._closed = True
        self.let_go()
        self._wake.ring()

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._session.unsubscribe(self._heard)
        for name in list(self._watches):
            self._forget(name)
        self._session.ensemble.unwatch(self._parent())
        self._session.ensemble.unwatch(self._birth())
