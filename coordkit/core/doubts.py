"""Znodes whose creation got no answer and that were not there when we looked: they may come yet.

A server that is cut off from its ensemble keeps what its clients asked, and hands it on when it is back. Meanwhile the
session of such a client has moved to another server, so the leader refuses it; but not if the client has knocked at the
former server again. The leader then takes the session for that server's at once, before it looks at the request that
lay there, and carries it out (seen on 3.8.0). So not to be there, after a sync, is no proof of never coming; and such a
znode would stand in everybody's way, known to nobody, for as long as its session lives.

So whoever made another, or gave up, looks again: whenever the connection was made anew, as it is when a session has
moved without the client's will, and after growing pauses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from coordkit._ports_zookeeper import Delete, GetChildren, GetData, Link, NoNode, Sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordkit.core.session import Session

_log = logging.getLogger("coordkit")

PATIENCE = 120.0
"""Seconds for which we look: an ensemble gives a server up that has been away for ``syncLimit`` ticks, mostly 10 s."""

_FIRST = 0.5  # seconds until the first look; the pauses grow with the time that has passed


class Doubt(NamedTuple):
    """A znode below ``parent`` that ``session`` has asked for, and does not want any more.

    ``called`` is the GUID with which its name begins, or (``whole``) the name of a member, which others may have too.
    ``data``, if any, is what it says, where the same session may want another of that name.
    """

    name: str
    parent: str
    called: str
    whole: bool
    session: int
    since: float
    data: bytes = b""

    def may_be(self, name: str) -> bool:
        return name == self.called if self.whole else name.startswith(self.called)


class Doubts:
    """What may come yet by one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._doubts: dict[Doubt, float] = {}  # and when we look next
        self._looker = session.runtime.worker(self._look)

    def add(self, name: str, parent: str, called: str, session: int, *, whole: bool = False, data: bytes = b"") -> None:
        """Look for such a znode from now on; remove it if it is of that session, and nobody has joined by it anew."""
        now = self._session.runtime.now()
        self.take(Doubt(name, parent, called, whole, session, now, data), now + _FIRST)

    def take(self, doubt: Doubt, at: float) -> None:
        self._doubts[doubt] = at
        self._session.runtime.call_at(at, self._looker.poke)

    def heard(self, link: Link) -> None:
        """Be told of a change of the link."""
        if not self._doubts or link is Link.CONNECTING:
            return
        if link is not Link.CONNECTED:
            self._doubts.clear()  # the session was closed, and all that is ephemeral with it
            return
        for doubt in list(self._doubts):
            self._doubts[doubt] = 0.0
        self._looker.poke()

    def leave_to(self, heir: Callable[[], Doubts]) -> None:
        """Have another look for them: there is nobody here to do it any more."""
        for doubt, at in list(self._doubts.items()):
            heir().take(doubt, at)
        self._doubts.clear()

    async def _look(self) -> None:
        ensemble, now = self._session.ensemble, self._session.runtime.now()
        due: dict[tuple[str, str], list[Doubt]] = {}
        for doubt, at in list(self._doubts.items()):
            if ensemble.session() not in (doubt.session, None):
                self._doubts.pop(doubt, None)  # what it made has gone with it
            elif at <= now and ensemble.link() is Link.CONNECTED:  # else we are poked again
                due.setdefault((doubt.name, doubt.parent), []).append(doubt)
        for (name, parent), doubts in due.items():
            synced, names = await self._ask(name, Sync(name), GetChildren(parent))
            listed: list[str] = names if isinstance(names, list) else []
            known = not isinstance(synced, Exception) and isinstance(names, list | NoNode)
            for doubt in doubts:
                await self._settle(doubt, [f"{parent}/{each}" for each in listed if doubt.may_be(each)], known=known)

    async def _settle(self, doubt: Doubt, came: list[str], *, known: bool) -> None:
        for node in came:
            known = await self._removed(doubt, node) and known
        now = self._session.runtime.now()
        if known and now >= doubt.since + PATIENCE:
            self._doubts.pop(doubt, None)
        elif doubt in self._doubts:
            self.take(doubt, now + max(_FIRST, now - doubt.since if known else 0.0))

    async def _removed(self, doubt: Doubt, node: str) -> bool:
        """Remove a znode if it is the one; return False if that is not sure."""
        seen = (await self._ask(doubt.name, GetData(node)))[0]
        if isinstance(seen, NoNode):
            return True
        if isinstance(seen, Exception):
            return False
        if seen[1].owner != doubt.session or (doubt.session, node) in self._session.joins:
            return True  # another's, or wanted again
        if doubt.data not in (b"", seen[0]):
            return True  # as above
        gone = (await self._ask(doubt.name, Delete(node, seen[1].version)))[0]
        if isinstance(gone, Exception):
            return isinstance(gone, NoNode)
        _log.warning("%s: removed %s, whose creation got no answer, and was made late", doubt.name, node)
        return True

    async def _ask(self, name: str, *requests: Any) -> list[Any]:
        return await self._session.ensemble.ask(name, requests, within=self._session.ensemble.session_timeout())
