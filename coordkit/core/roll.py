"""What is known of a group's znodes, and how that is kept true.

Where the servers can (ZooKeeper 3.6), one watch tells of every member by name, so that a join is known with its data
one round trip after the news; else the list and each member are watched one by one, and each news costs a look at the
list as well. Either way no change is missed: the watch is set before the look, and all is read anew after the
connection was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from coordkit._ports_zookeeper import (
    GetChildren,
    GetData,
    GetStat,
    Link,
    NodeError,
    NoNode,
    Request,
    Stat,
    Watch,
    WatchTree,
)
from coordkit.core import znodes
from coordkit.core.portions import Portions
from coordkit.core.session import Session
from coordkit.errors import StoreUnavailable

_DOUBTS = 3  # unanswered requests for a recursive watch after which it is done without: some servers only hang up


class Roll:
    """The members of one group; ``ring`` is called, from anywhere, when there is something to look at.

    With ``numbered``, ``epoch`` is the zxid of the list that ``members`` shows: greater for a later one.
    """

    def __init__(self, session: Session, group: str, ring: Callable[[], None], *, numbered: bool = False) -> None:
        self.name = group
        self.members: dict[str, bytes] = {}  # by identity
        self.news: set[str] = set()  # identities that were read, or are gone, since somebody emptied it
        self._known: set[str] = set()  # names, watched unless in _changed
        self.epoch = 0
        self.resynced = False  # whether the connection was lost before the last look
        self._session = session
        self._ring = ring
        self._numbered = numbered
        self._tree = True
        self._doubts = 0
        self._listed = False  # whether the list is known, and watched
        self._broken = False  # whether no watch is left
        self._changed: set[str] = set()
        self._unread: set[str] = set()  # what changed and is not read yet; it belongs to whoever looks
        self._portions = Portions(session)
        self._watches: dict[str, Watch] = {}
        session.subscribe(self._heard)

    def list_anew(self) -> None:
        """Have the next look ask for the list, whatever the watches have told; only between two looks."""
        self._listed = False

    async def look(self) -> bool:
        """Bring what is known up to date, and watch it; return False to look again. Raises ``StoreUnavailable``."""
        if self._broken:
            self._broken = self._listed = False
            self.resynced = True
            self._changed.update(self._known)
        if not self._listed:
            self._listed = True  # before the look: a watch may say otherwise meanwhile, from another thread
            before, complete = self._take(), False
            try:
                complete = await self._list(before)
            finally:
                if not complete:
                    self._listed = False
                    self._unread |= before
            if not complete:
                return False
        await self._read()
        return self.whole and self._listed and not self._broken

    @property
    def whole(self) -> bool:
        """Return whether ``members`` is a state, and not one that is half read."""
        return not self._unread

    async def _list(self, before: set[str]) -> bool:
        """Look at the list; what changed ``before`` is to be read only if it is there. Return False to look again."""
        watch: list[Request] = [self._all()] if self._tree else []
        answers = await self._session.ask_soon(self.name, [*watch, self._parent()])
        lost = next((each for each in answers if isinstance(each, StoreUnavailable)), None)
        if lost is not None:
            self._doubts += 1
            self._tree = self._tree and self._doubts < _DOUBTS
            raise lost
        self._doubts = 0
        if self._tree and answers[0] is False:
            self._session.ensemble.unwatch(self._all())
            self._tree = False
            return False
        names, stat = ([], None) if isinstance(answers[-1], NoNode) else answers[-1]
        if stat is None and not self._tree:
            there = (await self._session.read(self.name, [self._birth()], self._session.soon()))[0]
            if there is not None:
                return False
        self.epoch = max(self.epoch, stat.listed) if stat is not None else self.epoch
        members = {name for name in names if znodes.may_be_member(name)}
        for name in self._known - members:
            self._forget(name)
        self._changed |= (members - self._known) | (members & before)
        return True

    async def _read(self) -> None:
        """Read a portion of what changed; what got no answer stays unread. Raises ``StoreUnavailable`` if all did."""
        self._unread = self._take()
        wanted = list(islice(self._unread, self._portions.size))
        if not wanted:
            return
        answers = await self._portions.ask(self.name, [self._member(name) for name in wanted])
        lost = [each for each in answers if isinstance(each, StoreUnavailable)]
        if len(lost) == len(wanted):
            raise lost[0]
        for name, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                continue
            self._unread.discard(name)
            if isinstance(answer, NodeError):
                self._forget(name)  # left between the two looks; the watch tells us when it comes back
            else:
                self._learn(name, *answer)

    def _take(self) -> set[str]:
        """Return what changed until now; what a watch tells of from now on, also of the same, is not in it."""
        taken, self._unread = self._unread, set()
        while self._changed:  # a watch may add to it meanwhile, from another thread
            taken.add(self._changed.pop())
        return taken

    # -- watches

    def _heard(self, link: Link) -> None:  # noqa: ARG002  what was watched is watched no more, over whatever link
        self._broken = True
        self._ring()

    def _all(self) -> WatchTree:
        return WatchTree(self.name, self._below)

    def _below(self, path: str | None) -> None:
        if path is None:
            self._broken = True
        elif not path:
            self._listed = False
        elif "/" in path or not znodes.may_be_member(path):
            return
        else:
            self._changed.add(path)
            if self._numbered:  # else it must not be written: another thread may have done so
                self._listed = False
        self._ring()

    def _parent(self) -> GetChildren:
        return GetChildren(self.name, None if self._tree else self._relist, with_stat=True)

    def _birth(self) -> GetStat:
        return GetStat(self.name, self._relist)

    def _relist(self, *_: object) -> None:
        self._listed = False
        self._ring()

    def _member(self, name: str) -> GetData:
        if self._tree:
            return GetData(f"{self.name}/{name}")

        def changed(*_: object) -> None:  # either way it is to be read again
            self._changed.add(name)
            self._ring()

        return GetData(f"{self.name}/{name}", self._watches.setdefault(name, changed))

    def _learn(self, name: str, data: bytes, stat: Stat) -> None:
        self._known.add(name)
        identity = znodes.identity_of(name)
        if stat.owner:
            self.members[identity] = data
        else:
            self.members.pop(identity, None)
        self.news.add(identity)

    def _forget(self, name: str) -> None:
        """Take a member for gone, as an answer says; it stays in ``_changed`` if a watch told of it meanwhile."""
        self._known.discard(name)
        identity = znodes.identity_of(name)
        self.members.pop(identity, None)
        self.news.add(identity)
        watch: Any = self._watches.pop(name, None)
        if watch is not None:
            self._session.ensemble.unwatch(GetData(f"{self.name}/{name}", watch))

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._session.unsubscribe(self._heard)
        for name in list(self._watches):
            self._forget(name)
        for request in (self._all(), GetChildren(self.name, self._relist), self._birth()):
            self._session.ensemble.unwatch(request)
