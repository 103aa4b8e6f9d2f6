"""A set of independent servers: who votes, and how one that forgot comes back.

A token is only as good as the memory of those who vote: one server of three or five that was wiped is enough to give a
token out twice. So each instance keeps the roster of its set (``core/roster.py``), and votes only while it has it, and
only for attempts that count by the very same roster.

A new set is seated by ``initialise`` when all of it answers. An instance that forgot, or that was put in the place of
another, is seated anew by ``readmit``, in this order, which is what makes it safe:

1. it draws a number, which it loses if it forgets again;
2. a majority of the others learns that this number has its seat, and each says in the same step the highest ballot it
   ever gave out: from then on no attempt gets a vote there that counts on what was forgotten;
3. it is seated, with ballots above all of those. A late or repeated request seats nobody: the number is used up.

What this rests on: that a server that answers by its roster kept every write it acknowledged. A server that comes back
with *older* data has a roster, and nobody can tell: use ``appendfsync always``, or start it empty.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import NamedTuple

from coordkit._ports import Answers, Call, Enough, Panel, Runtime
from coordkit.core.debts import Debts
from coordkit.core.keeper import Keeper
from coordkit.core.lock import text
from coordkit.core.majority import Majority, errors, no_quorum, patient
from coordkit.core.roster import Roster
from coordkit.errors import CoordError, StoreRefused
from coordkit.scripts import load

_log = logging.getLogger("coordkit")

_LOOK, _TELL, _SEAT = load("quorum_look"), load("quorum_tell"), load("quorum_seat")

TICKET, BORN, ROSTER, HIGHEST, FLOOR = (
    f"coordkit:1:quorum:{what}".encode() for what in ("ticket", "born", "roster", "highest", "floor")
)
KEPT = (ROSTER, HIGHEST, FLOOR)

_ROUNDS = 5  # of telling, when others seat somebody at the same time


class Look(NamedTuple):
    """What an instance says of itself; without a roster it is new, or forgot."""

    ticket: int
    born: int
    roster: Roster | None
    run: str
    role: str


class QuorumSet:
    """The servers of one set, seen by one process."""

    def __init__(self, runtime: Runtime, panel: Panel) -> None:
        self.runtime = runtime
        self.panel = panel
        self.name = f"quorum of {len(panel)}"
        self.majority = len(panel) // 2 + 1
        self.verdicts = Majority(panel)
        self.keeper = Keeper(runtime, self.verdicts)
        self.debts = Debts(runtime, panel)
        self._roster = ""
        self._seen: dict[int, str] = {}  # with which roster an instance was seen that does not vote
        self.stale = True

    async def roster(self, name: str) -> str:
        """Return the roster by which to count; ask for it the first time, and when an instance surprised us."""
        if self.stale:
            await self._open(name)
        return self._roster

    def does_not_vote(self, instance: int, roster: str) -> None:
        """Take note of an instance that did not vote: if that is news, ask before the next attempt."""
        if self._seen.get(instance) != roster:
            self.stale = True

    # -- looking

    async def _look(self, name: str, *, all_of_them: bool, least: dict[int, int] | None = None) -> dict[int, Look]:
        panel = self.panel
        everyone = range(len(panel))
        keys = (TICKET, BORN, *KEPT)
        calls = {seat: [Call(_LOOK, keys, ((least or {}).get(seat, 0),))] for seat in everyone}
        enough: Enough = _all(len(panel))
        if not all_of_them:
            enough = patient(self.runtime, panel, enough)
        answers = await panel.ask(name, calls, within=panel.patience(), enough=enough)
        looks = {
            seat: _read(answer[0])
            for seat, answer in answers.items()
            if not isinstance(answer, CoordError) and not isinstance(answer[0], Exception)
        }
        if len(looks) < (len(panel) if all_of_them else self.majority):
            found = errors(panel, answers)
            raise no_quorum(name, panel, f"{len(looks)} answered", found)
        self._check_independent(name, looks)
        return looks

    def _check_independent(self, name: str, looks: dict[int, Look]) -> None:
        runs: dict[str, int] = {}
        for seat, look in looks.items():
            where = self.panel.where(seat)
            if look.role != "master":
                raise StoreRefused(
                    name, f"{where} is a replica: what it acknowledges, another decides; name its primary"
                )
            if look.run in runs:
                raise StoreRefused(
                    name, f"{where} and {self.panel.where(runs[look.run])} are the same server: it would vote twice"
                )
            runs[look.run] = seat

    def _joined(self, name: str, looks: dict[int, Look]) -> Roster | None:
        """Return the newest roster, or None if nobody has one."""
        joined: Roster | None = None
        for seat, look in looks.items():
            if look.roster is None:
                continue
            where, seats = self.panel.where(seat), look.roster.seats
            if len(seats) != len(self.panel):
                raise StoreRefused(name, f"{where} belongs to a set of {len(seats)} servers: name all of them")
            if seats[seat] != look.born and look.born in seats:
                raise StoreRefused(
                    name,
                    f"{where} is number {seats.index(look.born) + 1} of its set, not {seat + 1}: "
                    "name the servers in the order in which the set was initialised",
                )
            joined = look.roster if joined is None else joined.joined(look.roster)
        return joined

    def _seated(self, looks: dict[int, Look], roster: Roster) -> list[int]:
        return [seat for seat, look in looks.items() if look.roster is not None and look.born == roster.seats[seat]]

    async def _open(self, name: str) -> None:
        looks = await self._look(name, all_of_them=False)
        roster = self._joined(name, looks)
        if roster is None:
            raise StoreRefused(name, "this set was never initialised: call Quorum.initialise() once, when all answer")
        seated = self._seated(looks, roster)
        older = [seat for seat in seated if looks[seat].roster != roster]
        told = await self._tell(name, roster, older) if older else {}
        voting = [seat for seat in seated if seat not in older or seat in told]
        if len(voting) < self.majority:
            found = {
                self.panel.where(seat): StoreRefused(name, "it forgot, or is new: Quorum.readmit() lets it vote again")
                for seat in looks
                if seat not in seated
            }
            raise no_quorum(name, self.panel, f"{len(voting)} vote", found)
        self._note(looks, seated, str(roster))

    def _note(self, looks: dict[int, Look], seated: list[int], roster: str) -> None:
        before, self._seen = self._seen, {}
        for seat, look in looks.items():
            if seat not in seated:
                self._seen[seat] = "" if look.roster is None else str(look.roster)
                if self._seen[seat] != before.get(seat):
                    where = self.panel.where(seat)
                    _log.warning("%s does not vote: it forgot, or is new; Quorum.readmit() lets it vote again", where)
        self._roster, self.stale = roster, False

    async def _tell(self, name: str, roster: Roster, seats: list[int]) -> dict[int, int]:
        """Tell of a roster; return the highest ballot of each that counts by it from now on."""
        calls = {seat: [Call(_TELL, (BORN, *KEPT), (str(roster), seat + 2))] for seat in seats}
        answers = await self.panel.ask(name, calls, within=self.panel.patience(), enough=_all(len(seats)))
        return {
            seat: int(answer[0][1])
            for seat, answer in answers.items()
            if not isinstance(answer, CoordError) and not isinstance(answer[0], Exception) and answer[0][0] == 1
        }

    async def _seat(self, name: str, seat: int, roster: Roster, floor: int) -> bool:
        call = Call(_SEAT, (TICKET, BORN, *KEPT), (str(roster), roster.seats[seat], floor))
        answers = await self.panel.ask(name, {seat: [call]}, within=self.panel.patience(), enough=_all(1))
        answer = answers.get(seat)
        return answer is not None and not isinstance(answer, CoordError) and answer[0] == 1

    # -- seating

    async def initialise(self) -> None:
        """Seat all servers of a new set; do nothing to one that is seated, and go on with one that was begun."""
        everyone = range(len(self.panel))
        for turn in range(_ROUNDS):  # somebody else may be doing the same
            looks = await self._look(self.name, all_of_them=True)
            roster = self._joined(self.name, looks)
            if roster is None:
                looks = await self._look(self.name, all_of_them=True, least=dict.fromkeys(everyone, 1))
                roster = self._joined(self.name, looks) or Roster(0, tuple(looks[seat].ticket for seat in everyone))
            missing = sorted(looks.keys() - set(self._seated(looks, roster)))
            if not missing:
                break
            for seat in missing:
                # Its number is unused: it never voted, and has not forgotten that since.
                if roster.changed or looks[seat].ticket != roster.seats[seat]:
                    if not turn:
                        continue  # it may have been looked at before the others drew and sat down: look again
                    raise StoreRefused(
                        self.name,
                        f"{self.panel.where(seat)} forgot, or is new, in a set that was initialised before: "
                        "Quorum.readmit() lets it vote",
                    )
                await self._seat(self.name, seat, roster, 0)
        self.stale = True
        await self.roster(self.name)

    async def readmit(self) -> list[str]:
        """Let every server that answers vote again, those that forgot with ballots above a majority's; say which."""
        back: list[str] = []
        looks = await self._look(self.name, all_of_them=False)
        roster = self._joined(self.name, looks)
        if roster is None:
            raise StoreRefused(self.name, "this set was never initialised, or all of it forgot: call initialise()")
        for seat in sorted(looks.keys() - set(self._seated(looks, roster))):
            await self._readmit(seat)
            back.append(self.panel.where(seat))
        self.stale = True
        await self.roster(self.name)
        return back

    async def _readmit(self, seat: int) -> None:
        for _ in range(_ROUNDS):
            looks = await self._look(self.name, all_of_them=False)
            known = self._joined(self.name, looks)
            if known is None or seat not in looks:
                break
            number = looks[seat].ticket
            if number != known.seats[seat]:  # else it was told of before, and the number is unused
                looks = await self._look(self.name, all_of_them=False, least={seat: known.seats[seat] + 1})
                if seat not in looks:
                    break
                number = looks[seat].ticket
            roster = known.with_seat(seat, number)
            told = await self._tell(self.name, roster, [other for other in looks if other != seat])
            if len(told) >= self.majority:
                if await self._seat(self.name, seat, roster, max(told.values())):
                    return
            elif len(self._seated(looks, known)) < self.majority:
                break
        raise no_quorum(
            self.name, self.panel, f"{self.panel.where(seat)} cannot be seated without a majority of the others", {}
        )


def _all(count: int) -> Enough:
    def enough(answers: Answers) -> float:
        return 0.0 if len(answers) == count else math.inf

    return enough


def _read(reply: list[object]) -> Look:
    ticket, born, roster, _highest, run, role = map(text, reply)
    return Look(int(ticket or 0), int(born or 0), Roster.read(roster) if roster else None, run, role)


def most_common(names: list[str]) -> str:
    """Return the name that is named most."""
    return Counter(names).most_common(1)[0][0]
