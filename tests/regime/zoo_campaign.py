"""One run of W6 or W7: an ensemble, workers and weather for so many seconds, then rest, then the checkers.

A run that saw too little is void, which is not a pass: fewer than 100 terms (or joins), a fault that fired fewer than
three times, or health that was not green.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import redis
from regime.agreement import Agreement
from regime.cables import Cables
from regime.history import Op, now, read
from regime.resource import KEY, LOG, entries, write_of
from regime.verdict import Verdict
from regime.wired import Wired
from regime.zoo_actors import CALM
from regime.zoo_crew import Company, place
from regime.zoo_worker import KAZOO_DIED, Plan
from regime.zoo_workloads import TIMEOUT, WORKLOADS, Evidence, ZooWorkload

from coordkit.testing.processes import start_redis
from coordkit.testing.servers import scaled

GRANTS = 100
FIRED = 3
CHANCES = 9
SLOW = 60.0  # seconds that a run may go on until there are as many grants
NODE_FAULTS = {
    "follower_cut_off",
    "late_answer",
    "quorum_lost",
    "leader_paused",
    "leader_cut_off",
    "follower_restarted",
}


def run(workload: str, seed: int, seconds: float, *, mutant: str = "", keep: Path | None = None) -> Verdict:
    """Do one run of ``seconds`` (longer, where every fault must fire three times); ``keep`` takes the logs."""
    what = WORKLOADS[workload]
    verdict = Verdict(workload, seed, seconds, mutant)
    began = now()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-regime-")))
        _Run(what, verdict, directory, stack).go()
        verdict.keep(directory, keep)
    verdict.took = now() - began
    return verdict


class _Run:
    """What one run needs while it lasts."""

    def __init__(self, what: ZooWorkload, verdict: Verdict, directory: Path, stack: ExitStack) -> None:
        self._what = what
        self._verdict = verdict
        self._directory = directory
        # Not any other's: without the faults that bring it to light a mutant is found by chance, or never.
        self._first = what.mutants[verdict.mutant] if verdict.mutant else what.faults
        hurts_nodes = bool(NODE_FAULTS & {*self._first, *(what.faults if verdict.seconds else ())})
        self._wired = Wired(stack.enter_context(Cables()), 3 if hurts_nodes or not verdict.mutant else 1)
        stack.callback(self._wired.stop)
        self._wired.ready()
        self._resource = stack.enter_context(start_redis()) if what.resource else None
        self._hosts = {f"w{number}": self._wired.hosts_for(f"w{number}") for number in range(what.workers)}
        self._settle, self._stop = directory / "settle", directory / "stop"
        self._weather = what.weather(self._wired, timeout=TIMEOUT, paths=what.paths, log=directory / "faults.log")
        stack.callback(self._weather.close)
        if verdict.mutant:
            self._weather.slack = 10.0
        if hurts_nodes:
            self._weather.agreement = Agreement(self._wired, what.parents)
        self._crew = Company(what.workers, self._plan, long=0.8 * TIMEOUT)
        stack.callback(self._crew.kill)

    def _plan(self, name: str) -> Plan:
        what, verdict = self._what, self._verdict
        number = int(name[1:].partition(".")[0])
        return Plan(
            name=name,
            work=CALM if number >= what.workers - what.calm else what.work,
            seed=str(verdict.seed),
            log=str(self._directory / f"{name}.log"),
            settle=str(self._settle),
            stop=str(self._stop),
            hosts=self._hosts[place(name)],
            timeout=TIMEOUT,
            paths=what.paths,
            resource=self._resource.url if self._resource else "",
            flavour="asyncio" if (number + verdict.seed) % 2 else "blocking",
            mutant=verdict.mutant,
        )

    def go(self) -> None:
        what, verdict, crew, weather = self._what, self._verdict, self._crew, self._weather
        if not crew.follow(crew.started, scaled(60)):
            verdict.void.append(f"the workers did not start: {crew.trouble()}")
            return
        plan = (self._first, what.faults if verdict.seconds else self._first, verdict.seconds, verdict.seed)
        weather.rage(crew, *plan, rounds=FIRED, enough=self._found_out, until=self._tried)
        if not (weather.found or weather.unhealthy or verdict.mutant):
            crew.follow(lambda: bool(crew.trouble()) or crew.grants >= GRANTS, scaled(SLOW))
        self._settle.touch()
        verdict.found += weather.found
        if not (weather.found or weather.unhealthy):  # else it goes on not to go on
            verdict.found += what.at_rest(weather)
        self._stop.touch()
        if not verdict.found:
            verdict.void += crew.finish(scaled(30))
        crew.kill()
        verdict.fired = weather.fired
        if weather.disagreed:
            verdict.fired["nodes disagreed"] = len(weather.disagreed)
        verdict.void += weather.unhealthy
        self._judge()

    def _tried(self) -> bool:
        """Return whether a mutant had its chance: what kills it does not come with each fault that hits."""
        enough = self._crew.grants >= GRANTS and self._weather.fired.total() >= CHANCES * len(self._first)
        return enough or not self._verdict.mutant

    def _found_out(self) -> bool:
        """Return whether a mutant has shown itself: then there is no more to see.

        The logs are read one after the other while they grow, so what is told of the last moment is left out.
        """
        if not self._verdict.mutant:
            return False
        until = now() - 0.1
        ops = [op for op in self._ops() if op.call < until and (op.end < until or op.what == "release")]
        return bool(self._what.checker(Evidence([op for op in ops if op.what != "write"])))

    def _ops(self) -> list[Op]:
        return read([*self._crew.logs(), *self._directory.glob("faults.log")])

    def _evidence(self, ops: list[Op]) -> Evidence:
        if self._resource is None:
            return Evidence(ops)
        client = redis.Redis.from_url(self._resource.url)
        try:
            return Evidence(ops, entries(client.lrange(LOG, 0, -1)), write_of(client.get(KEY)))
        finally:
            client.close()

    def _judge(self) -> None:
        what, verdict = self._what, self._verdict
        ops = self._ops()
        verdict.grants = self._crew.grants
        verdict.found += [f"{op.what} of {op.actor}: {op.failed}" for op in ops if op.failed]
        verdict.found += [
            f"{op.what}: {op.actor}, and no client recovers of that" for op in ops if op.what == KAZOO_DIED
        ]
        verdict.found += what.checker(self._evidence(ops))
        if verdict.grants < GRANTS and not (verdict.mutant and verdict.found):  # it ends when it is found
            verdict.void.append(f"{verdict.grants} grants, and {GRANTS} are wanted")
        verdict.void += [
            f"{fault} fired {verdict.fired[fault]} times, and {FIRED} are wanted"
            for fault in what.faults
            if verdict.fired[fault] < FIRED and not verdict.mutant
        ]
