"""What each shard of a topology keeps for itself: nobody writes it by its name, in either flavour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from coordkit.errors import CrossShardError
from coordkit.routing import Topology
from coordkit.routing.fence.fence import local_key

pytestmark = pytest.mark.empties_servers


@pytest.fixture
def plain(coordkit_redis_shards: Any) -> Iterator[dict[str, Any]]:
    servers = dict(zip("abc", coordkit_redis_shards, strict=True))
    clients = {shard: redis.Redis.from_url(server.url) for shard, server in servers.items()}
    for client in clients.values():
        client.flushdb()
    yield clients
    for client in clients.values():
        client.flushdb()
        client.close()


@pytest.fixture(params=["still", "moving"])
def make(request: Any, flavour: Any, coordkit_redis_shards: Any, plain: dict[str, Any], coordkit_namespace: str) -> Any:
    """Give what makes a client of three shards, of which one has what moves just now, or none."""
    urls = {shard: server.url for shard, server in zip("abc", coordkit_redis_shards, strict=True)}
    topology = Topology.first(coordkit_namespace, urls)
    if request.param == "moving":
        slot = next(slot for slot in range(16384) if topology.owners.table[slot] == "a")
        topology = topology.begin_move([slot], "a", "b")
    for client in plain.values():
        client.set(local_key(coordkit_namespace, "epoch"), 1)

    async def made() -> Any:
        making = flavour.ShardedRedis.from_topology(topology, lambda _, url: flavour.redis(url, socket_timeout=5))
        shards = await flavour.maybe(making)
        flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        return shards

    return made


WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "SET": lambda shards, key: shards.set(key, 7),
    "INCR": lambda shards, key: shards.incr(key),
    "in small letters": lambda shards, key: shards.execute_command("incr", key),
    "DEL": lambda shards, key: shards.delete(key),
    "DEL of many": lambda shards, key: shards.delete("n1", key, "n2"),
    "MSET": lambda shards, key: shards.mset({"n1": 1, key: 7}),
    "UNLINK": lambda shards, key: shards.unlink(key),
    "EXPIRE": lambda shards, key: shards.expire(key, 1),
    "RENAME": lambda shards, key: shards.rename(key, key),
    "SORT STORE": lambda shards, key: shards.sort(key, store=key),
    "BITOP": lambda shards, key: shards.bitop("AND", key, key),
    "EVAL": lambda shards, key: shards.eval("return redis.call('DEL', KEYS[1])", 1, key),
    "on all": lambda shards, key: shards.on_all("SET", key, 7),
    "in a pipeline": lambda shards, key: shards.pipeline().set("n1", 1).set(key, 7).set("n2", 1).execute(),
    "in a transaction": lambda shards, key: shards.pipeline(transaction=True).set(key, 7).execute(),
}


async def test_it_is_not_written(make: Any, plain: dict[str, Any], maybe: Any, coordkit_namespace: str) -> None:
    shards, epoch = await make(), local_key(coordkit_namespace, "epoch")
    for key in (epoch, epoch.decode(), memoryview(epoch), local_key(coordkit_namespace, "moved:2").decode()):
        for what, write in WRITES.items():
            if what == "MSET" and isinstance(key, memoryview):
                continue  # which no dict of redis-py's takes
            with pytest.raises(CrossShardError, match=r"is what each shard of topology .* keeps for itself") as caught:
                pytest.fail(f"{what}: {await maybe(write(shards, key))}")
            assert "Nothing was sent" in str(caught.value)
            assert "memory" not in str(caught.value), "it is named as the bytes that it is"
    for client in plain.values():
        assert client.get(epoch) == b"1"
        assert client.keys() == [epoch]


async def test_it_may_be_read_and_what_looks_like_it_be_written(make: Any, maybe: Any, coordkit_namespace: str) -> None:
    shards, key = await make(), local_key(coordkit_namespace, "epoch").decode()
    assert await maybe(shards.get(key)) == b"1"
    assert await maybe(shards.mget(key, "n1")) == [b"1", None]
    assert await maybe(shards.pipeline().get(key).get("n1").execute()) == [b"1", None]
    assert await maybe(shards.on_all("GET", key)) == dict.fromkeys("abc", b"1")
    assert shards.explain("SET", key, 1).action == "refuse"
    assert shards.explain("GET", key).action == "route"
    name = coordkit_namespace
    for like in (f"x{key}", f"{{{name}}}:topology:epoch", f"coordkit:1:{{{name}x}}:topology:epoch"):
        assert await maybe(shards.set(like, key)) is True
        assert await maybe(shards.pipeline().set(like, key).get(like).execute()) == [True, key.encode()]
        assert await maybe(shards.delete(like)) == 1
    assert await maybe(shards.publish(key, "a channel")) == 0
