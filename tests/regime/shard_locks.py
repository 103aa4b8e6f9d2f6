"""W8: no lock is held on two shards, and no token falls, while slots change owners under held locks.

Processes acquire and give back locks by their names over a sharded client. Meanwhile rounds of ``shard_scene.py`` are
played: other weights, a shard that is drained and comes back empty; clients that are stopped across a change, or while
they bring a lock's keys; clients and movers killed; shards restarted with their AOF. What the locks' users saw must be
a history of locks that have one owner at a time, with rising tokens; in the end each lock's keys are on the shard that
owns them and nowhere else, and none is held for ever.

Void, which is not a pass: fewer than 100 grants, too few leases that were held while their slot moved, a fault that did
not strike.
"""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import redis
from regime.checkers.lease_model import lease_model
from regime.checkers.token_regressions import token_regressions
from regime.checkers.untold_losses import untold_losses
from regime.history import Op, now, read
from regime.kinds import KINDS
from regime.loss import MEMORY
from regime.loss_library import Locks
from regime.loss_place import Place
from regime.shard_scene import FAULTS, Scene
from regime.shard_worker import Plan
from regime.verdict import Verdict
from regime.workloads import DRIFT

from coordkit.routing import slot_of
from coordkit.testing.servers import scaled

NAMES = tuple(f"job{number}" for number in range(12))
TTL = 1.0  # not more: a lock that is handed on is claimed for a second at most, and the model takes that for its ttl
WORKERS = 4
ACTORS = 4
GRANTS = 100
HELD = 10  # leases that were held while their slot moved
ROUNDS = 4


def run(seed: int, seconds: float, *, mutant: str = "", kind: str = "lock", keep: Path | None = None) -> Verdict:
    """Do one run: four rounds, or more, until ``seconds`` are over and every fault has struck."""
    verdict = Verdict("W8", seed, seconds, mutant, kind)
    began = now()
    with ExitStack() as stack:
        memory = MEMORY if Path(MEMORY).is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-regime-", dir=memory)))
        _Run(verdict, directory, stack).go()
        verdict.keep(directory, keep)
    verdict.took = now() - began
    return verdict


class _Run:
    """What one run needs while it lasts."""

    def __init__(self, verdict: Verdict, directory: Path, stack: ExitStack) -> None:
        self._verdict = verdict
        self._directory = directory
        self._stop = directory / "stop"
        self._scene = Scene(
            Locks(),
            verdict.seed,
            directory,
            stack,
            keys={name: slot_of(name) for name in NAMES},
            client=self._plan,
            clients=WORKERS,
            faults=FAULTS,
            mutant=verdict.mutant,
        )

    def _plan(self, name: str, place: Place) -> Plan:
        verdict, number = self._verdict, int(name[1:].partition(".")[0])
        return Plan(
            name=name,
            work="",
            seed=str(verdict.seed),
            log=str(self._directory / f"{name}.log"),
            stop=str(self._stop),
            ttl=TTL,
            flavour="asyncio" if (number + verdict.seed) % 2 else "blocking",
            actors=ACTORS,
            kind=verdict.kind,
            bug=verdict.mutant,
            names=NAMES,
            place=vars(place),
            batch=str(self._directory / "batch"),
        )

    def go(self) -> None:
        verdict, scene = self._verdict, self._scene
        if not scene.began():
            verdict.void += scene.void
            return
        rounds, ends = 0, now() + verdict.seconds
        while not (scene.crew.trouble() or scene.void or (verdict.mutant and self._wrong())):
            if rounds >= ROUNDS and now() >= ends and (not scene.missing() or rounds >= 3 * ROUNDS):
                break
            scene.round()
            rounds += 1
        scene.rest(0.5)
        self._stop.touch()
        verdict.void += scene.crew.finish(scaled(30))
        self._judge()

    def _ops(self) -> list[Op]:
        return read(self._scene.crew.logs())

    def _wrong(self) -> list[str]:
        """Return what the history says so far: what had not ended by now has an unknown outcome."""
        until = now() - 0.05
        return self._check([_as_of(op, until) for op in self._ops() if op.call < until])

    def _check(self, ops: list[Op]) -> list[str]:
        found = untold_losses(ops)
        for name in NAMES:
            mine = [op for op in ops if op.name == name]
            found += [f"{name}: {line}" for line in lease_model(mine, ttl=TTL, drift=DRIFT) + token_regressions(mine)]
        return found

    def _judge(self) -> None:
        verdict, scene, ops = self._verdict, self._scene, self._ops()
        verdict.grants = sum(op.what == "acquire" and bool(op.token) for op in ops)
        verdict.fired = scene.fired
        verdict.found += [f"{op.what} of {op.actor}: {op.failed}" for op in ops if op.failed]
        verdict.found += scene.found + self._check(ops)
        verdict.found += self._left_behind() if scene.settled() else []
        verdict.void += scene.void + [f"{fault} did not strike" for fault in scene.missing()]
        held = self._held_in_motion(ops)
        verdict.fired["held in motion"] = held
        if verdict.grants < GRANTS:
            verdict.void.append(f"{verdict.grants} grants, and {GRANTS} are wanted")
        if held < HELD:
            verdict.void.append(f"{held} leases were held while their slots moved, and {HELD} are wanted")

    def _held_in_motion(self, ops: list[Op]) -> int:
        """Return how many leases were held at a moment at which their slot moved."""
        released = {(op.name, op.token): op.call for op in ops if op.what == "release"}
        count = 0
        for op in ops:
            if op.what == "acquire" and op.token:
                ends = released.get((op.name, op.token), op.end)
                count += any(
                    slot_of(op.name) in window.slots and op.end < window.ends and window.begins < ends
                    for window in self._scene.windows
                )
        return count

    def _left_behind(self) -> list[str]:
        """Return the locks that outlive everybody, and the keys that are where they do not belong."""
        owners = self._scene.state().owners
        found: list[str] = []
        held = [f"coordkit:1:{{{name}}}:{part}" for name in NAMES for part in KINDS[self._verdict.kind].keys]
        for name, server in self._scene.servers.items():
            with closing(redis.Redis.from_url(server.url, decode_responses=True)) as client:
                ends = now() + 2 * TTL + 1
                while (left := [key for key in held if client.exists(key)]) and now() < ends:
                    time.sleep(0.01)
                found += [f"left behind: {key} on {name}, for {client.pttl(key)} ms" for key in left]
                found += [
                    f"strayed: {key} on {name}, owned by {owners[slot_of(key)]}"
                    for key in client.scan_iter("coordkit:1:{job*")
                    if owners[slot_of(key)] != name
                ]
        return found


def _as_of(op: Op, until: float) -> Op:
    if op.end < until:
        return op
    asked = {"name": op.name, "token": op.token if op.what == "release" else None, "timeout": op.timeout}
    return Op(op.actor, op.what, op.call, math.inf, asked)
