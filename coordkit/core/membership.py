"""One identity in one group: a znode that is kept as it should be by one worker, from ``join`` to ``leave``.

The worker looks at the znode whenever it changed or the connection came back, and sets right what it finds: it makes
the znode anew, replaces the one of an older session of ours, writes the data again, or tells that a newer incarnation
has the identity. Which znode is ours is known by the zxid that made it, and that from the answer of the transaction
that did. If that was lost, a znode of our session is ours unless this process has joined anew under the identity.

A znode begins with another version than the one it replaced had of late, so that what is written to the former one
never reaches it.

A znode that is made anew after its session ended has a mark beside it, made by the same transaction: the token of
joining. By that the newest of all incarnations that live has the identity: one that comes back late, while the newer
one is away, gives way as soon as the newer one is back. A znode without a mark was made by joining.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import Any, Literal

from coordkit._ports_zookeeper import (
    BadVersion,
    Check,
    Create,
    Delete,
    GetData,
    Kind,
    Link,
    Multi,
    NodeError,
    NodeExists,
    NoNode,
    Request,
    SetData,
    Stat,
    Sync,
)
from coordkit.core import znodes
from coordkit.core.session import GRACE, Session
from coordkit.core.token import Token
from coordkit.errors import CoordError, LeaseLost, StoreRefused, StoreUnavailable

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before an unanswered background request is made again

_VERSIONS = 8  # with how many different versions znodes begin; each costs whoever watches an event

_joins = count(1)


class Membership:
    """One identity in one group: its znode is kept by one worker, from ``join`` to ``leave``."""

    def __init__(self, session: Session, group: str, identity: str, data: bytes) -> None:
        self.name = group
        self.identity = identity
        self.data = data
        self.node = f"{group}/{znodes.member_name(identity)}"
        self.lost = session.runtime.event()
        self._session = session
        self._runtime = session.runtime
        self._process = session.runtime.process()
        self._holder = session.runtime.new_holder()
        self._mark = znodes.mark_of(self.node)
        self._created = 0  # the czxid of our znode
        self._since = 0  # the czxid of the first one
        self._version = -1  # of its data, when we last heard
        self._unsure = False  # between a creation and its answer
        self._join = next(_joins)
        self._refused: CoordError | None = None
        self._sessions: set[int] = set()
        self._joined = False
        self._leaving = False
        self._why = ""
        self._left = session.runtime.event()
        self._worker = session.runtime.worker(self._tend)

    # -- looking at it

    @property
    def token(self) -> Token:
        """The zxid by which this incarnation was made: greater than that of every earlier one of this identity."""
        return Token(self._created, self._holder)

    def ensure(self) -> Literal[True]:
        """Return True if the identity is ours; raise ``LeaseLost`` if a newer incarnation has it."""
        if self.lost.is_set() or self._leaving or self._runtime.process() != self._process:
            raise self.loss()
        return True

    def loss(self) -> LeaseLost:
        if self._runtime.process() != self._process:
            why = f"it belongs to process {self._process}; a forked child is no member"
        else:
            why = self._why or "it was left"
        return LeaseLost(self.name, why, token=self.token)

    def check(self) -> Check:
        """Return what fails in a transaction if our znode is not there."""
        return Check(self.node, self._version)

    # -- joining, and joining anew

    async def join(self) -> None:
        until = self._runtime.now() + self._session.ensemble.session_timeout()
        while True:
            session = await self._session.connected(self.name, until)
            try:
                if await self._put(session) or await self._replace(session):
                    break
            except StoreUnavailable:
                if self._runtime.now() >= until:
                    raise
                await self._runtime.sleep(_PAUSE / 10)
        self._joined, self._since = True, self._created
        self._session.subscribe(self._heard)
        self._worker.poke()  # the session may have ended between the answer and the subscription

    async def _replace(self, session: int) -> bool:
        """Put our znode in place of whatever is there; return False if that changed."""
        there, mark = await self._ask(GetData(self.node), GetData(self._mark))
        if isinstance(there, NoNode):
            return False
        if isinstance(there, Exception):
            raise there
        return await self._put(session, replaced=there[1], mark=mark)

    async def _put(self, session: int, replaced: Stat | None = None, mark: Any = None) -> bool:
        """Make our znode, in place of ``replaced``; return False if something else is there. One transaction."""
        self._trying(session)
        make: Request = Create(self.node, self.data, Kind.EPHEMERAL)
        sets = 1 if replaced is None else replaced.version % _VERSIONS + 1
        anew = Multi(
            (
                *(() if replaced is None else (Delete(self.node, replaced.version),)),
                *(() if mark is None or isinstance(mark, Exception) else (Delete(self._mark, mark[1].version),)),
                *((Create(self._mark, znodes.mark_data(self._since), Kind.EPHEMERAL),) if self._joined else ()),
                Create(self.node, kind=Kind.EPHEMERAL),
                *((SetData(self.node, b""),) * (sets - 1)),
                SetData(
                    self.node, self.data
                ),  # its answer says by which zxid the znode was made, a creation's does not
            )
        )
        if replaced is not None or self._joined:
            make = anew
        made, seen = await self._ask(make, self._own())
        if isinstance(made, NoNode) and replaced is None:
            await self._found()
            made, seen = await self._ask(make, self._own())
        if isinstance(made, Exception) and not isinstance(made, StoreUnavailable):
            self._unsure = False
        if isinstance(made, NodeError):
            return False
        if isinstance(made, Exception):
            raise made
        self._is_ours(made[-1])  # the same place in both answers
        if isinstance(seen, Exception) or seen[1].created != self._created:
            self._worker.poke()  # it is gone already, or replaced, or not watched
        return True

    def _trying(self, session: int) -> None:
        self._session.guests.add(self)
        self._sessions.add(session)
        self._unsure = True
        joins = self._session.joins
        with self._session.mutex:
            joins[session, self.node] = max(self._join, joins.get((session, self.node), 0))

    def _is_ours(self, stat: Stat) -> None:
        self._created = stat.created
        self._version = stat.version
        self._unsure = False
        self._sessions.add(stat.owner)

    def _owns(self, stat: Stat) -> bool:
        """Return whether the znode is ours; it may be the one whose creation got no answer."""
        if stat.created == self._created:
            return True
        mine = self._session.joins.get((stat.owner, self.node)) == self._join
        return self._unsure and stat.owner in self._sessions and mine

    async def _found(self) -> None:
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.name)[:-1]]
        # Not the session's ask: above the group, we may lack the right to create what exists already.
        answers = await self._session.ensemble.ask(
            self.name,
            [*above, Create(self.name, kind=Kind.CONTAINER)],
            within=max(GRACE, self._session.ensemble.session_timeout()),
        )
        answer = answers[-1]
        if isinstance(answer, NoNode):
            refused = next((each for each in answers if isinstance(each, StoreRefused)), None)
            raise refused or StoreRefused(self.name, "its parent cannot be created: no such chroot")
        if isinstance(answer, Exception) and not isinstance(answer, NodeExists):
            raise answer

    def _own(self) -> GetData:
        return GetData(self.node, self._changed)

    async def _ask(self, *requests: Request) -> list[Any]:
        return await self._session.ask(self.name, requests, self._runtime.now() + GRACE)

    # -- tending it, by the worker

    def _changed(self, gone: bool) -> None:  # noqa: ARG002  the worker looks for itself
        self._worker.poke()

    def _heard(self, link: Link) -> None:
        if link is not Link.CONNECTING:
            self._worker.poke()

    async def _tend(self) -> None:
        if not (self._joined or self._leaving) or self.lost.is_set() or self._left.is_set():
            return
        link = self._session.ensemble.link()
        if self._leaving and link not in (Link.CONNECTED, Link.CONNECTING):
            self._end()  # the session was closed, and the znode with it
        if link is not Link.CONNECTED:
            return  # poked again when that has changed
        try:
            await (self.remove(self._session) if self._leaving else self._keep())
        except StoreUnavailable:
            self._again()
        except CoordError as error:
            _log.warning("%s: member %s is not as it should be: %s", self.name, self.identity, error)
            if self._leaving:
                self._refused = error
                self._end()  # asked again, they would say no again; the znode ends with the session
            else:
                self._again(5.0)

    def _again(self, pause: float = _PAUSE) -> None:
        self._runtime.call_at(self._runtime.now() + pause, self._worker.poke)

    async def _keep(self) -> None:
        """Bring our znode to what it should be, or find that a newer incarnation has it."""
        session = await self._session.connected(self.name, self._runtime.now())
        seen, mark = await self._look()
        if isinstance(seen, NoNode):
            if not await self._put(session, mark=mark):
                self._again(0.0)
            return
        if isinstance(seen, Exception):
            raise seen
        data, stat = seen
        if not self._owns(stat):
            if not self._outranks(stat, mark):
                self._lose()
            elif not await self._put(session, replaced=stat, mark=mark):
                self._again(0.0)
            return
        self._is_ours(stat)
        if stat.owner != session:
            if not await self._put(session, replaced=stat, mark=mark):
                self._again(0.0)
        elif data != self.data:
            answer = (await self._ask(SetData(self.node, self.data, stat.version)))[0]
            if isinstance(answer, NodeError):
                self._again(0.0)
            elif isinstance(answer, Exception):
                raise answer
            else:
                self._version = answer.version

    async def _look(self) -> tuple[Any, Any]:
        """Look at our znode and its mark; if its creation got no answer, let the server catch up with it first."""
        requests = (self._own(), GetData(self._mark))
        answers = await self._ask(*((Sync(self.name),) if self._unsure else ()), *requests)
        lost = next((each for each in answers if isinstance(each, StoreUnavailable)), None)
        return (answers[-2] if lost is None else lost), answers[-1]

    def _outranks(self, stat: Stat, mark: Any) -> bool:
        """Return whether a znode that is not ours is that of an older incarnation, which came back while we were away.

        The mark counts if it was made by the same transaction.
        """
        if isinstance(mark, Exception) or mark[1].created != stat.created:
            return False
        return 0 < znodes.marked(mark[0]) < self._since

    def _lose(self) -> None:
        if self.lost.is_set():
            return
        self._why = "another process joined under this identity later"
        _log.warning("%s: member %s is lost: %s", self.name, self.identity, self._why)
        self.lost.set()
        self._end()

    def _unsubscribe(self) -> None:
        self._session.unsubscribe(self._heard)
        self._session.ensemble.unwatch(self._own())

    # -- changing and ending it

    async def update(self, data: bytes) -> None:
        """Change the data; without an answer it is changed as soon as there is a connection."""
        self.ensure()
        self.data = data
        until = self._runtime.now() + GRACE
        try:
            while not await self._write(data, until):
                pass
        except BaseException:
            self._worker.poke()
            raise

    async def _write(self, data: bytes, until: float) -> bool:
        """Write the data to our own znode; return False if it has changed since we last heard of it."""
        answer = (await self._ask(SetData(self.node, data, self._version)))[0]
        if isinstance(answer, NoNode):
            self._worker.poke()  # it is being made anew, with these data
            return True
        if isinstance(answer, BadVersion):
            seen, mark = await self._ask(GetData(self.node), GetData(self._mark))
            if isinstance(seen, Exception) and not isinstance(seen, NodeError):
                raise seen
            if not isinstance(seen, Exception):
                if self._is_not_ours(seen[1], mark):
                    return True
                self._is_ours(seen[1])
            if self._runtime.now() >= until:
                raise StoreUnavailable(self.name, f"member {self.identity} is written by others all the time")
            return False
        if isinstance(answer, Exception):
            raise answer
        if not self._owns(answer):
            # A newer incarnation writes its own data again.
            return self._is_not_ours(answer, (await self._ask(GetData(self._mark)))[0])
        self._is_ours(answer)
        return True

    def _is_not_ours(self, stat: Stat, mark: Any) -> bool:
        """Return True for an older incarnation's znode, which is being replaced; raise ``LeaseLost`` for a newer's."""
        if self._owns(stat):
            return False
        if not self._outranks(stat, mark):
            self._lose()
            raise self.loss()
        self._worker.poke()
        return True

    def abandon(self) -> None:
        """Have the worker remove the znode, if there is one."""
        self._leaving = True
        if not self._created and not self._unsure:
            self._end()  # there is none
            return
        self._session.subscribe(self._heard)
        self._worker.poke()

    async def gone(self) -> None:
        """Wait until the znode is removed, at most ``GRACE`` seconds."""
        await self._left.wait(GRACE)

    async def leave(self) -> bool:
        """Leave; return whether the identity was ours to the end. Raises ``StoreUnavailable`` if no answer came."""
        if self._runtime.process() != self._process or self.lost.is_set():
            return False
        if self._left.is_set():
            return True
        self.abandon()
        await self.gone()
        if not self._left.is_set() and not self.lost.is_set():
            raise StoreUnavailable(
                self.name, f"leaving got no answer from {self._session.ensemble}; it goes on in the background"
            )
        if self._refused is not None:
            raise self._refused
        return not self.lost.is_set()

    async def remove(self, session: Session) -> None:
        """Delete the znode if it is ours; raises ``StoreUnavailable`` if that is not sure."""
        if self._left.is_set():
            return
        soon = self._runtime.now() + GRACE
        requests: list[Request] = [Sync(self.name), GetData(self.node), GetData(self._mark)]
        synced, seen, mark = await session.ask(self.name, requests, soon)
        if isinstance(synced, StoreUnavailable):
            raise synced
        if isinstance(seen, Exception) and not isinstance(seen, NoNode):
            raise seen
        if not isinstance(seen, NoNode):
            if self._owns(seen[1]):
                ours = Delete(self.node, seen[1].version)
                both = ours if isinstance(mark, Exception) else Multi((ours, Delete(self._mark, mark[1].version)))
                answer = (await session.ask(self.name, [both], soon))[0]
                if isinstance(answer, BadVersion):
                    raise StoreUnavailable(self.name, "an update overtook the removal, or another has joined")
                if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                    raise answer
            elif self._created and not self._outranks(seen[1], mark):
                self._lose()
        self._end()

    def _end(self) -> None:
        self._unsubscribe()
        self._session.guests.discard(self)
        joins = self._session.joins
        with self._session.mutex:
            for session in self._sessions:
                if joins.get((session, self.node)) == self._join:
                    del joins[session, self.node]
        self._left.set()


async def leave(membership: Membership, error: BaseException | None) -> None:
    """Leave at the end of a block that ended with ``error``; the block's own error always wins."""
    try:
        stayed = await membership.leave()
    except CoordError as problem:
        if error is None:
            raise
        _log.warning("%s: not left at the end of its block: %s", membership.name, problem)
        return
    if not stayed:
        if error is None:
            raise membership.loss()
        _log.warning("%s: lost before the end of its block, which failed by itself: %r", membership.name, error)
