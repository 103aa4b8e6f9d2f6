# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Never executed: what a type checker must understand of the API, in both flavours (mypy --strict and pyright).

What it must refuse has an ignore, which both checkers complain of where there is nothing to be ignored.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import redis
import redis.asyncio
from kazoo.client import KazooClient
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from typing_extensions import assert_type

import coordkit
import coordkit.aio
import coordkit.aio.sql
import coordkit.aio.zk
import coordkit.sql
import coordkit.zk
from coordkit import Token


def blocking(client: redis.Redis) -> None:
    lock = coordkit.Lock(client, "jobs", ttl=10, max_hold=60)
    with lock as lease:
        assert_type(lease, coordkit.Lease)
        assert_type(lease.token, Token)
        number: int = lease.token
        print(number, lease.remaining() + 1.0, bool(lease.lost))
    with lock.hold(timeout=2) as lease:
        lease.ensure()
    assert_type(lock.try_acquire(), coordkit.Lease | None)
    assert_type(lock.acquire(timeout=None).release(), bool)

    @lock.hold()
    def job(x: int, *, y: str) -> bytes:
        return f"{x}{y}".encode()

    assert_type(job(1, y="2"), bytes)
    assert_type(lease.handover(), str)
    assert_type(lock.adopt("text"), coordkit.Lease)
    assert_type(lock.holder(), coordkit.Holder | None)
    assert_type(lock.waiters(), list[coordkit.Holder])
    assert_type(lock.remaining(), float | None)
    assert_type(lock.break_lease(), Token)
    coordkit.Lock(client, "jobs", ttl=10, reentrant=True, label="nightly", compatible_with="redis-py")
    several = coordkit.MultiLock(client, ["a", "b"], ttl=10)
    with several as leases:
        assert_type(leases, coordkit.MultiLease)
        assert_type(leases.tokens["a"], Token)
    with several.hold(timeout=1) as leases:
        assert_type(leases, coordkit.MultiLease)
    assert_type(several.try_acquire(), coordkit.MultiLease | None)
    rw = coordkit.ReadWriteLock(client, "jobs", ttl=10)
    with rw.read as lease, rw.write.hold(timeout=2) as other:
        assert_type(lease, coordkit.Lease)
        assert_type(other.token, Token)
    assert_type(rw.write.try_acquire(), coordkit.Lease | None)
    assert_type(rw.read.acquire(timeout=1).slot, int | None)
    with coordkit.Semaphore(client, "jobs", permits=3, ttl=10) as lease:
        assert_type(lease.slot, int | None)
    fence = coordkit.Fence(client, "ledger")
    fence.claim(token=7)
    fence.set("k", b"v", token=Token(7, "me"), ttl=60)
    fence.run("return 1", keys=["k", b"l"], args=("a", 1), token=7)
    with coordkit.TokenGate().enter("k", "7 me") as token:
        assert_type(token, Token)
    assert_type(coordkit.TokenGate.header(token), str)


async def awaited(client: redis.asyncio.Redis) -> None:
    lock = coordkit.aio.Lock(client, "jobs", ttl=10)
    async with lock as lease:
        assert_type(lease, coordkit.aio.Lease)
        assert_type(lease.token, Token)
        lease.ensure()
        assert_type(await lease.lost.wait(1), bool)
    assert_type(await lock.try_acquire(), coordkit.aio.Lease | None)
    assert_type(await (await lock.acquire()).release(), bool)

    @lock.hold(timeout=0)
    async def job(x: int) -> bytes:
        return str(x).encode()

    assert_type(await job(1), bytes)
    assert_type(await lease.handover(), str)
    assert_type(await lock.adopt("text"), coordkit.aio.Lease)
    assert_type(await lock.holder(), coordkit.Holder | None)
    assert_type(await lock.break_lease(holder="id"), Token)
    several = coordkit.aio.MultiLock(client, ["a", "b"], ttl=10)
    async with several as leases:
        assert_type(leases, coordkit.aio.MultiLease)
        assert_type(leases.tokens["a"], Token)
    assert_type(await several.acquire(), coordkit.aio.MultiLease)
    rw = coordkit.aio.ReadWriteLock(client, "jobs", ttl=10)
    async with rw.read as lease, rw.write.hold(timeout=2) as other:
        assert_type(lease, coordkit.aio.Lease)
        assert_type(other.token, Token)
    assert_type(await rw.write.try_acquire(), coordkit.aio.Lease | None)
    async with coordkit.aio.Semaphore(client, "jobs", permits=3, ttl=10) as lease:
        assert_type(lease.slot, int | None)
    fence = coordkit.aio.Fence(client, "ledger")
    await fence.claim(token=lease.token)
    await fence.run("return 1", token=lease.token)
    async with coordkit.aio.TokenGate().enter("k", lease.token) as token:
        assert_type(token, Token)


