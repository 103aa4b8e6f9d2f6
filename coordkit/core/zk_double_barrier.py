"""A double barrier on ZooKeeper: so many enter together, and leave together.

Whoever comes makes a znode in a line. The first so many that wait are let in by one transaction, which writes into each
of their znodes who is in with it: it is carried out only if all of them are there at that moment, and each is told by
the watch on its own znode. The last to come sends it; sent twice, the version of the line's znode refuses the second.

To leave, one deletes one's own znode and waits for the others of the same round, no matter who comes for the next one
meanwhile; each watches the one after it, in a ring. Whoever crashes has left when its session ends.
(Curator's and kazoo's let in whoever sees a znode "ready", and wait for an empty list to leave.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coordkit._ports_zookeeper import BadVersion, Create, Delete, GetData, Kind, Multi, NoNode, Request, SetData, Stat
from coordkit.core import records, znodes
from coordkit.core.entering import PAUSE, Gone
from coordkit.core.place import Place, containers
from coordkit.core.session import GRACE, Session
from coordkit.core.standing import Standing, stand
from coordkit.errors import AcquireTimeout, CoordError, NotAcquired, StoreRefused, StoreUnavailable

_log = logging.getLogger("coordkit")


class Party(Place["Crossing"]):
    """A place in the line of a double barrier."""

    def __init__(self, session: Session, path: str, parties: int) -> None:
        super().__init__(session, path, f"{path}/double")
        self.parties = parties

    def entry(self) -> Sequence[Request]:
        create = Create(f"{self.parent}/{self.guid}-{self.parties}-", b"", Kind.SEQUENTIAL)
        return create, self.listing(), GetData(self.parent)

    def foundation(self) -> list[Request]:
        return containers(self.name, self.parent)

    def number(self, name: str) -> int | None:
        entry = znodes.entry_of(name)
        return entry[1] if entry is not None and entry[0].isdecimal() else None

    def own_number(self) -> int:
        number = self.number(self.node.rpartition("/")[2])
        return -1 if number is None else number


class Crossing:
    """What a party has that was let in, until it leaves."""

    held = True  # as far as its standing is concerned

    def __init__(self, party: Party, round_: list[range]) -> None:
        self.name = party.name
        self._party = party
        self._round = round_
        party.session.guests.add(party)

    def _inside(self, names: Any) -> list[str]:
        """Return those of the line that were let in with us."""
        party = self._party
        line = [] if isinstance(names, Exception) else party.in_order(names)
        return [name for name in line if any(party.number(name) in each for each in self._round)]

    async def leave(self, timeout: float | None) -> None:
        """Leave, and wait until all who were let in with us have left: None for ever, 0 do not wait."""
        party, session, runtime = self._party, self._party.session, self._party.session.runtime
        deadline = math.inf if timeout is None else runtime.now() + timeout
        inside = await self._leave_alone()
        wake = party.wake
        session.subscribe(wake.ring)
        try:
            while inside and timeout != 0:
                wake.reset()
                after = [name for name in inside if (party.number(name) or 0) > party.own_number()]
                watching = GetData(f"{party.parent}/{(after or inside)[0]}", wake.ring)
                try:
                    theirs = (await session.read(self.name, [watching], max(deadline, runtime.now() + GRACE)))[0]
                    if not isinstance(theirs, Exception):
                        if runtime.now() >= deadline:
                            raise AcquireTimeout(
                                self.name,
                                f"still inside: {len(inside)} of the others; waited {timeout} s",
                                timeout=timeout or 0.0,
                            )
                        await wake.wait(deadline)
                    elif not isinstance(theirs, NoNode):
                        raise theirs
                finally:
                    session.ensemble.unwatch(watching)
                inside = self._inside((await session.read(self.name, [party.listing()]))[0])
        finally:
            session.unsubscribe(wake.ring)

    async def left_with(self, error: BaseException | None, timeout: float | None) -> None:
        """Leave at the end of a block that ended with ``error``, which always wins."""
        if error is None:
            await self.leave(timeout)
        elif isinstance(error, GeneratorExit):
            self._party.remove_later()  # nobody is left to wait for an answer
        else:
            try:
                await self.leave(0)
            except CoordError as problem:
                _log.warning("%s: not left at the end of its block: %s", self.name, problem)

    async def _leave_alone(self) -> list[str]:
        """Delete our znode; return who is still inside."""
        party, session = self._party, self._party.session
        party.forget()
        session.guests.discard(party)
        try:
            gone, names = await session.read(self.name, [Delete(party.node), party.listing()])
        except BaseException:
            party.remove_later()
            raise
        if isinstance(gone, Exception) and not isinstance(gone, NoNode):
            raise gone
        return self._inside(names)


class Gathering(Standing["Crossing"]):
    """One party on its way in."""

    def __init__(self, party: Party, deadline: float, timeout: float | None, stop: Any) -> None:
        super().__init__(party, deadline, timeout, stop)
        self._party = party

    async def lead(self) -> Crossing:
        line = await self._enter()
        record = self._entry.seen[0] if self._entry is not None else None
        if not isinstance(record, tuple):
            line, record = await self._look()
        while (let_in := self._complete(line, record)) is not None:
            asked = self._runtime.now()
            answer = (await self._ask(let_in))[0]
            if isinstance(answer, Exception) and not isinstance(answer, NoNode | BadVersion | StoreUnavailable):
                raise answer
            if isinstance(answer, StoreUnavailable):
                if self._runtime.now() >= max(self._deadline, asked + GRACE):
                    raise answer
                await self._runtime.sleep(PAUSE)
            await self._same_session(self._party.owner)
            line, record = await self._look()
        return await self._let_in()

    async def _look(self) -> tuple[list[str], tuple[bytes, Stat]]:
        party = self._party
        names, record = await self._session.read(
            self._name, [party.listing(), GetData(party.parent)], self._deadline, self._stop
        )
        if isinstance(names, Exception) or isinstance(record, Exception):
            raise Gone("our znode was deleted")
        return party.in_order(names), record

    def _complete(self, line: list[str], record: tuple[bytes, Stat]) -> Multi | None:
        """Return the transaction that lets a round in, if enough wait for that."""
        party, last = self._party, records.unpack_last(record[0])
        if party.own_number() <= last:
            return None
        waiting = [name for name in line if (party.number(name) or 0) > last]
        first = znodes.entry_of(waiting[0]) if waiting else None
        if first is not None and int(first[0]) != party.parties:
            raise StoreRefused(
                self._name, f"the first who waits counts {first[0]} parties, and we {party.parties}: all must agree"
            )
        if len(waiting) < party.parties:
            return None
        names = waiting[: party.parties]
        numbers = [number for name in names if (number := party.number(name)) is not None]
        data = records.pack_round(numbers)
        mark = SetData(party.parent, records.pack_last(numbers[-1]), record[1].version)
        return Multi((mark, *(SetData(f"{party.parent}/{name}", data) for name in names)))

    async def _let_in(self) -> Crossing:
        """Wait until we are let in."""
        party, wake = self._party, self._party.wake
        self._session.subscribe(wake.ring)
        try:
            while True:
                wake.reset()
                self._check_stop()
                own = (await self._ask(party.own()))[0]
                if isinstance(own, NoNode) or party.gone:
                    raise Gone("our znode was deleted")
                if isinstance(own, StoreUnavailable):
                    if self._runtime.now() >= self._deadline:
                        raise own
                    await self._runtime.sleep(PAUSE)
                elif isinstance(own, Exception):
                    raise own
                elif own[1].owner == party.owner and (round_ := records.unpack_round(own[0])):
                    return Crossing(party, round_)
                elif self._runtime.now() >= self._deadline:
                    await self._give_up(own[1].version)
                elif self._session.alive_as(party.owner):
                    await wake.wait(self._deadline)
                await self._same_session(party.owner)
        finally:
            self._session.unsubscribe(wake.ring)

    async def _give_up(self, version: int) -> None:
        """Leave the line, and raise; return if we were let in just now."""
        party = self._party
        party.forget()
        answer = (await self._ask(Delete(party.node, version)))[0]
        if isinstance(answer, BadVersion):
            return
        if isinstance(answer, Exception) and not isinstance(answer, NoNode):
            raise answer
        line = await self._list()
        why = f"fewer than {party.parties} came; others that wait: {len(line)}"
        if self._timeout == 0:
            raise NotAcquired(self._name, why)
        raise AcquireTimeout(self._name, f"{why}; waited {self._timeout} s", timeout=self._timeout or 0.0)


class DoubleBarrier:
    """The double barrier of one path."""

    def __init__(self, session: Callable[[], Session], path: str, parties: int) -> None:
        self.name = path
        self._session = session
        self._parties = parties

    async def enter(self, timeout: float | None) -> Crossing:
        """Wait until enough are there: None for ever, 0 enter as the last or not at all."""
        session = self._session()
        party = partial(Party, session, self.name, self._parties)
        return await stand(session, self.name, party, timeout, standing=Gathering)
