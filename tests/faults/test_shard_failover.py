"""A shard fails over while its slots move: its replica knows the epoch, somebody else moves on, nothing is lost.

Who asks for ``min_replicas=1`` loses no acknowledged write, whoever of source and target fails, by a kill or a pause;
and nobody is served by two owners: each count is given out once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from coordkit.errors import LeadershipLost, StoreRefused, StoreUnavailable
from coordkit.routing import ReplicaSet, RoundRobin, Shard, Topology
from coordkit.routing.fence.fence import local_key
from coordkit.testing.deployments import tell
from coordkit.testing.faults import kill_session
from coordkit.testing.replicated import ReplicatedRedis, start_replicated
from coordkit.testing.servers import scaled

pytestmark = pytest.mark.empties_servers

PATIENCE = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0, "retry": None}
SOON = scaled(60.0)

# Moves slots until some keys have been moved; then it says so, does no more, and is killed.
MOVER = """
import redis, redis.asyncio

kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

async def work():
    store = flavour.TopologyStore(zk, path)

    def on_progress(progress):
        if progress.seen >= 15:
            session, password = zk.client_id
            say(json.dumps([session, password.hex()]))
            time.sleep(1000)

    async with flavour.within(store.rebalancer("first")) as leadership:
        async with flavour.within(flavour.Reshard(
            store, leadership, lambda _, url: kind.from_url(url, socket_timeout=2), batch=16384, keys_per_second=20,
            on_progress=on_progress,
        )) as reshard:
            await flavour.maybe(reshard.drain("a"))
            await flavour.maybe(reshard.run())

