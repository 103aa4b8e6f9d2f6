"""Resharding when processes and servers stop: nothing that was acknowledged is lost.

The large experiment, with its controls that do lose, is in tests/regime; these are the single cases.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from reshard_cluster import Client, Cluster

from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence import fence
from coordkit.routing.fence.fence import local_key
from coordkit.testing.processes import start_redis

pytestmark = pytest.mark.empties_servers

# Counts on its own counters until told to stop; each line that it hears is answered by what it has counted so far.
COUNTING = """
import redis, redis.asyncio
from coordkit.errors import StoreUnavailable

store = flavour.TopologyStore(zk, path)
kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

async def work():
    shards = await flavour.maybe(
        flavour.ShardedRedis.from_topology(store, lambda _, url: kind.from_url(url, socket_timeout=10), poll=0.5))
    counted, unknown, ended = {}, {}, []
    threading.Thread(target=lambda: ended.append(heard()), daemon=True).start()
    turn = 0
    while not ended:
        key = f"p{os.getpid()}-{turn % 40}"
        turn += 1
        try:
            await flavour.maybe(shards.incr(key))
        except StoreUnavailable:
            unknown[key] = unknown.get(key, 0) + 1
        else:
            counted[key] = counted.get(key, 0) + 1
        if turn == 80:
            say("warm")
    say(json.dumps([counted, unknown]))
    await flavour.maybe((getattr(shards, "aclose", None) or shards.close)())

