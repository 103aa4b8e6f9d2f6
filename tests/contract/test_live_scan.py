"""What is asked of all shards of a live topology, both flavours: all keys, how many, any one, and none of them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from reshard_cluster import Cluster

from coordkit.errors import CrossShardError, PartialFailure, StoreUnavailable
from coordkit.routing import Topology
from coordkit.routing.fence.fence import local_key

pytestmark = pytest.mark.empties_servers


@pytest.fixture
def cluster(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Any:
    made = Cluster(flavour, [server.url for server in coordkit_redis_shards], coordkit_namespace, "abc")
    yield made
    for client in made.plain.values():
        client.flushdb()
    made.close()


async def started(cluster: Cluster, count: int = 600) -> tuple[Any, set[bytes]]:
    """Return a client that is told of topologies by hand, and the keys that are there."""
    await cluster.reshard().initialise()
    flavour = cluster.flavour
    made = flavour.ShardedRedis.from_topology(
        cluster.ledger.now, lambda _, address: flavour.redis(address, socket_timeout=10), patience=10.0
    )
    shards = await flavour.maybe(made)
    flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
    keys = cluster.keys(count)
    await flavour.maybe(shards.mset(dict.fromkeys(keys, 1)))
    return shards, set(keys)


async def announced(cluster: Cluster, shards: Any, source: str, target: str, *, brought: int = 0) -> Any:
    """Have all slots of a shard on their way to another, and that many scripts' keys brought; return the rebalancer."""
    topology = cluster.ledger.now
    slots = [slot for slot, owner in enumerate(topology.owners.table) if owner == source]
    cluster.ledger.now = topology.begin_move(slots, source, target)
    steps: list[str] = []

    def at_step(step: str) -> None:
        shards.adopt(cluster.ledger.now)
        steps.append(step)
        if (step == "bring" and steps.count("bring") > brought) or step == "pass 2":
            mover.stop()

    mover = cluster.reshard(on_step=at_step)
    await mover._work(mover._finish_moves)
    return cluster.reshard(on_step=lambda _: shards.adopt(cluster.ledger.now))


async def test_going_through_all_keys_while_slots_begin_and_end_to_move(
    cluster: Cluster, flavour: Any, maybe: Any
) -> None:
    """They go to a shard that was gone through already, half of them first; then on from there, then back."""
    shards, keys = await started(cluster)
    seen: list[bytes] = []
    mover: Any = None
    async for key in flavour.each(shards.scan_iter(count=10)):
        seen.append(key)
        if len(seen) == 300:  # a is done, and b is under way
            mover = await announced(cluster, shards, "c", "a", brought=2)
        elif len(seen) == 350:
            await mover._work(mover._finish_moves)
            shards.adopt(cluster.ledger.now)
            mover = await announced(cluster, shards, "a", "b", brought=3)
        elif len(seen) == 400:
            cluster.ledger.now = cluster.ledger.now.roll_back_move(cluster.ledger.now.moves[0].number)
            await mover._work(mover._finish_moves)
            shards.adopt(cluster.ledger.now)
    assert mover is not None
    assert len(seen) > 400
    assert set(seen) == keys


