"""A shard that stalls, and what is asked of many shards at once for locks: none waits for another."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import redis

from coordkit._ports import Call, Script
from coordkit.core.shards import ShardedStore
from coordkit.errors import StoreUnavailable
from coordkit.routing import Topology
from coordkit.routing.client.live_store import LiveStore
from coordkit.routing.fence.fence import local_key

pytestmark = pytest.mark.empties_servers

LONG = 60.0  # what nobody here waits for
_SOURCE = "return redis.call('INCR', KEYS[1])"
COUNT = Script("count", _SOURCE, hashlib.sha1(_SOURCE.encode()).hexdigest())  # noqa: S324  as Redis has it


class Place:
    def __init__(self, flavour: Any, servers: Any, name: str) -> None:
        self.flavour, self.name = flavour, name
        self.servers = dict(zip("abc", servers, strict=True))
        self.plain = {shard: redis.Redis.from_url(one.url, socket_timeout=5) for shard, one in self.servers.items()}

    async def store(self, kind: str) -> Any:
        clients = {shard: self.flavour.redis(one.url, socket_timeout=LONG) for shard, one in self.servers.items()}
        if kind == "static":
            shards = self.flavour.ShardedRedis(clients)
            self.shard_for = shards.shard_for
            return self.flavour.Fence(shards, self.name)._core._store
        topology = Topology.first(self.name, {shard: one.url for shard, one in self.servers.items()})
        for plain in self.plain.values():
            plain.set(local_key(self.name, "epoch"), 1)
        made = self.flavour.ShardedRedis.from_topology(topology, lambda shard, _: clients[shard])
        shards = await self.flavour.maybe(made)
        self.flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        self.shard_for = shards.shard_for
        return self.flavour.Fence(shards, self.name)._core._store

    def call_on(self, shard: str) -> tuple[str, Call]:
        names = (f"{self.name}:{i}" for i in range(999))
        name = next(name for name in names if self.shard_for(name) == shard)
        return name, Call(COUNT, (name.encode(),), ())

    def count(self, call: tuple[str, Call]) -> int:
        return int(self.plain[self.shard_for(call[0])].get(call[0]) or 0)


@pytest.fixture
def place(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str, coordkit_faults: Any) -> Any:
    made = Place(flavour, coordkit_redis_shards, coordkit_namespace)
    yield made
    coordkit_faults.heal()
    for client in made.plain.values():
        client.flushdb()
        client.close()


@pytest.mark.parametrize("kind", ["static", "live"])
async def test_others_are_asked_while_it_stalls(place: Place, flavour: Any, coordkit_faults: Any, kind: str) -> None:
    store = await place.store(kind)
    assert type(store) is (LiveStore if kind == "live" else ShardedStore)
    calls = [place.call_on(shard) for shard in "bac"]
    assert await store.run_many(calls) == [1, 1, 1]
    coordkit_faults.pause(place.servers["b"])
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await store.run_many(calls, within=LONG))

    asking = flavour.spawn(ask)
    await flavour.until(lambda: [place.count(call) for call in calls[1:]] == [2, 2])
    assert answers == [], "the one that stalls has not answered yet"
    coordkit_faults.resume(place.servers["b"])
    await asking.result()
    assert answers == [[2, 2, 2]]


@pytest.mark.parametrize("kind", ["static", "live"])
async def test_the_answers_of_others_are_had_in_time(
    place: Place, flavour: Any, coordkit_faults: Any, kind: str
) -> None:
    """Its own is said to be missing, when those who ask have waited for so long as they could."""
    store = await place.store(kind)
    calls = [place.call_on(shard) for shard in "bac"]
    assert await store.run_many(calls) == [1, 1, 1]
    coordkit_faults.pause(place.servers["b"])
    missing, *others = await store.run_many(calls, within=1.0)
    assert others == [2, 2]
    assert isinstance(missing, StoreUnavailable)
    assert missing.name == calls[0][0]
    coordkit_faults.resume(place.servers["b"])
    late, *others = await store.run_many(calls, within=LONG)
    assert (late in {2, 3}, others) == (True, [3, 3])
