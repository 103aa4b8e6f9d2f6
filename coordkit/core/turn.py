"""A lock on ZooKeeper: a line of znodes, of which the first holds it. Its token is the zxid that made its znode.

Entering the line is one round trip, the creation and the listing sent at once; who finds itself first holds the lock by
that, because the creation was a write through the quorum, which proves the session. Whoever has to wait watches the one
before it only, and is woken once; then it proves its session by a transaction that checks its own znode, and needs no
list. A client whose server is cut off from the others gets no answer to either, so it cannot believe that it holds.

The order of the line is the order of the zxids, so tokens rise from holder to holder, also when the line's znode was
deleted and its numbers begin anew. (The line is the classic recipe; what is told of the loss, and the proof, is ours.)

What is held is a lease whose server is a session (``core/proven.py``). When it is lost the znode stays until it is
given back, so that nobody else holds the lock before the work has ended; but no longer than one session timeout, as if
the session had ended with the loss. So a lost lease that nobody gives back stands in nobody's way for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from coordkit._ports import Timer
from coordkit._ports_zookeeper import Check, Delete, GetChildren, GetData, Multi, NoNode, Request, Stat
from coordkit.core import records
from coordkit.core.grantor import Returned
from coordkit.core.holder import Holder, read
from coordkit.core.lease import DRIFT, State
from coordkit.core.place import Entry, Place, containers
from coordkit.core.proven import Proven
from coordkit.core.session import GRACE, Session
from coordkit.core.standing import Standing, stand
from coordkit.errors import NotAcquired


class Turn(Proven):
    """A lease on the turn of one place in a line."""

    def __init__(
        self,
        place: Place[Turn],
        token: int,
        *,
        asked: float,
        max_hold: float | None,
        slot: int | None = None,
    ) -> None:
        self._gone: Timer | None = None
        proven = place.session.proven
        super().__init__(
            place,
            token,
            asked=asked,
            max_hold=max_hold,
            span=proven if max_hold is None else min(proven, max_hold),
            slot=slot,
        )

    def renewed(self, asked: float, ttl: float) -> None:
        super().renewed(asked, ttl if self._until is None else max(0.0, min(ttl, self._until - asked)))

    async def release(self) -> bool:
        try:
            return await super().release()
        finally:
            if self._state is State.LOST and self._gone is not None:
                self._gone.cancel()
                self.place.session.guests.discard(self.place)
                await self.place.session.remove(self.name, self.place.remove)

    def _end(self, state: State, why: str = "") -> bool:
        ended = super()._end(state, why)
        if ended and state is State.LOST:
            now = self._runtime.now()
            over = self._until is not None and now >= self._until - self.ttl * DRIFT  # then the next may have it now
            patience = 0.0 if over else self._link.ensemble.session_timeout()
            self._gone = self._runtime.call_at(now + patience, self._leave)
        elif ended:
            self.place.session.guests.discard(self.place)
        return ended

    def _leave(self) -> None:
        self.place.session.guests.discard(self.place)
        self.place.remove_later()


class Options(NamedTuple):
    """What is the same for all acquisitions of one lock."""

    label: str = ""  # the end of every holder id, as core/holder.py makes it
    max_hold: float | None = None


class Ticket(Place[Turn]):
    """A place in the line of a lock."""

    kind = "lock"
    eager = True

    def __init__(self, session: Session, path: str, options: Options) -> None:
        super().__init__(session, path, f"{path}/{self.kind}")
        self.holder += options.label
        self.max_hold = options.max_hold
        self.unwatched = False  # it holds by a look at the line, without one at its znode
        self._created = 0

    def data(self) -> bytes:
        return records.ticket_data(self.holder)

    def foundation(self) -> list[Request]:
        return containers(self.name, self.parent)

    def taken(self, ahead: int) -> str:
        return f"another holds it; ahead of us: {ahead}"

    def take_over(self) -> Multi:
        return Multi((Check(self.node),))

    def token_at_once(self, entry: Entry) -> int | None:
        self.unwatched = self.watched_at_once  # it has not been looked at
        return entry.stat.created

    def token(self, answers: list[Any], own: Any, seen: Sequence[Any]) -> int | None:  # noqa: ARG002  one kind of several
        self.unwatched = False
        created: int = self._created if own is None else own[1].created
        return created

    def looked(self, stat: Stat) -> None:
        self._created = stat.created
        self.watched_at_once = False  # it is watched already: who takes over need not look again

    def changed(self, gone: bool) -> None:
        self.watched_at_once = True
        super().changed(gone)

    def hold(self, token: int, asked: float) -> Turn:
        self.watched_at_once = not self.unwatched
        return Turn(self, token, asked=asked, max_hold=self.max_hold)

    async def revoke(self, holder: str) -> Returned:  # noqa: ARG002  one ticket, one holder
        """Leave the line."""
        self.forget()
        answer = (await self.session.ask_briefly(self.name, [Delete(self.node)]))[0]
        if isinstance(answer, NoNode):
            return Returned.GONE
        if isinstance(answer, Exception):
            raise answer
        return Returned.GIVEN_BACK

    # -- looking from outside

    def look(self) -> list[Request]:
        """Return the requests that show whether it is anybody's, as of now."""
        return list(self.search())

    def busy(self, seen: Sequence[Any]) -> str | None:
        """Say, from the answers to ``look``, that it is another's; None if it is not."""
        names = seen[1]
        line = [] if isinstance(names, Exception) else self.in_order(names)
        before = self.before(line, len(line))
        return self.taken(len(before)) if before else None


