"""One run of W6 or W7: an ensemble, workers and weather for so many seconds, then rest, then the checkers.

A run that saw too little is void, which is not a pass: fewer than 100 terms (or joins), a fault that fired fewer than
three times, or health that was not green.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import redis
from regime.cables import Cables
from regime.history import now, read
from regime.resource import KEY, LOG, entries, write_of
from regime.verdict import Verdict
from regime.wired import Wired
from regime.zoo_crew import Company, place
from regime.zoo_worker import Plan
from regime.zoo_workloads import TIMEOUT, WORKLOADS, Evidence, ZooWorkload

from coordkit.testing.processes import start_redis
from coordkit.testing.servers import scaled

GRANTS = 100
FIRED = 3


def run(workload: str, seed: int, seconds: float, *, mutant: str = "", keep: Path | None = None) -> Verdict:
    """Do one run of ``seconds`` (longer, where every fault must fire three times); ``keep`` takes the logs."""
    what = WORKLOADS[workload]
    verdict = Verdict(workload, seed, seconds, mutant)
    began = now()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-regime-")))
        _Run(what, verdict, directory, stack).go()
        if keep is not None:
            shutil.copytree(directory, keep, dirs_exist_ok=True)
    verdict.took = now() - began
    return verdict


class _Run:
    """What one run needs while it lasts."""

    def __init__(self, what: ZooWorkload, verdict: Verdict, directory: Path, stack: ExitStack) -> None:
        self._what = what
        self._verdict = verdict
        self._directory = directory
        self._wired = Wired(stack.enter_context(Cables()))
        stack.callback(self._wired.stop)
        self._wired.ready()
        self._resource = stack.enter_context(start_redis()) if what.resource else None
        self._hosts = {f"w{number}": self._wired.hosts_for(f"w{number}") for number in range(what.workers)}
        self._settle, self._stop = directory / "settle", directory / "stop"
        self._weather = what.weather(self._wired, timeout=TIMEOUT, paths=what.paths, log=directory / "faults.log")
        stack.callback(self._weather.close)
        self._crew = Company(what.workers, self._plan, long=0.8 * TIMEOUT)
        stack.callback(self._crew.kill)

    def _plan(self, name: str) -> Plan:
        what, verdict = self._what, self._verdict
        number = int(name[1:].partition(".")[0])
        return Plan(
            name=name,
            work=what.work,
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
        first = what.mutants[verdict.mutant] if verdict.mutant in what.mutants else what.faults
        weather.rage(crew, first, what.faults, verdict.seconds, verdict.seed, rounds=FIRED)
        self._settle.touch()
        verdict.found += weather.found
        if not weather.found:  # else it goes on not to go on
            verdict.found += what.at_rest(weather)
        self._stop.touch()
        verdict.void += [] if weather.found else crew.finish(scaled(30))
        crew.kill()
        verdict.fired = weather.fired
        verdict.void += weather.unhealthy
        self._judge()

    def _judge(self) -> None:
        what, verdict = self._what, self._verdict
        ops = read([*self._crew.logs(), *self._directory.glob("faults.log")])
        verdict.grants = self._crew.grants
        verdict.found += [f"{op.what} of {op.actor}: {op.failed}" for op in ops if op.failed]
        evidence = Evidence(ops)
        if self._resource is not None:
            client = redis.Redis.from_url(self._resource.url)
            evidence = Evidence(ops, entries(client.lrange(LOG, 0, -1)), write_of(client.get(KEY)))
            client.close()
        verdict.found += what.checker(evidence)
        if verdict.grants < GRANTS:
            verdict.void.append(f"{verdict.grants} grants, and {GRANTS} are wanted")
        verdict.void += [
            f"{fault} fired {verdict.fired[fault]} times, and {FIRED} are wanted"
            for fault in what.faults
            if verdict.fired[fault] < FIRED and not verdict.mutant
        ]