async def test_going_through_all_keys_beside_a_rebalancer(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    shards, keys = await started(cluster, 400)
    ended: list[bool] = []

    async def resharded() -> None:
        try:
            mover = cluster.reshard(on_step=lambda _: shards.adopt(cluster.ledger.now), batch=3000)
            for weights in ((1, 1, 8), (8, 1, 1)):
                for shard, weight in zip("abc", weights, strict=True):
                    await mover.reweight(shard, weight)
                shards.adopt(cluster.ledger.now)
                await mover.run()
        finally:
            ended.append(True)

    working = flavour.spawn(resharded)
    passes = 0
    while not ended or not passes:
        seen = [key async for key in flavour.each(shards.scan_iter(count=20))]
        assert set(seen) == keys
        with contextlib.suppress(StoreUnavailable, PartialFailure):  # dropped by the fence while it was on its way
            assert set(await maybe(shards.keys())) == keys
        passes += 1
    await working.result()
    assert cluster.ledger.now.owners.counts() != Topology.first("x", {each: each for each in "abc"}).owners.counts()


async def test_what_is_told_of_all_keys_while_they_move(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """Half of them were brought, and are at both shards; a stranger's key and what shards keep are not shown."""
    shards, keys = await started(cluster)
    assert await maybe(shards.dbsize()) == len(keys)
    mover = await announced(cluster, shards, "c", "a", brought=2)
    [move] = cluster.ledger.now.moves
    both = [key for key in keys if all(cluster.plain[shard].exists(key) for shard in "ac")]
    assert len(both) == 128
    stranger = next(key for i in range(999) if cluster.ledger.now.serving.lookup(key := f"s{i}".encode()) == "a")
    cluster.plain["b"].set(stranger, 1)

    async def walked(**options: Any) -> list[bytes]:
        cursor, found = 0, list[bytes]()
        while True:
            cursor, some = await maybe(shards.scan(cursor, **options))
            found += some
            if not cursor:
                return found

    found = await walked(count=30)
    assert set(found) == keys
    assert len(found) <= len(keys) + len(both)
    assert sorted(await maybe(shards.keys("*"))) == sorted(keys)
    assert set(await maybe(shards.keys("n1*"))) == {key for key in keys if key.startswith(b"n1")}
    assert {key async for key in flavour.each(shards.scan_iter("n1*", 20, "STRING"))} == set(
        await maybe(shards.keys("n1*"))
    )
    assert await maybe(shards.dbsize()) == len(keys) + len(both) + 1
    assert {await maybe(shards.randomkey()) for _ in range(20)} <= {*keys, stranger}
    cursor, _ = await maybe(shards.scan(0, count=10))
    assert await maybe(shards.scan(cursor))
    cluster.plain["b"].delete(stranger)
    await mover._work(mover._finish_moves)
    shards.adopt(cluster.ledger.now)
    with pytest.raises(ValueError, match=r"begin anew, or use scan_iter"):
        await maybe(shards.scan(cursor))
    assert sorted(await walked()) == sorted(keys)
    assert await maybe(shards.dbsize()) == len(keys)
    assert move.target == "a"


async def test_sources_answer_keys_before_targets_are_asked(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """Else a key that is removed at a slow source meanwhile would be in neither's answer."""
    shards, keys = await started(cluster)
    await announced(cluster, shards, "c", "a", brought=1)
    order: list[str] = []

    def watched(name: str, way: Any) -> None:
        delivery = way.delivery

        def asked(*args: Any, **options: Any) -> Any:
            made = delivery(*args, **options)
            order.append(f"ask {name}")
            give_back = made.give_back

            def given_back() -> Any:
                order.append(f"done {name}")
                return give_back()

            made.give_back = given_back
            return made

        way.delivery = asked

    for name, way in shards._live.now._ways.items():
        watched(name, way)
    assert set(await maybe(shards.keys())) == keys
    assert order.index("done c") < order.index("ask a")


async def test_one_key_is_found_at_random_among_what_shards_keep(cluster: Cluster, maybe: Any) -> None:
    shards, _ = await started(cluster, 1)
    assert {await maybe(shards.randomkey()) for _ in range(10)} == {b"n0"}
    await maybe(shards.delete("n0"))
    assert await maybe(shards.randomkey()) is None
    assert await maybe(shards.dbsize()) == 0
    assert await maybe(shards.keys()) == []


@pytest.mark.parametrize("how", ["flushdb", "flushall", "on_all", "pipeline"])
async def test_shards_that_are_emptied_know_their_topology_yet(
    cluster: Cluster, flavour: Any, maybe: Any, how: str
) -> None:
    shards, _ = await started(cluster)
    await announced(cluster, shards, "c", "a")
    calls = {
        "flushdb": shards.flushdb,
        "flushall": lambda: shards.flushall(asynchronous=True),
        "on_all": lambda: shards.on_all("FLUSHALL"),
        "pipeline": lambda: shards.pipeline().flushdb().execute(),
    }
    with pytest.raises(CrossShardError, match=r"slots move from 'c' to 'a'.*wait for its end"):
        await maybe(calls[how]())
    assert await maybe(shards.dbsize()) >= 600
    mover = cluster.reshard(on_step=lambda _: shards.adopt(cluster.ledger.now))
    await mover._work(mover._finish_moves)
    shards.adopt(cluster.ledger.now)
    own = [local_key(cluster.ledger.now.name, part) for part in ("epoch", "settled")]
    known = {shard: client.mget(own) for shard, client in cluster.plain.items()}
    assert None not in known["a"]
    moves = cluster.plain["a"].hgetall(local_key(cluster.ledger.now.name, "moves"))
    assert moves
    done = {"on_all": dict.fromkeys("abc", True), "pipeline": [True]}
    assert await maybe(calls[how]()) == done.get(how, True)
    assert await maybe(shards.dbsize()) == 0
    for shard, client in cluster.plain.items():
        assert client.mget(own) == known[shard]
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    assert cluster.plain["a"].hgetall(local_key(cluster.ledger.now.name, "moves")) == moves
    answered = None
    while not answered:
        with contextlib.suppress(StoreUnavailable):  # on a connection that is closed, and it is not known yet
            answered = await maybe(shards.set("k", 1))
    with pytest.raises(CrossShardError, match="take away what each shard knows"):
        await maybe(shards.swapdb(0, 1))


async def test_a_shard_refuses_to_be_emptied_while_it_is_brought_keys(cluster: Cluster, maybe: Any) -> None:
    """Also by who does not know yet that a move has begun, and whose connection was not dropped."""
    shards, _ = await started(cluster)
    cluster.plain["b"].hset(local_key(cluster.ledger.now.name, "moves"), "7", "open")
    with pytest.raises(PartialFailure, match="move 7 brings keys to this shard"):
        await maybe(shards.flushdb())
    assert cluster.plain["b"].dbsize() > 100
    cluster.plain["b"].delete(local_key(cluster.ledger.now.name, "epoch"))
    with pytest.raises(PartialFailure, match="knows no epoch"):
        await maybe(shards.flushdb())


async def test_who_listens_hears_on_at_the_new_owner(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """It has not heard of the move; the fence drops its connection, and the next one is told that there is news."""
    shards, _ = await started(cluster, 1)
    publisher, _ = await started(cluster, 1)
    table = cluster.ledger.now.owners
    channels = [f"ch{i}" for i in range(99) if table.lookup(f"ch{i}".encode()) == "c"][:2]
    stays = next(f"ch{i}" for i in range(99) if table.lookup(f"ch{i}".encode()) == "b")

    class News:
        """A store that is asked, and else says nothing."""

        def look_soon(self) -> None:
            shards.adopt(cluster.ledger.now)

    shards._live.source = News()
    pubsub = shards.pubsub(ignore_subscribe_messages=True)
    flavour.on_exit(getattr(pubsub, "aclose", None) or pubsub.close)
    await maybe(pubsub.subscribe(*channels, stays))
    await maybe(pubsub.psubscribe("c?[0-9]*"))

    async def published(word: str) -> set[tuple[str, str]]:
        """Publish until all was heard; return on which channels, and as what."""
        heard: set[tuple[str, str]] = set()
        for _ in range(300):
            if len(heard) == 6:
                break
            for channel in (*channels, stays):
                with contextlib.suppress(StoreUnavailable):
                    await maybe(publisher.publish(channel, word))
            while (message := await maybe(pubsub.get_message(timeout=0.05))) is not None:
                if message["data"] == word.encode():
                    heard.add((message["channel"].decode(), message["type"]))
        return heard

    await published("before")
    await announced(cluster, publisher, "c", "a")
    wanted = {(channel, kind) for channel in (*channels, stays) for kind in ("message", "pmessage")}
    assert await published("after") == wanted
    assert shards.epoch == cluster.ledger.now.epoch
