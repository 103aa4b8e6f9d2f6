"""ShardedRedis with a placement of another algorithm, both flavours, three real servers."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit.errors import CrossShardError
from coordkit.routing import bounded_loads, envoy_ring, hrw, jump, ketama, maglev, modula, slot_map

NAMES = ["c", "a", "b"]
PLACEMENTS = [
    slot_map(NAMES, {"a": 2}).rebalance(NAMES),
    bounded_loads(NAMES, {"b": 3}),
    ketama(NAMES, {"a": 2}, dialect="libketama"),
    ketama(NAMES, dialect="twemproxy", hash="md5", hash_tags=True),
    envoy_ring(NAMES),
    maglev(NAMES, table_size=1009),
    hrw(NAMES),
    hrw(NAMES, dialect="pymemcache"),
    jump(NAMES, hash_tags=True),
    modula(NAMES, hash="md5"),
]
each = pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: placement.checksum())


@pytest.fixture
def clients(flavour: Any, coordkit_redis_shards: Any) -> dict[str, Any]:
    return {name: flavour.redis(server.url) for name, server in zip(sorted(NAMES), coordkit_redis_shards, strict=True)}


@each
async def test_every_key_is_where_the_placement_says(
    flavour: Any, maybe: Any, clients: Any, placement: Any, coordkit_namespace: str
) -> None:
    shards = flavour.ShardedRedis(clients, placement=placement)
    keys = [f"{coordkit_namespace}:é:{i}" for i in range(40)]
    await maybe(shards.mset(dict.fromkeys(keys[:20], "v")))
    for key in keys[20:]:
        await maybe(shards.set(key, "v"))
    owners = placement.lookup_many(keys)
    assert set(owners) == set(NAMES)
    for key, owner in zip(keys, owners, strict=True):
        assert await maybe(clients[owner].exists(key)) == 1
        assert shards.shard_for(key) == shards.shard_for(key.encode()) == owner == shards.owners(key, 3)[0]
        assert shards.client_for(key) is clients[owner]
        assert shards.explain("GET", key).shards == {key: owner}
    assert await maybe(shards.mget(keys)) == [b"v"] * 40
    assert await maybe(shards.pipeline().mget(keys).get(keys[7]).execute()) == [[b"v"] * 40, b"v"]
    assert await maybe(shards.delete(*keys)) == 40
    assert shards.placement is placement
    assert list(shards.shards()) == sorted(NAMES)


@each
async def test_locks_are_whole_with_every_placement(
    flavour: Any, maybe: Any, clients: Any, placement: Any, coordkit_namespace: str
) -> None:
    """The keys of a lock share a tag, which coordkit's own keys are placed by even if the placement heeds none."""
    shards = flavour.ShardedRedis(clients, placement=placement)
    found = set()
    for i in range(12):
        name = f"{coordkit_namespace}:{i}"
        lock = flavour.Lock(shards, name, ttl=10)
        lease = await maybe(lock.try_acquire())
        assert await maybe(lock.try_acquire()) is None
        key = f"coordkit:1:{{{name}}}:lock"
        owner = shards.shard_for(key)
        assert owner == placement.lookup(name) == shards.owners(key, 2)[0]
        assert await maybe(clients[owner].exists(key)) == 1
        found.add(owner)
        await maybe(lease.release())
        assert await maybe(clients[owner].exists(key)) == 0
    assert len(found) > 1


async def test_what_a_tag_would_keep_together_is_refused_without_tags(
    flavour: Any, maybe: Any, clients: Any, coordkit_namespace: str
) -> None:
    shards = flavour.ShardedRedis(clients, placement=ketama(NAMES, dialect="libketama"))
    keys = [f"{{{coordkit_namespace}}}:{i}" for i in range(20)]
    assert len({shards.shard_for(key) for key in keys}) == 3
    with pytest.raises(CrossShardError, match=r"it cannot be split: .*\. Send a command for each shard"):
        await maybe(shards.sunionstore(*keys))


async def test_what_does_not_fit_is_refused_at_construction(flavour: Any, clients: Any) -> None:
    for placement, weights, error, message in [
        (["a", "b", "c"], None, TypeError, r"placement=\['a', 'b', 'c'\]; a Placement"),
        (slot_map(["a", "b"]), None, ValueError, r"placement has the shards \['a', 'b'\] and shards the names"),
        (slot_map([*NAMES, "d"]), None, ValueError, r"placement has the shards \['a', 'b', 'c', 'd'\]"),
        (slot_map(NAMES), {"a": 2}, ValueError, r"weights=\{'a': 2\} beside a placement"),
    ]:
        with pytest.raises(error, match=message):
            flavour.ShardedRedis(clients, placement=placement, weights=weights)
