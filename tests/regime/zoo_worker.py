"""One worker process of W6 and W7: its actors stand, lead, join and watch over coordkit's API, and write it down.

Started by ``crew.py`` with a plan in JSON. SIGUSR1 makes its client believe that its session has expired, which the
servers learn only when the session's timeout has passed; SIGUSR2 makes it stop itself between the answer to a take-over
and its use. It cannot outlive its parent.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from kazoo.client import KazooClient
from kazoo.protocol.connection import _SESSION_EXPIRED
from kazoo.protocol.states import KazooState
from regime import resource, zoo_actors, zoo_mutants
from regime.flavours import Flavour
from regime.history import Recorder
from regime.worker import _die_with

from coordkit.core.candidate import Candidate

KAZOO_DIED = "its KazooClient died"
"""What a worker notes, and ends."""


@dataclass(frozen=True)
class Plan:
    """What a worker is to do."""

    module: ClassVar[str] = "regime.zoo_worker"

    name: str
    work: str  # the prefix of its functions in zoo_actors.py
    seed: str
    log: str
    settle: str  # a file: when it is there, nobody begins anything
    stop: str  # a file: when it is there, all finish
    hosts: str
    timeout: float  # of the session
    paths: tuple[str, ...]
    resource: str = ""  # URL of the server that keeps what the first path protects
    flavour: str = "blocking"
    mutant: str = ""

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Worker:
    """What the actors of one process share: one client, and with it one session."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.timeout = plan.timeout
        self.flavour = Flavour(plan.flavour)
        self.recorder = Recorder(Path(plan.log))
        self.streams: list[Any] = []  # closed when all is over
        self.proven_session: list[Any] = []  # with which session it was last looked whose znode leads
        if plan.resource:
            resource.keep_a_log()
        if plan.mutant:
            zoo_mutants.MUTANTS[plan.mutant]()
        # kazoo's own pauses between attempts grow to a minute
        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
        self.client = KazooClient(plan.hosts, timeout=plan.timeout, connection_retry=retry)
        signal.signal(signal.SIGUSR1, lambda *_: self.client._call(_SESSION_EXPIRED, None))
        signal.signal(signal.SIGUSR2, lambda *_: self._asked_to_stop())
        self.holds: dict[tuple[str, str], float] = {}  # by path and actor: for how long it would lead
        self._stops = False
        self._pause_after_taking_over()
        self.client.add_listener(self._heard)
        self.client.start(30)

    def _asked_to_stop(self) -> None:
        self._stops = True

    def _pause_after_taking_over(self) -> None:
        """Stop this whole process, if the parent asked for it, when a take-over was answered, before that is used."""
        token, worker = Candidate.token, self

        def late(self: Candidate, *args: Any) -> Any:
            if worker._stops and worker.holds.get((self.name, self.who()), 0.0) >= 0.8 * worker.timeout:
                worker._stops = False
                worker.recorder.note(worker.name, "stopping", path=self.name, heed=True)
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this very thread, so at once
            return token(self, *args)

        Candidate.token = late  # type: ignore[method-assign]  # wrapped, to stop there

    def _heard(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self.recorder.note(self.name, "session", session=self.session(), heed=True)

    def settled(self) -> bool:
        """Return whether nothing is to be begun any more."""
        return Path(self.plan.settle).exists() or self.over()

    def over(self) -> bool:
        return Path(self.plan.stop).exists()

    def session(self) -> list[Any]:
        """Return the id and the password of our session, as far as there is one."""
        identity = self.client.client_id
        return [] if identity is None else [identity[0], identity[1].hex()]

    def _end_with_kazoo(self) -> None:
        """End if kazoo's connection thread has died, of which no client recovers: that is a finding.

        It would when a server answers one of several requests and not the one before ("xids do not match"), which was
        seen where a session was ended while requests were under way; ``coordkit/_kazoo_endings.py`` sees to that.
        """
        thread = self.client._connection._connection_routine
        if thread is not None and not thread.is_alive() and not self.over():
            self.recorder.note(self.name, KAZOO_DIED)
            os._exit(1)

    def connect(self) -> None:
        """Make the clients of the resource; called where their event loop is."""
        url = self.plan.resource
        self.resource = self.flavour.connect(url, 30) if url else None

    async def run(self, number: int, work: Any) -> None:
        """Do one actor's work to its end."""
        chance = random.Random(f"{self.plan.seed}/{self.name}/{number}")
        await work(zoo_actors.Actor(self, f"{self.name}/{number}", chance))

    async def until_over(self) -> None:
        """Keep the session until all is over, then end the streams."""
        while not self.over():
            self._end_with_kazoo()
            await self.flavour.sleep(0.02)
        for stream in self.streams:
            stream.close()


def main() -> None:
    _die_with(int(sys.argv[1]))
    facts = json.loads(sys.argv[2])
    worker = Worker(Plan(**facts | {"paths": tuple(facts["paths"])}))
    worker.recorder.note(worker.name, "started", heed=True)
    work = zoo_actors.WORK[worker.plan.work]
    left = len(work)

    async def actor(number: int) -> None:
        nonlocal left
        await worker.run(number, work[number])
        left -= 1
        if left == 0:
            worker.recorder.note(worker.name, "idle", heed=True)

    async def keeper() -> None:
        await worker.until_over()
        while left:
            await worker.flavour.sleep(0.01)
        if worker.resource is not None:  # inside the loop that it belongs to
            await worker.flavour.close(worker.resource)

    worker.connect()
    bodies = [keeper, *(lambda number=number: actor(number) for number in range(len(work)))]
    worker.flavour.run(bodies)
    worker.client.stop()
    worker.client.close()
    worker.recorder.note(worker.name, "finished")


if __name__ == "__main__":
    main()
