"""Seeded histories of quorum locks: three or five servers, processes that contend, weather, and servers that forget.

As ``sim/histories.py`` does for one server: a history is run, the promises are watched as it goes, and each broken one
is a line in ``violations``. In a storm, requests of one process to one server may overtake each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sim.redis import ReplyError, SimRedis, Weather
from sim.world import Process, Task, Wait, World

from coordkit._ports import Call, Enough
from coordkit.core.contend import Contender
from coordkit.core.lease import Lease, leave
from coordkit.core.quorum import QuorumMutex
from coordkit.core.quorum_set import KEPT, QuorumSet
from coordkit.errors import CoordError, LeaseLost, StoreRefused

TTL = 1.0
STORM = 8.0  # seconds of bad weather
END = 25.0
VOTE = "coordkit:1:{job}:vote"


@dataclass(frozen=True)
class Settings:
    """What may go wrong in a history."""

    lossy: bool = True
    pauses: bool = True
    kills: bool = True
    stops: bool = True
    wipes: bool = False
    evictions: bool = False  # votes vanish under their holders
    frozen: bool = False  # all clients' clocks stand still: ballots alone keep the order
    cancels: bool = True


CALM = Settings(lossy=False, pauses=False, kills=False, stops=False)


class SimServer(SimRedis):
    """One of the servers of a set."""

    _runs = count(1)

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        self.run_id = f"{next(self._runs):040x}"

    @property
    def remembers(self) -> bool:
        return all(key in self.data for key in KEPT)

    def _do_info(self, section: bytes) -> bytes:
        return b"role:master" if section == b"replication" else b"run_id:" + self.run_id.encode()


class SimPanel:
    """The Panel port of one process, over a network with weather."""

    def __init__(
        self, process: Process, servers: Sequence[SimServer], weather: Weather, wall: Callable[[], float]
    ) -> None:
        self._process = process
        self._servers = servers
        self._weather = weather
        self.wall_clock = wall
        self._last = [0.0] * len(servers)  # when what was sent last arrives

    def __len__(self) -> int:
        return len(self._servers)

    def where(self, instance: int) -> str:
        return f"server {instance}"

    def patience(self) -> float:
        return 0.3

    async def ask(
        self, name: str, calls: Mapping[int, Sequence[Call]], *, within: float, enough: Enough
    ) -> dict[int, list[Any] | CoordError]:
        process, done = self._process, Wait()
        answers: dict[int, list[Any] | CoordError] = {}

        def arrived(instance: int, replies: list[Any]) -> None:
            if done.done:
                return
            answers[instance] = replies
            wait = enough(answers)
            if wait <= 0 or len(answers) == len(calls):
                done.settle()
            elif wait < within:
                process.after(wait, done.settle)

        for instance, asked in calls.items():
            self._send(name, instance, asked, arrived)
        process.after(within, done.settle)
        await done
        return answers

    def _send(self, name: str, instance: int, calls: Sequence[Call], arrived: Callable[[int, list[Any]], None]) -> None:
        world, weather, server = self._process.world, self._weather, self._servers[instance]

        def hit(share: float) -> bool:
            return world.time < weather.until and world.random.random() < share

        def carry_out(answering: bool) -> None:
            if server.stopped_until > world.time:
                world.after(server.stopped_until - world.time, lambda: carry_out(answering))
                return
            replies = [_one(server, name, call) for call in calls]
            if answering and not hit(weather.lost_replies):
                self._later(lambda: arrived(instance, replies), to_us=True)

        if not hit(weather.lost_requests):
            # In order, as one connection carries it; not so in a storm, when connections break.
            ordered = self._last[instance] if not weather.slow else 0.0
            self._last[instance] = self._later(lambda: carry_out(True), after=ordered)
            if hit(weather.repeated):
                self._later(lambda: carry_out(False))

    def _later(self, action: Callable[[], None], *, to_us: bool = False, after: float = 0.0) -> float:
        world, chance = self._process.world, self._process.world.random
        delay = self._weather.latency * chance.uniform(0.5, 2.0)
        if world.time < self._weather.until and chance.random() < self._weather.slow:
            delay += chance.uniform(0, 0.6)
        delay = max(delay, after - world.time + 1e-9)
        world.after(delay, action, self._process if to_us else None)
        return world.time + delay


def _one(server: SimServer, name: str, call: Call) -> Any:
    try:
        return server.run(call)
    except ReplyError as error:
        return StoreRefused(name, str(error))


@dataclass
class History:
    """A run, and what it broke."""

    seed: int
    settings: Settings
    world: World = field(init=False)
    violations: list[str] = field(default_factory=list)
    leases: list[tuple[Process, Lease]] = field(default_factory=list)
    grants: list[tuple[float, float, int]] = field(default_factory=list)  # asked, returned, token
    wiped: int = 0
    readmitted: int = 0
    wanted: set[str] = field(default_factory=set)

    def run(self) -> History:
        world = self.world = World(self.seed)
        random.seed(self.seed)
        chance, settings = world.random, self.settings
        self.servers = [SimServer(world, rate=chance.uniform(0.998, 1.002)) for _ in range(chance.choice([3, 3, 5]))]
        self.weather = Weather(until=STORM, latency=0.02 if settings == CALM else 0.001)
        fine = Weather(latency=0.001)
        self.processes = [
            Process(world, f"p{i}", rate=chance.uniform(0.998, 1.002)) for i in range(chance.randint(2, 4))
        ]
        operator = Process(world, "operator")
        quorum = QuorumSet(operator, SimPanel(operator, self.servers, fine, lambda: 1.7e9))
        operator.spawn(quorum.initialise())
        world.run(0.5)
        if settings.lossy:
            self.weather.lost_requests = self.weather.lost_replies = chance.choice([0.0, 0.05, 0.2])
            self.weather.slow = chance.choice([0.0, 0.1])
            self.weather.repeated = chance.choice([0.0, 0.05, 0.2])
        self.tasks: list[Task] = []
        for process in self.processes:
            contender = self._contender(process)
            for _ in range(chance.randint(1, 2)):
                self.tasks.append(process.spawn(self._work(process, contender)))
        if settings.wipes:
            operator.spawn(
                self._operate(
                    operator, QuorumSet(operator, SimPanel(operator, self.servers, self.weather, lambda: 1.7e9))
                )
            )
        self._faults()
        self._probe()
        world.run(END)
        self._finish()
        return self

    def _contender(self, process: Process) -> Contender:
        chance = self.world.random
        skew = chance.choice([0.0, chance.uniform(-0.01, 0.01), chance.uniform(-100, 100)])
        wall: Callable[[], float] = lambda: 1.7e9 + skew + process.now()  # noqa: E731  one of two of a kind
        if self.settings.frozen:
            wall = lambda: 1.7e9  # noqa: E731  see above
        quorum = QuorumSet(process, SimPanel(process, self.servers, self.weather, wall))
        return Contender(process, QuorumMutex(quorum, "job"), TTL, renew=chance.random() < 0.8)

    # -- what the processes do

    async def _work(self, process: Process, contender: Contender) -> None:
        chance = self.world.random
        for _ in range(chance.randint(2, 5)):
            await process.sleep(chance.uniform(0, 0.3))
            asked = self.world.time
            try:
                lease = await contender.acquire(chance.choice([0.0, 0.5, 3.0]))
            except CoordError:
                continue
            self.grants.append((asked, self.world.time, lease.token))
            self.leases.append((process, lease))
            self.wanted.add(lease.holder)
            error: BaseException | None = None
            try:
                for _ in range(chance.randint(0, 3)):
                    await process.sleep(chance.choice([0.01, 0.1, 0.8]))
                    lease.ensure()
            except LeaseLost as lost:
                error = lost
            finally:
                with suppress(CoordError):
                    await leave(lease, error)
                self.wanted.discard(lease.holder)

    async def _operate(self, process: Process, quorum: QuorumSet) -> None:
        """Let who forgot vote again, now and then."""
        while self.world.time < END - 5:
            await process.sleep(self.world.random.uniform(0.1, 0.5))
            with suppress(CoordError):
                self.readmitted += len(await quorum.readmit())

    # -- what goes wrong

    def _faults(self) -> None:
        world, chance, settings = self.world, self.world.random, self.settings

        def some(n: int, wanted: bool, action: Callable[[], None]) -> None:
            for _ in range(chance.randint(0, n) if wanted else 0):
                world.after(chance.uniform(0, STORM), action)

        some(4, settings.pauses, lambda: chance.choice(self.processes).pause(chance.uniform(0.1, 2.5 * TTL)))
        some(1, settings.kills, lambda: chance.choice(self.processes).kill())
        some(4, settings.stops, lambda: chance.choice(self.servers).stop(chance.uniform(0.1, 1.5 * TTL)))
        some(4, settings.cancels, lambda: chance.choice(self.tasks).cancel())
        some(8, settings.wipes, self._wipe)
        some(6, settings.evictions, lambda: chance.choice(self.servers).data.pop(VOTE.encode(), None))

    def _wipe(self) -> None:
        """Wipe a server, as long as a majority remembers."""
        forgot = sum(not server.remembers for server in self.servers)
        if forgot < (len(self.servers) - 1) // 2:
            server = self.world.random.choice([server for server in self.servers if server.remembers])
            server.wipe()
            self.wiped += 1

    # -- what must hold

    def _probe(self) -> None:
        believers = [(p, x) for p, x in self.leases if not p.dead and x.held and x.remaining() > 0]
        if len(believers) > 1 and not (self.settings.wipes or self.settings.evictions):
            self._violated(f"two believe: {[lease.holder for _, lease in believers]}")
        for _, lease in believers:
            self._check_belief(lease)
        for process, lease in self.leases:
            awake = not process.dead and process.paused_until + 0.05 < self.world.time
            if awake and lease.held and process.now() > lease.expires + 0.05:
                self._violated(f"{lease.holder} was not told of its end")
        if self.settings == CALM:
            self._check_leaks()
        if self.world.time < END:
            self.world.after(0.02, self._probe)

    def _check_belief(self, lease: Lease) -> None:
        """A majority has what is believed; where votes end early, that is known within a ttl."""
        early = self.settings.wipes or self.settings.evictions
        votes = [server.get(VOTE) for server in self.servers]
        mine = [i for i, vote in enumerate(votes) if vote and vote.decode().rpartition("/")[0] == lease.holder]
        if len(mine) * 2 > len(votes):
            self._disagreed.pop(lease.holder, None)
            return
        since = self._disagreed.setdefault(lease.holder, self.world.time)
        if not early or self.world.time - since > TTL * 1.01 + 0.05:
            self._violated(f"{lease.holder} believes for {lease.remaining():.3f} s more, and {mine} have it")

    _disagreed: dict[str, float] = field(default_factory=dict)

    def _check_leaks(self) -> None:
        """Nothing stands for long that nobody wants, in calm weather."""
        asking = {task.holder for task in self.tasks if not task.done}
        for i, server in enumerate(self.servers):
            vote = server.get(VOTE)
            holder = vote and vote.decode().rpartition("/")[0]
            if holder and holder not in self.wanted | asking:
                since = self._unwanted.setdefault((i, holder), self.world.time)
                if self.world.time - since > 0.5:
                    self._violated(f"{holder} wants it no more, server {i} still keeps it")

    _unwanted: dict[tuple[int, str], float] = field(default_factory=dict)

    def _violated(self, what: str) -> None:
        self.violations.append(f"{self.world.time:.3f}: {what}")

    def _finish(self) -> None:
        for process in self.processes:
            self.violations += [f"{process.name} failed: {error!r}" for error in process.failures]
        for task in self.tasks:
            if not task.done and not task.process.dead:
                self.violations.append(f"{task.process.name} waits for ever")
        for i, server in enumerate(self.servers):
            if server.get(VOTE) is not None:
                self.violations.append(f"the vote of server {i} outlived everybody")
        tokens = [token for _, _, token in self.grants]
        if len(set(tokens)) != len(tokens):
            self.violations.append(f"a token was given out twice: {sorted(tokens)}")
        for asked, _, token in self.grants:
            before = max((other for _, returned, other in self.grants if returned < asked), default=0)
            if token <= before:
                self.violations.append(f"token {token} came after {before}")


def violations(seeds: range, settings: Settings) -> list[str]:
    """Run many histories; return what they broke, each line with its seed."""
    return [f"seed {seed}: {line}" for seed in seeds for line in History(seed, settings).run().violations]