def sql(connection: sqlite3.Connection) -> None:
    coordkit.sql.SqlFence("ledger").claim(connection, token=7)
    coordkit.sql.RowFence("accounts", key_column="id").update(connection, 42, {"balance": 1}, token=Token(7, "me"))


async def sql_awaited(connection: AsyncConnection, session: AsyncSession) -> None:
    await coordkit.aio.sql.SqlFence("ledger").claim(connection, token=7)
    await coordkit.aio.sql.RowFence("accounts").claim(session, 42, token=7)


def zookeeper(zk: KazooClient) -> None:
    with coordkit.SessionScope(zk, signals=[15]) as scope, coordkit.Guardian(zk, hang=2.0) as guardian:
        assert_type(scope, coordkit.SessionScope)
        assert_type(guardian.pid, int | None)
    election = coordkit.Election(zk, "/leader", identity="me")
    with election.lead(timeout=1) as leadership:
        assert_type(leadership, coordkit.Leadership)
        assert_type(leadership.token, Token)
        leadership.ensure()
    assert_type(election.run(lambda leadership: leadership.identity), str | None)
    assert_type(election.leader(), coordkit.Leader | None)
    assert_type(election.contenders(), list[str])
    assert_type(election.evict("too hot", force=True), coordkit.Leader | None)
    with election as leadership, leadership.transaction() as transaction:
        transaction.set("/x", b"data", version=3)
    assert_type(transaction.results, list[str | int | None])
    for view in election.observe():
        assert_type(view, coordkit.View)
        assert_type(view.token, Token | None)
    assert_type(election.observe().next(timeout=1.0), coordkit.View | None)
    group = coordkit.Group(zk, "/members")
    with group.join("me", data=b"here") as member:
        assert_type(member, coordkit.Member)
        assert_type(group.members(), dict[str, bytes])
    for change in group.watch():
        assert_type(change, coordkit.Change)
    assert_type(group.watch().next(timeout=1), coordkit.Change | None)
    with group.balance(coordkit.Sticky(), failures=(OSError,)) as balance, balance.pick("key") as pick:
        assert_type(balance, coordkit.Balance)
        assert_type(pick.data, bytes)
    share = group.share("me", ["p1", "p2"], data=coordkit.to_json({"zone": 1}), weigh=len)
    share.run(lambda partition: partition.ending.wait())
    assert_type(share.held(), dict[str, coordkit.Partition])
    assert_type(share.owners(), dict[str, coordkit.Owner])
    store = coordkit.TopologyStore(zk, "/shards")
    topology = store.create(coordkit.Topology.first("users", {"a": "redis://a:6379"}))
    assert_type(topology, coordkit.Topology)
    with store.rebalancer("me") as leadership:
        store.publish(topology.draining("a"), expected=topology, leadership=leadership)
        with coordkit.Reshard(store, leadership, lambda _, address: redis.Redis.from_url(address)) as reshard:
            assert_type(reshard.add("b", "redis://b:6379"), coordkit.Topology)
            assert_type(reshard.run(), coordkit.Progress)
            assert_type(reshard.abandon("b"), coordkit.Progress)
            assert_type(reshard.progress.seconds_left(), float | None)
    with store.observe() as topologies:
        assert_type(topologies.next(timeout=1), coordkit.Topology | None)
    shards = coordkit.ShardedRedis.from_topology(store, lambda _, address: redis.Redis.from_url(address))
    assert_type(shards, coordkit.LiveShardedRedis)
    assert_type(shards.on("a"), redis.Redis)
    assert_type(shards.with_options(read_from="nearest", min_replicas=1), coordkit.LiveShardedRedis)
    assert_type(shards.adopt(topology), bool)
    for key in shards.scan_iter("user:*", count=100):
        print(key)
    shards.set("k", 1)


