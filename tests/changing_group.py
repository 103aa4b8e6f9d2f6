"""One group in a ZooKeeper of our own making, which changes whenever it likes: for the tests of who follows a group.

The servers are a dictionary that may change before, between and after the answers of one look, and that tells of each
change at once, as kazoo's own thread does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coordkit._ports_zookeeper import GetChildren, GetData, Link, NoNode, Request, Stat, Watch, WatchTree
from coordkit.errors import StoreUnavailable

GROUP = "/group"
NAMES = ("a", "b", "c")


class Servers:
    """One group in a ZooKeeper whose answers are late: ``meddle`` is called whenever something may happen."""

    def __init__(self, *, trees: bool) -> None:
        self.there = True
        self.members: dict[str, bytes] = {}
        self.meddle: Callable[[], None] = lambda: None
        self._trees = trees
        self._zxid = 0
        self._changed = 0  # the zxid of the list
        self._below: dict[WatchTree, None] = {}
        self._watches: dict[tuple[bool, str], dict[Watch, None]] = {}  # by whether they wait for the list, and path
        self._listeners: list[Callable[[Link], None]] = []
        self._connections = 0
        self.listen = self._listeners.append

    # -- what happens

    def put(self, name: str) -> None:
        """Make a member, or change its data; the group is made where it is not there."""
        if not self.there:
            self.there = True
            self._tell("", "")
        self._zxid += 1
        joins = name not in self.members
        self._changed = self._zxid if joins else self._changed
        self.members[name] = str(self._zxid).encode()
        self._tell(name, *(("",) if joins else ()))

    def remove(self, name: str) -> None:
        if self.members.pop(name, None) is not None:
            self._zxid += 1
            self._changed = self._zxid
            self._tell(name, "")

    def delete_the_group(self) -> None:
        """Delete it with all its members, in one transaction."""
        for name in list(self.members):
            self.remove(name)
        if self.there:
            self.there = False
            self._ring(False, "")
            self._tell("", "")

    def reconnect(self) -> None:
        """Lose the connection, and all watches with it."""
        self._connections += 1
        self._below.clear()
        self._watches.clear()
        for link in (Link.CONNECTING, Link.CONNECTED):
            for listener in self._listeners:
                listener(link)

    def _tell(self, name: str, *lists: str) -> None:
        """Tell of the znode ``name``, and of the ``lists`` of children that are others by that."""
        for tree in list(self._below):
            tree.watch(name)
        self._ring(False, name)
        for each in lists:
            self._ring(True, each)

    def _ring(self, children: bool, name: str) -> None:
        for watch in self._watches.pop((children, name), {}):
            watch(name not in self.members)

    # -- the port

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        del within
        answers, connection = [], self._connections
        for request in requests:
            self.meddle()
            lost = self._connections != connection
            answers.append(StoreUnavailable(name, "lost") if lost else self._answer(request))
        self.meddle()
        return answers

    def _answer(self, request: Any) -> Any:
        if isinstance(request, WatchTree):
            if self._trees:
                self._below[request] = None
            return self._trees
        name = request.path[len(GROUP) + 1 :]
        there = self.there if not name else name in self.members
        children = isinstance(request, GetChildren)
        if request.watch is not None and (there or not isinstance(request, GetData | GetChildren)):
            self._watches.setdefault((children, name), {})[request.watch] = None
        if children:
            return (list(self.members), self._stat()) if there else NoNode(request.path)
        if isinstance(request, GetData):
            return (self.members[name], self._stat()) if there else NoNode(request.path)
        return self._stat() if there else None

    def _stat(self) -> Stat:
        return Stat(1, 1, 0, 1, 0.0, self._changed)

    def unwatch(self, request: Any) -> None:
        if isinstance(request, WatchTree):
            self._below.pop(request, None)
        else:
            key = isinstance(request, GetChildren), request.path[len(GROUP) + 1 :]
            self._watches.get(key, {}).pop(request.watch, None)

    def link(self) -> Link:
        return Link.CONNECTED

    def session(self) -> int:
        return 1

    def session_timeout(self) -> float:
        return 60.0

    def may_wait(self, name: str) -> None: ...

    def why(self) -> str:
        return ""
