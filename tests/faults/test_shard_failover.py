"""A shard fails over while its slots move: its replica knows the epoch, somebody else moves on, nothing is lost.

Who asks for ``min_replicas=1`` loses no acknowledged write, whoever of source and target fails, by a kill or a pause;
and nobody is served by two owners: each count is given out once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing import ReplicaSet, RoundRobin, Shard, Topology
from coordkit.routing.fence import local_key
from coordkit.testing.deployments import tell
from coordkit.testing.replicated import ReplicatedRedis, start_replicated
from coordkit.testing.servers import scaled

pytestmark = pytest.mark.empties_servers

KEYS = [f"k{i}" for i in range(80)]
PATIENCE = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0, "retry": None}
SOON = scaled(60.0)

# Moves slots slowly until it is killed; says so once keys have been moved.
MOVER = """
import redis, redis.asyncio

kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

async def work():
    store = flavour.TopologyStore(zk, path)
    said = []

    def on_progress(progress):
        if progress.seen >= 15 and not said:
            said.append(True)
            say("moving")

    async with flavour.within(store.rebalancer("first")) as leadership:
        async with flavour.within(flavour.Reshard(
            store, leadership, lambda _, url: kind.from_url(url, socket_timeout=2), batch=16384, keys_per_second=10,
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


def empty(*servers: Any) -> None:
    for each in servers:
        tell(each.primary() if callable(each.primary) else each.primary, "FLUSHALL")


class Counting:
    """Clients that count, and what they were told: each number of a key is to be given out once."""

    def __init__(self, flavour: Any, make: Any) -> None:
        self._flavour, self._make = flavour, make
        self.told: Counter[tuple[str, int]] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.misses: list[str] = []
        self._ended = False
        self._working: list[Any] = []

    async def start(self, count: int = 3) -> None:
        for number in range(count):
            self._working.append(self._flavour.spawn(self._work, await self._make(), number))

    async def _work(self, shards: Any, number: int) -> None:
        maybe = self._flavour.maybe
        safe = shards.with_options(min_replicas=1, wait_timeout=1.0)
        near = shards.with_options(read_from="replica_preferred")
        for turn in itertools.count(number * 7):
            if self._ended:
                return
            key = KEYS[turn * 13 % len(KEYS)]
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

    async def end(self) -> None:
        self._ended = True
        for each in self._working:
            await each.result()

    def check(self, owner: Any, former: Any) -> None:
        """Compare with what is at the owner of all, and see that nothing is at the former one."""
        assert sum(self.acknowledged.values()) > 300
        twice = {told: times for told, times in self.told.items() if times > 1}
        assert twice == {}, "a number was given out by two owners, or again after it was lost"
        assert self.misses == [], "a replica said that a key was not there"
        for key in KEYS:
            there = int(tell(owner, "GET", key) or 0)
            last = max((value for name, value in self.told if name == key), default=0)
            assert max(last, self.acknowledged[key]) <= there, key
            assert there <= 1 + self.acknowledged[key] + self.unknown[key], key
            assert tell(former, "EXISTS", key) == 0, key


@pytest.mark.parametrize(("which", "fault"), [("source", "kill"), ("target", "pause")])
async def test_a_primary_fails_while_its_slots_move(
    flavour: Any,
    maybe: Any,
    zk_client: Any,
    program: Any,
    hurt: ReplicatedRedis,
    steady: ReplicatedRedis,
    coordkit_faults: Any,
    coordkit_namespace: str,
    which: str,
    fault: str,
) -> None:
    """All of a's slots go to b. The mover is killed on its way, then a primary fails, and is replaced by hand."""
    empty(hurt, steady)
    a, b = (hurt, steady) if which == "source" else (steady, hurt)
    failing = "a" if which == "source" else "b"
    store = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")
    shards = {
        name: Shard(each.primary.url, tuple(replica.url for replica in each.replicas))
        for name, each in (("a", a), ("b", b))
    }
    await maybe(store.create(Topology.first(coordkit_namespace, shards)))

    def connect(_: str, url: str) -> Any:
        return flavour.redis(url, **PATIENCE)

    async def client(source: Any = None, **options: Any) -> Any:
        source = source or flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")
        options = {"poll": 0.5, "patience": 1.0, "balance": RoundRobin, **options}
        made = await maybe(flavour.ShardedRedis.from_topology(source, connect, **options))
        flavour.on_exit(getattr(made, "aclose", None) or made.close)
        return made

    async with flavour.within(store.rebalancer("setup")) as leadership:
        made = flavour.Reshard(store, leadership, connect)
        async with flavour.within(made) as reshard:
            await maybe(reshard.initialise())
    first = await client()
    await maybe(first.with_options(min_replicas=1, wait_timeout=10.0).mset(dict.fromkeys(KEYS, 0)))
    for each in (hurt, steady):
        each.wait_in_sync()
    counting = Counting(flavour, client)
    await counting.start()
    mover = program(MOVER, timeout=4.0)
    assert mover.line() == "moving"
    moving = await maybe(store.read())
    assert len(moving.moves) == 1
    deaf = (await client(moving, patience=0.2)).with_options(min_replicas=1, wait_timeout=0.2)
    await maybe(deaf.incrby(KEYS[0], 0))  # all keys are served by b, and it has a connection there
    await counting.more()
    mover.kill()

    # The primary fails, and the replica that has most is promoted; it knows the epoch of the move.
    old = hurt.primary
    getattr(coordkit_faults, fault)(old)
    best = max(hurt.replicas, key=lambda each: int(tell(each, "ROLE")[4]))
    hurt.promote(best)
    assert int(tell(best, "GET", local_key(coordkit_namespace, "epoch"))) == moving.moves[0].number
    async with flavour.within(store.rebalancer("second")) as leadership:
        topology = await maybe(store.read())
        others = [each.url for each in hurt.replicas if each is not old]
        after = topology.with_addresses(failing, best.url, others)
        await maybe(store.publish(after, expected=topology, leadership=leadership))
        async with flavour.within(flavour.Reshard(store, leadership, connect, batch=16384, patience=30)) as reshard:
            running = flavour.spawn(lambda: maybe_run(flavour, reshard))
            await counting.more()
            assert (await running.result(SOON)).phase == "done"
    last = await maybe(store.read())
    assert (list(last.shards), last.moves) == (["b"], ())

    # The old one is back, takes itself for a primary, and somebody believes that: it acknowledges nothing.
    if fault == "pause":
        coordkit_faults.resume(old)
    for key in KEYS[:5]:
        if which == "source":  # where nobody writes any more
            counting.heard(key, int(await maybe(deaf.incr(key))))
        else:
            with pytest.raises(StoreUnavailable):
                await maybe(deaf.incr(key))
    coordkit_faults.heal()
    await counting.more(60)
    await counting.end()
    counting.check(b.primary, a.primary)


async def maybe_run(flavour: Any, reshard: Any) -> Any:
    return await flavour.maybe(reshard.run())


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
    empty(steady, watched)
    sentinels = [(each.host, each.port) for each in watched.watchers]
    kind = redis.asyncio.Sentinel if flavour.is_async else redis.Sentinel

    def connect(shard: str, url: str) -> Any:
        if shard == "a":
            return flavour.redis(url, **PATIENCE)
        made = ReplicaSet.of_sentinel(kind(sentinels, sentinel_kwargs=PATIENCE), watched.service_name, **PATIENCE)
        return flavour.closing(made.primary) and made

    store = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")
    replicas = tuple(each.url for each in steady.replicas)
    shards = {"a": Shard(steady.primary.url, replicas), "b": Shard("sentinel:b")}
    await maybe(store.create(Topology.first(coordkit_namespace, shards)))

    async def client() -> Any:
        source = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")
        make = flavour.ShardedRedis.from_topology
        made = await maybe(make(source, connect, poll=0.5, patience=1.0, balance=RoundRobin))
        flavour.on_exit(getattr(made, "aclose", None) or made.close)
        return made

    counting = Counting(flavour, client)
    async with flavour.within(store.rebalancer("test")) as leadership:
        made = flavour.Reshard(store, leadership, connect, batch=16384, keys_per_second=15, patience=60)
        async with flavour.within(made) as reshard:
            await maybe(reshard.initialise())
            first = await client()
            await maybe(first.with_options(min_replicas=1, wait_timeout=10.0).mset(dict.fromkeys(KEYS, 0)))
            steady.wait_in_sync()
            await flavour.until(lambda: all(tell(each, "DBSIZE") for each in watched.servers), SOON)
            await counting.start()
            await maybe(reshard.drain("a"))
            running = flavour.spawn(lambda: maybe_run(flavour, reshard))
            await flavour.until(lambda: reshard.progress.seen >= 15, SOON)
            old = watched.primary()
            coordkit_faults.kill(old)
            watched.wait_promoted(old)
            await counting.more()
            coordkit_faults.heal()
            assert (await running.result(2 * SOON)).phase == "done"
    await counting.more(60)
    await counting.end()
    counting.check(watched.primary(), steady.primary)
