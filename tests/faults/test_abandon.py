"""A shard is killed and given up, with clients and locks on real servers; and comes back, early and late."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from coordkit.errors import CoordError, ShardDown, StoreUnavailable, TopologyOutdated
from coordkit.routing import Topology
from coordkit.testing.faults import kill_session
from coordkit.testing.processes import start_redis

KEYS = [f"n{i}" for i in range(120)]

# Gives up shard "c", or goes on with that, and kills itself in front of a step, when it comes to it for the nth time.
ABANDONING = """
import redis, redis.asyncio

kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

async def work():
    store = flavour.TopologyStore(zk, path)
    wanted, times, seen = heard(), int(heard()), []

    def on_step(step):
        still_leading(step)
        seen.append(step)
        if step == wanted and seen.count(step) == times:
            session, password = zk.client_id
            say(json.dumps([session, password.hex()]))
            os.kill(os.getpid(), signal.SIGKILL)

    async with flavour.within(store.rebalancer("killed")) as leadership:
        async with flavour.within(flavour.Reshard(
            store, leadership, lambda _, url: kind.from_url(url, socket_timeout=5), batch=16384, lease=0.3,
        )) as reshard:
            still_leading, reshard._core._on_step = reshard._core._on_step, on_step
            await flavour.maybe(reshard.abandon("c", lose_keys_and_locks=True))
    say("done")

flavour.run(work())
"""
# Of all its steps, which tests/contract/test_abandon.py has, those that leave most to who goes on.
KILLED_AT = [("announce", 1), ("raise a", 1), ("drop b", 1), ("barrier", 2), ("close", 2), ("finish", 1)]


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


class Place:
    """Three shards of one's own, whose topology is in ZooKeeper."""

    def __init__(self, flavour: Any, zk_client: Any, name: str, stack: ExitStack) -> None:
        self.flavour, self.zk_client, self.name = flavour, zk_client, name
        self.servers = {shard: stack.enter_context(start_redis(appendonly="always")) for shard in "abc"}
        self.store = flavour.TopologyStore(zk_client(), f"/{name}/x")  # as programs have it
        self.first: Any = None

    def connect(self, _shard: str, address: str) -> Any:
        return self.flavour.redis(address, socket_timeout=5)

    async def start(self, **options: Any) -> None:
        urls = {shard: server.url for shard, server in self.servers.items()}
        self.first = await self.flavour.maybe(self.store.create(Topology.first(self.name, urls, **options)))
        await self.resharding("initialise")

    async def client(self, source: Any = None, **options: Any) -> Any:
        """Return a client that follows the store, or one that knows no more than the topology it is given."""
        made = self.flavour.ShardedRedis.from_topology(
            source or self.flavour.TopologyStore(self.zk_client(), self.store.path), self.connect, **options
        )
        shards = await self.flavour.maybe(made)
        self.flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        return shards

    async def resharding(self, name: str, *arguments: Any, options: Any = None, **how: Any) -> Any:
        async with self.flavour.within(self.store.rebalancer("test")) as leadership:
            made = self.flavour.Reshard(self.store, leadership, self.connect, batch=16384, **(options or {}))
            async with self.flavour.within(made) as reshard:
                return await self.flavour.maybe(getattr(reshard, name)(*arguments, **how))


@pytest.fixture
def place(flavour: Any, zk_client: Any, coordkit_namespace: str) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(flavour, zk_client, coordkit_namespace, stack)