async def zookeeper_awaited(zk: KazooClient) -> None:
    async with coordkit.aio.SessionScope(zk) as scope, coordkit.aio.Guardian(zk) as guardian:
        assert_type(scope, coordkit.aio.SessionScope)
        assert_type(guardian.pid, int | None)
    election = coordkit.aio.Election(zk, "/leader", identity="me")
    async with election as leadership:
        assert_type(leadership, coordkit.aio.Leadership)

    async def serve(leadership: coordkit.aio.Leadership) -> int:
        return leadership.token

    assert_type(await election.run(serve), int | None)
    async with election as leadership, leadership.transaction() as transaction:
        transaction.create("/x")
    async for view in election.observe():
        assert_type(view, coordkit.View)
    assert_type(await election.leader(), coordkit.Leader | None)
    group = coordkit.aio.Group(zk, "/members")
    async with group.join("me") as member:
        assert_type(member, coordkit.aio.Member)
    async for change in group.watch():
        assert_type(change, coordkit.Change)
    assert_type(await group.watch().next(timeout=1), coordkit.Change | None)
    async with group.balance() as balance:
        with balance.pick(exclude={"me"}) as pick:
            assert_type(pick.identity, str)

    async def work(partition: coordkit.aio.Partition) -> None:
        assert_type(partition.token, Token)

    share = group.share("me", ["p1", "p2"])
    assert_type(await share.owners(), dict[str, coordkit.Owner])
    await share.run(work)
    store = coordkit.aio.TopologyStore(zk, "/shards")
    topology = await store.create(coordkit.aio.Topology.first("users", {"a": "redis://a:6379"}))
    async with store.rebalancer("me") as leadership:
        await store.publish(topology.draining("a"), expected=topology, leadership=leadership)
        connected = coordkit.aio.Reshard(
            store, leadership, lambda _, address: redis.asyncio.Redis.from_url(address), batch=100
        )
        async with connected as reshard:
            assert_type(await reshard.drain("a"), coordkit.Topology)
            assert_type(await reshard.roll_back(), coordkit.Progress)
            assert_type(await reshard.abandon("a", lose_keys_and_locks=True), coordkit.Progress)
    async for each in store.observe():
        assert_type(each, coordkit.Topology)
    shards = await coordkit.aio.ShardedRedis.from_topology(
        store, lambda _, address: redis.asyncio.Redis.from_url(address)
    )
    assert_type(shards, coordkit.aio.LiveShardedRedis)
    assert_type(shards.with_options(read_from="nearest"), coordkit.aio.LiveShardedRedis)
    of_sets = await coordkit.aio.ShardedRedis.from_topology(
        store, lambda _, address: coordkit.ReplicaSet(redis.asyncio.Redis.from_url(address)), read_from="replica"
    )
    assert_type(of_sets, coordkit.aio.LiveShardedRedis)
    async for key in shards.scan_iter("user:*", count=100):
        print(key)
    await shards.set("k", 1)


