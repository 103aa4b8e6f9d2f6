"""What may become a shard, and what moves nothing: servers under two names, shards with others' keys, both flavours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import shard_ports
from reshard_cluster import Client, Cluster

from coordkit.errors import CoordError
from coordkit.routing import Shard, Topology, rendezvous, slot_of
from coordkit.routing.fence.fence import local_key
from coordkit.routing.moving.admission import check_distinct

pytestmark = pytest.mark.empties_servers


@pytest.fixture
def cluster(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Any:
    made = Cluster(flavour, [server.url for server in coordkit_redis_shards], coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
    made.close()


def alias(url: str) -> str:
    """Return another address of the same server."""
    assert "127.0.0.1" in url
    return url.replace("127.0.0.1", "localhost")


def with_alias(cluster: Cluster) -> None:
    """Have b be the server of a, as by a mistake that nobody noticed."""
    urls = {"a": cluster.urls["a"], "b": alias(cluster.urls["a"])}
    cluster.ledger.now = Topology.first(cluster.ledger.now.name, urls)


async def test_one_server_under_two_names_is_refused(cluster: Cluster) -> None:
    with_alias(cluster)
    with pytest.raises(CoordError, match="same database as shard 'a'"):
        await cluster.reshard().initialise()
    assert cluster.plain["a"].dbsize() == 0


async def test_one_that_is_a_shard_already_is_not_added(cluster: Cluster) -> None:
    reshard, before = cluster.reshard(), cluster.ledger.now
    await reshard.initialise()
    with pytest.raises(CoordError, match="same database as shard 'b'"):
        await reshard.add("c", alias(cluster.urls["b"]))
    with pytest.raises(ValueError, match="of 'c' is that of 'b'; another server is allowed"):
        await reshard.add("c", cluster.urls["b"])
    assert cluster.ledger.now is before


async def test_a_move_between_two_names_of_one_server_takes_nothing_away(cluster: Cluster) -> None:
    """Also where a topology has them that was made without a look."""
    with_alias(cluster)
    cluster.plain["a"].set(local_key(cluster.ledger.now.name, "epoch"), 1)
    cluster.plain["a"].mset(dict.fromkeys(cluster.keys(200), 1))
    reshard = cluster.reshard()
    shards = {name: replace(shard, fenced=1) for name, shard in cluster.ledger.now.shards.items()}
    cluster.ledger.now = Topology(cluster.ledger.now.name, 2, shards, cluster.ledger.now.owners).reweighted("b", 3)
    with pytest.raises(CoordError, match="same database as shard 'a'"):
        await reshard.run()
    assert cluster.plain["a"].exists(*cluster.keys(200)) == 200


async def test_two_databases_of_one_server_are_two_shards(flavour: Any, cluster: Cluster) -> None:
    url = cluster.urls["a"]
    assert url.endswith("/0")
    ports = [
        shard_ports.port(flavour, name, flavour.redis(f"{url[:-1]}{number}", socket_timeout=10))
        for number, name in enumerate("xyz")
    ]
    await check_distinct(shard_ports.runtime(flavour), ports)
    with pytest.raises(CoordError, match="same database as shard 'x'"):
        await check_distinct(shard_ports.runtime(flavour), [*ports, shard_ports.port(flavour, "w", flavour.redis(url))])


async def test_a_replica_is_no_shard(flavour: Any, coordkit_redis_replicated: Any) -> None:
    replica = shard_ports.port(flavour, "r", flavour.redis(coordkit_redis_replicated.replicas[0].url))
    with pytest.raises(CoordError, match=r"it is a replica, of .*: give the address of its primary"):
        await check_distinct(shard_ports.runtime(flavour), [replica])


async def test_shards_that_hold_others_keys_are_refused(cluster: Cluster) -> None:
    """As of a static configuration, whose placement is another one."""
    cluster.plain["a"].mset(dict.fromkeys(cluster.keys(100), 1))
    with pytest.raises(CoordError, match=r"slots that it does not own, as 'n\d+' \(slot \d+, of 'b'\)"):
        await cluster.reshard().initialise()
    for key in cluster.keys(100):
        if cluster.ledger.now.owners.lookup(key) == "b":
            cluster.plain["a"].delete(key)
    kept = cluster.plain["a"].dbsize()
    assert 20 < kept < 80
    await cluster.reshard().initialise()
    await cluster.reshard().initialise()  # it may be repeated
    assert cluster.plain["a"].dbsize() == kept + 1


async def test_a_move_drops_nothing_that_was_not_left_over(cluster: Cluster) -> None:
    """Keys that were at a shard before it ever had other slots are somebody's."""
    reshard = cluster.reshard()
    await reshard.initialise()
    foreign = next(key for key in cluster.keys(99) if cluster.ledger.now.owners.lookup(key) == "a")
    cluster.plain["b"].set(foreign, "kept")
    await reshard.reweight("b", 3)
    with pytest.raises(CoordError, match=f"does not own, as {foreign.decode()!r}"):
        await reshard.run()
    assert cluster.plain["b"].get(foreign) == b"kept"
    assert cluster.ledger.now.moves == ()
    cluster.plain["b"].delete(foreign)
    assert (await reshard.run()).phase == "done"


