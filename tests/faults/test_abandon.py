"""A shard is killed and given up, with clients and locks on real servers; and comes back, early and late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from coordkit.errors import CoordError, ShardDown, StoreUnavailable, TopologyOutdated
from coordkit.routing import Topology
from coordkit.testing.processes import start_redis

KEYS = [f"n{i}" for i in range(120)]


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


class Place:
    """Three shards of one's own, whose topology is in ZooKeeper."""

    def __init__(self, flavour: Any, zk_client: Any, name: str, stack: ExitStack) -> None:
        self.flavour, self.zk_client, self.name = flavour, zk_client, name
        self.servers = {shard: stack.enter_context(start_redis(appendonly="always")) for shard in "abc"}
        self.store = flavour.TopologyStore(zk_client(), f"/{name}/users")
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
