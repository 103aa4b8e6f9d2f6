"""An exhaustive check of the quorum lock: its own scripts, its own rule, every order of events.

What happens at an instance is what the real Lua does to the instance's keys; what a client concludes is what
``core/ballot.py`` says. Between them everything is allowed: requests are late, or arrive twice; replies are lost (a
client may conclude from any part of the votes it won); a vote expires at any moment, also before its ttl; clients stop
for ever at any point (they are never forced to go on); instances forget, all or only their last write. Every order is
tried, breadth first, so the trace of a violation is a shortest one.

It begins with every combination of ballots up to ``init``, of which the highest that a majority reached counts as a
token given out already: so what is checked is the step of an induction, not only what can be reached from zero.

Checked whenever a token is returned: it differs from all others, and it is above all that were returned before its
attempt began. ``python -m sim.quorum_model`` (in ``tests/``) tries what is too large for every day.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product
from types import SimpleNamespace
from typing import Any, NamedTuple

from sim.redis import SimRedis

from coordkit._ports import Call
from coordkit.core import ballot, quorum, quorum_set
from coordkit.core.roster import Roster

VOTE, BALLOT = b"coordkit:1:{n}:vote", b"coordkit:1:{n}:ballot"
TICKET, BORN = quorum_set.TICKET, quorum_set.BORN
KEPT = ROSTER, HIGHEST, FLOOR = quorum_set.KEPT
KEYS = (VOTE, BALLOT, *KEPT)

Data = tuple[tuple[bytes, bytes], ...]
"""The keys of one instance."""

IDLE, VOTING, CONFIRMING, RETURNED, GAVE_UP = range(5)


class Mine(NamedTuple):
    """What one attempt knows of one instance, and has on its way to it."""

    won: int = 0  # the ballot it was told
    arrived: bool = False  # its request
    confirming: int = 0  # 1 on its way, 2 acknowledged


class Column(NamedTuple):
    """One instance, and what each attempt has with it."""

    data: Data
    mine: tuple[Mine, ...]


class Attempt(NamedTuple):
    phase: int = IDLE
    token: int = 0
    before: int = 0  # the highest token that was returned before it began
    hint: int = 0
    agreed: int = 0  # how many need no confirmation
    roster: str = ""


class Readmission(NamedTuple):
    """One run of the steps that seat an instance anew."""

    seat: int
    known: str
    number: int = 0
    roster: str = ""
    told: tuple[int, ...] = ()  # by instance: the highest ballot it said, or -1
    sent: int = -1  # the floor with which the instance is to be seated


class State(NamedTuple):
    columns: tuple[Column, ...]
    attempts: tuple[Attempt, ...]
    issued: int
    repeats: int
    losses: int
    clock: int
    seating: tuple[Readmission, ...] = ()


@dataclass(frozen=True)
class Model:
    """A configuration; ``search`` returns None, or how a promise is broken."""

    instances: int = 3
    attempts: int = 2
    init: int = 1
    ballots: tuple[int, ...] | None = None  # begin with these only
    hints: tuple[int, ...] = (0,)  # an attempt sends any of these; "clock" beyond
    advancing: bool = False  # each attempt's hint is above those before it
    repeats: int = 0  # requests for a vote that arrive twice, in all
    losses: int = 0  # instances that lose state, in all
    loses: str = "all"  # or "last write", or "highest"
    late: bool = True  # votes also arrive after their attempt has ended
    releases: bool = True
    renewals: bool = False
    forgotten: bool = False  # idle ballots have expired: only the highest of all names is left
    shared_id: bool = False  # all attempts have one id: what the code must not do
    readmits: bool = False
    order_only: bool = False  # do not ask that tokens of overlapping attempts differ
    limit: int = 5_000_000  # states

    @property
    def majority(self) -> int:
        return self.instances // 2 + 1

    # -- the search

    def search(self) -> list[str] | None:
        return self.explore()[0]

    def explore(self) -> tuple[list[str] | None, int, bool]:
        """Return a violation's trace or None, the number of states, and whether these were all."""
        instance = _Instance()
        parents: dict[State, tuple[State | None, str]] = {}
        todo: list[State] = []
        for state in self._begin():
            if state not in parents:
                parents[state] = (None, "begin")
                todo.append(state)
        while todo:
            following: list[State] = []
            for state in todo:
                for what, after, returned in self._steps(instance, state):
                    if returned is not None and (broken := self._broken(after, returned)):
                        return [*_trace(parents, state), what, broken], len(parents), True
                    key = self._canonical(after)
                    if key not in parents:
                        parents[key] = (state, what)
                        following.append(key)
                if len(parents) > self.limit:
                    return None, len(parents), False
            todo = following
        return None, len(parents), True

    def _begin(self) -> Iterator[State]:
        ordered = product(range(self.init + 1), repeat=self.instances)
        every: Iterable[tuple[int, ...]]
        every = ordered if self.readmits else combinations_with_replacement(range(self.init + 1), self.instances)
        if self.ballots is not None:
            every = [self.ballots]
        roster = Roster(0, tuple(range(1, self.instances + 1))) if self.readmits else Roster(0, ())
        for ballots in every:
            columns = []
            for seat, number in enumerate(ballots):
                text = str(number).encode()
                keys = {BALLOT: text, ROSTER: str(roster).encode(), HIGHEST: text, FLOOR: b"0"}
                if self.forgotten:
                    del keys[BALLOT]
                if self.readmits:
                    keys[BORN] = str(seat + 1).encode()
                columns.append(Column(_data(keys), (Mine(),) * self.attempts))
            issued = sorted(ballots, reverse=True)[self.majority - 1]
            attempts = (Attempt(roster=str(roster)),) * self.attempts
            yield self._canonical(State(tuple(columns), attempts, issued, self.repeats, self.losses, 100))

    def _canonical(self, state: State) -> State:
        """Forget what can no longer matter; instances without seats are as good as each other."""
        columns = []
        for column in state.columns:
            mine = tuple(
                one if attempt.phase < RETURNED else Mine(0, one.arrived or not self.late, 0)
                for one, attempt in zip(column.mine, state.attempts, strict=True)
            )
            columns.append(Column(column.data, mine))
        attempts = tuple(
            one
            if one.phase < RETURNED
            else Attempt(one.phase, one.token, 0, one.hint if self.late else 0, 0, one.roster)
            for one in state.attempts
        )
        if not self.readmits:
            columns.sort()
        return state._replace(columns=tuple(columns), attempts=attempts)

    def _broken(self, state: State, returned: int) -> str | None:
        mine = state.attempts[returned]
        if mine.token <= mine.before:
            return f"token {mine.token} is not above {mine.before}, which was returned before the attempt began"
        others = [one for i, one in enumerate(state.attempts) if i != returned and one.phase == RETURNED]
        if not self.order_only and any(other.token == mine.token for other in others):
            return f"token {mine.token} was returned twice"
        return None

    # -- what may happen next

    def _steps(self, instance: _Instance, state: State) -> Iterator[tuple[str, State, int | None]]:
        begun = False
        for a, attempt in enumerate(state.attempts):
            if attempt.phase == IDLE:
                if not begun:  # attempts that have not begun are as good as each other
                    begun = True
                    yield from self._start(state, a)
                continue
            yield from self._votes(instance, state, a)
            if attempt.phase == VOTING:
                yield from self._decide(state, a)
            if attempt.phase == CONFIRMING:
                yield from self._confirms(instance, state, a)
            if attempt.phase in (VOTING, CONFIRMING) and self.releases:
                yield f"{a} gives up", _attempt(state, a, phase=GAVE_UP, token=0), None
            if attempt.phase >= RETURNED and self.releases:
                call = Call(quorum._RELEASE, (VOTE, BALLOT, HIGHEST), (self._id(a), attempt.token, 1000))
                yield from self._at_any(instance, state, f"release of {a}", call)
            if self.renewals:
                call = Call(quorum._RENEW, (VOTE, BALLOT), (self._id(a), 1000, 1000))
                yield from self._at_any(instance, state, f"renewal of {a}", call, expired=True)
        if state.losses:
            for i, column in enumerate(state.columns):
                changed = _column(state, i, data=self._lost(column.data))
                yield (
                    f"instance {i} loses state",
                    changed._replace(losses=state.losses - 1, clock=state.clock + 1),
                    None,
                )
        if self.readmits:
            yield from self._seatings(instance, state)

    def _id(self, a: int) -> str:
        return "a0/1" if self.shared_id else f"a{a}/1"

    def _start(self, state: State, a: int) -> Iterator[tuple[str, State, int | None]]:
        before = max([state.issued, *(one.token for one in state.attempts if one.phase == RETURNED)])
        hints = (10 * (a + 1),) if self.advancing else self.hints
        rosters = {state.attempts[a].roster, *(run.roster for run in state.seating if run.roster)}
        for hint, roster in product(hints, sorted(rosters)):
            changed = _attempt(state, a, phase=VOTING, before=before, hint=hint, roster=roster)
            yield f"{a} begins, hint {hint}, roster {roster}", changed, None

    def _votes(self, instance: _Instance, state: State, a: int) -> Iterator[tuple[str, State, int | None]]:
        attempt = state.attempts[a]
        if attempt.phase >= RETURNED and not self.late:
            return
        call = Call(quorum._VOTE, KEYS, (self._id(a), 1000, attempt.roster, attempt.hint, 1000))
        for i, column in enumerate(state.columns):
            mine = column.mine[a]
            if mine.arrived and not state.repeats:
                continue
            left = state.repeats - mine.arrived
            for expired in (False, True):
                if expired and VOTE not in dict(column.data):
                    continue
                data, reply = instance.run(_without(column.data, VOTE) if expired else column.data, call, state.clock)
                if reply[0] != 1 and data == column.data:
                    continue  # refused, or does not vote: the client may as well not have been told
                told = int(reply[1]) if reply[0] == 1 else 0
                # A request that arrived twice has two replies, and either may be the one that is read.
                for won in {told, mine.won or told}:
                    changed = _column(state, i, data=data, a=a, mine=mine._replace(won=won, arrived=True))
                    yield f"vote for {a} at {i}: {told}", changed._replace(repeats=left), None

    def _decide(self, state: State, a: int) -> Iterator[tuple[str, State, int | None]]:
        won = {i: column.mine[a].won for i, column in enumerate(state.columns) if column.mine[a].won}
        seen = set()
        for size in range(self.majority, len(won) + 1):
            for part in combinations(won, size):
                key = tuple(sorted(state.columns[i] for i in part))
                if key in seen:
                    continue
                seen.add(key)
                replies = {i: won[i] for i in part}
                token = ballot.agreed(replies, self.majority)
                if token is not None:
                    yield f"{a} agrees on {token}", _attempt(state, a, phase=RETURNED, token=token), a
                    continue
                todo = ballot.to_confirm(replies, self.majority)
                assert todo is not None
                changed = _attempt(state, a, phase=CONFIRMING, token=todo.token, agreed=todo.agreed)
                for i in todo.at:
                    changed = _column(changed, i, a=a, mine=changed.columns[i].mine[a]._replace(confirming=1))
                if todo.agreed >= self.majority:
                    yield f"{a} confirms nothing", _attempt(changed, a, phase=RETURNED), a
                else:
                    yield f"{a} confirms {todo.token} at {todo.at}", changed, None

    def _confirms(self, instance: _Instance, state: State, a: int) -> Iterator[tuple[str, State, int | None]]:
        attempt = state.attempts[a]
        call = Call(quorum._CONFIRM, KEYS, (self._id(a), 1000, attempt.roster, attempt.token, 1000))
        for i, column in enumerate(state.columns):
            if column.mine[a].confirming != 1:
                continue
            data, reply = instance.run(column.data, call, state.clock)
            if reply != 1:
                continue
            changed = _column(state, i, data=data, a=a, mine=column.mine[a]._replace(confirming=2))
            acks = sum(one.mine[a].confirming == 2 for one in changed.columns)
            if attempt.agreed + acks >= self.majority:
                yield f"confirmed at {i}: {a} returns", _attempt(changed, a, phase=RETURNED), a
            else:
                yield f"confirmed at {i}", changed, None

    def _at_any(
        self, instance: _Instance, state: State, what: str, call: Call, *, expired: bool = False
    ) -> Iterator[tuple[str, State, int | None]]:
        for i, column in enumerate(state.columns):
            for data in (column.data, _without(column.data, VOTE)) if expired else (column.data,):
                after, _ = instance.run(data, call, state.clock)
                if after not in (column.data, data):
                    yield f"{what} at {i}", _column(state, i, data=after), None

    def _lost(self, data: Data) -> Data:
        keys = dict(data)
        if self.loses == "all":
            return ()
        if self.loses == "highest":
            keys.pop(HIGHEST, None)
        else:
            keys.pop(VOTE, None)
            for key in (BALLOT, HIGHEST):
                if key in keys:
                    keys[key] = str(max(int(keys[key]) - 1, 0)).encode()
        return _data(keys)

    # -- seating anew, by the steps of core/quorum_set.py

    def _seatings(self, instance: _Instance, state: State) -> Iterator[tuple[str, State, int | None]]:
        if len(state.seating) < self.losses:
            known = [dict(c.data).get(ROSTER, b"").decode() for c in state.columns if len(c.data) >= 4]
            for seat, column in enumerate(state.columns):
                intact = {BORN, *KEPT} <= dict(column.data).keys()
                if known and not intact:
                    newest = max(known)
                    yield (
                        f"{seat} is to be seated",
                        state._replace(seating=(*state.seating, Readmission(seat, newest))),
                        None,
                    )
        for k, run in enumerate(state.seating):
            for what, changed, after in self._seating(instance, state, run):
                seating = (*state.seating[:k], changed, *state.seating[k + 1 :])
                yield what, after._replace(seating=seating), None

    def _seating(self, instance: _Instance, state: State, run: Readmission) -> Iterator[tuple[str, Readmission, State]]:
        known = Roster.read(run.known)
        assert known is not None
        seat = run.seat
        if not run.number:
            least = known.seats[seat] + 1
            call = Call(quorum_set._LOOK, (TICKET, BORN, *KEPT), (least,))
            data, reply = instance.run(state.columns[seat].data, call, state.clock)
            number = int(reply[0])
            changed = run._replace(
                number=number, roster=str(known.with_seat(seat, number)), told=(-1,) * self.instances
            )
            yield f"{seat} draws {number}", changed, _column(state, seat, data=data)
            return
        for i, column in enumerate(state.columns):
            if i == seat or run.told[i] >= 0:
                continue
            data, reply = instance.run(
                column.data, Call(quorum_set._TELL, (BORN, *KEPT), (run.roster, i + 2)), state.clock
            )
            if reply[0] == 1:
                told = (*run.told[:i], int(reply[1]), *run.told[i + 1 :])
                yield f"{i} is told", run._replace(told=told), _column(state, i, data=data)
        if run.sent < 0 and sum(one >= 0 for one in run.told) >= self.majority:
            yield f"{seat} may be seated", run._replace(sent=max(run.told)), state
        if run.sent >= 0:  # may arrive at any time, and again
            call = Call(quorum_set._SEAT, (TICKET, BORN, *KEPT), (run.roster, run.number, run.sent))
            data, reply = instance.run(state.columns[seat].data, call, state.clock)
            if reply == 1:
                yield f"{seat} is seated above {run.sent}", run, _column(state, seat, data=data)


