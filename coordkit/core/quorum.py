"""The questions of a lease, put to N independent Redis servers: a majority decides, and the token is a ballot.

All are asked at once, and the slow ones are not waited for. If a majority of the votes that an attempt won have the
same ballot, that is its token, after one round trip; else a second one raises the votes that are behind to the highest
(``core/ballot.py`` has the rule and its proof). The attempt sends its clock as a hint, the same to all, so that
counters which came apart meet again; a hint may only raise a ballot.

An attempt that failed gives back on all servers, under an id that no other attempt has, so that what arrives late
cannot undo a later one. A release goes to all servers as well, and levels their ballots.

Not promised: that no two holders believe at once. Servers expire keys by their clocks, so one whose clock jumps may end
a lease early; tokens do not depend on any clock, unless a majority of the servers lose their memory.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any, NamedTuple

from coordkit._ports import Answers, Call, Confirm, Enough, Inbox
from coordkit.core import ballot
from coordkit.core.grantor import Granted, Refused, Returned, Spot
from coordkit.core.lock import milliseconds, text
from coordkit.core.majority import GRACE, errors, no_quorum, patient
from coordkit.core.quorum_set import KEPT, QuorumSet, most_common
from coordkit.errors import CoordError, NoQuorum, StoreRefused
from coordkit.scripts import load

_VOTE, _CONFIRM, _RELEASE = load("quorum_vote"), load("quorum_confirm"), load("quorum_release")
_RENEW = load("lock_renew")

_KEEP_BALLOT = 7 * 24 * 3600 * 1000
"""Milliseconds an idle ballot is kept: what follows it starts above the highest ballot of all names, which is kept."""

_EXPIRY = 2
"""Milliseconds that the servers keep a vote longer than we count on it: they expire by the millisecond."""

_HELD = 64
"""Leases of one name that are remembered in one process: one is held, others may be lost and not yet given back."""


class Votes(NamedTuple):
    """The answers to phase 1, counted."""

    won: dict[int, int]
    refused: dict[int, tuple[str, float]]
    abstained: dict[int, str]

    @staticmethod
    def counted(answers: Answers) -> Votes:
        votes = Votes({}, {}, {})
        for instance, answer in answers.items():
            if isinstance(answer, CoordError) or isinstance(answer[-1], Exception):
                continue
            said, *rest = answer[-1]
            if said == 1:
                votes.won[instance] = int(rest[0])
            elif said == 0:
                votes.refused[instance] = text(rest[0]), rest[1] / 1000 if rest[1] >= 0 else math.inf
            else:
                votes.abstained[instance] = text(rest[0])
        return votes


class QuorumMutex:
    """The grantor of one name on one set."""

    def __init__(self, quorum: QuorumSet, name: str) -> None:
        self.name = name
        self.keeper = quorum.keeper
        self.confirm: Confirm | None = None  # the majority is the copies
        self._quorum = quorum
        self._panel = quorum.panel
        self._runtime = quorum.runtime
        self._everyone = range(len(quorum.panel))
        self._numbers = count(1)
        self._ttl = 0.0
        self._held: dict[str, tuple[str, int]] = {}  # by holder: the attempt that succeeded, and its token
        self._doubt: dict[str, str] = {}  # by holder: its last attempt, where somebody may still have a vote of it
        self.key = f"coordkit:1:{{{name}}}:vote"
        self._vote = self.key.encode()
        self._ballot = f"coordkit:1:{{{name}}}:ballot".encode()
        self._keys = (self._vote, self._ballot, *KEPT)

    def inbox(self) -> Inbox | None:
        return None  # nobody can hand on what a majority decides: ask again

    def entry(self, holder: str, ttl: float, address: str) -> str:  # noqa: ARG002  no queue, see inbox
        return ""

    # -- granting

    async def grant(self, holder: str, ttl: float, spot: Spot | None = None) -> Granted | Refused:  # noqa: ARG002  many servers have no queue
        try:
            return await self._attempt(holder, ttl)
        except NoQuorum:
            if not self._quorum.stale:
                raise
        return await self._attempt(holder, ttl)  # somebody was seated, or forgot: count by the new roster

    async def _attempt(self, holder: str, ttl: float) -> Granted | Refused:
        roster = await self._quorum.roster(self.name)
        self._ttl = ttl
        attempt = f"{holder}/{next(self._numbers)}"
        ms, keep = milliseconds(ttl) + _EXPIRY, self._keep(ttl)
        hint = str(int(self._panel.wall_clock() * 1e6))  # fixed for the attempt: else ballots never meet
        call = Call(_VOTE, self._keys, (attempt, ms, roster, hint, keep))
        within = min(self._panel.patience(), max(ttl / 3, 0.02))
        # In front of it, on the same connection: else a vote of ours whose answer was lost would refuse us.
        before = self._doubt.pop(holder, None)
        calls = (call,) if before is None else (self._give_back(before, 0), call)
        answers = await self._panel.ask(
            self.name, dict.fromkeys(self._everyone, calls), within=within, enough=self._decided()
        )
        votes = Votes.counted(answers)
        for instance, other in votes.abstained.items():
            self._quorum.does_not_vote(instance, other)
        token = ballot.agreed(votes.won, self._quorum.majority)
        if token is None:
            token = await self._confirmed(attempt, votes, within, (ms, roster, keep))
        if token is not None:
            self._held[holder] = attempt, token
            if len(self._held) > _HELD:
                self._held.pop(next(iter(self._held)), None)
            return Granted(token)
        await self._undo(attempt, votes, within)
        if len(votes.won) + len(votes.refused) + len(votes.abstained) < len(self._everyone):
            self._doubt[holder] = attempt
            if len(self._doubt) > _HELD:
                self._doubt.pop(next(iter(self._doubt)), None)
        return self._refused(holder, answers, votes)

    def _decided(self) -> Enough:
        """Say when the votes suffice, or cannot any more; wait for agreement no longer than confirming takes."""
        runtime, majority = self._runtime, self._quorum.majority
        began = runtime.now()

        def enough(answers: Answers) -> float:
            if len(answers) < majority:
                return math.inf
            votes = Votes.counted(answers)
            won, pending = votes.won, len(self._everyone) - len(answers)
            if ballot.agreed(won, majority) is not None or not pending:
                return 0.0
            took = runtime.now() - began
            if len(won) >= majority:
                return took if ballot.may_yet_agree(won, majority, pending) else 0.0
            hopeless = len(won) + pending < majority
            if len(won) + len(votes.refused) >= majority:
                return 0.0 if hopeless else max(GRACE, 2 * took)
            return max(GRACE, 2 * took) if hopeless else math.inf  # is it held, or can nobody be asked?

        return enough

    async def _confirmed(self, attempt: str, votes: Votes, within: float, rest: tuple[int, str, int]) -> int | None:
        """Raise the ballots that are behind; return the token once a majority has it in this very hold."""
        todo = ballot.to_confirm(votes.won, self._quorum.majority)
        if todo is None:
            return None
        ms, roster, keep = rest
        call = Call(_CONFIRM, self._keys, (attempt, ms, roster, todo.token, keep))
        lacking = self._quorum.majority - todo.agreed

        def enough(answers: Answers) -> float:
            acks = sum(_says(answer, 1) for answer in answers.values())
            pending = len(todo.at) - len(answers)
            return 0.0 if acks >= lacking or acks + pending < lacking else math.inf

        answers = await self._panel.ask(self.name, dict.fromkeys(todo.at, (call,)), within=within, enough=enough)
        return todo.token if sum(_says(answer, 1) for answer in answers.values()) >= lacking else None

    async def _undo(self, attempt: str, votes: Votes, within: float) -> None:
        """Give back on all: also where the answer did not come. Wait for those only that we know to have."""
        if len(votes.refused) + len(votes.abstained) == len(self._everyone):
            return  # all said no

        def enough(answers: Answers) -> float:
            return 0.0 if votes.won.keys() <= answers.keys() else math.inf

        await self._release(attempt, 0, within, patient(self._runtime, self._panel, enough))

    def _refused(self, holder: str, answers: Answers, votes: Votes) -> Refused:
        majority = self._quorum.majority
        others = {i: (who.rpartition("/")[0], left) for i, (who, left) in votes.refused.items()}
        others = {i: (who, left) for i, (who, left) in others.items() if who != holder}  # one of our own says nothing
        if len(votes.won) + len(others) >= majority and others:
            return Refused(most_common([who for who, _ in others.values()]), min(left for _, left in others.values()))
        found = errors(self._panel, answers)
        for instance in votes.abstained:
            why = "it does not vote: it forgot, or counts by another roster; see Quorum.readmit()"
            found[self._panel.where(instance)] = StoreRefused(self.name, why)
        voted = len(votes.won) + len(others)
        raise no_quorum(self.name, self._panel, f"{voted} voted, a majority is {majority},", found)

    # -- renewing, giving back

    def renewal(self, holder: str, ttl: float) -> Call:
        attempt, _ = self._held.get(holder, (f"{holder}/0", 0))
        return Call(_RENEW, (self._vote, self._ballot), (attempt, milliseconds(ttl) + _EXPIRY, self._keep(ttl)))

    async def renew(self, holder: str, ttl: float) -> bool:
        [verdict] = await self._quorum.verdicts.run_many([(self.name, self.renewal(holder, ttl))])
        if isinstance(verdict, Exception):
            raise verdict
        return bool(verdict == 1)

    async def revoke(self, holder: str, entry: str = "") -> Returned:  # noqa: ARG002  no queue, see inbox
        _, token = self._held.get(holder, ("", 0))
        most = len(self._everyone) - self._quorum.majority

        def counted(answers: Answers) -> tuple[int, int]:
            back = sum(_says(answer, 1) for answer in answers.values())
            return back, sum(_says(answer, 0) or _says(answer, -1) for answer in answers.values())

        def enough(answers: Answers) -> float:
            if len(answers) < self._quorum.majority:
                return math.inf
            back, no = counted(answers)
            return 0.0 if back >= self._quorum.majority or no > most else math.inf

        answers = await self._release(
            f"{holder}/", token, self._panel.patience(), patient(self._runtime, self._panel, enough)
        )
        back, no = counted(answers)
        if back + no < self._quorum.majority:
            raise no_quorum(self.name, self._panel, f"{back + no} answered", errors(self._panel, answers))
        self._held.pop(holder, None)
        self._doubt.pop(holder, None)
        # Those that did not answer may have kept it to the end.
        return Returned.GIVEN_BACK if no <= most and back else Returned.GONE

    async def _release(self, attempt: str, token: int, within: float, enough: Enough) -> Answers:
        call = self._give_back(attempt, token)
        answers = await self._panel.ask(self.name, dict.fromkeys(self._everyone, (call,)), within=within, enough=enough)
        self._quorum.debts.owe(answers, call, self._runtime.now() + self._ttl)
        return answers

    def _give_back(self, attempt: str, token: int) -> Call:
        return Call(_RELEASE, (self._vote, self._ballot, KEPT[1]), (attempt, token, self._keep(0)))

    @staticmethod
    def _keep(ttl: float) -> int:
        return max(_KEEP_BALLOT, milliseconds(ttl * 2))


def _says(answer: list[Any] | CoordError, what: int) -> bool:
    return not isinstance(answer, CoordError) and answer[0] == what