flavour.run(work())
"""


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


@pytest.fixture(scope="module")
def steady() -> Iterator[ReplicatedRedis]:
    """Give the shard that nothing happens to: a primary with one replica."""
    with start_replicated(1) as servers:
        yield servers


@pytest.fixture
def hurt(coordkit_redis_replicated: ReplicatedRedis, coordkit_faults: Any) -> Iterator[ReplicatedRedis]:
    """Give the shard that fails over: a primary with two replicas."""
    coordkit_redis_replicated.wait_ready()
    yield coordkit_redis_replicated
    coordkit_faults.heal()
    coordkit_redis_replicated.wait_ready()


class Counting:
    """Clients that count, and what they were told: each number of a key is to be given out once."""

    def __init__(self, flavour: Any, make: Any, prefix: str) -> None:
        self._flavour, self._make = flavour, make
        self.keys = [f"{prefix}:{i}" for i in range(80)]
        self.told: Counter[tuple[str, int]] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.misses: list[str] = []
        self._ended = False
        self._working: list[Any] = []

    async def __aenter__(self) -> Any:
        for number in range(3):
            self._working.append(self._flavour.spawn(self._work, await self._make(), number))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        for each in self._working:
            await each.result(SOON)

    async def _work(self, shards: Any, number: int) -> None:
        maybe = self._flavour.maybe
        safe = shards.with_options(min_replicas=1, wait_timeout=1.0)
        near = shards.with_options(read_from="replica_preferred")
        for turn in itertools.count(number * 7):
            if self._ended:
                return
            key = self.keys[turn * 13 % len(self.keys)]
            try:
                value = int(await maybe(safe.incr(key)))
            except StoreRefused:
                pass
            except StoreUnavailable:
                self.unknown[key] += 1
            else:
                self.heard(key, value)
            with contextlib.suppress(StoreUnavailable, StoreRefused):
                if await maybe(near.get(key)) is None:
                    self.misses.append(key)
            await self._flavour.sleep(0.002)

    def heard(self, key: str, value: int) -> None:
        """Take note of a count that was acknowledged."""
        self.told[key, value] += 1
        self.acknowledged[key] += 1

    async def more(self, count: int = 150) -> None:
        """Wait until so many more were acknowledged, and each key at least once."""
        until = sum(self.acknowledged.values()) + count
        await self._flavour.until(lambda: sum(self.acknowledged.values()) >= until, SOON)

    def check(self, owner: Any, former: Any) -> None:
        """Compare with what is at the owner of all, and see that nothing is at the former one."""
        assert sum(self.acknowledged.values()) > 300
        twice = {told: times for told, times in self.told.items() if times > 1}
        assert twice == {}, "a number was given out by two owners, or again after it was lost"
        assert self.misses == [], "a replica said that a key was not there"
        for key in self.keys:
            there = int(tell(owner, "GET", key) or 0)
            last = max((value for name, value in self.told if name == key), default=0)
            assert max(last, self.acknowledged[key]) <= there, key
            assert there <= 1 + self.acknowledged[key] + self.unknown[key], key
            assert tell(former, "EXISTS", key) == 0, key


class Scene:
    """The topology of a and b in ZooKeeper, and clients of it."""

    def __init__(self, flavour: Any, zk_client: Any, connect: Any, name: str) -> None:
        self.flavour, self.maybe, self.connect, self.name = flavour, flavour.maybe, connect, name
        self._zk_client = zk_client
        self.store = self.another()

    def another(self) -> Any:
        return self.flavour.TopologyStore(self._zk_client(20.0), f"/{self.name}/x")

    async def client(self, source: Any = None, **options: Any) -> Any:
        make = self.flavour.ShardedRedis.from_topology
        options = {"poll": 0.5, "patience": 1.0, "balance": RoundRobin, **options}
        made = await self.maybe(make(source or self.another(), self.connect, **options))
        self.flavour.on_exit(getattr(made, "aclose", None) or made.close)
        return made

    async def begin(self, shards: dict[str, Shard], keys: list[str], *servers: Any) -> None:
        """Create the topology, tell its shards the epoch, and have all keys there, on all replicas."""
        await self.maybe(self.store.create(Topology.first(self.name, shards)))

        async def initialise(leadership: Any) -> None:
            made = self.flavour.Reshard(self.store, leadership, self.connect)
            async with self.flavour.within(made) as reshard:
                await self.maybe(reshard.initialise())

        await self.led(initialise)
        first = await self.client()
        await self.maybe(first.with_options(min_replicas=1, wait_timeout=10.0).mset(dict.fromkeys(keys, 0)))
        size = [tell(primary, "DBSIZE") for primary, _ in servers]
        await self.flavour.until(
            lambda: all(
                tell(each, "DBSIZE") == count
                for count, (_, replicas) in zip(size, servers, strict=True)
                for each in replicas
            ),
            SOON,
        )

    async def aside(self, call: Any) -> Any:
        """Call what blocks, so that it holds up no event loop."""
        return await asyncio.to_thread(call) if self.flavour.is_async else call()

    async def led(self, work: Any) -> Any:
        """Return what ``work`` does as the elected rebalancer; again, should a busy machine have us lose that."""
        while True:
            try:
                async with self.flavour.within(self.store.rebalancer("test")) as leadership:
                    return await work(leadership)
            except LeadershipLost:
                continue

    async def run(self, leadership: Any, **options: Any) -> Any:
        """Carry out what the topology plans, with these limits."""
        made = self.flavour.Reshard(self.store, leadership, self.connect, batch=16384, patience=60, **options)
        async with self.flavour.within(made) as reshard:
            return (await self.maybe(reshard.run())).phase


def expire(hosts: str, session: str) -> None:
    """End the session of a process that was killed, which else goes on for a while."""
    number, password = json.loads(session)
    kill_session(SimpleNamespace(client_id=(number, bytes.fromhex(password)), hosts=[tuple(hosts.split(":"))]))


@pytest.mark.parametrize(("which", "fault"), [("source", "kill"), ("target", "pause")])
async def test_a_primary_fails_while_its_slots_move(
    flavour: Any,
    maybe: Any,
    zk_client: Any,
    program: Any,
    coordkit_zk_server: Any,
    hurt: ReplicatedRedis,
    steady: ReplicatedRedis,
    coordkit_faults: Any,
    coordkit_namespace: str,
    which: str,
    fault: str,
) -> None:
    """All of a's slots go to b. The mover is killed on its way, then a primary fails, and is replaced by hand."""
    a, b = (hurt, steady) if which == "source" else (steady, hurt)
    failing = "a" if which == "source" else "b"
    scene = Scene(flavour, zk_client, lambda _, url: flavour.redis(url, **PATIENCE), coordkit_namespace)
    counting = Counting(flavour, scene.client, coordkit_namespace)
    for each in (a, b):
        tell(each.primary, "FLUSHALL")
    shards = {
        name: Shard(each.primary.url, tuple(replica.url for replica in each.replicas))
        for name, each in (("a", a), ("b", b))
    }
    await scene.begin(shards, counting.keys, (a.primary, a.replicas), (b.primary, b.replicas))
    async with counting:
        mover = program(MOVER)
        session = await scene.aside(mover.line)
        moving = await maybe(scene.store.read())
        [move] = moving.moves
        deaf = (await scene.client(moving, patience=0.2)).with_options(min_replicas=1, wait_timeout=0.2)
        await maybe(deaf.incrby(counting.keys[0], 0))  # all keys are served by b, and it has a connection there
        await counting.more()

        # The mover is killed, and the primary fails; the replica that has most is promoted. It knows the move's epoch.
        mover.kill()
        old = hurt.primary
        await scene.aside(lambda: getattr(coordkit_faults, fault)(old))
        best = max(hurt.replicas, key=lambda each: int(tell(each, "ROLE")[4]))
        await scene.aside(lambda: hurt.promote(best))
        assert int(tell(best, "GET", local_key(coordkit_namespace, "epoch"))) == move.number
        await scene.aside(lambda: expire(coordkit_zk_server.hosts, session))

        async def take_over(leadership: Any) -> Any:
            topology = await maybe(scene.store.read())
            others = [each.url for each in hurt.replicas if each is not old]
            if failing in topology.shards and topology.shards[failing].primary != best.url:
                after = topology.with_addresses(failing, best.url, others)
                await maybe(scene.store.publish(after, expected=topology, leadership=leadership))
            return await scene.run(leadership)

        running = flavour.spawn(scene.led, take_over)
        await counting.more()
        assert await running.result(2 * SOON) == "done"
        last = await maybe(scene.store.read())
        assert (list(last.shards), last.moves) == (["b"], ())

        # The old one is back, takes itself for a primary, and somebody believes that: it acknowledges nothing.
        if fault == "pause":
            coordkit_faults.resume(old)
        for key in counting.keys[:5]:
            if which == "source":  # where nobody writes any more
                counting.heard(key, int(await maybe(deaf.incr(key))))
            else:
                with pytest.raises(StoreUnavailable):
                    await maybe(deaf.incr(key))
        await scene.aside(coordkit_faults.heal)
        await counting.more(60)
    counting.check(b.primary, a.primary)