flavour.run(work())
"""


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


async def test_a_client_that_is_stopped_across_the_change(
    flavour: Any, maybe: Any, zk_client: Any, program: Any, coordkit_redis_shards: Any, coordkit_namespace: str
) -> None:
    """It wakes up with the old topology, in the middle of whatever it did: the old owner does not hear of it."""
    import json

    urls = dict(zip("abc", (server.url for server in coordkit_redis_shards), strict=True))
    plain = {shard: redis.Redis.from_url(url) for shard, url in urls.items()}
    for client in plain.values():
        client.flushdb()
    path = f"/{coordkit_namespace}/x"  # as the programs have it
    store = flavour.TopologyStore(zk_client(), path)
    await maybe(store.create(Topology.first(coordkit_namespace, {shard: urls[shard] for shard in "ab"})))

    def connect(_shard: str, address: str) -> Any:
        return flavour.redis(address, socket_timeout=10)

    async def resharded(*steps: Any) -> None:
        async with flavour.within(store.rebalancer("test")) as leadership:
            reshard = flavour.Reshard(store, leadership, connect, batch=16384)
            for name, *arguments in steps:
                await maybe(getattr(reshard, name)(*arguments))
            await maybe((getattr(reshard, "aclose", None) or reshard.close)())

    await resharded(("initialise",))
    workers = [program(COUNTING) for _ in range(2)]
    for worker in workers:
        assert worker.line() == "warm"
    os.kill(workers[0].pid, signal.SIGSTOP)
    try:
        await resharded(("add", "c", urls["c"]), ("run",), ("drain", "a"), ("run",))
    finally:
        os.kill(workers[0].pid, signal.SIGCONT)
    topology = await maybe(store.read())
    for worker in workers:
        worker.tell("end")
        counted, unknown = json.loads(worker.line())
        assert sum(counted.values()) > 50
        for key, count in counted.items():
            there = int(plain[topology.owners.lookup(key)].get(key) or 0)
            assert count <= there <= count + unknown.get(key, 0), key
    assert plain["a"].keys("p*") == []
    for client in plain.values():
        client.flushdb()
        client.close()


@pytest.fixture
def durable(flavour: Any, coordkit_namespace: str) -> Iterator[Any]:
    """Give shards that keep what they acknowledged, and their servers."""
    with ExitStack() as stack:
        servers = {shard: stack.enter_context(start_redis(appendonly="always")) for shard in "abc"}
        cluster = Cluster(flavour, [server.url for server in servers.values()], coordkit_namespace)
        yield cluster, servers
        cluster.close()


@pytest.mark.parametrize("step", ["raise c", "begin", "bring", "close", "finish"])
@pytest.mark.parametrize("which", ["source", "target"])
async def test_a_shard_is_killed_and_comes_back_with_its_file(durable: Any, step: str, which: str) -> None:
    """The mover goes on by itself, and clients find everything."""
    cluster, servers = durable
    restarted: list[str] = []

    def at_step(name: str) -> None:
        if name == step and not restarted:
            move = cluster.ledger.now.moves[0]
            shard = move.source if which == "source" else move.target
            restarted.append(shard)
            servers[shard].restart()

    reshard = cluster.reshard(on_step=at_step, batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    keys = cluster.keys(150)
    for key in keys:
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    assert (await reshard.run()).phase == "done"
    assert restarted
    for key in keys:
        await client.incr(key)
    cluster.check()


async def test_a_rollback_passes_over_no_key_when_its_source_restarts(durable: Any) -> None:
    """It goes through what was brought, by a cursor that means nothing to the next process; all of it was deleted."""
    cluster, servers = durable
    first = cluster.reshard(on_step=lambda step: step == "pass 1" and first.stop(), batch=16384)
    await first.initialise()
    await first.add("c", cluster.urls["c"])
    keys = cluster.keys(9000)
    for key in keys:
        cluster.expected[key] = 1
    for shard in "ab":
        mine = [key for key in keys if cluster.ledger.now.owners.lookup(key) == shard]
        cluster.plain[shard].mset(dict.fromkeys(mine, 1))
    await first.run()

    [move] = cluster.ledger.now.moves
    client = Client(cluster)
    gone = [key for key in keys if slot_of(key) in set(move.slots)]
    await client.touch.ensure(client.adopted, gone)
    assert cluster.plain["c"].delete(*gone) == len(gone) > 1000
    for key in gone:
        del cluster.expected[key]
    brought: list[str] = []

    def at_step(step: str) -> None:
        brought.extend([step] * (step == "bring"))
        if step == "bring" and len(brought) == 9:  # the second page
            servers["c"].restart()

    back = cluster.reshard(on_step=at_step)
    await back.roll_back()
    assert len(brought) > 9
    cluster.check()


async def test_nothing_is_removed_while_a_replica_of_the_target_is_away(flavour: Any, coordkit_namespace: str) -> None:
    """Its link breaks, and INFO counts it no more; the mover waits for it, however often it tries, then says so."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(start_redis()) for _ in range(2))
        replica = stack.enter_context(start_redis(replica_of=b))
        cluster = Cluster(flavour, [a.url, b.url], coordkit_namespace, "ab")
        stack.callback(cluster.close)
        away = stack.enter_context(redis.Redis.from_url(replica.url))

        def at_step(step: str) -> None:
            if step == "pass 1" and step not in seen:
                away.replicaof("127.0.0.1", 1)
                while cluster.plain["b"].info("replication")["connected_slaves"]:
                    pass
            seen.append(step)

        seen: list[str] = []
        reshard = cluster.reshard(on_step=at_step, batch=16384, patience=1.0)
        await reshard.initialise()
        topology = cluster.ledger.now
        mine = [key for key in cluster.keys(200) if topology.owners.lookup(key) == "a"]
        cluster.plain["a"].mset(dict.fromkeys(mine, 1))
        cluster.expected.update(mine)
        cluster.ledger.now = topology.begin_move(sorted({slot_of(key) for key in mine}), "a", "b")
        with pytest.raises(StoreUnavailable, match="0 of its 1 replicas are connected"):
            await reshard.run()
        assert seen.count("pass 1") > 1
        assert cluster.plain["a"].exists(*mine) == len(mine)
        away.replicaof("127.0.0.1", b.port)
        await flavour.until(lambda: away.info("replication")["master_link_status"] == "up")
        await cluster.reshard()._finish_moves()
        cluster.check()
        assert away.exists(*mine) == len(mine)


