"""A place in a line: one znode whose name carries a GUID, so that it is found again when an answer was lost.

A GUID belongs to one session: what an earlier session made is never adopted, because that session may be about to end.
What the line is for (to lead, to hold a lock) is said by the kinds of place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from coordkit._ports_zookeeper import (
    Check,
    Create,
    Delete,
    GetChildren,
    GetData,
    Kind,
    Multi,
    NoNode,
    Request,
    Stat,
    Sync,
)
from coordkit.core import znodes
from coordkit.core.session import Session, Wake

T = TypeVar("T")


def containers(path: str, *below: str) -> list[Request]:
    """Return the requests that make ``path``, and what is below it, as containers; what is above it is to stay."""
    above: list[Request] = [Create(each) for each in znodes.ancestors(path)[:-1]]
    return [*above, *(Create(each, kind=Kind.CONTAINER) for each in (path, *below))]


class Entry(NamedTuple):
    """A look at the line that a write went with: it proves the session, as of ``asked``."""

    asked: float
    stat: Stat
    seen: Sequence[Any]  # what was asked for along with it


class Place(Generic[T]):
    """One contender's place in one line, from which it comes to hold a ``T``."""

    watched_at_once = True  # our own znode, when we take over; else soon after, which spares who waits for it a request
    eager = False  # whether to take over along with a look at the line: where that does nothing if it is too early

    def __init__(self, session: Session, name: str, parent: str) -> None:
        self.name = name
        self.parent = parent
        self.session = session
        self.keeper = session
        self.holder = session.runtime.new_holder()
        self.guid = self.holder.rpartition(":")[2]
        self.owner = 0  # the session that made the znode
        self.node = ""  # its path, once it is known
        self.entering = 0  # the session that was asked to make it, as long as there is no answer
        self.version = 0  # of its data, as far as we have acted on it
        self.wake = Wake(session.runtime)
        self.when_gone: Callable[[], None] = self.wake.ring
        self.when_changed: Callable[[], None] = self.wake.ring  # its data, or the connection over which we watched
        self.until: Callable[[], float] = session.runtime.now  # how long a proof is worth waiting for
        self.gone = False

    # -- what a kind of place says

    def entry(self) -> Sequence[Request]:
        """Return the requests that enter the line and show it, in this order, to be sent at once; more may follow."""
        return Create(f"{self.parent}/{self.guid}-", self.data(), Kind.SEQUENTIAL), *self.looks()

    def data(self) -> bytes:
        """Return what is written into the znode."""
        raise NotImplementedError

    def foundation(self) -> list[Request]:
        """Return the requests that make what the line stands on, to be sent at once; what is there stays."""
        raise NotImplementedError

    def looks(self) -> Sequence[Request]:
        """Return the requests that show the line, a listing of it first."""
        return (self.listing(),)

    def number(self, name: str) -> int | None:
        """Return the number that ZooKeeper gave to an entry of this line, or None for a name that is none of its."""
        return znodes.sequence_of(name)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return the entries among the names by their numbers, never by text."""
        numbered = [(number, name) for name in names if (number := self.number(name)) is not None]
        return [name for _, name in sorted(numbered)]

    def line(self, names: Any, seen: Sequence[Any]) -> list[str] | None:  # noqa: ARG002  it is for kinds that look twice
        """Return who stands in the line, in order, from the answers to ``looks``; None if they do not tell it."""
        return self.in_order(names)

    def before(self, line: list[str], own: int) -> list[str]:
        """Return who must leave before the one at ``own`` may take over; the last of them is watched."""
        return line[:own]

    def who(self) -> str:
        """Return who stands here, for people."""
        return self.holder

    def taken(self, ahead: int) -> str:
        """Say, for an error, that it is another's turn."""
        raise NotImplementedError

    def take_over(self) -> Multi:
        """Return the transaction by which the head of the line takes over: it fails unless our znode is there."""
        raise NotImplementedError

    def unanswered(self) -> None:
        """Be told that taking over got no answer: it may be carried out yet."""

    def also(self) -> Sequence[Request]:
        """Return what else to ask for along with taking over."""
        return ()

    def token_at_once(self, entry: Entry) -> int | None:  # noqa: ARG002  it is for kinds that can say
        """Return the token of a place that is the head, as ``entry`` shows; None if one must take over first."""
        return None

    def token(self, answers: list[Any], own: Any, seen: Sequence[Any]) -> int | None:
        """Return the token by the answers to ``take_over``, ``own`` (None: not asked) and ``also``; None if untold."""
        raise NotImplementedError

    def hold(self, token: int, asked: float) -> T:
        """Return what we have come to hold."""
        raise NotImplementedError

    # -- requests

    def listing(self) -> GetChildren:
        return GetChildren(self.parent)

    def search(self) -> tuple[Sync, GetChildren]:
        """Return the two requests that find a znode whose creation got no answer: perhaps it went to another server."""
        return Sync(self.name), self.listing()

    def doubt(self) -> None:
        """Have the znode that we did not find looked for again, and removed; the next one has another GUID."""
        self.session.doubts.add(self.name, self.parent, self.guid, self.entering)
        self.guid = self.session.runtime.new_holder().rpartition(":")[2]

    def own(self) -> GetData:
        """Return the request that looks at our own znode and watches it."""
        return GetData(self.node, self.changed)

    # -- what happens to it

    def entered(self, node: str, owner: int) -> None:
        self.node = node
        self.owner = owner
        self.entering = 0

    def looked(self, stat: Stat) -> None:
        """Be told of our own znode, which is watched from now on."""

    def changed(self, gone: bool) -> None:
        """Be told by the watch on our own znode."""
        if gone:
            self.gone = True
            self.when_gone()
        else:
            self.when_changed()

    def forget(self) -> None:
        """Leave no watch behind."""
        if self.node:
            self.session.ensemble.unwatch(self.own())

    # -- a question of a lease

    async def renew(self, holder: str, ttl: float) -> bool:  # noqa: ARG002  one place, one holder
        """Prove to the quorum that the znode is there, and with it the session; for as long as the lease lasts."""
        self.session.ensemble.may_wait(self.name)
        within = max(0.0, self.until() - self.session.runtime.now())
        answer = (await self.session.ensemble.ask(self.name, [Multi((Check(self.node),))], within=within))[0]
        if isinstance(answer, NoNode):
            return False
        if isinstance(answer, Exception):
            raise answer
        return True

    # -- leaving nothing behind

    async def remove(self, session: Session) -> None:
        """Delete the znode, wherever it is; raises ``StoreUnavailable`` if that is not sure."""
        self.forget()
        ask = session.ask_briefly
        nodes = [self.node]
        if not self.node:  # the answer to its creation was lost
            synced, children = await ask(self.name, self.search())
            if isinstance(children, NoNode):
                return
            for answer in (synced, children):
                if isinstance(answer, Exception):
                    raise answer
            nodes = [f"{self.parent}/{child}" for child in children if child.startswith(self.guid)]
        if not nodes:
            if self.entering:
                session.doubts.add(self.name, self.parent, self.guid, self.entering)
            return
        for answer in await ask(self.name, [Delete(node) for node in nodes]):
            if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                raise answer

    def remove_later(self) -> None:
        self.session.remove_later(self.name, self.remove)
