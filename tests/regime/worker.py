"""One worker process: its actors do the work of one workload over coordkit's public API and write down what happened.

Started by ``crew.py`` with a plan in JSON. The parent asks it, by a signal, to stop itself at the next gap between
reading and writing: SIGUSR1 before the look at the lease, SIGUSR2 after it. It cannot outlive its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from regime import actors, mutants, resource
from regime.flavours import Flavour, maybe
from regime.history import Recorder, now
from regime.kinds import KINDS

from coordkit import LeaseLost, NotAcquired, StoreUnavailable

TOLD_WITHIN = 2.0
"""Seconds after its end in which the loss of a lease must have been announced; a timer needs next to none of them."""


@dataclass(frozen=True)
class Plan:
    """What a worker is to do."""

    module: ClassVar[str] = "regime.worker"

    name: str
    work: str  # the function in actors.py
    seed: str
    log: str
    stop: str  # a file: when it is there, all finish
    ttl: float
    flavour: str = "blocking"
    actors: int = 4
    kind: str = "lock"
    mutant: str = ""
    names: tuple[str, ...] = ("job",)
    locks: tuple[str, ...] = ()  # URLs of the servers that keep the locks
    resource: str = ""  # URL of the server that keeps what they protect
    turnstile: bool = False  # which is a turnstile
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Worker:
    """What the actors of one process share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.ttl = plan.ttl
        self.flavour = Flavour(plan.flavour)
        self.recorder = Recorder(Path(plan.log))
        self.looks_before_writing = True
        self.timeout = max(0.3, plan.ttl * 1.2)  # of a request: a server that is paused for 1.5 ttl exceeds it
        self._stop_at = ""
        for number, gap in ((signal.SIGUSR1, "before the look"), (signal.SIGUSR2, "after the look")):
            signal.signal(number, lambda *_, gap=gap: self._asked_to_stop(gap))
        if plan.resource and not plan.turnstile:
            resource.keep_a_log()
        if plan.mutant:
            mutants.MUTANTS[plan.mutant](self)

    def over(self) -> bool:
        return Path(self.plan.stop).exists()

    async def run(self, number: int) -> None:
        """Do one actor's work to its end."""
        actor = actors.Actor(self, f"{self.name}/{number}", random.Random(f"{self.plan.seed}/{self.name}/{number}"))
        await getattr(actors, self.plan.work)(actor)

    # -- what they hold

    def connect(self) -> None:
        """Make the clients; called where their event loop is."""
        self.clients = [self.flavour.connect(url, self.timeout) for url in self.plan.locks]
        self.resource = self.flavour.connect(self.plan.resource, 30) if self.plan.resource else None
        kind, options = KINDS[self.plan.kind], {"ttl": self.ttl, **self.plan.options}
        self.locks = {name: kind.make(self.flavour.api, self.clients, name, **options) for name in self.plan.names}

    async def close(self) -> None:
        for client in (*self.clients, *filter(None, [self.resource])):
            await self.flavour.close(client)

    async def acquire(self, actor: str, name: str, timeout: float | None, *, once: bool = False) -> Any:
        """Acquire, and write down what came of it; None unless it was granted."""
        lock = self.locks[name]
        number = self.recorder.call(actor, "acquire", name=name, timeout=timeout)
        try:
            lease = await maybe(lock.try_acquire() if once else lock.acquire(timeout=timeout))
        except NotAcquired:
            lease = None
        except StoreUnavailable as error:
            self.recorder.back(number, unknown=str(error))
            await self.flavour.sleep(0.02)
            return None
        except Exception as error:
            self.recorder.back(number, failed=repr(error))
            raise
        if lease is None:
            self.recorder.back(number, refused=True)
            return None
        until = self.believes_until(lease)
        shared = lease.token.holder != lease.holder
        self.recorder.back(number, token=int(lease.token), holder=lease.holder, until=until, shared=shared)
        return lease

    async def release(self, actor: str, lease: Any) -> bool | None:
        """Give back; None where no answer came."""
        number = self.recorder.call(actor, "release", name=lease.name, token=int(lease.token))
        try:
            released = await maybe(lease.release())
        except StoreUnavailable as error:
            self.recorder.back(number, unknown=str(error))
            return None
        self.recorder.back(number, released=released)
        return bool(released)

    async def renew(self, actor: str, lease: Any) -> None:
        number = self.recorder.call(actor, "renew", name=lease.name, token=int(lease.token))
        try:
            await maybe(lease.renew())
        except LeaseLost as error:
            self.recorder.back(number, lost=str(error))
        except StoreUnavailable as error:
            self.recorder.back(number, unknown=str(error))
        else:
            self.recorder.back(number, renewed=True, until=self.believes_until(lease))

    def look(self, actor: str, lease: Any) -> float:
        """Write down until when a lease believes; return what is left of it."""
        until = self.believes_until(lease)
        if until:
            self.recorder.note(actor, "look", name=lease.name, token=int(lease.token), until=until)
        return until - now() if until else 0.0

    async def over_with(self, actor: str, lease: Any) -> None:
        """Wait to be told that a lease is lost, of which nothing is left, and write down whether that came."""
        number = self.recorder.call(actor, "over", name=lease.name, token=int(lease.token))
        self.recorder.back(number, told=bool(await maybe(lease.lost.wait(TOLD_WITHIN))))

    @staticmethod
    def believes_until(lease: Any) -> float:
        began = now()  # before the lease looks at its clock, so that we err on the early side
        left = lease.remaining()
        return began + left if left > 0 else 0.0

    # -- stopping on request

    def _asked_to_stop(self, gap: str) -> None:
        self._stop_at = gap

    def gap(self, gap: str) -> None:
        """Stop here, all of this process, if the parent asked for it; the parent lets it run on."""
        if self._stop_at == gap:
            self._stop_at = ""
            self.recorder.note(self.name, "stopping", gap=gap)
            os.kill(os.getpid(), signal.SIGSTOP)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def main() -> None:
    _die_with(int(sys.argv[1]))
    facts = json.loads(sys.argv[2])
    worker = Worker(Plan(**facts | {"names": tuple(facts["names"]), "locks": tuple(facts["locks"])}))
    worker.recorder.note(worker.name, "started")
    left = worker.plan.actors

    async def actor(number: int) -> None:
        nonlocal left
        await worker.run(number)
        left -= 1
        if left == 0 and worker.flavour.is_async:  # inside the loop that the clients belong to
            await worker.close()

    worker.connect()
    worker.flavour.run([lambda number=number: actor(number) for number in range(worker.plan.actors)])
    worker.recorder.note(worker.name, "finished")


if __name__ == "__main__":
    main()
