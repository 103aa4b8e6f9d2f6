"""The workers of a run, as processes: started, stopped, killed, replaced, and followed by what they write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regime.environment import ENVIRONMENT
from regime.history import now

_TESTS = Path(__file__).resolve().parents[1]
# What is followed while it happens; what is marked with ``heed`` is followed by those who know what it is.
_TOLD = (b'"stopping"', b'"read"', b'"gap"', b'"holder"', b'"long"', b'"heed"')


class Member:
    """One place in the crew; a killed worker's place is taken by another, with a log of its own.

    ``make`` gives its plan: a text that the ``module`` it names understands, and where its log is.
    """

    def __init__(self, number: int, make: Callable[[str], Any]) -> None:
        self.number = number
        self.lives = 0
        self.logs: list[Path] = []
        self._make = make
        self._told: list[dict[str, Any]] = []
        self.start()

    def start(self) -> None:
        self.lives += 1
        plan = self._make(f"w{self.number}.{self.lives}")
        self.plan = plan
        self.logs.append(Path(plan.log))
        self.errors = Path(f"{plan.log}.err")
        self._read = 0
        path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", plan.module, str(os.getpid()), str(plan)],
                env=ENVIRONMENT | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def news(self) -> list[dict[str, Any]]:
        """Return what it wrote since the last call, as far as somebody follows that."""
        log = self.logs[-1]
        if not log.exists():
            return []
        with log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        return [json.loads(line) for line in text[:whole].split(b"\n") if any(mark in line for mark in _TOLD)]


class Crew:
    """All workers of a run."""

    every = 0.004  # seconds between two looks at what they write

    def __init__(self, size: int, make: Callable[[str], Any], *, on_gap: Callable[[str], None] | None = None) -> None:
        self._on_gap = on_gap
        self.grants = 0
        self.held_long: list[str] = []  # names of leases that were said to be held for longer than their ttl
        self._awaited: int | None = None  # who is to stop itself
        self._bringers: set[int] = set()  # who may stop itself while it brings a key
        self._stopped: Member | None = None  # who did
        self.reads = 0
        self.members = [Member(number, make) for number in range(size)]

    def follow(self, until: Callable[[], bool], seconds: float) -> bool:
        """Read what the workers write until ``until()`` holds; return whether it did within ``seconds``."""
        ends = now() + seconds
        while True:
            for member in self.members:
                for said in member.news():
                    self._hear(member, said)
            if until():
                return True
            if now() >= ends:
                return False
            time.sleep(self.every)

    def stops(self, member: Member, gap: signal.Signals, seconds: float) -> bool:
        """Ask a member to stop itself at a gap; return whether it did within ``seconds``. If it does so later, it
        is let run on at once.
        """
        self._awaited = member.number
        member.send(gap)
        stopped = self.follow(lambda: self._awaited is None, seconds)
        self._awaited = None
        return stopped

    def ask_to_stop_while_bringing(self, members: Sequence[Member]) -> None:
        """Have the first of them that brings a key stop itself meanwhile; the others are let run on at once."""
        self._bringers, self._stopped = {member.number for member in members}, None
        for member in members:
            member.send(signal.SIGUSR2)

    def stopped_while_bringing(self) -> Member | None:
        """Return who has done so since, once."""
        member, self._stopped = self._stopped, None
        return member

    def nobody_stops_while_bringing(self) -> None:
        """Let run on whoever does so from now on."""
        self._bringers = set()
        if self._stopped is not None:
            self._stopped.send(signal.SIGCONT)
            self._stopped = None

    def _hear(self, member: Member, said: dict[str, Any]) -> None:
        if said.get("holder"):
            self.grants += 1
        elif said.get("what") == "read":
            self.reads += 1
        elif said.get("what") == "stopping":
            if "bringing" in said:
                if member.number in self._bringers:
                    self._bringers, self._stopped = set(), member
                else:
                    member.send(signal.SIGCONT)  # another was the first
            elif self._awaited == member.number:
                self._awaited = None
            else:
                member.send(signal.SIGCONT)  # it came too late to be of use
        elif said.get("what") == "long":
            self.held_long.append(said["name"])
        elif said.get("what") == "gap" and self._on_gap is not None:
            self._on_gap(said["name"])

    def started(self) -> bool:
        return all(b'"started"' in (m.logs[-1].read_bytes() if m.logs[-1].exists() else b"") for m in self.members)

    def trouble(self) -> list[str]:
        """Return which workers are gone that should not be."""
        return [
            f"{m.plan.name} ended with {m.process.returncode}: {tail(m.errors)}" for m in self.members if not m.alive
        ]

    def finish(self, seconds: float) -> list[str]:
        """Wait until all have finished; return those that failed or still run, which are killed."""
        wrong: list[str] = []
        self.follow(lambda: not any(member.alive for member in self.members), seconds)
        for member in self.members:
            status = member.process.poll()
            if status is None:
                wrong.append(f"{member.plan.name} does not finish")
            elif status:
                wrong.append(f"{member.plan.name} ended with {status}: {tail(member.errors)}")
        self.kill()
        return wrong

    def kill(self) -> None:
        for member in self.members:
            if member.alive:
                member.kill()

    def logs(self) -> list[Path]:
        return [log for member in self.members for log in member.logs if log.exists()]


def tail(path: Path, lines: int = 12) -> str:
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(text[-lines:])