# -- instances


class _Instance:
    """Runs a script on the keys of an instance, once for each that differ."""

    def __init__(self) -> None:
        self._world = SimpleNamespace(time=0.0)
        self._server = SimRedis(self._world, epoch=0.0)  # type: ignore[arg-type]  # only its time is asked for
        self._server._do_info = lambda _section: b"run_id:r role:master"  # type: ignore[attr-defined]  # of no weight here
        self._known: dict[Any, tuple[Data, Any]] = {}

    def run(self, data: Data, call: Call, clock: int) -> tuple[Data, Any]:
        key = (data, call.script.name, call.args, clock if call.script.name == "quorum_look" else 0)
        found = self._known.get(key)
        if found is None:
            self._world.time = clock / 1e6
            self._server.data = {name: (value, None) for name, value in data}
            reply = self._server.run(call)
            after = _data({name: value for name, (value, _) in self._server.data.items()})
            found = self._known[key] = after, reply
        return found


def _data(keys: dict[bytes, bytes]) -> Data:
    return tuple(sorted(keys.items()))


def _without(data: Data, key: bytes) -> Data:
    return tuple(item for item in data if item[0] != key)


def _attempt(state: State, a: int, **changes: Any) -> State:
    attempts = state.attempts
    return state._replace(attempts=(*attempts[:a], attempts[a]._replace(**changes), *attempts[a + 1 :]))


