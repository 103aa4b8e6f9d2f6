"""What is done to the workers and to the server of a run, from outside, by a seeded plan; each fault is counted.

A fault counts as fired only when it is known to have hit. Before and after each one health must be green: the server
answers, all workers run, and after it somebody is granted a lock within a bound.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from regime.crew import Crew
from regime.history import Recorder, now
from regime.line import Line

from coordkit.testing import FaultProxy
from coordkit.testing.processes import RedisProcess
from coordkit.testing.servers import scaled

_REQUEST = b"EVALSHA"
_ANSWERS = (b"*2\r\n", b"*3\r\n", b":1\r\n", b"\r\n")  # granted, refused, given back or renewed, any


class Storm:
    """Hurts one run; ``fired`` says how often in which way, ``unhealthy`` what was not green."""

    def __init__(
        self, server: RedisProcess, proxy: FaultProxy, line: Line, *, names: tuple[str, ...], ttl: float, log: Path
    ) -> None:
        self.server = server
        self.fired: Counter[str] = Counter()
        self.unhealthy: list[str] = []
        self._proxy = proxy
        self._line = line
        self._names = names
        self._ttl = ttl
        self._recorder = Recorder(log)
        self._direct = redis.Redis.from_url(server.url, socket_timeout=5)

    def rage(
        self, crew: Crew, kinds: tuple[str, ...], seconds: float, chance: random.Random, *, rounds: int = 3
    ) -> None:
        """Fire every kind so often, in random order; then go on at random until the time is over."""
        self.crew, self.chance = crew, chance
        ends = now() + seconds
        plan = [kind for kind in kinds for _ in range(rounds)]
        chance.shuffle(plan)
        while (plan or now() < ends) and not self.unhealthy:
            if now() > ends + 3 * seconds + 60:
                self.unhealthy.append(f"the faults took too long: {len(plan)} were still to come")
                break
            kind = plan.pop() if plan else chance.choice(kinds)
            self._health(f"before {kind}")
            if FAULTS[kind](self):
                self.fired[kind] += 1
            else:
                plan.insert(0, kind)  # it hit nothing: once more, later
            self._health(f"after {kind}")
            crew.follow(lambda: False, chance.uniform(0.02, 0.12))

    def let_run_out(self, name: str) -> bool:
        """End the lease of ``name`` early at the server, and write that down; return whether there was one."""
        began = now()
        key = f"coordkit:1:{{{name}}}:lock"
        # An expiry in the past deletes at once, in one step; with 1 ms the owner might renew in between.
        if not self._direct.pexpireat(key, 1):
            return False
        self._recorder.note("faults", "forget", since=began, name=name)
        return True

    def close(self) -> None:
        self._recorder.close()
        self._direct.close()

    def _health(self, when: str) -> None:
        if not self.crew.follow(self.server.ready, scaled(20)):
            self.unhealthy.append(f"{when}: the server does not answer")
        self.unhealthy += [f"{when}: {trouble}" for trouble in self.crew.trouble()]
        grants = self.crew.grants
        bound = 4 * self._ttl + scaled(15)
        if not self.crew.follow(lambda: self.crew.grants > grants, bound):
            self.unhealthy.append(f"{when}: nobody was granted a lock for {bound:.1f} s")

    # -- the faults; each returns whether it hit

    def pause_worker(self) -> bool:
        member = self.chance.choice(self.crew.members)
        member.send(signal.SIGSTOP)
        self.crew.follow(lambda: False, 1.5 * self._ttl)
        member.send(signal.SIGCONT)
        return True

    def pause_before_the_look(self) -> bool:
        """Stop a worker between its read and its look at the lease, until another has read."""
        return self._pause_in_the_gap(signal.SIGUSR1)

    def pause_after_the_look(self) -> bool:
        """Stop a worker between its look at the lease and its write: only the fence is left to refuse it."""
        return self._pause_in_the_gap(signal.SIGUSR2)

    def _pause_in_the_gap(self, gap: signal.Signals) -> bool:
        member = self.chance.choice(self.crew.members)
        if not self.crew.stops(member, gap, 4.0):
            return False
        reads = self.crew.reads
        other = self.crew.follow(lambda: self.crew.reads > reads, 3 * self._ttl + 1)
        member.send(signal.SIGCONT)
        return other

    def kill_worker(self) -> bool:
        member = self.chance.choice(self.crew.members)
        member.kill()
        member.start()
        return self.crew.follow(self.crew.started, 30)

    def pause_server(self) -> bool:
        self.server.pause()
        time.sleep(1.5 * self._ttl)
        self.server.resume()
        return True

    def restart_server(self) -> bool:
        self.server.restart()
        return True

    def kill_clients(self) -> bool:
        killed = int(self._direct.client_kill_filter(_type="normal", skipme=True))
        with contextlib.suppress(redis.ResponseError):
            killed += int(self._direct.client_kill_filter(_type="pubsub"))
        return killed > 0

    def lose_reply(self) -> bool:
        answer = self.chance.choice(_ANSWERS)
        return self._hits("drop_reply_matching", lambda: self._proxy.drop_reply_matching(answer))

    def lose_request(self) -> bool:
        return self._hits("drop_request_matching", lambda: self._proxy.drop_request_matching(_REQUEST))

    def duplicate_request(self) -> bool:
        was = self._line.fired["duplicate"]
        self._line.duplicate_next(_REQUEST)
        return self.crew.follow(lambda: self._line.fired["duplicate"] > was, 2.0)

    def expire_early(self) -> bool:
        """End a lease that is about to be renewed on a quiet name; every fourth time, any."""
        self.crew.held_long.clear()
        if self.fired["expire_early"] % 4 != 3:
            self.crew.follow(lambda: bool(self.crew.held_long), 2.0)
        names = self.crew.held_long or self._names
        return self.crew.follow(lambda: self.let_run_out(self.chance.choice(names)), 2.0)

    def slow_answers(self) -> bool:
        """For a while every answer takes most of a ttl."""
        self._proxy.latency = 0.3 * self._ttl
        self.crew.follow(lambda: False, 1.5 * self._ttl)
        self._proxy.latency = 0.0
        return True

    def _hits(self, switch: str, arm: Callable[[], Any]) -> bool:
        was = self._proxy.hits[switch]
        arm()
        if self.crew.follow(lambda: self._proxy.hits[switch] > was, 2.0):
            return True
        self._proxy.heal()  # nothing matched: disarm
        return False


FAULTS: dict[str, Callable[[Storm], bool]] = {
    name: getattr(Storm, name)
    for name in (
        "pause_worker",
        "pause_before_the_look",
        "pause_after_the_look",
        "kill_worker",
        "pause_server",
        "restart_server",
        "kill_clients",
        "lose_reply",
        "lose_request",
        "duplicate_request",
        "expire_early",
        "slow_answers",
    )
}