class Turns:
    """Asks for the turns of one lock; holds no state of any of them, so it may be shared."""

    def __init__(
        self,
        session: Callable[[], Session],
        path: str,
        ticket: Callable[[Session], Ticket],
        standing: type[Standing[Turn]] | None = None,
    ) -> None:
        self.name = path
        self._session = session
        self._ticket = ticket
        self._standing = standing
        self._refused = False  # the last time it was asked for once

    async def try_acquire(self) -> Turn | None:
        """Ask once: a lease, or None if another holds it."""
        try:
            return await self.acquire(0)
        except NotAcquired:
            return None

    async def acquire(self, timeout: float | None) -> Turn:
        """Wait for the turn: None for ever, 0 ask once.

        Who asks once and is refused has made and deleted a znode. Who asks again and again looks first, the next times,
        which is one read.
        """
        session = self._session()
        if timeout == 0 and self._refused:
            await self._look(session)
        try:
            turn = await stand(session, self.name, lambda: self._ticket(session), timeout, standing=self._standing)
        except NotAcquired:
            self._refused = True
            raise
        self._refused = False
        return turn

    async def _look(self, session: Session) -> None:
        ticket = self._ticket(session)
        seen = await session.read(self.name, ticket.look(), session.runtime.now() + GRACE)
        if (why := ticket.busy(seen)) is not None:
            raise NotAcquired(self.name, why)

    async def who(self) -> tuple[Holder | None, list[Holder]]:
        """Return who holds it, and who waits in which order; two round trips."""
        session = self._session()
        ticket = self._ticket(session)
        names = (await session.read(self.name, [GetChildren(ticket.parent)]))[0]
        line = [] if isinstance(names, NoNode) else ticket.in_order(names)
        if not line:
            return None, []
        answers = await session.read(self.name, [GetData(f"{ticket.parent}/{name}") for name in line])
        seen = [None if isinstance(answer, NoNode) else answer for answer in answers]
        holders = [
            read(records.ticket_holder(answer[0]), since=answer[1].born, token=answer[1].created if at == 0 else None)
            for at, answer in enumerate(seen)
            if answer is not None
        ]
        return (holders[0], holders[1:]) if seen[0] is not None else (None, holders)