def _column(state: State, i: int, *, data: Data | None = None, a: int = 0, mine: Mine | None = None) -> State:
    column = state.columns[i]
    if data is not None:
        column = column._replace(data=data)
    if mine is not None:
        column = column._replace(mine=(*column.mine[:a], mine, *column.mine[a + 1 :]))
    return state._replace(columns=(*state.columns[:i], column, *state.columns[i + 1 :]))


def _trace(parents: dict[State, tuple[State | None, str]], state: State | None) -> list[str]:
    lines: list[str] = []
    while state is not None:
        parent, what = parents[state]
        shown = ["{" + " ".join(v.decode() for _, v in column.data) + "}" for column in state.columns]
        lines.append(f"{what:<40} {' '.join(shown)}")
        state = parent
    return lines[::-1]


# -- what is asked of it

EVERY_DAY: dict[str, Model] = {
    "late and repeated requests, lost replies": Model(repeats=1, releases=False),
    "any hint": Model(hints=(0, 3), late=False),
    "every combination of ballots up to 2": Model(init=2),
    "renewals while it is decided": Model(renewals=True, releases=False),
    "idle ballots have expired": Model(forgotten=True, hints=(0, 2)),
    "one forgets everything": Model(losses=1),
    "one forgets how high it went": Model(losses=1, loses="highest", late=False),
    "one is seated anew": Model(losses=1, readmits=True, init=0, late=False, releases=False),
    "all forget, clocks go on, order only": Model(losses=3, advancing=True, init=0, order_only=True, late=False),
}

