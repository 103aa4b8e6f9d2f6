"""What is done to workers and to a ZooKeeper ensemble from outside, by a seeded plan; each fault is counted.

A fault counts as fired only when it is known to have hit. Before and after each one health must be green: all workers
run, all nodes serve and one leads; and the work must go on within a bound, or that is a finding.
"""

from __future__ import annotations

import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from regime.agreement import Agreement
from regime.history import Recorder, now
from regime.wired import GHOST, Wired
from regime.zoo_crew import Company, place

from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ServerFailed, scaled

NO_ANSWER = (KazooException, KazooTimeoutError)


class Weather:
    """Hurts one run.

    ``fired`` says how often in which way, ``unhealthy`` what was not green, ``found`` what is wrong, and ``disagreed``
    which nodes said something else than the leader.
    """

    def __init__(self, wired: Wired, *, timeout: float, paths: tuple[str, ...], log: Path) -> None:
        self.wired = wired
        self.cables = wired.cables
        self.timeout = timeout
        self.paths = paths
        self.fired: Counter[str] = Counter()
        self.unhealthy: list[str] = []
        self.found: list[str] = []
        self.recorder = Recorder(log)
        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
        self.direct = KazooClient(wired.ensemble.hosts, timeout=20.0, connection_retry=retry)
        self.direct.start(30)
        self.agreement: Agreement | None = None  # asked for where faults of the ensemble are among the plan
        self.disagreed: list[str] = []
        self._probed = 0.0  # when we did so last
        self.slack = 30.0  # seconds that a busy machine may take for what takes none

    def rage(
        self,
        crew: Company,
        first: tuple[str, ...],
        others: tuple[str, ...],
        seconds: float,
        seed: int,
        *,
        rounds: int,
        enough: Callable[[], bool],
        until: Callable[[], bool],
    ) -> None:
        """Fire the first so often each, in random order; then any of the others until time is over and ``until()``
        holds, or ``enough()`` does.
        """
        self.crew, self.chance = crew, random.Random(seed)
        ends = now() + seconds
        plan = [kind for kind in first for _ in range(rounds)]
        self.chance.shuffle(plan)
        while (plan or now() < ends or not until()) and not (self.unhealthy or self.found or enough()):
            if now() > ends + 2 * seconds + scaled(60.0 * len(first)):
                if plan:
                    self.unhealthy.append(f"the faults took too long: {len(plan)} were still to come")
                break
            wanted = bool(plan)
            kind = plan.pop() if plan else self.chance.choice(others)
            self._fire(kind, plan, wanted=wanted)

    def _fire(self, kind: str, plan: list[str], *, wanted: bool) -> None:
        self._health(f"before {kind}")
        began = now()
        hit = False
        try:
            hit = bool(getattr(self, kind)())
        except (*NO_ANSWER, ServerFailed) as error:
            self.unhealthy.append(f"{kind}: {error!r}")
        finally:
            self.cables.heal()
            for node in self.wired.nodes.values():
                node.resume()
        self.recorder.note("faults", "fault", since=began, kind=kind, hit=hit)
        if self.agreement is not None and not self.unhealthy:
            self._restore()
        if hit:
            self.fired[kind] += 1
        elif wanted:
            plan.insert(0, kind)  # it hit nothing: once more, later
        self._health(f"after {kind}")

    def _restore(self) -> None:
        """See to it that writes are answered, and that the nodes agree: see ``agreement.py``."""
        began = now()
        try:
            self.wired.ready(30.0)
            assert self.agreement is not None
            if still := self.agreement.move():
                self.fired["ensemble stood still"] += 1
                self.recorder.note("faults", "stood still", since=began, nodes=still)
            disagreed = self.agreement.restore()
        except ServerFailed as error:
            self.unhealthy.append(str(error))
            return
        for wrong in disagreed:
            self.disagreed.append(wrong)
            self.recorder.note("faults", "disagreed", since=began, wrong=wrong)

    def close(self) -> None:
        if self.agreement is not None:
            self.agreement.close()
        self.recorder.close()
        close_kazoo(self.direct)

    # -- what is asked of a run meanwhile

    @property
    def patience(self) -> float:
        """Seconds within which work must go on again."""
        return 3 * self.timeout + scaled(self.slack)

    def _health(self, when: str) -> None:
        try:
            self.wired.ready(30.0)
        except ServerFailed as error:
            self.unhealthy.append(f"{when}: {error}")
        self.unhealthy += [f"{when}: {trouble}" for trouble in self.crew.trouble()]
        if not self.unhealthy and not self.found:
            self.found += [f"{when}: {wrong}" for wrong in self.stuck()]

    def goes_on(self, going: Callable[[], bool]) -> bool:
        """Wait until work goes on; return whether it did, or whether a machine that is too slow keeps it from that."""
        before, late, asked = self.crew.connected, [0.0], now()
        if self.crew.follow(lambda: going() or self._probe(late), self.patience):
            return True
        again = self.crew.connected - before
        slow = again > len(self.crew.members)  # nothing is done to them now, and their sessions end all the same
        try:
            self.ask(self.direct.exists_async("/"))
        except NO_ANSWER:
            slow = True
        if slow or sum(each > self.timeout / 2 for each in late) >= 5:  # or they cannot even connect
            why = f"{again} connections; answers took up to {max(late):.1f} s; {self.wired.says()}"
            why = f"the machine is too slow, or the ensemble stands still ({why})"
            self.unhealthy.append(f"nothing goes on for {now() - asked:.1f} s: {why}")
            return True
        return False

    def _probe(self, late: list[float]) -> bool:
        """Ask the servers for nothing, now and then, and write down how long that took."""
        asked = now()
        if asked >= self._probed + 0.2:
            self._probed = asked
            self.direct.exists_async("/").rawlink(lambda _: late.append(now() - asked))
        return False

    def stuck(self) -> list[str]:
        """Return what does not go on within ``patience``."""
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        self.crew.follow(lambda: False, seconds)

    def ask(self, result: Any) -> Any:
        """Return an answer from the servers; raises one of ``NO_ANSWER``."""
        return result.get(True, scaled(10.0))

    # -- faults of workers

    def pause(self, worker: str, seconds: float) -> bool:
        member = self.crew.member(worker)
        if member is None:
            return False
        member.send(signal.SIGSTOP)
        try:
            self.wait(seconds)
        finally:
            member.send(signal.SIGCONT)
        return True

    def kill(self, worker: str, *, before_the_next: Callable[[], object] = lambda: None) -> bool:
        """Kill a worker and put another in its place."""
        member = self.crew.member(worker)
        if member is None:
            return False
        began = now()
        member.kill()
        self.recorder.note("faults", "killed", since=began, worker=worker)
        self.crew.views.pop(worker, None)
        before_the_next()
        member.start()
        return self.crew.follow(self.crew.started, scaled(30.0))

    def expire(self, worker: str) -> bool:
        """End a worker's session at the servers."""
        session, began = self.crew.sessions.get(worker), now()
        if self.crew.member(worker) is None or not session:
            return False
        hosts = [(node.host, node.port) for node in self.wired.nodes.values()]
        kill_session(SimpleNamespace(client_id=(session[0], bytes.fromhex(session[1])), hosts=hosts))
        self.recorder.note("faults", "expired", since=began, worker=worker)
        return True

    def forget(self, worker: str) -> bool:
        """Let a worker's client believe that its session has expired; the servers keep it until its timeout."""
        member = self.crew.member(worker)
        if member is None:
            return False
        session = self.crew.sessions.get(worker)
        member.send(signal.SIGUSR1)
        return self.crew.follow(lambda: self.crew.sessions.get(worker) != session, scaled(5.0))

    def cut(self, worker: str, seconds: float, *, requests: bool, replies: bool) -> bool:
        """Lose what a worker sends, or what it is sent, or both."""
        ways = self.wired.between(place(worker))
        ways = ways * requests + [(there, here) for here, there in ways] * replies
        self.cables.stop(*ways)
        self.wait(seconds)
        self.cables.hang_up(place(worker))
        self.cables.let_go(*ways)
        return True

    # -- faults of the ensemble

    def quorum_lost(self) -> bool:
        """Keep all nodes apart until none serves any more; or for a moment, and the sessions live on."""
        self.cables.stop(*self.wired.split())
        if self.fired["quorum_lost"] % 3 == 2:
            self.wait(0.5 * self.timeout)
        else:
            for node in self.wired.nodes:
                self.wired.wait_for(node, None)
        self._heal()
        return True

    def _heal(self) -> None:
        """Join the nodes again; what they had said to each other until they were kept apart is lost."""
        for one, other in self.wired.split():
            if one < other:
                self.cables.hang_up(one, other)
        self.cables.heal()
        self.wired.ready()

    def leader_paused(self) -> bool:
        """Stop the leader of the ensemble where it stands until another was elected."""
        node = self.wired.leader()
        self.wired.nodes[node].pause()
        done = self._another_leads(node)
        self.wired.nodes[node].resume()
        self.wired.ready()
        return done

    def leader_cut_off(self) -> bool:
        """Cut the leader of the ensemble off from the others, in one direction or in both; not from its clients."""
        node = self.wired.leader()
        self.cables.stop(
            *self.chance.choice([self.wired.around(node), [w for w in self.wired.around(node) if w[0] == node]])
        )
        done = self._another_leads(node)
        self._heal()
        return done

    def _another_leads(self, node: str) -> bool:
        others = [each for each in self.wired.nodes if each != node]
        return self.crew.follow(lambda: any(self.wired.mode(each) == "leader" for each in others), GHOST + scaled(20.0))

    def follower_restarted(self) -> bool:
        followers = [node for node in self.wired.nodes if self.wired.mode(node) == "follower"]
        if not followers:
            return False
        node = self.wired.nodes[self.chance.choice(followers)]
        node.kill()
        self.wait(0.3 * self.timeout)
        node.start()
        self.wired.ready()
        return True


def quietly(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returned; None if the servers did not answer, or said no."""
    with contextlib.suppress(*NO_ANSWER):
        return work()
    return None