async def test_a_killed_shard_of_a_cache(place: Place, flavour: Any, maybe: Any) -> None:
    """Its keys begin anew, nobody else's are touched; it is a new shard when it is back, and empty."""
    await place.start(cache=True)
    shards, deaf = await place.client(), await place.client(place.first, patience=0.5)
    for key in KEYS:
        await maybe(shards.set(key, f"old {key}"))
    lost = {key for key in KEYS if shards.shard_for(key) == "c"}
    with pytest.raises(CoordError, match=r"c: it answers \(1\).* drain c"):
        await place.resharding("abandon", "c")
    ended: list[bool] = []
    wrong: list[tuple[str, Any]] = []

    async def work() -> int:
        for turn in range(1_000_000):
            key = KEYS[turn % len(KEYS)]
            if ended and turn > 500:
                return turn
            try:
                found = await maybe(shards.get(key))
            except StoreUnavailable:  # of the dead shard, or dropped by the fence
                continue
            if key not in lost and found != f"old {key}".encode():
                wrong.append((key, found))
        return 0

    working = flavour.spawn(work)
    place.servers["c"].kill()
    with pytest.raises(StoreUnavailable):
        for _ in range(9):
            await maybe(shards.get(min(lost)))
    progress = await place.resharding("abandon", "c")
    assert (progress.phase, progress.slots_lost) == ("done", 5461)
    await flavour.until(lambda: shards.epoch > place.first.epoch)
    for key in lost:
        assert await maybe(shards.get(key)) is None
        await maybe(shards.set(key, "new"))
    ended.append(True)
    assert await working.result() > 500
    assert wrong == []

    place.servers["c"].restart()
    assert await maybe(deaf.get(min(lost))) == f"old {min(lost)}".encode(), "cut off from all that could tell it"
    with pytest.raises(TopologyOutdated):
        for _ in range(3):
            try:
                await maybe(deaf.get(min(set(KEYS) - lost)))
            except TopologyOutdated:
                raise
            except StoreUnavailable:  # the fence had dropped that connection
                continue
    url = place.servers["c"].url
    with pytest.raises(CoordError, match=rf"c: it has {len(lost)} keys"):
        await place.resharding("add", "c", url)
    with redis.Redis.from_url(url) as plain:
        plain.flushall()
    await place.resharding("add", "c", url)
    assert (await place.resharding("run")).phase == "done"
    for key in KEYS:
        assert await maybe(shards.get(key)) == (b"new" if key in lost else f"old {key}".encode())
    with pytest.raises(TopologyOutdated):
        await maybe(deaf.get(min(lost)))


async def test_a_lock_that_was_on_it_has_one_holder_and_a_later_token(place: Place, flavour: Any, maybe: Any) -> None:
    """It comes back in the midst of it, with its file: whoever knows no better is told there."""
    await place.start()
    shards, deaf = await place.client(), await place.client(place.first, patience=0.5)
    name = next(name for name in KEYS if shards.shard_for(f"{{{name}}}") == "c")
    lease = await maybe(flavour.Lock(shards, name, ttl=1.5).acquire())
    assert await maybe(flavour.Lock(deaf, name, ttl=1.5).try_acquire()) is None
    place.servers["c"].kill()
    with pytest.raises(CoordError, match="was not declared a cache"):
        await place.resharding("abandon", "c")
    phases: list[str] = []

    def on_progress(progress: Any) -> None:
        if progress.phase == "giving up" and "giving up" not in phases:
            place.servers["c"].restart()
        phases.append(progress.phase)

    options = {"lease": 2.0, "on_progress": on_progress}
    progress = await place.resharding("abandon", "c", lose_keys_and_locks=True, options=options)
    assert progress.slots_lost == 5461
    assert phases.index("waiting") < phases.index("giving up")
    assert bool(lease.lost), "before anybody else could hold it"
    following = await maybe(flavour.Lock(shards, name, ttl=30).acquire(timeout=5))
    assert following.token > lease.token
    for _ in range(2):
        with pytest.raises((StoreUnavailable, TopologyOutdated), match=r"knows epoch|dropped|closed") as caught:
            await maybe(flavour.Lock(deaf, name, ttl=1.5).try_acquire())
    assert "knows epoch" in str(caught.value)
    await maybe(following.release())


async def test_shard_down_is_what_everybody_hears_until_an_operator_says_so(place: Place, maybe: Any) -> None:
    """No client, and no rebalancer that just goes on, takes a dead shard's slots away from it."""
    await place.start(cache=True)
    shards = await place.client()
    key = next(key for key in KEYS if shards.shard_for(key) == "c")
    place.servers["c"].kill()
    kinds = set()
    for _ in range(20):
        with pytest.raises(StoreUnavailable) as caught:
            await maybe(shards.get(key))
        kinds.add(caught.type)
    assert ShardDown in kinds
    assert (await place.resharding("run")).phase == "done"
    assert await maybe(place.store.read()) == place.first