AT_LEISURE: dict[str, Model] = {
    "late and repeated requests, any hint, releases": Model(hints=(0, 3), repeats=1),
    "three attempts": Model(attempts=3, late=False, releases=False),
    "three attempts that release": Model(attempts=3, late=False),
    "three attempts, repeats and hints": Model(attempts=3, repeats=1, hints=(0, 3), late=False, releases=False),
    "three attempts, one forgets": Model(attempts=3, losses=1, late=False, releases=False),
    "five instances": Model(instances=5, late=False, releases=False),
    "five instances, repeats and hints": Model(instances=5, repeats=1, hints=(0, 3), late=False, releases=False),
    "five instances, two forget": Model(instances=5, losses=2, late=False, releases=False),
    "seated anew, three attempts": Model(attempts=3, losses=1, readmits=True, init=0, late=False, releases=False),
    "seated anew twice": Model(losses=2, readmits=True, init=0),
}


def main() -> int:
    """Try what is too large for every day; a number as argument bounds the states of each."""
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    failed = 0
    for name, model in {**EVERY_DAY, **AT_LEISURE}.items():
        began = time.perf_counter()
        broken, states, complete = Model(**{**vars(model), "limit": limit}).explore()
        verdict = "VIOLATED" if broken else "holds" if complete else "holds so far (bounded)"
        print(f"{verdict:<24}{name:<50}{states:>10} states {time.perf_counter() - began:8.1f} s", flush=True)
        if broken:
            failed += 1
            print("\n".join(broken))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
