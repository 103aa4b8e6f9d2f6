"""One identity in one group: a znode that is kept as it should be by one worker, from ``join`` to ``leave``.

The worker looks at the znode whenever it changed or the connection came back, and sets right what it finds: it makes
the znode anew, replaces the one of an older session of ours, writes the data again, or tells that a newer incarnation
has the identity. Which znode is ours is known by the zxid that made it.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from coordkit._ports import (
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
    Sync,
)
from coordkit.core import znodes
from coordkit.core.session import GRACE, Session
from coordkit.core.token import Token
from coordkit.errors import CoordError, LeaseLost, StoreRefused, StoreUnavailable

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before an unanswered background request is made again


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
        self._created = 0  # the czxid of our znode
        self._unsure = False  # between a creation and its answer: a znode of one of our sessions is ours
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

    # -- joining, and joining anew

    async def join(self) -> None:
        until = self._runtime.now() + self._session.ensemble.session_timeout()
        while True:
            session = await self._session.connected(self.name, until)
            try:
                if await self._create(session):
                    break
                if await self._replace(session):
                    break
            except StoreUnavailable:
                if self._runtime.now() >= until:
                    raise
                await self._runtime.sleep(_PAUSE / 10)
        self._joined = True
        self._session.subscribe(self._heard)
        self._worker.poke()  # the session may have ended between the answer and the subscription

    async def _create(self, session: int) -> bool:
        """Create our znode; return False if there is one already."""
        self._trying(session)
        created, seen = await self._ask(Create(self.node, self.data, Kind.EPHEMERAL), self._own())
        if isinstance(created, NoNode):
            await self._found()
            created, seen = await self._ask(Create(self.node, self.data, Kind.EPHEMERAL), self._own())
        if isinstance(created, NodeExists):
            return False
        if isinstance(created, Exception):
            raise created
        self._is_ours(created[1].created, created[1].owner)
        if isinstance(seen, Exception):
            self._worker.poke()  # gone again already, or unwatched
        return True

    async def _replace(self, session: int) -> bool:
        """Put our znode in place of the one that is there, in one transaction; return False if that changed."""
        self._trying(session)
        there = (await self._ask(self._own()))[0]
        if isinstance(there, Exception):
            return False
        answer, seen = await self._ask(
            Multi((Delete(self.node, there[1].version), Create(self.node, self.data, Kind.EPHEMERAL))), self._own()
        )
        if isinstance(answer, NodeError) or isinstance(seen, NoNode):
            return False
        if isinstance(answer, Exception):
            raise answer
        if isinstance(seen, Exception):
            raise seen
        self._is_ours(seen[1].created, seen[1].owner)
        return True

    def _trying(self, session: int) -> None:
        self._sessions.add(session)
        self._unsure = True

    def _is_ours(self, created: int, owner: int) -> None:
        self._created = created
        self._unsure = False
        self._sessions.add(owner)

    async def _found(self) -> None:
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.name)[:-1]]
        answer = (await self._ask(*above, Create(self.name, kind=Kind.CONTAINER)))[-1]
        if isinstance(answer, NoNode):
            raise StoreRefused(self.name, "its parent cannot be created: the client's chroot does not exist")
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
            await (self._remove() if self._leaving else self._keep())
        except StoreUnavailable:
            self._again()
        except CoordError as error:
            _log.warning("%s: member %s is not as it should be: %s", self.name, self.identity, error)
            self._again(1.0)

    def _again(self, pause: float = _PAUSE) -> None:
        self._runtime.call_at(self._runtime.now() + pause, self._worker.poke)

    async def _keep(self) -> None:
        """Bring our znode to what it should be, or find that a newer incarnation has it."""
        session = await self._session.connected(self.name, self._runtime.now())
        seen = await self._look(self._own())
        if isinstance(seen, NoNode):
            if not await self._create(session):
                self._again(0.0)
            return
        if isinstance(seen, Exception):
            raise seen
        data, stat = seen
        if self._unsure and stat.owner in self._sessions:
            self._is_ours(stat.created, stat.owner)
        if stat.created != self._created:
            self._lose("another process joined under this identity later")
        elif stat.owner != session:
            if not await self._replace(session):
                self._again(0.0)
        elif data != self.data:
            answer = (await self._ask(SetData(self.node, self.data)))[0]
            if isinstance(answer, Exception):
                raise answer

    async def _look(self, request: GetData) -> Any:
        """Look at our znode; if its creation got no answer, let the server catch up with it first."""
        answers = await self._ask(Sync(self.name), request) if self._unsure else await self._ask(request)
        return next((each for each in answers if isinstance(each, StoreUnavailable)), answers[-1])

    def _lose(self, why: str) -> None:
        self._why = why
        _log.warning("%s: member %s is lost: %s", self.name, self.identity, why)
        self._unsubscribe()
        self.lost.set()

    def _unsubscribe(self) -> None:
        self._session.unsubscribe(self._heard)
        self._session.ensemble.unwatch(self._own())

    # -- changing and ending it

    async def update(self, data: bytes) -> None:
        """Change the data; without an answer it is changed as soon as there is a connection."""
        self.ensure()
        self.data = data
        answer = (await self._ask(SetData(self.node, data)))[0]
        if isinstance(answer, NoNode):
            self._worker.poke()  # it is being made anew, with these data
        elif isinstance(answer, Exception):
            self._worker.poke()
            raise answer
        elif answer.owner not in self._sessions:
            self._worker.poke()  # a newer incarnation's znode: it writes its own data again, and we are lost

    def abandon(self) -> None:
        """Have the worker remove the znode, if there is one."""
        self._leaving = True
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
        if not self._left.is_set():
            raise StoreUnavailable(
                self.name, f"leaving got no answer from {self._session.ensemble}; it goes on in the background"
            )
        return not self.lost.is_set()

    async def _remove(self) -> None:
        """Delete the znode if it is ours."""
        seen = await self._look(GetData(self.node))
        if isinstance(seen, Exception) and not isinstance(seen, NoNode):
            raise seen
        if not isinstance(seen, NoNode):
            stat = seen[1]
            ours = stat.created == self._created or (self._unsure and stat.owner in self._sessions)
            if ours:
                answer = (await self._ask(Delete(self.node, stat.version)))[0]
                if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                    raise answer  # BadVersion: an update overtook us
            elif self._created:
                self._why = "another process joined under this identity later"
                self.lost.set()
        self._end()

    def _end(self) -> None:
        self._unsubscribe()
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
