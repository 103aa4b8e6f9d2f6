"""Which znode of a group is ours, and what is done to it: made, put in place of another, looked at, removed.

Which znode is ours is known by the zxid that made it, and that from the answer of the transaction that did. If that was
lost, a znode of our session is ours unless this process has joined anew under the identity.

A znode begins with another version than the one it replaced had of late, so that what is written to the former one
never reaches it.

A znode that is made anew after its session ended has a mark beside it, made by the same transaction: the token of
joining. By that the newest of all incarnations that live has the identity: one that comes back late, while the newer
one is away, gives way as soon as the newer one is back. A znode without a mark was made by joining.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from coordkit._ports_zookeeper import (
    BadVersion,
    Check,
    Create,
    Delete,
    GetData,
    Kind,
    Multi,
    NodeError,
    NodeExists,
    NoNode,
    NotEmpty,
    Request,
    SetData,
    Stat,
    Sync,
)
from coordkit.core import records, znodes
from coordkit.core.session import GRACE, Session
from coordkit.errors import StoreRefused, StoreUnavailable

_VERSIONS = 8  # with how many different versions znodes begin; each costs whoever watches an event

_joins = count(1)


class OwnZnode:
    """The znode of one identity in one group, as this process makes it; ``changed`` is called when it needs a look."""

    def __init__(self, session: Session, group: str, identity: str, changed: Callable[[], None]) -> None:
        self.group = group
        self.node = f"{group}/{znodes.member_name(identity)}"
        self.mark = znodes.mark_of(self.node)
        self.created = 0  # its czxid
        self.since = 0  # the czxid of the first one, once we have joined
        self.version = -1  # of its data, when we last heard
        self.unsure = False  # between a creation and its answer
        self._unanswered: set[int] = set()  # sessions in which a creation got no answer: it may be made yet
        self._join = next(_joins)
        self._sessions: set[int] = set()
        self._session = session
        self._changed = changed

    # -- which is ours

    def is_ours(self, stat: Stat) -> None:
        self.created = stat.created
        self.version = stat.version
        self.unsure = False
        self._sessions.add(stat.owner)

    def owns(self, stat: Stat) -> bool:
        """Return whether the znode is ours; it may be the one whose creation got no answer."""
        if stat.created == self.created:
            return True
        mine = self._session.joins.get((stat.owner, self.node)) == self._join
        return self.unsure and stat.owner in self._sessions and mine

    def outranks(self, stat: Stat, mark: Any) -> bool:
        """Return whether a znode that is not ours is that of an older incarnation, which came back while we were away.

        The mark counts if it was made by the same transaction.
        """
        if isinstance(mark, Exception) or mark[1].created != stat.created:
            return False
        return 0 < records.marked(mark[0]) < self.since

    def _trying(self, session: int) -> None:
        self._sessions.add(session)
        self.unsure = True
        joins = self._session.joins
        with self._session.mutex:
            joins[session, self.node] = max(self._join, joins.get((session, self.node), 0))

    def forget(self) -> None:
        """Leave no watch behind, no word that we joined, and nothing that may be made yet."""
        self._session.ensemble.unwatch(self._own())
        doubted = {self.node: b"", self.mark: records.mark_data(self.since)} if self.since else {self.node: b""}
        for session in self._unanswered:
            for node, data in doubted.items():
                name = node.rpartition("/")[2]
                self._session.doubts.add(self.group, self.group, name, session, whole=True, data=data)
        joins = self._session.joins
        with self._session.mutex:
            for session in self._sessions:
                if joins.get((session, self.node)) == self._join:
                    del joins[session, self.node]

    # -- looking

    def check(self) -> Check:
        """Return what fails in a transaction if our znode is not there."""
        return Check(self.node, self.version)

    def look(self) -> tuple[GetData, GetData]:
        """Return the requests that show whatever is there, and its mark."""
        return GetData(self.node), GetData(self.mark)

    async def watch(self) -> tuple[Any, Any]:
        """Look at our znode and its mark; if its creation got no answer, let the server catch up with it first."""
        requests = (self._own(), GetData(self.mark))
        answers = await self.ask(*((Sync(self.group),) if self.unsure else ()), *requests)
        lost = next((each for each in answers if isinstance(each, StoreUnavailable)), None)
        return (answers[-2] if lost is None else lost), answers[-1]

    def _own(self) -> GetData:
        return GetData(self.node, self._heard)

    def _heard(self, gone: bool) -> None:  # noqa: ARG002  whoever keeps it looks for itself
        self._changed()

    async def ask(self, *requests: Request) -> list[Any]:
        return await self._session.ask(self.group, requests)

    # -- making it

    async def put(self, session: int, data: bytes, replaced: Stat | None = None, mark: Any = None) -> bool:
        """Make our znode, in place of ``replaced``; return False if something else is there. One transaction."""
        self._trying(session)
        doubted = session in self._unanswered
        self._unanswered.add(session)  # until there is an answer: we may be cancelled before
        make: Request = Create(self.node, data, Kind.EPHEMERAL)
        if replaced is not None or self.since:
            make = self._anew(data, replaced, mark)
        made, seen = await self.ask(make, self._own())
        if isinstance(made, NoNode) and replaced is None:
            await self._found()
            made, seen = await self.ask(make, self._own())
        if not (doubted or isinstance(made, StoreUnavailable)):
            self._unanswered.discard(session)
        if isinstance(made, Exception) and not isinstance(made, StoreUnavailable):
            self.unsure = False
        if isinstance(made, NotEmpty):
            raise StoreRefused(self.group, f"{self.node} has children, so no member can take its place: delete them")
        if isinstance(made, NodeError):
            return False
        if isinstance(made, Exception):
            raise made
        self.is_ours(made[-1])  # the same place in both answers
        if isinstance(seen, Exception) or seen[1].created != self.created:
            self._changed()  # it is gone already, or replaced, or not watched
        return True

    def _anew(self, data: bytes, replaced: Stat | None, mark: Any) -> Multi:
        sets = 1 if replaced is None else replaced.version % _VERSIONS + 1
        return Multi(
            (
                *(() if replaced is None else (Delete(self.node, replaced.version),)),
                *(() if mark is None or isinstance(mark, Exception) else (Delete(self.mark, mark[1].version),)),
                *((Create(self.mark, records.mark_data(self.since), Kind.EPHEMERAL),) if self.since else ()),
                Create(self.node, kind=Kind.EPHEMERAL),
                *((SetData(self.node, b""),) * (sets - 1)),
                SetData(self.node, data),  # its answer says by which zxid the znode was made, a creation's does not
            )
        )

    async def _found(self) -> None:
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.group)[:-1]]
        # Not the session's ask: above the group, we may lack the right to create what exists already.
        answers = await self._session.ensemble.ask(
            self.group,
            [*above, Create(self.group, kind=Kind.CONTAINER)],
            within=max(GRACE, self._session.ensemble.session_timeout()),
        )
        answer = answers[-1]
        if isinstance(answer, NoNode):
            refused = next((each for each in answers if isinstance(each, StoreRefused)), None)
            raise refused or StoreRefused(self.group, "its parent cannot be created: no such chroot")
        if isinstance(answer, Exception) and not isinstance(answer, NodeExists):
            raise answer

    # -- removing it

    async def remove(self, session: Session) -> bool:
        """Delete it if it is ours; return False if a newer incarnation's is there.

        Raises ``StoreUnavailable`` if the outcome is not sure.
        """
        synced, seen, mark = await session.ask_soon(self.group, [Sync(self.group), *self.look()])
        if isinstance(synced, StoreUnavailable):
            raise synced
        if isinstance(seen, NoNode):
            await self._remove_mark(session, mark)
            return True
        if isinstance(seen, Exception):
            raise seen
        if not self.owns(seen[1]):
            return not self.created or self.outranks(seen[1], mark)
        ours = Delete(self.node, seen[1].version)
        both = ours if isinstance(mark, Exception) else Multi((ours, Delete(self.mark, mark[1].version)))
        answer = (await session.ask_soon(self.group, [both]))[0]
        if isinstance(answer, BadVersion):
            raise StoreUnavailable(self.group, "an update overtook the removal, or another has joined")
        if isinstance(answer, Exception) and not isinstance(answer, NoNode):
            raise answer
        return True

    async def _remove_mark(self, session: Session, mark: Any) -> None:
        """Delete our mark, if it stands alone: beside no znode it says nothing, and keeps the group from its end."""
        if isinstance(mark, StoreUnavailable):
            raise mark
        if isinstance(mark, Exception) or not self.since or records.marked(mark[0]) != self.since:
            return
        answer = (await session.ask_soon(self.group, [Delete(self.mark, mark[1].version)]))[0]
        if isinstance(answer, StoreUnavailable):
            raise answer
