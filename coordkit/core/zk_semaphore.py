"""A semaphore on ZooKeeper: a line of those that wait, and the slots of those that hold.

The first of the line takes the lowest free slot, in one transaction that takes it out of the line. It alone watches the
slots, and each of the others watches the one before it: a permit that is given back wakes one, and when that has taken
it the next is woken, which then looks at the slots. Two are woken for each hand-over, however many wait.

No slot is given out twice. Only the first of the line takes slots, it looks at them after it has seen that it is the
first, and by then whatever the ones before it took is there to be seen: from that moment on slots can only become free.
The transaction fails if it is not in the line any more, so it takes one slot at most, whatever is asked again. Its zxid
is the token: of two holders of a slot, the later has the greater.

How many permits there are is part of every name. What counts is what the holders say, or, while there are none, the
first of the line; whoever says another number is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._ports_zookeeper import Create, Delete, GetChildren, GetData, Kind, Multi, NoNode, Request, Stat
from coordkit.core import znodes
from coordkit.core.entering import PAUSE, Gone
from coordkit.core.place import Entry
from coordkit.core.session import GRACE, Session, Stop
from coordkit.core.standing import Standing
from coordkit.core.turn import Options, Ticket, Turn
from coordkit.errors import AcquireTimeout, NotAcquired, StoreRefused, StoreUnavailable


class Permit(Ticket):
    """A place in the line of a semaphore, and the slot that comes of it."""

    kind = "semaphore"

    def __init__(self, session: Session, path: str, permits: int, options: Options) -> None:
        super().__init__(session, path, options)
        self.permits = permits
        self.slot: int | None = None
        self.slots = f"{path}/slots"

    def entry(self) -> Sequence[Request]:
        create = Create(f"{self.parent}/{self.guid}-{self.permits}-", self.data(), Kind.SEQUENTIAL)
        return create, self.listing(), GetChildren(self.slots)

    def number(self, name: str) -> int | None:
        entry = znodes.entry_of(name)
        return entry[1] if entry is not None and entry[0].isdecimal() else None

    def foundation(self) -> list[Request]:
        return [*super().foundation(), Create(self.slots, kind=Kind.CONTAINER)]

    def taken(self, ahead: int) -> str:
        return f"all of its {self.permits} permits are held; ahead of us in line: {ahead}"

    def looked(self, stat: Stat) -> None:
        """Be told of our own znode: not the one that is to be held."""

    def token_at_once(self, entry: Entry) -> int | None:  # noqa: ARG002  it takes a slot
        return None

    def hold(self, token: int, asked: float) -> Turn:
        return Turn(self, token, asked=asked, max_hold=self.max_hold, slot=self.slot)

    # -- slots

    def held(self, names: Sequence[str]) -> dict[int, int]:
        """Return the slots that are taken, each with how many its holder thinks there are."""
        return dict(slot for name in names if (slot := znodes.slot_of(name)) is not None)

    def agree(self, held: dict[int, int], line: Sequence[str]) -> None:
        """Raise ``StoreRefused`` if those that hold, or else the first in line, count with another number."""
        first = znodes.entry_of(line[0]) if line else None
        theirs = set(held.values()) or ({int(first[0])} if first else set())
        if theirs - {self.permits}:
            raise StoreRefused(
                self.name,
                f"it has {', '.join(map(str, sorted(theirs)))} permits for those who hold or wait, and {self.permits} "
                "were asked with: all contenders must agree; a new number counts once nobody holds or waits",
            )

    def free(self, held: dict[int, int]) -> int | None:
        return next((slot for slot in range(self.permits) if slot not in held), None)

    def take(self, slot: int) -> tuple[Multi, GetData]:
        """Return the requests that leave the line for a slot, and look at it with a watch."""
        self.forget()  # it is us who delete it
        self.slot = slot
        node = f"{self.slots}/{slot}-{self.permits}-{self.guid}"
        step = Create(node, self.data(), Kind.EPHEMERAL)
        return Multi((Delete(self.node), step)), GetData(node, self.changed)

    async def remove(self, session: Session) -> None:
        await super().remove(session)  # from the line first: from now on no slot can become ours
        if self.slot is None:
            return
        names = (await session.ask_briefly(self.name, [GetChildren(self.slots)]))[0]
        if isinstance(names, NoNode):
            return
        if isinstance(names, Exception):
            raise names
        ours = [Delete(f"{self.slots}/{name}") for name in names if name.endswith(self.guid)]
        for answer in await session.ask_briefly(self.name, ours) if ours else ():
            if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                raise answer

    # -- looking from outside

    def look(self) -> list[Request]:
        return [*self.search(), GetChildren(self.slots)]

    def busy(self, seen: Sequence[Any]) -> str | None:
        names, slots = ([] if isinstance(each, Exception) else each for each in seen[1:])
        line, held = self.in_order(names), self.held(slots)
        self.agree(held, line)
        return self.taken(len(line)) if len(line) + len(held) >= self.permits else None


class Queue(Standing[Turn]):
    """One contender on its way to a permit."""

    def __init__(self, permit: Permit, deadline: float, timeout: float | None, stop: Stop | None) -> None:
        super().__init__(permit, deadline, timeout, stop)
        self._permit = permit

    async def lead(self) -> Turn:
        line = await self._enter()
        held = await self._held()
        self._permit.agree(held, line)
        before = self._before(line)
        if self._timeout == 0:
            if len(before) + len(held) >= self._permit.permits:
                raise NotAcquired(self._name, self._permit.taken(len(before)))
            # Those before us are about to take a permit each, and there is one for us: wait for that.
            self._deadline = max(self._deadline, self._runtime.now() + GRACE)
        try:
            while before:
                line = await self._wait(line, before)
                before, held = self._before(line), {}
                self._entry = None
            return await self._take(held if self._entry is not None else await self._free())
        except AcquireTimeout as error:
            if self._timeout == 0:
                raise NotAcquired(self._name, error.why) from None
            raise

    async def _held(self) -> dict[int, int]:
        seen = self._entry.seen[0] if self._entry is not None else None
        if not isinstance(seen, list):
            seen = (await self._session.read(self._name, [GetChildren(self._permit.slots)], self._deadline))[0]
        return self._permit.held(seen) if isinstance(seen, list) else {}

    async def _free(self) -> dict[int, int]:
        """Wait until a slot is free; return which are taken."""
        permit, wake = self._permit, self._candidate.wake
        watching = GetChildren(permit.slots, wake.ring)
        self._session.subscribe(wake.ring)
        try:
            while True:
                wake.reset()
                self._check_stop()
                names, own = await self._ask(watching, permit.own())
                if permit.gone or isinstance(own, NoNode):
                    raise Gone("our znode was deleted")
                if isinstance(names, NoNode):
                    return {}
                answered = isinstance(names, list) and not isinstance(own, Exception)
                held = permit.held(names) if isinstance(names, list) else {}
                permit.agree(held, ())
                if answered and permit.free(held) is not None:
                    return held
                if self._runtime.now() >= self._deadline:
                    raise AcquireTimeout(
                        self._name, f"{permit.taken(0)}; waited {self._timeout} s", timeout=self._timeout or 0.0
                    )
                if not answered:
                    await self._runtime.sleep(PAUSE)
                elif self._session.alive_as(permit.owner):
                    await wake.wait(self._deadline)
                await self._same_session(permit.owner)
        finally:
            self._session.unsubscribe(wake.ring)
            self._session.ensemble.unwatch(watching)

    async def _take(self, held: dict[int, int]) -> Turn:
        """Take the lowest free slot by one transaction, which may be asked again: it is carried out once at most."""
        permit, asked = self._permit, None
        while True:
            slot = permit.free(held)
            if slot is None:
                held = await self._free()
                continue
            self._check_stop()
            now = self._runtime.now()
            asked = now if asked is None else asked
            taking, looking = permit.take(slot)
            answer, own = await self._ask(taking, looking)
            if isinstance(own, Exception):
                self._session.ensemble.unwatch(looking)
            else:  # by this request, or by one before it that got no answer
                permit.entered(f"{permit.slots}/{slot}-{permit.permits}-{permit.guid}", own[1].owner)
                alive = self._session.alive_as(permit.owner)
                turn = self._proven(own[1].created, asked) if alive else None
                while turn is None:
                    turn = await self._take_over()  # it is ours, and to be proven anew
                return turn
            if isinstance(answer, NoNode):
                if answer.path == permit.node:
                    raise Gone("our znode was deleted")
                await self._found()  # only the znode of the slots is gone
            elif isinstance(own, StoreUnavailable) or isinstance(answer, StoreUnavailable):
                if self._runtime.now() >= max(self._deadline, now + GRACE):
                    raise own if isinstance(own, StoreUnavailable) else answer
                await self._same_session(permit.owner)
            elif isinstance(answer, Exception):
                raise answer
            else:
                raise Gone("our znode was deleted")
            await self._runtime.sleep(PAUSE)