async def test_a_replica_that_the_topology_names_is_waited_for(flavour: Any, coordkit_namespace: str) -> None:
    """It is away when the epoch is raised; promoted later it would let in who routes by the old topology."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(start_redis()) for _ in range(2))
        replica = stack.enter_context(start_redis(replica_of=a))
        cluster = Cluster(flavour, [a.url, b.url], coordkit_namespace, "ab")
        stack.callback(cluster.close)
        away = stack.enter_context(redis.Redis.from_url(replica.url))
        await cluster.reshard().initialise()
        named = cluster.ledger.now.with_addresses("a", a.url, [replica.url])
        cluster.ledger.now = named.begin_move([1], "a", "b")
        away.replicaof("127.0.0.1", 1)
        await flavour.until(lambda: not cluster.plain["a"].info("replication")["connected_slaves"])
        with pytest.raises(StoreUnavailable, match="0 of its 1 replicas are connected"):
            await cluster.reshard(patience=0.2)._finish_moves()
        assert not cluster.plain["b"].exists(local_key(coordkit_namespace, "moves"))

        away.replicaof("127.0.0.1", a.port)
        await flavour.until(lambda: away.info("replication")["master_link_status"] == "up")
        await cluster.reshard()._finish_moves()
        assert int(away.get(local_key(coordkit_namespace, "epoch"))) == cluster.ledger.now.shards["a"].fenced


async def test_a_target_that_forgot_everything_ends_the_move(durable: Any) -> None:
    """Nobody knows any more what it had: that is said, and not made up for."""
    cluster, _ = durable
    reshard = cluster.reshard(on_step=lambda step: step == "pass 2" and cluster.plain["c"].flushall(), batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    with pytest.raises(StoreRefused, match="does not know move"):
        await reshard.run()
    with pytest.raises(StoreRefused, match="coordkit reshard repair c"):
        await cluster.reshard().run()
    await cluster.reshard().repair("c")
    assert (await cluster.reshard(batch=16384).run()).phase == "done"


REFUSALS = {
    "memory": (lambda c: c.config_set("maxmemory", 1), lambda c: c.config_set("maxmemory", 0), "raise maxmemory"),
    "replica": (lambda c: c.replicaof("127.0.0.1", 1), lambda c: c.replicaof("NO", "ONE"), "a (read-only )?replica"),
}


@pytest.mark.parametrize("why", REFUSALS)
@pytest.mark.parametrize(("step", "back"), [("begin", False), ("pass 1", True), ("close", False)])
async def test_a_target_that_says_no_is_gone_on_with_when_it_does_not(
    durable: Any, why: str, step: str, back: bool
) -> None:
    """It is out of memory, or has become a replica: the move ends there, also one that would roll it back."""
    cluster, _ = durable
    ill, well, said = REFUSALS[why]
    reshard = cluster.reshard(on_step=lambda name: name == step and ill(cluster.plain["c"]), batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    with pytest.raises(CoordError, match=said):
        await reshard.run()
    with pytest.raises(CoordError, match=said):
        await cluster.reshard().roll_back()
    assert len(cluster.ledger.now.moves) == 1
    well(cluster.plain["c"])
    following = cluster.reshard(batch=16384)
    assert (await (following.roll_back if back else following.run)()).phase == "done"
    for each in (client, Client(cluster)):
        for key in cluster.keys(60):
            await each.incr(key)
    cluster.check()


async def test_a_target_that_lost_what_it_was_brought_last_gets_it_again(
    flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str
) -> None:
    """It starts anew in the midst of a batch, from a copy that is older: the source has not removed anything yet."""
    urls = [server.url for server in coordkit_redis_shards[:2]]
    with ExitStack() as stack:
        server = stack.enter_context(start_redis())
        cluster = Cluster(flavour, [*urls, server.url], coordkit_namespace)
        stack.callback(cluster.close)

        def at_step(step: str) -> None:
            if step == "pass 1" and not steps:
                cluster.plain["c"].save()
            steps.extend([step] * (step == "bring"))
            if len(steps) == 4 and step == "bring":
                server.restart()

        steps: list[str] = []
        reshard = cluster.reshard(on_step=at_step, batch=16384)
        await reshard.initialise()
        keys = cluster.keys(2000)
        for shard in "ab":
            mine = [key for key in keys if cluster.ledger.now.owners.lookup(key) == shard]
            cluster.plain[shard].mset(dict.fromkeys(mine, 1))
        cluster.expected.update(keys)
        await reshard.add("c", server.url)
        assert (await reshard.run()).phase == "done"
        assert len(steps) > 8
        cluster.check()


async def test_the_topology_says_that_a_move_is_over_when_all_copies_of_the_target_do(
    flavour: Any, coordkit_namespace: str, monkeypatch: Any
) -> None:
    """One that lacked the end, and were promoted, would let clients that route by the move clear what others write."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(start_redis()) for _ in range(2))
        replica = stack.enter_context(start_redis(replica_of=b))
        cluster = Cluster(flavour, [a.url, b.url], coordkit_namespace, "ab")
        stack.callback(cluster.close)
        stack.callback(replica.resume)
        reshard = cluster.reshard(on_step=lambda step: step == "close" and replica.pause(), batch=16384, patience=0.5)
        await reshard.initialise()
        cluster.ledger.now = cluster.ledger.now.begin_move([1], "a", "b")
        monkeypatch.setattr(fence, "PATIENCE", 0.3)
        with pytest.raises(StoreUnavailable, match="0 of its 1 replicas"):
            await reshard._finish_moves()
        assert cluster.ledger.now.moves
        replica.resume()
        monkeypatch.undo()
        await cluster.reshard()._finish_moves()
        assert cluster.ledger.now.moves == ()