async def test_a_shard_of_another_topology_is_refused(cluster: Cluster) -> None:
    other = f"{cluster.ledger.now.name}-other"
    cluster.plain["a"].set(local_key(other, "epoch"), 7)
    with pytest.raises(CoordError, match=f"a shard of the topology '{other}' as well"):
        await cluster.reshard().initialise()
    cluster.plain["c"].set(local_key(other, "epoch"), 7)
    cluster.plain["a"].flushdb()
    reshard = cluster.reshard()
    await reshard.initialise()
    with pytest.raises(CoordError, match="it has 1 keys"):
        await reshard.add("c", cluster.urls["c"])
    cluster.plain["c"].flushdb()
    cluster.plain["a"].set(local_key(cluster.ledger.now.name, "epoch"), 9)
    with pytest.raises(CoordError, match=r"it knows epoch 9 of a topology .*, and this one has 1"):
        await cluster.reshard().initialise()


async def test_a_move_does_not_carry_another_topologys_epoch_away(cluster: Cluster) -> None:
    """Who became a shard of it later: nothing was there to see when this one was made."""
    reshard = cluster.reshard()
    await reshard.initialise()
    others = (f"{cluster.ledger.now.name}-{i}" for i in range(999))
    other = next(
        local_key(each, "epoch")
        for each in others
        if cluster.ledger.now.owners.table[slot_of(local_key(each, "epoch"))] == "a"
    )
    client = Client(cluster)
    for key in cluster.keys(50):
        await client.incr(key)
    cluster.plain["a"].set(other, 7)
    await reshard.drain("a")
    with pytest.raises(CoordError, match=r"a shard of the topology .* as well"):
        await reshard.run()
    assert cluster.plain["a"].get(other) == b"7"
    assert cluster.plain["b"].get(other) is None
    cluster.plain["a"].delete(other)
    assert (await reshard.run()).phase == "done"
    cluster.check()


async def test_a_shard_that_is_added_has_the_functions_of_the_others(cluster: Cluster) -> None:
    library = "#!lua name=coordkittest\nredis.register_function('coordkit_test', function(keys) return 'ran' end)"
    reshard = cluster.reshard()
    await reshard.initialise()
    try:
        cluster.plain["a"].function_load(library, replace=True)
        await reshard.add("c", cluster.urls["c"])
        assert cluster.plain["c"].fcall("coordkit_test", 1, "k") == b"ran"
    finally:
        for client in cluster.plain.values():
            client.function_flush()


@pytest.mark.parametrize("weights", [None, {"a": 3}])
async def test_a_static_client_becomes_a_topology_with_its_data(
    flavour: Any, maybe: Any, cluster: Cluster, weights: Any
) -> None:
    plain = {name: flavour.redis(cluster.urls[name]) for name in "ab"}
    static = flavour.ShardedRedis(plain, weights=weights)
    keys = cluster.keys(200)
    await maybe(static.mset(dict.fromkeys(keys, 1)))
    cluster.expected.update(keys)
    shards = {name: Shard(cluster.urls[name], weight=(weights or {}).get(name, 1)) for name in "ab"}
    cluster.ledger.now = Topology.first(cluster.ledger.now.name, shards, placement=rendezvous(["a", "b"], weights))
    reshard = cluster.reshard()
    await reshard.initialise()
    assert cluster.ledger.now.plan() == []
    cluster.check()
    await reshard.add("c", cluster.urls["c"])
    assert (await reshard.run()).phase == "done"
    cluster.check()
    with pytest.raises(ValueError, match="owners has the shards"):
        Topology.first("x", shards, placement=rendezvous(["a", "b", "c"]))
    with pytest.raises(TypeError, match="placement='ab'"):
        Topology.first("x", shards, placement="ab")  # type: ignore[arg-type]  # that is the test
