"""What the loss experiment and W8 have in common: shards, clients, changes of owners, and what goes wrong meanwhile.

A scene is played in rounds. In each, one client is stopped just when it has decided where to send, before the change,
and runs on after it; another is stopped there or wherever it happens to be, and runs on in the middle; and two faults
strike at random moments: the mover is killed, as soon as the change is seen or later, and another process goes on with
its work, or rolls the move back, and half the times goes on after that; the mover is stopped, another rolls its move
back, and it runs on in the middle of that; a client is killed, and another takes its place; whoever is the first to
bring a key stops itself in the middle of that, and runs on some time later; the source or the target is killed and
comes back with its AOF.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from regime.crew import Crew, Member, tail
from regime.history import now
from regime.loss_place import Change, Place, State, Subject
from regime.loss_worker import Order, Plan

from coordkit.testing.processes import RedisProcess, start_redis
from coordkit.testing.servers import scaled

SHARDS = ("a", "b", "c")
FAULTS = (
    "kill_mover_at_once",
    "kill_mover",
    "roll_back",
    "roll_back_beside",
    "kill_client",
    "stop_while_bringing",
    "restart_source",
    "restart_target",
)
AT_ONCE = ("kill_mover_at_once", "stop_while_bringing")
MOVES = 1.5  # seconds that a change takes, about, if nothing happens
STANDING_BY = 2  # movers: one may be killed as soon as it has begun
DOWN = (0.1, 0.5)  # seconds from a server's death to its next start
LONG = 60.0  # seconds that it may take with all that happens to it
STOPPED = 1.0  # seconds at most that a client is stopped while it brings a key


class Window(NamedTuple):
    """A time in which some slots were certainly moving."""

    begins: float
    ends: float
    slots: frozenset[int]


class Scene:
    """The processes of one run. ``keys`` are those that matter, with their slots; ``client`` plans a client process."""

    def __init__(
        self,
        subject: Subject,
        seed: int,
        directory: Path,
        stack: ExitStack,
        *,
        keys: Mapping[str, int],
        client: Callable[[str, Place], Any],
        clients: int,
        faults: Sequence[str],
        mutant: str = "",
    ) -> None:
        self.fired: Counter[str] = Counter()
        self.void: list[str] = []
        self.found: list[str] = []
        self.across = 0  # times that somebody was stopped before a change and ran on after it
        self.windows: list[Window] = []
        self.faults = faults
        self.mutant = mutant
        self.batch = directory / "batch"
        self._subject = subject
        self._directory = directory
        self._keys = keys
        self._chance = random.Random(f"scene/{seed}")
        self._deck: list[str] = []
        self._movers: list[Member] = []
        self._standing_by: deque[tuple[Member, Path]] = deque()  # movers, and where each is told what to do
        self._doing = Change(frozenset(), None)
        self._paused: tuple[Member, int, float] | None = None  # a mover, the epoch at that time, when it runs on
        self._between = SHARDS[:2]
        self.batch.write_text("[]")
        self.servers = {name: stack.enter_context(self._server(name)) for name in SHARDS}
        place = Place(str(directory), {name: server.url for name, server in self.servers.items()})
        self.place = subject.prepare(place, stack)
        self.crew = Crew(clients, lambda name: client(name, self.place))
        stack.callback(self._kill)
        for _ in range(STANDING_BY):
            self._stand_by()

    def _server(self, name: str) -> RedisProcess:
        (self._directory / name).mkdir()
        return start_redis(appendonly="always", args=("--dir", str(self._directory / name)))

    def _kill(self) -> None:
        self.crew.kill()
        for mover in [*self._movers, *(mover for mover, _ in self._standing_by)]:
            mover.kill()

    def began(self) -> bool:
        """Wait until all clients have started; return whether they have."""
        crew = self.crew
        crew.follow(lambda: crew.started() or bool(crew.trouble()), scaled(60))
        if not crew.started():
            self.void.append(f"the clients did not start: {crew.trouble()}")
        return crew.started()

    def state(self) -> State:
        return self._subject.state(self.place)

    def missing(self) -> list[str]:
        """Return the faults that have not struck."""
        return [fault for fault in self.faults if not self.fired[fault]]

    def settled(self) -> bool:
        """End the movers; return whether nothing is on its way, so that all that is there has one place."""
        for mover in self._movers:
            mover.kill()
        if self.state().moves:
            self.void.append("a move has not ended: nobody can tell where anything should be")
            return False
        return True

    def rest(self, seconds: float) -> None:
        self.crew.follow(lambda: False, seconds)

    # -- one round

    def round(self) -> None:
        """Change owners once, with all that happens meanwhile."""
        crew = self.crew
        crew.follow(crew.started, scaled(30))  # also whoever took the place of one that was killed
        self.rest(0.2)
        change = self._subject.draw(self.place, self._chance)
        keys = [key for key, slot in self._keys.items() if slot in change.slots]
        self.batch.write_text(json.dumps(keys))
        self._pace = MOVES / max(1, len(keys))
        stopped = self._chance.sample(crew.members, 2)
        try:
            self._play(change, *stopped)
        finally:
            for member in [*stopped, *self._movers]:
                member.send(signal.SIGCONT)
            self._paused = None
        self.rest(0.2)

    def _play(self, change: Change, across: Member, beside: Member) -> None:
        crew = self.crew
        if not crew.stops(across, signal.SIGUSR1, scaled(10)):
            self.void.append(f"{across.plan.name} did not stop itself")
            return
        if self._chance.random() < 0.5:
            crew.stops(beside, signal.SIGUSR1, scaled(10))
        else:
            beside.send(signal.SIGSTOP)
        drawn = self._draw(2)
        if "stop_while_bringing" in drawn:  # asked now: soon after a move has begun all keys have been brought
            crew.ask_to_stop_while_bringing([member for member in crew.members if member not in (across, beside)])
        self._doing = change
        self._start_mover()
        crew.follow(lambda: bool(self.state().moves) or self._over(), scaled(LONG))
        if not self.state().moves:
            self.void.append(f"nothing was seen to move: {tail(self._movers[-1].errors)}")
            return
        self._during(drawn, beside, {across.number, beside.number})
        self.across += 1

    def _during(self, drawn: Sequence[str], beside: Member, stopped: set[int]) -> None:
        """Do to the change what is to be done to it, until it is over."""
        chance, began = self._chance, now()
        when = {fault: began + (0 if fault in AT_ONCE else chance.uniform(0, MOVES)) for fault in drawn}
        runs_on = {beside.number: began + chance.choice([0, chance.uniform(0, MOVES)])}
        while not self._over() and now() < began + scaled(LONG):
            self._look()
            for fault in [fault for fault, at in when.items() if at <= now()]:
                del when[fault]
                self._strike(fault, when, stopped, runs_on)
            for number in [number for number, at in runs_on.items() if at <= now()]:
                self.crew.members[number].send(signal.SIGCONT)
                stopped.discard(number)
                del runs_on[number]
            self.rest(0.02)
        self.crew.nobody_stops_while_bringing()
        if not self._over():
            self.found.append(f"the change did not end in {scaled(LONG):g} s: {tail(self._movers[-1].errors)}")
        for number in runs_on:
            self.crew.members[number].send(signal.SIGCONT)
        self._deck += when  # the change was quicker

    def _look(self) -> None:
        """Note which slots are moving, and that those which were at the last look have been since."""
        epoch, _, moves = self.state()
        if self._paused is not None and epoch > self._paused[1]:
            mover, _, runs_on = self._paused
            if now() >= runs_on:
                mover.send(signal.SIGCONT)
                self._paused = None
        moving = frozenset(slot for move in moves for slot in move.slots)
        last = self.windows[-1] if self.windows else None
        if last is not None and last.slots == moving:
            self.windows[-1] = last._replace(ends=now())
        else:
            self.windows.append(Window(now(), now(), moving))
        for move in moves:
            self._between = move.source, move.target

    def _draw(self, number: int) -> list[str]:
        drawn: list[str] = []
        while len(drawn) < number:
            if not self._deck:
                self._deck = self._chance.sample(self.faults, len(self.faults))
            drawn.append(self._deck.pop())
        return list(dict.fromkeys(drawn))

    def _strike(self, fault: str, when: dict[str, float], stopped: set[int], runs_on: dict[int, float]) -> None:
        others = [member for member in self.crew.members if member.number not in stopped]
        if fault.startswith("kill_mover"):
            self._movers[-1].kill()
        elif fault.startswith("roll_back"):
            if not self._roll_back(beside=fault == "roll_back_beside"):
                self._deck.append(fault)  # just then nothing moved
                return
        elif fault == "kill_client":
            victim = self._chance.choice(others)
            victim.kill()
            victim.start()
        elif fault == "stop_while_bringing":
            bringer = self.crew.stopped_while_bringing()
            if bringer is None:
                when[fault] = now()  # not yet
                return
            stopped.add(bringer.number)
            runs_on[bringer.number] = now() + self._chance.uniform(0.1, STOPPED)
        else:
            server = self.servers[self._between[fault == "restart_target"]]
            server.kill()
            self.rest(self._chance.uniform(*DOWN))
            server.start()
        self.fired[fault] += 1

    # -- the mover

    def _roll_back(self, *, beside: bool) -> bool:
        """Have another mover take back what this one is doing; return whether there was something."""
        mover = self._movers[-1]
        if beside:
            mover.send(signal.SIGSTOP)
        else:
            mover.kill()
        epoch, _, moves = self.state()
        if not moves or (not mover.alive and beside):
            mover.send(signal.SIGCONT)
            return False
        then = ["and on"] * (self._chance.random() < 0.5)
        self._doing = self._doing._replace(what=("roll back", *then))
        if beside:
            self._paused = mover, epoch, now() + self._chance.uniform(0, MOVES)
            self._start_mover()
        return True

    def _start_mover(self) -> None:
        # One that gives up has lost its leadership in want of the processor: the next one keeps it for longer.
        slack = 1 + self.fired["mover gave up"]
        mover, order = self._standing_by.popleft()
        Order(self._doing.what, self._pace, slack).give(order)
        self._movers.append(mover)
        self._stand_by()

    def _stand_by(self) -> None:
        number = len(self._movers) + len(self._standing_by)
        order = self._directory / f"mover-{number}.order"

        def plan(name: str) -> Plan:
            log = str(self._directory / f"mover-{name}.log")
            what = {"order": str(order), "mutant": self.mutant}
            return Plan(name, self._subject.name, "", log, vars(self.place), **what)

        self._standing_by.append((Member(number, plan), order))

    def _over(self) -> bool:
        """Return whether a mover has come to its end; where one was killed or gave up, another goes on."""
        mover = self._movers[-1]
        if mover.alive:
            return False
        if mover.process.returncode > 0:
            self.fired["mover gave up"] += 1
        if mover.process.returncode:
            self._start_mover()
        return not mover.process.returncode
