"""One run: servers, workers and faults for so many seconds, then the checkers; the verdict says what they found.

A run that saw too little is void, which is not a pass: fewer than 100 grants, a fault that fired fewer than three
times, or health that was not green.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
from regime import clock_shim, turnstile
from regime.crew import Crew
from regime.faults import Storm
from regime.history import now, read
from regime.kinds import KINDS
from regime.line import Line
from regime.resource import KEY, LOG, entries, write_of
from regime.verdict import Verdict
from regime.worker import Plan
from regime.workloads import WORKLOADS, Evidence, Workload

from coordkit.testing import FaultProxy
from coordkit.testing.processes import RedisProcess, start_redis

GRANTS = 100
FIRED = 3
SLOW = 60.0  # seconds that a run may go on until there are as many grants


def run(
    workload: str, seed: int, seconds: float, *, mutant: str = "", kind: str = "lock", keep: Path | None = None
) -> Verdict:
    """Do one run of ``seconds`` (longer, where every fault must fire three times); ``keep`` takes the logs."""
    what = WORKLOADS[workload]
    verdict = Verdict(workload, seed, seconds, mutant, kind, control=what.control)
    began = now()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordkit-regime-")))
        _Run(what, verdict, directory, stack).go()
        verdict.keep(directory, keep)
    verdict.took = now() - began
    return verdict


class _Run:
    """What one run needs while it lasts."""

    def __init__(self, what: Workload, verdict: Verdict, directory: Path, stack: ExitStack) -> None:
        self._what = what
        self._verdict = verdict
        self._directory = directory
        self._stack = stack
        self._kind = KINDS[verdict.kind]
        self._servers = [self._start() for _ in range(self._kind.servers)]
        direct = [stack.enter_context(redis.Redis.from_url(server.url)) for server in self._servers]
        self._kind.initialise(direct)
        self._resource = stack.enter_context(start_redis()) if what.resource else None

    def _start(self) -> RedisProcess:
        if self._what.clock is not None:
            return self._stack.enter_context(clock_shim.redis_at(self._what.clock, self._directory))
        # Synchronous, so that a server that is killed has kept all that it has said.
        durable = "always" if "restart_server" in self._what.faults else "no"
        return self._stack.enter_context(start_redis(appendonly=durable))

    def go(self) -> None:
        what, verdict = self._what, self._verdict
        server = self._servers[0]  # the one that is hurt
        line = self._stack.enter_context(Line(server.host, server.port))
        proxy = self._stack.enter_context(FaultProxy(line.host, line.port))
        self._locks = (proxy.url if what.faults else server.url, *(each.url for each in self._servers[1:]))
        storm = Storm(server, proxy, line, names=what.names, ttl=what.ttl, log=self._directory / "faults.log")
        self._stack.callback(storm.close)
        self._stop = self._directory / "stop"
        crew = Crew(what.workers, self._plan, on_gap=storm.let_run_out)
        self._stack.callback(crew.kill)
        if not crew.follow(crew.started, 60):
            verdict.void.append(f"the workers did not start: {crew.trouble()}")
            return
        ends = now() + verdict.seconds
        if what.faults:
            storm.rage(crew, what.faults, verdict.seconds, random.Random(verdict.seed))
        crew.follow(lambda: bool(crew.trouble()), max(0.0, ends - now()))
        crew.follow(lambda: bool(crew.trouble()) or crew.grants >= GRANTS, SLOW)  # a slow machine has longer
        if what.faults:
            proxy.heal()
        self._stop.touch()
        verdict.void += crew.finish(30)
        verdict.fired = storm.fired
        verdict.void += storm.unhealthy
        self._judge(crew)

    def _plan(self, name: str) -> Plan:
        what, verdict = self._what, self._verdict
        number = int(name[1:].partition(".")[0])
        return Plan(
            name=name,
            work=what.work,
            seed=str(verdict.seed),
            log=str(self._directory / f"{name}.log"),
            stop=str(self._stop),
            ttl=what.ttl,
            flavour="asyncio" if (number + verdict.seed) % 2 else "blocking",
            actors=what.actors,
            kind=verdict.kind,
            mutant=verdict.mutant,
            names=what.names,
            locks=self._locks,
            resource=self._resource.url if self._resource else "",
            turnstile=what.turnstile,
            options=what.options,
        )

    def _judge(self, crew: Crew) -> None:
        what, verdict = self._what, self._verdict
        ops = read([*crew.logs(), *self._directory.glob("faults.log")])
        verdict.grants = sum(op.what == "acquire" and bool(op.token) for op in ops)
        verdict.found += [f"{op.what} of {op.actor}: {op.failed}" for op in ops if op.failed]
        if not what.faults:
            verdict.found += [f"{op.what} of {op.actor}: {op.unknown}" for op in ops if op.unknown]
        evidence = Evidence(ops, what.ttl, self._kind)
        if self._resource is not None:
            client = redis.Redis.from_url(self._resource.url)
            if what.turnstile:
                self._count(client)
            else:
                log, final = entries(client.lrange(LOG, 0, -1)), write_of(client.get(KEY))
                evidence = Evidence(ops, what.ttl, self._kind, log, final)
            client.close()
        for checker in what.checkers:
            verdict.found += checker(evidence)
        verdict.found += self._left_behind()
        if verdict.grants < GRANTS:
            verdict.void.append(f"{verdict.grants} grants, and {GRANTS} are wanted")
        verdict.void += [
            f"{fault} fired {verdict.fired[fault]} times, and {FIRED} are wanted"
            for fault in what.faults
            if verdict.fired[fault] < FIRED
        ]

    def _count(self, client: redis.Redis) -> None:
        """Ask the turnstile; where several may be in, several must have been, or it shows nothing."""
        self._verdict.found += turnstile.wrong(client, self._what.names)
        wanted = 2 if self._kind.shared else self._kind.at_once
        if (most := turnstile.together(client, self._what.names)) < wanted:
            self._verdict.void.append(f"{most} at once, and {wanted} are wanted")

    def _left_behind(self) -> list[str]:
        """Return the locks that outlived everybody by more than their ttl (P6)."""
        held: list[str] = []
        for server in self._servers:
            client = redis.Redis.from_url(server.url)
            ends = now() + 2 * self._what.ttl + 1
            keys = [f"coordkit:1:{{{name}}}:{part}" for name in self._what.names for part in self._kind.keys]
            while (left := [key for key in keys if client.exists(key)]) and now() < ends:
                time.sleep(0.01)
            held += [f"left behind: {key}, a {client.type(key).decode()}" for key in left]
            lasting = client.scan_iter("coordkit:1:{*")  # a quorum's own keys are none of these
            held += [f"never expires: {key!r}" for key in lasting if client.ttl(key) == -1]
            client.close()
        return held
