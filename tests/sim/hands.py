"""Histories in which leases change hands: handed over, adopted by one or by two, broken by an operator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from sim.histories import STORM, TTL, History, Settings
from sim.mutants import _edit
from sim.world import Process

from coordkit.core import fence, handover, lock
from coordkit.core.contend import Contender
from coordkit.core.fence import Fence
from coordkit.core.inspection import Inspector
from coordkit.core.lease import Lease, leave
from coordkit.errors import CoordError

Patch = pytest.MonkeyPatch


@dataclass
class Changing(History):
    """Some who are done hand over what they hold; in weather that evicts, an operator breaks what is held."""

    adoptions: int = 0
    late: int = 0  # to adopt
    breaks: list[tuple[str, int]] = field(default_factory=list)

    def _of(self, process: Process) -> tuple[lock.Mutex, Fence]:
        store = next(store for store in self.stores if store.process is process)
        return lock.Mutex(store, store.keeper, "job"), Fence(process, store, "ledger")

    def _soon(self, process: Process, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Let a process begin something, if it lives to."""
        self.world.after(0.0, lambda: process.spawn(work(process, *args)), process)

    async def _critical(self, process: Process, lease: Lease, fence: Fence) -> None:
        await super()._critical(process, lease, fence)
        chance = self.world.random
        if chance.random() < 0.4:
            text = await handover.hand_over(process, lease)
            for _ in range(chance.choice([1, 1, 2])):
                self._soon(chance.choice(self.processes), self._adopt, text)
            await process.sleep(chance.choice([0.0, 0.5]))  # inside its block yet

    async def _adopt(self, process: Process, text: str) -> None:
        chance, (mutex, fence) = self.world.random, self._of(process)
        await process.sleep(chance.choice([0.001, 0.1, 1.2 * TTL]))
        try:
            lease = await handover.adopt(self.make(process, mutex, TTL), mutex, text)
        except CoordError:
            self.late += 1
            return
        self.adoptions += 1
        self.leases.append((process, lease))
        error: CoordError | None = None
        try:
            await self._critical(process, lease, fence)
        except CoordError as problem:
            error = problem
        with suppress(CoordError):
            await leave(lease, error)

    def _faults(self) -> None:
        super()._faults()
        if self.settings.evictions:
            for _ in range(self.world.random.randint(1, 4)):
                self._soon(self.world.random.choice(self.processes), self._operate)

    async def _operate(self, process: Process) -> None:
        chance, (mutex, fence) = self.world.random, self._of(process)
        await process.sleep(chance.uniform(0, STORM))
        inspector = Inspector(process, mutex)
        with suppress(CoordError):
            seen = await inspector.look()
            careful = seen.holder is not None and chance.random() < 0.5
            token = await inspector.break_lease(seen.holder.id if careful and seen.holder else None)
            self.breaks.append((token.holder, int(token)))
            await fence.claim(token)

    def _finish(self) -> None:
        super()._finish()
        for request, tokens in self.server.breaks.items():
            if len(tokens) > 1:
                self.violations.append(f"{request.decode()} broke it {len(tokens)} times")
        for request, token in self.breaks:
            if self.server.breaks[request.encode()] != {token}:
                self.violations.append(f"{request} was told {token}, which is not what it broke it with")


def adopts_without_compare(patch: Patch) -> None:
    """Two who read the same text both take it."""
    _edit(patch, lock, "_ADOPT", "if holder ~= ARGV[1] and holder ~= ARGV[2] then", "if false then")


def adopting_keeps_the_holder(patch: Patch) -> None:
    """Redisson, bsm/redislock: whoever knows the id holds it."""
    was = handover.adopt

    async def adopt(contender: Contender, mutex: lock.Mutex, value: object) -> Lease:
        said = handover.read(value, "job")
        contender.new_holder = lambda: said.holder  # type: ignore[method-assign]  # the bug
        return await was(contender, mutex, value)

    patch.setattr(handover, "adopt", adopt)


def adopting_keeps_the_token(patch: Patch) -> None:
    """What the giver sent arrives late, and no fence can tell it from the adopter's: an acknowledged update is lost."""
    _edit(patch, lock, "_ADOPT", "return {1, mint(KEYS[2], last, present, ARGV[4])}", "return {1, digits(last)}")
    _edit(patch, fence, "_SET", "holder ~= by)", "false)")
    _edit(patch, fence, "_GET", "holder ~= by)", "false)")


def adopted_counted_from_the_answer(patch: Patch) -> None:
    """The server has been counting since it got the request."""
    born = Contender.lease

    def lease(self: Contender, holder: str, granted: handover.HandedOn) -> Lease:
        return born(self, holder, granted._replace(asked=self.runtime.now()))

    patch.setattr(Contender, "lease", lease)


def handing_over_keeps_it(patch: Patch) -> None:
    """The giver believes on."""
    patch.setattr(Lease, "hand_over", lambda _self: True)


def breaks_again_when_asked_again(patch: Patch) -> None:
    """The answer was lost, and the next, to whom it had been handed on, is evicted as well."""
    _edit(patch, lock, "_BREAK", "if done then", "if false then")


def breaking_only_deletes(patch: Patch) -> None:
    """redlock's and tooz's break: no token is raised, so nothing fences the evicted holder off."""
    _edit(patch, lock, "_BREAK", "local token = mint(KEYS[2], last, present, ARGV[1])", "local token = last")


STORMY, BROKEN = Settings(), Settings(evictions=True)
NOTHING_LATE = Settings(lost=False, repeated=False)
MUTANTS: list[tuple[Callable[[Patch], None], Settings]] = [
    (adopts_without_compare, STORMY),
    (adopting_keeps_the_holder, STORMY),
    (adopting_keeps_the_token, STORMY),
    (adopted_counted_from_the_answer, STORMY),
    (handing_over_keeps_it, STORMY),
    (breaks_again_when_asked_again, BROKEN),
    (breaking_only_deletes, BROKEN),
]