@pytest.mark.parametrize("step", ["begin", "pass 1"])
@pytest.mark.parametrize("tried", [False, True], ids=["at once", "while it goes back"])
async def test_a_target_that_is_gone_for_good(durable: Any, step: str, tried: bool) -> None:
    """What its source has is served again, once the operator says that the rest is lost."""
    cluster, servers = durable
    first = cluster.reshard(on_step=lambda name: name == step and first.stop(), batch=16384)
    await first.initialise()
    client = Client(cluster)
    for key in cluster.keys(80):
        await client.incr(key)
    await first.add("c", cluster.urls["c"])
    assert (await first.run()).phase == "stopped"
    [move] = cluster.ledger.now.moves
    moving = [key for key in cluster.keys(80) if slot_of(key) in set(move.slots)]
    assert len(moving) > 10
    if step == "pass 1":  # counted at the target alone
        await Client(cluster).incr(moving[0])
        cluster.expected[moving[0]] -= 1
    with pytest.raises(CoordError, match=r"it answers, and knows epoch .*: it is not lost"):
        await cluster.reshard().roll_back(target_lost=True)
    servers["c"].kill()
    before = cluster.ledger.now
    with pytest.raises(StoreUnavailable, match=r"so nothing was changed.* rollback --target-lost"):
        await cluster.reshard().roll_back()
    assert cluster.ledger.now is before
    if tried:
        await cluster.ledger.write(before.roll_back_move(move.number))
        back = Client(cluster)
        with pytest.raises(StoreUnavailable, match=r"^c: .* cannot be reached"):
            await back.touch.ensure(back.adopted, moving[:1])

    assert (await cluster.reshard().roll_back(target_lost=True)).phase == "done"

    assert cluster.ledger.now.moves == ()
    assert cluster.ledger.now.owners.counts()["c"] == 0
    assert cluster.ledger.now.shards["c"].fenced > move.number, "should it come back, it is refused"
    for each in (Client(cluster), client):  # who has not heard of it either
        for key in cluster.keys(80):
            await each.incr(key)
    servers["c"].restart()
    cluster.plain["c"].flushdb()
    await cluster.reshard().repair("c")
    await cluster.reshard().drain("c")
    assert (await cluster.reshard().run()).phase == "done"
    cluster.check()
