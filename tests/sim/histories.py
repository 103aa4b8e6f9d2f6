"""One seeded history of a lock: processes that contend, weather, pauses, kills; and what must hold all the while.

Nothing here asserts a schedule. A history is run, the promises are watched as it goes, and each broken one is a line
in ``violations``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from sim.inbox import Weather
from sim.redis import SimRedis, SimStore
from sim.world import Process, Task, World

from coordkit.core import lock, waiting
from coordkit.core.contend import Contender
from coordkit.core.fence import Fence
from coordkit.core.lease import Lease, leave
from coordkit.errors import CoordError, LeaseLost, NotAcquired, StaleToken

TTL = 1.0
CLAIM = 0.4  # so that a claim is less than a ttl
STORM = 10.0  # seconds of bad weather
END = 30.0  # by then everybody has finished, and every ttl has passed
LOCK = "coordkit:1:{job}:lock"


@dataclass(frozen=True)
class Settings:
    """What may go wrong in a history."""

    lost: bool = True  # requests and replies
    repeated: bool = True  # requests arrive twice, the second time late
    pauses: bool = True  # processes stop and go on
    kills: bool = True
    stops: bool = True  # the server stops and goes on
    wipes: bool = False  # the server forgets everything
    clock_steps: bool = False  # the server's clock jumps back
    evictions: bool = False  # the lock is deleted under its holder
    cancels: bool = True
    cuts: bool = True  # of the connections over which waiters are told


CALM = Settings(lost=False, repeated=False, pauses=False, kills=False, stops=False, cuts=False)
"""Nothing goes wrong but that tasks are cancelled: then nothing may be left behind, not even for a ttl."""


@dataclass
class History:
    """A run, and what it broke."""

    seed: int
    settings: Settings
    make: Callable[..., Contender] = Contender
    world: World = field(init=False)
    violations: list[str] = field(default_factory=list)
    leases: list[tuple[Process, Lease]] = field(default_factory=list)
    acknowledged: int = 0
    granted: int = 0
    wanted: set[str] = field(default_factory=set)  # holders that are asking, holding or giving back
    disagreed: dict[str, float] = field(default_factory=dict)  # since when the server does not share a belief
    unwanted: dict[str, float] = field(default_factory=dict)  # since when nobody wants what the server keeps
    free_since: float | None = None  # since when it has been free although somebody waits

    def run(self) -> History:
        with mock.patch.object(waiting, "CLAIM", CLAIM):
            return self._run()

    def _run(self) -> History:
        world = self.world = World(self.seed)
        random.seed(self.seed)  # the core's own jitter, and tenacity's
        chance = world.random
        settings = self.settings
        self.server = SimRedis(world, rate=chance.uniform(0.998, 1.002))
        # A slow network in calm weather: a cancellation should often meet an answer that is on its way.
        self.weather = Weather(until=STORM, latency=0.05 if settings == CALM else 0.001)
        if settings.lost:
            self.weather.lost_requests = self.weather.lost_replies = chance.choice([0.0, 0.05, 0.2])
            self.weather.slow = chance.choice([0.0, 0.1])
        if settings.repeated:
            self.weather.repeated = chance.choice([0.0, 0.05, 0.2])
        self.processes = [
            Process(world, f"p{i}", rate=chance.uniform(0.998, 1.002)) for i in range(chance.randint(2, 4))
        ]
        self.tasks: list[Task] = []
        self.stores: list[SimStore] = []
        for process in self.processes:
            store = SimStore(process, self.server, self.weather)
            self.stores.append(store)
            self._populate(process, store)
        self._faults()
        self._probe()
        world.run(END)
        self._finish()
        return self

    # -- what the processes do

    def _populate(self, process: Process, store: SimStore) -> None:
        chance = self.world.random
        mutex = lock.Mutex(store, store.keeper, "job")
        contender = self.make(process, mutex, TTL, renew=chance.random() < 0.8)
        fence = Fence(process, store, "ledger")
        for _ in range(chance.randint(1, 2)):
            self.tasks.append(process.spawn(self._work(process, contender, fence)))

    async def _work(self, process: Process, contender: Contender, fence: Fence) -> None:
        chance = self.world.random
        for _ in range(chance.randint(2, 5)):
            await process.sleep(chance.uniform(0, 0.3))
            began, timeout = process.now(), chance.choice([0.0, 0.5, 3.0, 6.0])
            me = self.world.current
            assert me is not None
            me.waits = timeout > 0
            try:
                lease = await contender.acquire(timeout)
            except CoordError as error:
                self._check_refusal(process, error, began, timeout, me.holder)
                continue
            finally:
                me.waits = False
            self.granted += 1
            self.leases.append((process, lease))
            self.wanted.add(lease.holder)
            try:
                await self._critical(process, lease, fence)
            except CoordError as error:
                await self._leave(lease, error)
            except BaseException as error:
                await self._leave(lease, error)
                raise
            else:
                await self._leave(lease, None)
            finally:
                self.wanted.discard(lease.holder)

    async def _leave(self, lease: Lease, error: BaseException | None) -> None:
        with suppress(CoordError):
            await leave(lease, error)

    async def _critical(self, process: Process, lease: Lease, fence: Fence) -> None:
        chance = self.world.random
        value = int(await fence.get("ledger", lease.token) or 0)
        careless = chance.random() < 0.5  # looks at the lease never, or before each step
        for _ in range(chance.randint(0, 3)):
            await process.sleep(chance.choice([0.01, 0.1, 0.8]))
            if not careless:
                lease.ensure()
        if chance.random() < 0.2:
            await lease.renew()
        try:
            await fence.set("ledger", str(value + 1), lease.token)
        except StaleToken:
            raise LeaseLost(lease.name, "refused", token=lease.token) from None
        self.acknowledged += 1

    def _check_refusal(self, process: Process, error: CoordError, began: float, timeout: float, me: str) -> None:
        took = process.now() - began
        if isinstance(error, NotAcquired) and error.why.startswith(f"held by {me}"):
            self.violations.append(f"{me} was refused by itself")
        if isinstance(error, NotAcquired) and took < timeout:
            self.violations.append(f"gave up {timeout - took:.3f} s early: {error}")

    # -- what goes wrong

    def _faults(self) -> None:
        world, chance, settings = self.world, self.world.random, self.settings

        def some(n: int, wanted: bool, action: Callable[[], None]) -> None:
            for _ in range(chance.randint(0, n) if wanted else 0):
                world.after(chance.uniform(0, STORM), action)

        some(4, settings.pauses, lambda: chance.choice(self.processes).pause(chance.uniform(0.1, 2.5 * TTL)))
        some(1, settings.kills, self._kill)
        some(4, settings.cuts, lambda: chance.choice(self.stores).inbox().cut(unnoticed=chance.random() < 0.5))
        some(2, settings.stops, lambda: self.server.stop(chance.uniform(0.1, 1.5 * TTL)))
        some(4, settings.cancels, lambda: chance.choice(self.tasks).cancel())
        some(2, settings.wipes, self.server.wipe)
        some(2, settings.clock_steps, lambda: self.server.step_clock(-chance.uniform(0.5, 60.0)))
        some(3, settings.evictions, self._evict)

    def _evict(self) -> None:
        self.server.data.pop(LOCK.encode(), None)

    def _kill(self) -> None:
        store = self.world.random.choice(self.stores)
        store.process.kill()
        store.inbox().cut(unnoticed=self.world.random.random() < 0.3)

    # -- what must hold

    def _probe(self) -> None:
        """Look at every belief, and at what the server keeps."""
        believers = [(p, x) for p, x in self.leases if not p.dead and x.held and x.remaining() > 0]
        self._check_beliefs(believers)
        for process, lease in self.leases:
            awake = not process.dead and process.paused_until + 0.05 < self.world.time
            if awake and lease.held and process.now() > lease.expires + 0.05:
                self._violated(f"{lease.holder} was not told of its end")
        self._check_server()
        if self.world.time < END:
            self.world.after(0.02, self._probe)

    def _check_beliefs(self, believers: list[tuple[Process, Lease]]) -> None:
        """A lease never outlives the server's; one that ended early at the server is known to have within a ttl."""
        early = self.settings.wipes or self.settings.clock_steps or self.settings.evictions
        holder = self.server.get(LOCK)
        if len(believers) > 1 and not early:
            self._violated(f"two believe: {[lease.holder for _, lease in believers]}")
        for process, lease in believers:
            if holder == lease.holder.encode():
                if lease.expires / process.rate > self.server.ends(LOCK) and not self.settings.clock_steps:
                    self._violated(f"{lease.holder} believes longer than the server")
                continue
            since = self.disagreed.setdefault(lease.holder, self.world.time)
            if not early or self.world.time - since > TTL * 1.01 + 0.02:
                self._violated(f"{lease.holder} believes, the server does not")

    def _check_server(self) -> None:
        """Nobody holds again after a later one did; in calm weather, nothing stands that nobody wants."""
        holder = self.server.get(LOCK)
        if holder is None:
            self._check_waiters()
            return
        self.free_since = None
        mine = max((token for _, who, token in self.server.grants if who == holder), default=0)
        if mine < max((token for _, _, token in self.server.grants), default=0):
            self._violated(f"{holder.decode()} holds again after a later one did")
        if self.settings == CALM and holder.decode() not in self.wanted | self._asking():
            since = self.unwanted.setdefault(holder.decode(), self.world.time)
            if self.world.time - since > 0.5:
                self._violated(f"{holder.decode()} wants it no more, the server still keeps it")

    def _check_waiters(self) -> None:
        """A free lock is taken soon, if somebody who is awake waits for it."""
        calm = self.server.stopped_until < self.world.time and all(p.running or p.dead for p in self.processes)
        if not (calm and any(not task.done and task.waits and not task.process.dead for task in self.tasks)):
            self.free_since = None
        elif self.free_since is None:
            self.free_since = self.world.time
        elif self.world.time - self.free_since > 4.0:
            self._violated("it is free, somebody waits, and nobody gets it")

    def _asking(self) -> set[str]:
        return {task.holder for task in self.tasks if not task.done}

    def _violated(self, what: str) -> None:
        self.violations.append(f"{self.world.time:.3f}: {what}")

    def _finish(self) -> None:
        for process in self.processes:
            self.violations += [f"{process.name} failed: {error!r}" for error in process.failures]
        for task in self.tasks:
            if not task.done and not task.process.dead:
                self.violations.append(f"{task.process.name} waits for ever")
        if self.server.get(LOCK) is not None and not self.settings.clock_steps:
            self.violations.append("the lock outlived everybody")
        self._check_tokens()
        self.violations += [f"{when:.3f}: nothing was handed to {entry!r}" for when, entry in self.server.neglected]
        self.violations += [f"{when:.3f}: {who!r} overtook {whom!r}" for when, who, whom in self.server.overtaken]
        final = int(self.server.get("ledger") or 0)
        if not self.settings.wipes and final < self.acknowledged:
            self.violations.append(f"{self.acknowledged - final} acknowledged updates were lost")

    def _check_tokens(self) -> None:
        holders: dict[int, bytes] = {}
        highest = 0
        for when, holder, token in self.server.grants:
            if holders.setdefault(token, holder) != holder:
                self.violations.append(f"{when:.3f}: token {token} was given out twice")
            elif token < highest:
                self.violations.append(f"{when:.3f}: token {token} after {highest}")
            highest = max(highest, token)


def violations(seeds: range, settings: Settings, **changes: Any) -> list[str]:
    """Run many histories; return what they broke, each line with its seed."""
    return [f"seed {seed}: {line}" for seed in seeds for line in History(seed, settings, **changes).run().violations]
