"""The loss experiment: processes count while the counters move from shard to shard, and all that can go wrong does.

One run plays rounds of ``shard_scene.py`` until there were as many operations as are wanted. In the end each counter
must stand, on the shard that owns it by the map, at what was acknowledged, or between that and what nobody can know.

A run is void, which is not a pass, if too little moved, if nobody was stopped across a change, if too few operations
were done on counters while they moved, or if a fault did not strike.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import redis
from regime.history import now
from regime.loss_ledger import counts, lost, repeated, within, wrong
from regime.loss_place import COUNTERS, Place, counter, slot
from regime.loss_subjects import CONTROLS, SUBJECTS
from regime.loss_worker import Plan
from regime.shard_scene import FAULTS, Scene

from coordkit.testing.processes import RedisProcess
from coordkit.testing.servers import scaled

CLIENTS = 4
GENTLE = ("kill_mover_at_once", "kill_mover", "roll_back", "kill_client")
"""What befalls the controls, and the sketches: whoever is stopped keeps the connection over which it will lose."""
IN_MOTION = 100  # operations on counters that were moving
MEMORY = "/dev/shm"  # noqa: S108 - a directory of our own is made there, where fsync costs nothing: no machine is lost


@dataclass
class Verdict:
    """What came of a run."""

    subject: str
    seed: int
    operations: int
    mutant: str = ""
    acknowledged: int = 0
    unknown: int = 0
    lost: int = 0
    in_motion: int = 0
    moved: int = 0
    rounds: int = 0
    across: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    void: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    took: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.void and not self.found

    def too_little(self, missing: Sequence[str]) -> list[str]:
        """Return what there was too little of for the run to say anything; ``missing`` are faults."""
        why = [f"{fault} did not strike" for fault in missing]
        if self.in_motion < IN_MOTION:
            why.append(f"{self.in_motion} operations in motion, and {IN_MOTION} are wanted")
        if not self.across:
            why.append("nobody was stopped across a change")
        if not self.moved:
            why.append("nothing moved")
        return why

    def __str__(self) -> str:
        said = "void" if self.void else "failed" if self.found else "passed"
        faults = ", ".join(f"{count} {fault}" for fault, count in sorted(self.fired.items()))
        title = f"{self.subject} {self.mutant}".strip() + f" seed {self.seed}: {said} in {self.took:.0f} s"
        counted = f"{self.acknowledged} acknowledged, {self.lost} lost, {self.unknown} unknown"
        moved = f"{self.moved} keys moved in {self.rounds} rounds, {self.across} stopped across"
        lines = [f"{title}: {counted}, {self.in_motion} in motion; {moved}; {faults}"]
        lines += [f"  void: {why}" for why in self.void[:10]]
        lines += [f"  {what}" for what in self.found[:10]]
        if len(self.found) > 10:
            lines.append(f"  ... {len(self.found) - 10} more")
        if not self.passed:
            words = f"python tests/regime loss --subject {self.subject} --seed {self.seed}"
            words += f" --mutant {self.mutant}" * bool(self.mutant)
            lines.append(f"  again: {words} --operations {self.operations}")
        return "\n".join(lines)


def run(
    subject: str,
    seed: int,
    operations: int,
    *,
    rounds: int = 3,
    pause: float = 0.0,
    mutant: str = "",
    keep: Path | None = None,
) -> Verdict:
    """Do one run: so many rounds at least, and as many more as the operations take; ``keep`` takes the logs.

    ``pause`` is what each actor waits after each operation, in seconds, to leave the machine to others.
    """
    verdict = Verdict(subject, seed, operations, mutant)
    began = now()
    with ExitStack() as stack:
        memory = MEMORY if Path(MEMORY).is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-loss-", dir=memory)))
        _Run(verdict, directory, stack, pause).go(rounds)
        if keep is not None:
            shutil.copytree(directory, keep / f"{subject}-{seed}", dirs_exist_ok=True)
    verdict.took = now() - began
    return verdict


class _Run:
    """What one run needs while it lasts."""

    def __init__(self, verdict: Verdict, directory: Path, stack: ExitStack, pause: float) -> None:
        self._verdict = verdict
        self._pause = pause
        self._directory = directory
        self._stop = directory / "stop"
        self._must_lose = verdict.subject in CONTROLS or bool(verdict.mutant)
        subject = SUBJECTS[verdict.subject]
        faults = [fault for fault in FAULTS if fault in GENTLE or not self._must_lose]
        self._scene = Scene(
            subject,
            verdict.seed,
            directory,
            stack,
            keys={counter(number): slot(number) for number in range(COUNTERS)},
            client=self._client,
            clients=CLIENTS,
            faults=[fault for fault in faults if fault not in subject.spared],
            mutant=verdict.mutant,
        )

    def _client(self, name: str, place: Place) -> Plan:
        number = int(name[1:].partition(".")[0])
        return Plan(
            name=name,
            subject=self._verdict.subject,
            seed=str(self._verdict.seed),
            log=str(self._directory / f"{name}.log"),
            place=vars(place),
            stop=str(self._stop),
            batch=str(self._directory / "batch"),
            flavour="asyncio" if (number + self._verdict.seed) % 2 else "blocking",
            mutant=self._verdict.mutant,
            pause=self._pause,
        )

    def go(self, rounds: int) -> None:
        verdict, scene = self._verdict, self._scene
        if not scene.began():
            verdict.void += scene.void
            return
        while self._goes_on(rounds) and not scene.crew.trouble():
            before = scene.state().owners
            scene.round()
            self._count_moved(before)
            verdict.rounds += 1
            if scene.void or (self._must_lose and repeated(counts(self._ledgers()))):
                break  # what has shown that it loses has no more to show
        self._stop.touch()
        verdict.void += scene.crew.finish(scaled(30))
        self._judge()

    def _goes_on(self, rounds: int) -> bool:
        verdict = self._verdict
        if verdict.rounds < rounds or self._done() < verdict.operations:
            return True
        return bool(self._missing()) and verdict.rounds < 3 * rounds

    def _missing(self) -> list[str]:
        return [] if self._must_lose else self._scene.missing()

    def _done(self) -> int:
        """Return about how many operations have been done: each takes two lines."""
        return sum(log.stat().st_size for log in self._ledgers()) // 50

    def _ledgers(self) -> list[Path]:
        return [path for log in self._scene.crew.logs() if (path := Path(f"{log}.counts")).exists()]

    def _count_moved(self, before: dict[int, str]) -> None:
        owners = self._scene.state().owners
        for name, server in self._scene.servers.items():
            came = [n for n in range(COUNTERS) if before[slot(n)] != name and owners[slot(n)] == name]
            self._verdict.moved += len(_there(server, came))

    # -- the judgement

    def _judge(self) -> None:
        verdict, scene = self._verdict, self._scene
        done, settled = counts(self._ledgers()), scene.settled()
        stands = self._stands() if settled else {}
        windows = [
            (w.begins, w.ends, frozenset(n for n in range(COUNTERS) if slot(n) in w.slots)) for w in scene.windows
        ]
        verdict.acknowledged = sum(count.answer is not None for count in done)
        verdict.unknown = sum(count.answer is None and count.sent for count in done)
        verdict.lost = lost(done, stands) if settled else 0
        verdict.in_motion = within(done, windows)
        verdict.across, verdict.fired = scene.across, scene.fired
        verdict.found += scene.found
        verdict.found += wrong(done, stands) + self._left_behind() if settled else repeated(done)
        verdict.void += scene.void
        verdict.void += verdict.too_little(self._missing())

    def _stands(self) -> dict[int, int]:
        """Return what each counter stands at on its owner."""
        owners = self._scene.state().owners
        stands: dict[int, int] = {}
        for name, server in self._scene.servers.items():
            with closing(redis.Redis.from_url(server.url)) as client:
                mine = [number for number in range(COUNTERS) if owners[slot(number)] == name]
                values = client.mget([counter(number) for number in mine]) if mine else []
                stands |= {number: int(value or 0) for number, value in zip(mine, values, strict=True)}
        return stands

    def _left_behind(self) -> list[str]:
        """Return the counters that stand on a shard that does not own them: somebody wrote there too late."""
        owners = self._scene.state().owners
        found: list[str] = []
        for name, server in self._scene.servers.items():
            others = [number for number in range(COUNTERS) if owners[slot(number)] != name]
            found += [
                f"left behind: counter {number} on {name}, owned by {owners[slot(number)]}"
                for number in _there(server, others)
            ]
        return found


def _there(server: RedisProcess, numbers: Sequence[int]) -> list[int]:
    """Return which of these counters a server has."""
    with closing(redis.Redis.from_url(server.url)) as client:
        values = client.mget([counter(number) for number in numbers]) if numbers else []
    return [number for number, value in zip(numbers, values, strict=True) if value is not None]