def zookeeper_locks(zk: KazooClient) -> None:
    lock = coordkit.zk.Lock(zk, "/jobs", max_hold=60, label="night")
    with lock as lease:
        assert_type(lease, coordkit.Lease)
    assert_type(lock.try_acquire(), coordkit.Lease | None)
    assert_type(lock.holder(), coordkit.Holder | None)

    @lock.hold(timeout=1)
    def work(n: int) -> str:
        return str(n)

    assert_type(work(1), str)
    both = coordkit.zk.ReadWriteLock(zk, "/jobs")
    with both.read as reader, both.write.hold(timeout=2):
        assert_type(reader.token, Token)
    with coordkit.zk.Semaphore(zk, "/jobs", permits=3) as permit:
        assert_type(permit.slot, int | None)
    coordkit.zk.Barrier(zk, "/go").wait(timeout=1)
    with coordkit.zk.DoubleBarrier(zk, "/go", parties=3) as crossing:
        assert_type(crossing, coordkit.zk.Crossing)


async def zookeeper_locks_awaited(zk: KazooClient) -> None:
    lock = coordkit.aio.zk.Lock(zk, "/jobs")
    async with lock as lease:
        assert_type(lease, coordkit.aio.Lease)
    assert_type(await lock.try_acquire(), coordkit.aio.Lease | None)
    assert_type(await lock.waiters(), list[coordkit.Holder])
    async with coordkit.aio.zk.ReadWriteLock(zk, "/jobs").read as reader:
        assert_type(reader.token, Token)
    await coordkit.aio.zk.Barrier(zk, "/go").remove()
    crossing = await coordkit.aio.zk.DoubleBarrier(zk, "/go", parties=3).enter(timeout=1)
    assert_type(crossing, coordkit.aio.zk.Crossing)
    await crossing.leave()


def routing(a: redis.Redis, b: redis.Redis) -> None:
    shards = coordkit.ShardedRedis({"a": a, "b": b}, weights={"b": 2})
    assert_type(coordkit.ShardedRedis({"a": a, "b": b}, placement=shards.placement).placement.lookup(b"k"), str)
    near = coordkit.ShardedRedis({"a": coordkit.ReplicaSet(a, [b])}, read_from="nearest", balance=coordkit.RoundRobin)
    assert_type(near.with_options(min_replicas=1), coordkit.ShardedRedis)
    assert_type(near.replicas("a"), dict[str, str])
    shards.set("k", 1)
    shards.mget(["k", "l"])
    assert_type(shards.shard_for("k"), str)
    with shards.pipeline() as pipe:
        pipe.get("k")
        assert_type(pipe.execute(), list[Any])
        pipe.watch("k")
        pipe.multi()
        assert_type(pipe.watching, bool)
    shards.transaction(lambda pipe: pipe.incr("k"), "k", value_from_callable=True)
    with shards.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news", letters=lambda message: print(message["data"]))
        assert_type(pubsub.get_message(timeout=1.0), dict[str, Any] | None)
        for message in pubsub.listen():
            assert_type(message, dict[str, Any])
    assert_type(shards.on_all("PING"), dict[str, Any])
    picker = coordkit.RoundRobin([a, b])
    assert_type(picker.pick(), redis.Redis)


async def routing_awaited(a: redis.asyncio.Redis, b: redis.asyncio.Redis) -> None:
    shards = coordkit.aio.ShardedRedis({"a": a, "b": b})
    near = coordkit.aio.ShardedRedis({"a": coordkit.aio.ReplicaSet(a, [b])}, read_from="replica", max_lag=5)
    assert_type(near.with_options(read_from="primary"), coordkit.aio.ShardedRedis)
    await shards.set("k", 1)
    assert_type(shards.shard_for("k"), str)
    async with shards.pipeline() as pipe:
        await pipe.watch("k")
        pipe.multi()
        pipe.get("k")
        assert_type(await pipe.execute(), list[Any])
    await shards.transaction(lambda pipe: pipe.incr("k"), "k", value_from_callable=True)
    async with shards.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("news", letters=lambda message: print(message["data"]))
        assert_type(await pubsub.get_message(timeout=1.0), dict[str, Any] | None)
        async for message in pubsub.listen():
            assert_type(message, dict[str, Any])
    assert_type(await shards.on_all("PING"), dict[str, Any])
    await shards.aclose()