class Ledger:
    """Counts on keys, each number of which is to be given out once in the life of its key; that of some ends once."""

    def __init__(self, flavour: Any, keys: list[str], lost: set[str]) -> None:
        self._flavour, self._keys, self._lost = flavour, keys, lost
        self.killed = self.ended = False
        self.told: Counter[tuple[str, int]] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    async def work(self, shards: Any, keys: set[str]) -> None:
        for key in itertools.cycle(sorted(keys)):
            if self.ended:
                return
            former = key in self._lost and not self.killed  # begun when the dead shard was there: in its other life
            try:
                value = int(await self._flavour.maybe(shards.incr(key)))
            except StoreUnavailable:
                self.unknown[key] += 1
            else:
                if former and self.killed:
                    self.unknown[key] += 1  # may have been either's
                elif not former:
                    self.told[key, value] += 1
                    self.acknowledged[key] += 1
            await self._flavour.sleep(0.001)

    async def more(self, keys: set[str]) -> None:
        """Wait until each of ``keys`` was counted on once more."""
        before = dict(self.acknowledged)
        await self._flavour.until(lambda: all(self.acknowledged[key] > before.get(key, 0) for key in keys), 30)

    def check(self, servers: dict[str, Any], owner: Any) -> None:
        assert {told: times for told, times in self.told.items() if times > 1} == {}, "given out twice"
        plain = {shard: redis.Redis.from_url(server.url) for shard, server in servers.items()}
        for key in self._keys:
            there = int(plain[owner(key)].get(key) or 0)
            assert self.acknowledged[key] <= there <= self.acknowledged[key] + self.unknown[key], key
        for client in plain.values():
            client.close()


async def aside(flavour: Any, work: Any) -> Any:
    """Wait for something that blocks, with what runs beside us going on."""
    return await asyncio.to_thread(work) if flavour.is_async else work()


async def test_clients_count_while_one_after_the_other_is_killed_in_it(
    place: Place, flavour: Any, maybe: Any, program: Any, coordkit_zk_server: Any
) -> None:
    """In front of some steps, in processes of their own; what was acknowledged, before and meanwhile, is there."""
    await place.start()
    hosts = [(host, int(port)) for host, port in (each.split(":") for each in coordkit_zk_server.hosts.split(","))]
    clients = [await place.client(poll=0.2, patience=1.0) for _ in range(3)]
    lost = {key for key in KEYS if clients[0].shard_for(key) == "c"}
    steady = set(KEYS) - lost
    ledger = Ledger(flavour, KEYS, lost)
    theirs = zip(clients, (steady, steady, lost), strict=True)
    working = [flavour.spawn(ledger.work, shards, keys) for shards, keys in theirs]
    try:
        await ledger.more(steady)
        place.servers["c"].kill()
        ledger.killed = True
        for step, times in KILLED_AT:
            killed = program(ABANDONING)
            killed.tell(step)
            killed.tell(str(times))
            session, password = json.loads(await aside(flavour, killed.line))
            gone = SimpleNamespace(client_id=(session, bytes.fromhex(password)), hosts=hosts)
            await aside(flavour, lambda gone=gone: kill_session(gone))  # as it would end by itself, but sooner
            leaving = (await maybe(place.store.read())).leaving
            assert bool(leaving) is (step != "announce")
        await ledger.more(steady)
        following = program(ABANDONING)
        following.tell("")
        following.tell("0")
        assert await aside(flavour, following.line) == "done"
        await ledger.more(set(KEYS))
    finally:
        ledger.ended = True
        for running in working:
            await running.result()
    after = await maybe(place.store.read())
    assert (sorted(after.shards), after.moves) == (["a", "b"], ())
    ledger.check({shard: place.servers[shard] for shard in "ab"}, after.owners.lookup)
