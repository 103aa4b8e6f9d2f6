"""A worker of W8: its actors hold locks over a sharded client while slots change owners and shards come and go.

Asked by SIGUSR1 or SIGUSR2 it stops itself as a client of the loss experiment does (``loss_worker.py``).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

from regime import loss_library, shard_mutants, worker
from regime.flavours import maybe
from regime.history import now
from regime.kinds import KINDS
from regime.loss_place import Place
from regime.loss_worker import SelfStop

from coordkit._run import run

LONG = 0.15  # of all leases are held for long


ACQUIRING = ContextVar("ACQUIRING", default=False)


class _WhileAcquiring(SelfStop):
    """Stops where it is decided where to acquire: a release or a renewal that comes late does nothing there."""

    def decided(self, key: str) -> None:
        if ACQUIRING.get():
            super().decided(key)


@dataclass(frozen=True)
class Plan(worker.Plan):
    """What a worker is to do."""

    module: ClassVar[str] = "regime.shard_worker"

    place: dict[str, Any] = field(default_factory=dict)
    batch: str = ""
    bug: str = ""  # of shard_mutants.py


class ShardWorker(worker.Worker):
    """What the actors of one process share: one sharded client, and a lock for each name."""

    plan: Plan

    def work(self) -> None:
        """Connect, do the work of all actors, and close."""
        if self.flavour.is_async:
            asyncio.run(self._in_loop())
            return
        with ExitStack() as stack:
            run(self._begin(stack))
            self.flavour.run([lambda number=number: self.run(number) for number in range(self.plan.actors)])
            self._shards.close()

    async def _in_loop(self) -> None:
        with ExitStack() as stack:
            await self._begin(stack)
            await asyncio.gather(*(self.run(number) for number in range(self.plan.actors)))
            await maybe(self._shards.aclose())

    async def _begin(self, stack: ExitStack) -> None:
        plan, kind = self.plan, KINDS[self.plan.kind]
        loss_library.watch_gaps(_WhileAcquiring(self.recorder, plan))
        shard_mutants.put_in(plan.bug)
        self._shards = await loss_library.shards(stack, Place(**plan.place), plan.flavour)
        self.locks = {name: kind.make(self.flavour.api, [self._shards], name, ttl=self.ttl) for name in plan.names}
        self.recorder.note(self.name, "started")

    async def acquire(self, *args: Any, **options: Any) -> Any:
        before = ACQUIRING.set(True)
        try:
            return await super().acquire(*args, **options)
        finally:
            ACQUIRING.reset(before)

    async def run(self, number: int) -> None:
        """Hold one lock after the other: most for moments, some for longer than a change of owners takes."""
        actor = f"{self.name}/{number}"
        chance = random.Random(f"{self.plan.seed}/{actor}")
        while not self.over():
            lease = await self.acquire(actor, chance.choice(self.plan.names), chance.choice((0.2, 1.0)))
            if lease is None:
                continue
            hold = chance.uniform(0.5, 1.5) * self.ttl if chance.random() < LONG else chance.uniform(0, 0.02)
            ends = now() + hold
            while (left := ends - now()) > 0 and self.look(actor, lease) > 0:
                await self.flavour.sleep(min(left, self.ttl / 10))
            if lease.remaining() <= 0:
                await self.over_with(actor, lease)
            await self.release(actor, lease)


def main() -> None:
    worker._die_with(int(sys.argv[1]))
    facts = json.loads(sys.argv[2])
    one = ShardWorker(Plan(**facts | {"names": tuple(facts["names"]), "locks": ()}))
    one.work()
    one.recorder.note(one.name, "finished")


if __name__ == "__main__":
    main()
