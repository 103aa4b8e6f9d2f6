"""A client process of the loss experiment, or a mover: ``crew.py`` starts both with a plan in JSON.

A mover stands by until it is told what to do: on a busy machine it takes a process seconds to start.

A client's actors count as fast as they can and write down each INCR before it is sent and after it was answered. Asked
by SIGUSR1, the process stops itself at the worst moment there is: it has just been decided where the INCR of a counter
of the next batch goes, and nothing has been sent. By SIGUSR2 it stops itself between two steps of bringing a key. None
can outlive its parent.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from regime import shard_mutants
from regime.flavours import Flavour, maybe
from regime.history import Recorder
from regime.loss_ledger import Ledger
from regime.loss_place import COUNTERS, Place, counter
from regime.loss_subjects import SUBJECTS
from regime.worker import _die_with

from coordkit import ShardDown, StoreRefused, StoreUnavailable
from coordkit._run import run

TAKEN = 10  # of so many counters one is now and then taken (GETDEL), and begins anew
TAKES = 0.05  # of all that is done with it
BRINGING = 3  # steps of bringing a key: it stops after one of them


@dataclass(frozen=True)
class Plan:
    """What a process is to do."""

    module: ClassVar[str] = "regime.loss_worker"

    name: str
    subject: str
    seed: str
    log: str
    place: dict[str, Any]
    stop: str = ""  # a file: when it is there, all finish
    batch: str = ""  # a file: the counters at which to stop when asked to
    actors: int = 3
    flavour: str = "blocking"
    mutant: str = ""
    order: str = ""  # a file: then it is a mover, and what is there, when it is there, is an Order
    pause: float = 0.0

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Order(NamedTuple):
    """What a mover is to do: see ``Subject.carry_out``."""

    change: Any
    pace: float
    slack: float

    def give(self, path: Path) -> None:
        """Put it where a mover looks for it, all at once."""
        path.with_suffix(".new").write_text(json.dumps(self))
        path.with_suffix(".new").rename(path)

    @staticmethod
    def awaited(path: Path) -> Order:
        while not path.exists():
            time.sleep(0.01)
        return Order(*json.loads(path.read_text()))


class SelfStop:
    """Stops this process at a gap, when the parent has asked for it; the parent lets it run on."""

    def __init__(self, recorder: Recorder, plan: Any) -> None:
        self._recorder = recorder
        self._plan = plan
        self._keys: set[str] = set()
        self._steps = 0  # of bringing keys, until it stops
        signal.signal(signal.SIGUSR1, self._asked_for_keys)
        signal.signal(signal.SIGUSR2, self._asked_for_bringing)

    def _asked_for_keys(self, *_: object) -> None:
        self._keys = set(json.loads(Path(self._plan.batch).read_text()))

    def _asked_for_bringing(self, *_: object) -> None:
        self._steps = random.randint(1, BRINGING)

    def decided(self, key: str) -> None:
        if self._keys and key in self._keys:
            self._keys = set()
            self._stop(key=key)

    def bringing(self) -> None:
        if self._steps:
            self._steps -= 1
            if not self._steps:
                self._stop(bringing="a key")

    def _stop(self, **facts: str) -> None:
        self._recorder.note(self._plan.name, "stopping", **facts)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread, before it takes another step


class Counting:
    """The actors of one client process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._recorder = Recorder(Path(plan.log))
        self._ledger = Ledger(Path(f"{plan.log}.counts"))
        self._flavour = Flavour(plan.flavour)
        self._gaps = SelfStop(self._recorder, plan)

    def run(self) -> None:
        plan = self._plan
        self._client = SUBJECTS[plan.subject].client(Place(**plan.place), plan.name, plan.flavour, self._gaps)
        if self._flavour.is_async:
            asyncio.run(self._in_loop())
        else:
            run(self._start())
            self._flavour.run([lambda number=number: self._count(number) for number in range(plan.actors)])
            run(self._end())
        self._recorder.note(plan.name, "finished")

    async def _in_loop(self) -> None:
        await self._start()
        await asyncio.gather(*(self._count(number) for number in range(self._plan.actors)))
        await self._end()

    async def _start(self) -> None:
        await maybe(self._client.start())
        self._recorder.note(self._plan.name, "started")

    async def _end(self) -> None:
        await maybe(self._client.close())

    async def _count(self, actor: int) -> None:
        plan, ledger = self._plan, self._ledger
        chance = random.Random(f"{plan.seed}/{plan.name}/{actor}")
        done = 0
        while done % 16 or not self._over():
            done += 1
            number = chance.randrange(COUNTERS)
            takes = number % TAKEN == 0 and chance.random() < TAKES
            ledger.asks(actor, number, takes=takes)
            try:
                answer = await maybe((self._client.getdel if takes else self._client.incr)(counter(number)))
            except (ShardDown, StoreRefused):
                ledger.not_sent(actor)
                await self._flavour.sleep(0.01)
            except StoreUnavailable:
                ledger.unknown(actor)
                await self._flavour.sleep(0.01)
            else:
                ledger.answered(actor, int(answer or 0))
                if plan.pause:
                    await self._flavour.sleep(plan.pause)

    def _over(self) -> bool:
        return Path(self._plan.stop).exists()


def _move(plan: Plan) -> None:
    recorder = Recorder(Path(plan.log))
    recorder.note(plan.name, "started")
    SUBJECTS[plan.subject].carry_out(Place(**plan.place), *Order.awaited(Path(plan.order)))
    recorder.note(plan.name, "finished")


def main() -> None:
    _die_with(int(sys.argv[1]))
    plan = Plan(**json.loads(sys.argv[2]))
    shard_mutants.put_in(plan.mutant)
    if plan.order:
        _move(plan)
    else:
        Counting(plan).run()


if __name__ == "__main__":
    main()