async def test_a_target_behind_sentinel_fails_over_while_slots_come_to_it(
    flavour: Any,
    maybe: Any,
    zk_client: Any,
    steady: ReplicatedRedis,
    coordkit_redis_sentinel: Any,
    coordkit_faults: Any,
    coordkit_namespace: str,
) -> None:
    """Its address in the topology stays; the mover waits for the replica that is away, and goes on when it is back."""
    watched = coordkit_redis_sentinel
    watched.wait_ready()
    sentinels = watched.sentinels
    kind = redis.asyncio.Sentinel if flavour.is_async else redis.Sentinel

    def connect(shard: str, url: str) -> Any:
        if shard == "a":
            return flavour.redis(url, **PATIENCE)
        sentinel: Any = kind(sentinels, sentinel_kwargs=PATIENCE)
        for each in sentinel.sentinels:
            flavour.closing(each)
        return ReplicaSet.of_sentinel(sentinel, watched.service_name, **PATIENCE)

    scene = Scene(flavour, zk_client, connect, coordkit_namespace)
    counting = Counting(flavour, scene.client, coordkit_namespace)
    for each in (steady.primary, watched.primary()):
        tell(each, "FLUSHALL")
    replicas = tuple(each.url for each in steady.replicas)
    shards = {"a": Shard(steady.primary.url, replicas), "b": Shard("sentinel:b")}
    await scene.begin(shards, counting.keys, (steady.primary, steady.replicas), (watched.primary(), watched.servers))
    seen = [0]

    async def drain(leadership: Any) -> Any:
        topology = await maybe(scene.store.read())
        if topology.shards["a"].state == "up":
            await maybe(scene.store.publish(topology.draining("a"), expected=topology, leadership=leadership))
        return await scene.run(leadership, keys_per_second=15, on_progress=lambda progress: seen.append(progress.seen))

    async with counting:
        running = flavour.spawn(scene.led, drain)
        await flavour.until(lambda: max(seen) >= 15, SOON)
        old = watched.primary()
        await scene.aside(lambda: coordkit_faults.kill(old))
        await scene.aside(lambda: watched.wait_promoted(old))
        await counting.more()
        await scene.aside(coordkit_faults.heal)
        assert await running.result(2 * SOON) == "done"
        await counting.more(60)
    counting.check(watched.primary(), steady.primary)
