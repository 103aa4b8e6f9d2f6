"""A shard behind a Sentinel is given up when all its servers are dead, not when Sentinel found it another primary."""

from __future__ import annotations

from typing import Any

import pytest
from deployed import Deployed

from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing import Topology
from coordkit.testing.deployments import tell

pytestmark = pytest.mark.empties_servers

KEYS = [f"n{i}" for i in range(60)]


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


async def test_all_servers_of_a_shard_die_one_after_the_other(
    flavour: Any,
    maybe: Any,
    zk_client: Any,
    coordkit_redis_sentinel_shards: Any,
    coordkit_faults: Any,
    coordkit_namespace: str,
) -> None:
    servers = dict(zip("abc", coordkit_redis_sentinel_shards, strict=True))
    for one in servers.values():
        one.wait_ready()
        tell(one.primary(), "FLUSHALL")

    def connect(shard: str, _address: str) -> Any:
        return Deployed(flavour, "sentinel", servers[shard]).redis(socket_timeout=2, socket_connect_timeout=1)

    store = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")
    addresses = {shard: f"redis://{shard}" for shard in servers}
    first = await maybe(store.create(Topology.first(coordkit_namespace, addresses, cache=True)))

    async def resharding(name: str, *arguments: Any) -> Any:
        async with flavour.within(store.rebalancer("test")) as leadership:
            made = flavour.Reshard(store, leadership, connect, batch=16384)
            async with flavour.within(made) as reshard:
                return await maybe(getattr(reshard, name)(*arguments))

    await resharding("initialise")
    shards = await maybe(flavour.ShardedRedis.from_topology(store, connect, patience=1.0))
    flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
    for key in KEYS:
        await maybe(shards.set(key, f"old {key}"))
    lost = {key for key in KEYS if shards.shard_for(key) == "c"}
    assert lost
    assert await maybe(shards.client_for(min(lost)).wait(1, 5000)) == 1

    old = servers["c"].primary()
    coordkit_faults.kill(old)
    servers["c"].wait_promoted(old)
    with pytest.raises(CoordError, match=r"c: it answers \(1\), so nothing was changed"):
        await resharding("abandon", "c")

    async def found(key: str) -> Any:
        for _ in range(50):
            try:
                return await maybe(shards.get(key))
            except StoreUnavailable:
                await flavour.sleep(0.1)
        return "never"

    assert await found(min(lost)) == f"old {min(lost)}".encode()
    assert await maybe(store.read()) == first

    coordkit_faults.kill(servers["c"].primary())
    progress = await resharding("abandon", "c")
    assert (progress.phase, progress.slots_lost) == ("done", first.owners.counts()["c"])
    for key in KEYS:
        assert await found(key) == (None if key in lost else f"old {key}".encode())
    coordkit_faults.heal()
    for one in servers.values():
        one.wait_ready()
        tell(one.primary(), "FLUSHALL")
