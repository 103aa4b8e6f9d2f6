"""A client over a live topology in a forked child: one that followed a store is refused there, with what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from coordkit.routing import Topology
from coordkit.routing.fence.fence import local_key

pytestmark = pytest.mark.empties_servers

FORKED = """
import redis, redis.asyncio
from coordkit.routing import Topology

maybe, kind = flavour.maybe, redis.asyncio.Redis if flavour.is_async else redis.Redis
connect = lambda _, url: kind.from_url(url, socket_timeout=10)
clients = {}

async def close(shards):
    await maybe((getattr(shards, "aclose", None) or shards.close)())

async def outcome(call):
    try:
        return repr(await maybe(call()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def before():
    store = flavour.TopologyStore(zk, path)
    clients["store"] = await maybe(flavour.ShardedRedis.from_topology(store, connect))
    clients["hand"] = await maybe(flavour.ShardedRedis.from_topology(await maybe(store.read()), connect))
    for shards in clients.values():
        await maybe(shards.set("k", 1))

async def of_child():
    store, hand = clients["store"], clients["hand"]
    calls = {
        "get": lambda: store.get("k"),
        "pipeline": lambda: store.pipeline().get("k").execute(),
        "on_all": lambda: store.on_all("PING"),
        "shard_for": lambda: store.shard_for("k"),
        "lock": lambda: flavour.Lock(store, "l", ttl=5).try_acquire(),
        "hand": lambda: hand.get("k"),
    }
    found = {name: await outcome(call) for name, call in calls.items()}
    await close(store)
    await close(hand)
    fresh = KazooClient(hosts)
    fresh.start(20)
    own = await maybe(flavour.ShardedRedis.from_topology(flavour.TopologyStore(fresh, path), connect))
    found["own"] = await outcome(lambda: own.get("k"))
    await close(own)
    return found

flavour.run(before())
child = os.fork()
if not child:
    try:
        async def work():
            say(json.dumps(await of_child()))
        flavour.run(work())
    except BaseException as error:
        say(json.dumps({"failed": repr(error)}))
    finally:
        os._exit(0)
os.waitpid(child, 0)

async def after():
    say(json.dumps([await outcome(lambda shards=shards: shards.get("k")) for shards in clients.values()]))

flavour.run(after())
os._exit(0)
"""


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


async def test_a_client_that_followed_a_store_is_refused_in_a_forked_child(
    flavour: Any, maybe: Any, zk_client: Any, program: Any, coordkit_redis_shards: Any, coordkit_namespace: str
) -> None:
    urls = dict(zip("ab", (server.url for server in coordkit_redis_shards), strict=False))
    for url in urls.values():
        with redis.Redis.from_url(url) as plain:
            plain.flushdb()
            plain.set(local_key(coordkit_namespace, "epoch"), 1)
    store = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/x")  # as the program has it
    await maybe(store.create(Topology.first(coordkit_namespace, urls)))
    running = program(FORKED)
    found = json.loads(running.line())
    assert found.pop("hand") == found.pop("own") == "b'1'"
    assert sorted(found) == ["get", "lock", "on_all", "pipeline", "shard_for"]
    for said in found.values():
        assert said.startswith("StoreUnavailable: ")
        assert "was made before a fork" in said
        assert "a KazooClient of its own" in said
    assert json.loads(running.line()) == ["b'1'", "b'1'"], "the parent's work on"