def voting(client: redis.Redis) -> None:
    quorum = coordkit.Quorum([client, client, client])
    assert_type(quorum.readmit(), list[str])
    voted = coordkit.QuorumLock(quorum, "jobs", ttl=10)
    with voted as lease:
        assert_type(lease, coordkit.Lease)
    assert_type(voted.try_acquire(), coordkit.Lease | None)


async def voting_awaited(client: redis.asyncio.Redis) -> None:
    quorum = coordkit.aio.Quorum([client, client, client])
    assert_type(await quorum.readmit(), list[str])
    voted = coordkit.aio.QuorumLock(quorum, "jobs", ttl=10)
    async with voted as lease:
        assert_type(lease, coordkit.aio.Lease)


def clients(
    cluster: redis.RedisCluster, sentinel: redis.Sentinel, one_shard: redis.Redis, shards: coordkit.ShardedRedis
) -> None:
    every: list[coordkit.RedisClient] = [cluster, shards, shards.on("a")]
    for one in every:
        coordkit.Lock(one, "jobs", ttl=10)
        coordkit.Fence(one, "ledger")
    coordkit.Semaphore(cluster, "jobs", permits=2, ttl=10)
    coordkit.ShardedRedis({"a": one_shard, "b": coordkit.ReplicaSet.of_sentinel(sentinel, "b")})


async def clients_awaited(cluster: redis.asyncio.RedisCluster, shards: coordkit.aio.ShardedRedis) -> None:
    every: list[coordkit.aio.RedisClient] = [cluster, shards, shards.on("a")]
    for one in every:
        coordkit.aio.Lock(one, "jobs", ttl=10)
        coordkit.aio.Fence(one, "ledger")


def of_the_other_flavour(
    client: redis.Redis, awaited: redis.asyncio.Redis, cluster: redis.asyncio.RedisCluster
) -> None:
    coordkit.Lock(awaited, "jobs", ttl=10)  # type: ignore[arg-type]
    coordkit.Fence(cluster, "ledger")  # type: ignore[arg-type]
    coordkit.MultiLock(awaited, ["a"], ttl=10)  # type: ignore[arg-type]
    coordkit.Quorum([awaited, awaited, awaited])  # type: ignore[list-item]
    coordkit.ShardedRedis({"a": awaited})  # type: ignore[dict-item]
    coordkit.aio.Lock(client, "jobs", ttl=10)  # type: ignore[arg-type]
    coordkit.aio.Semaphore(client, "jobs", permits=2, ttl=10)  # type: ignore[arg-type]
    coordkit.aio.Quorum([client, client, client])  # type: ignore[list-item]
    coordkit.aio.ShardedRedis({"a": client})  # type: ignore[dict-item]
    coordkit.QuorumLock(coordkit.aio.Quorum([awaited, awaited, awaited]), "jobs", ttl=10)  # type: ignore[arg-type]


def no_clients(client: redis.Redis, cluster: redis.RedisCluster, zk: KazooClient) -> None:
    coordkit.Lock("redis://localhost", "jobs", ttl=10)  # type: ignore[arg-type]
    coordkit.Lock(None, "jobs", ttl=10)  # type: ignore[arg-type]
    coordkit.Lock(zk.get("/x"), "jobs", ttl="10")  # type: ignore[arg-type]
    coordkit.Quorum([cluster, cluster, cluster])  # type: ignore[list-item]
    coordkit.Lock(client, "jobs", ttl=10, compatible_with="redlock")  # type: ignore[arg-type]
    coordkit.Lock(client, "jobs", 10)  # type: ignore[call-arg]
    coordkit.Election(zk, "/leader", identity="me", policy="loose")  # type: ignore[arg-type]
