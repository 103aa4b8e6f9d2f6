"""Locks whose slot moves while they are held and waited for: one holder, rising tokens, waiters in their order."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import shard_ports
from reshard_cluster import Cluster

from coordkit._ports import Call, Script
from coordkit.errors import CrossShardError, LeaseLost, StoreUnavailable
from coordkit.routing import slot_of
from coordkit.routing.fence.fence import drop_connections, raise_epoch
from coordkit.routing.moving.moving import Carrier

pytestmark = pytest.mark.empties_servers

_SOURCE = "return redis.call('INCR', KEYS[1])"
INCR = Script("incr", _SOURCE, hashlib.sha1(_SOURCE.encode()).hexdigest())  # noqa: S324  as Redis has it


@pytest.fixture
def cluster(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Any:
    made = Cluster(flavour, [server.url for server in coordkit_redis_shards], coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
    made.close()


class Moving:
    """A lock whose slot is moved by hand, one step at a time; clients hear of it when they are told."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.flavour, self.name = cluster, cluster.flavour, name
        self.clients: list[Any] = []

    async def client(self) -> Any:
        def connect(_shard: str, address: str) -> Any:
            return self.flavour.redis(address, socket_timeout=10)

        made = await self.flavour.maybe(
            self.flavour.ShardedRedis.from_topology(self.cluster.ledger.now, connect, patience=10)
        )
        self.flavour.on_exit(getattr(made, "aclose", None) or made.close)
        self.clients.append(made)
        return made

    async def lock(self, **options: Any) -> Any:
        return self.flavour.Lock(await self.client(), self.name, **{"ttl": 30, **options})

    async def announce(self, target: str, key: str = "") -> Any:
        """Have the topology say that the slot of the lock, or of ``key``, moves, and fence both shards."""
        topology = self.cluster.ledger.now
        slot = slot_of(key or f"{{{self.name}}}")
        await self.cluster.ledger.write(topology.begin_move([slot], topology.owners.table[slot], target))
        [move] = self.cluster.ledger.now.moves
        ports = [
            shard_ports.port(self.flavour, shard, self.flavour.redis(self.cluster.urls[shard]))
            for shard in (move.source, move.target)
        ]
        for port in ports:
            await raise_epoch(port, topology.name, move.number, create=True)
        for port in ports:
            await drop_connections(port, subscribers=True)
        carrier = Carrier(shard_ports.runtime(self.flavour), topology.name, move, *ports)
        await carrier.begin()
        return carrier

    def tell(self) -> None:
        for client in self.clients:
            client.adopt(self.cluster.ledger.now)

    def keys(self, shard: str) -> set[str]:
        pattern = f"coordkit:1:{{{self.name}}}:*"
        return {key.decode().rpartition(":")[2] for key in self.cluster.plain[shard].keys(pattern)}


async def started(cluster: Cluster) -> tuple[Moving, str, str]:
    await cluster.reshard().initialise()
    moving = Moving(cluster, f"{cluster.ledger.now.name}:job")
    source = cluster.ledger.now.owners.table[slot_of(f"{{{moving.name}}}")]
    return moving, source, "b" if source == "a" else "a"


async def test_a_held_lock_stays_held_and_tokens_rise(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    moving, _, target = await started(cluster)
    mine, others = await moving.lock(), await moving.lock()
    lease = await maybe(mine.acquire())
    carrier = await moving.announce(target)
    moving.tell()
    assert await maybe(others.try_acquire()) is None, "another client brings it, and finds it held"
    assert moving.keys(target) >= {"lock", "token"}
    await maybe(lease.renew())
    assert await maybe(lease.release()) is True
    following = await maybe(others.acquire(timeout=5))
    assert following.token > lease.token
    await carrier.close()
    await cluster.ledger.write(cluster.ledger.now.finish_move(carrier.move.number))
    moving.tell()
    await maybe(following.renew())
    assert await maybe(mine.try_acquire()) is None
    await maybe(following.release())


async def test_the_counter_comes_before_the_first_grant(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """The counter is far ahead of the clock, so a grant without it would give a lower token."""
    moving, source, target = await started(cluster)
    lock = await moving.lock()
    high = 1 << 52
    cluster.plain[source].set(f"coordkit:1:{{{moving.name}}}:token", high)
    await moving.announce(target)
    moving.tell()
    lease = await maybe(lock.acquire(timeout=5))
    assert lease.token == high + 1
    await maybe(lease.release())


async def test_a_client_that_has_heard_nothing_gets_nothing_at_the_old_owner(
    cluster: Cluster, flavour: Any, maybe: Any
) -> None:
    """Both clients are behind; the first to ask is told by the shard, and waits until it is told the topology."""
    moving, _, target = await started(cluster)
    held, late = await moving.lock(), await moving.lock()
    lease = await maybe(held.acquire())
    await moving.announce(target)

    async def acquire() -> Any:
        return await maybe(late.acquire(timeout=20))

    waiting = flavour.spawn(acquire)
    await flavour.until(lambda: late.client._live._waiting)
    moving.tell()
    assert not waiting.done()
    await maybe(lease.release())
    got = await waiting.result()
    assert got.token > lease.token
    await maybe(got.release())


def heard(client: Any, queue: str) -> int:
    """Return how many wait in a queue whose address is listened at."""
    entries = [entry.split(b" ", 4) for entry in client.zrange(queue, 0, -1)]
    return sum(
        client.execute_command("PUBSUB", "SHARDNUMSUB" if verb == b"SPUBLISH" else "NUMSUB", channel)[1]
        for _, _, verb, _, channel in entries
    )


async def test_waiters_enqueue_anew_and_keep_their_order(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    moving, source, target = await started(cluster)
    holder = await moving.lock()
    waiters = [await moving.lock() for _ in range(3)]
    lease = await maybe(holder.acquire())
    order: list[int] = []
    tokens: list[int] = [lease.token]

    async def wait(number: int) -> None:
        got = await maybe(waiters[number].acquire(timeout=40))
        order.append(number)
        tokens.append(got.token)
        await maybe(got.release())

    working = []
    for number in range(3):
        working.append(flavour.spawn(wait, number))
        await flavour.until(
            lambda n=number: cluster.plain[source].zcard(f"coordkit:1:{{{moving.name}}}:queue") == n + 1
        )
    carrier = await moving.announce(target)
    moving.tell()
    # Each was told by its broken connection, and asks again: the queue is at the target, with new addresses.
    await flavour.until(lambda: heard(cluster.plain[target], f"coordkit:1:{{{moving.name}}}:queue") == 3, timeout=20)
    await maybe(lease.release())
    for each in working:
        await each.result(timeout=40)
    assert order == [0, 1, 2]
    assert tokens == sorted(set(tokens))
    await carrier.close()


async def test_a_lease_that_ends_while_it_moves_is_lost(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """The time to live comes along: who does not renew loses it when it should have."""
    moving, _, target = await started(cluster)
    lock, other = await moving.lock(ttl=3.0, renew=False), await moving.lock()
    lease = await maybe(lock.acquire())
    await moving.announce(target)
    moving.tell()
    assert await maybe(other.try_acquire()) is None
    following = await maybe(other.acquire(timeout=20))
    assert following.token > lease.token
    with pytest.raises(LeaseLost):
        await maybe(lease.renew())
    await maybe(following.release())


@pytest.mark.parametrize("kind", ["read", "write", "semaphore", "multi", "confirmed"])
async def test_every_kind_moves(cluster: Cluster, flavour: Any, maybe: Any, kind: str) -> None:
    moving, _, target = await started(cluster)
    shards = await moving.client()
    makers = {
        "read": lambda: flavour.ReadWriteLock(shards, moving.name, ttl=20).read,
        "write": lambda: flavour.ReadWriteLock(shards, moving.name, ttl=20).write,
        "semaphore": lambda: flavour.Semaphore(shards, moving.name, permits=1, ttl=20),
        "multi": lambda: flavour.MultiLock(shards, [moving.name], ttl=20),
        "confirmed": lambda: flavour.Lock(shards, moving.name, ttl=20, min_replicas=0),
    }
    lock = makers[kind]()
    lease = await maybe(lock.acquire(timeout=5))
    await moving.announce(target)
    moving.tell()
    await maybe(lease.renew())
    assert moving.keys(target)
    await maybe(lease.release())
    again = await maybe(lock.acquire(timeout=5))
    await maybe(again.release())


async def test_keys_that_the_move_puts_on_two_shards_are_refused(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """They were on one when the call began: what was carried out there would be lost with the key that has moved."""
    moving, source, target = await started(cluster)
    shards = await moving.client()
    fence, script = flavour.Fence(shards, moving.name), INCR.source
    table, slot = cluster.ledger.now.owners, slot_of(f"{{{moving.name}}}")
    keys = (f"{moving.name}-{i}" for i in range(999))
    key = next(key for key in keys if table.lookup(key.encode()) == source and slot_of(key) != slot)
    assert await maybe(fence.run(script, keys=[key], token=7)) == 1
    await moving.announce(target, key)

    async def write() -> Any:
        return await maybe(fence.run(script, keys=[key], token=7))

    writing = flavour.spawn(write)
    await flavour.until(lambda: shards._live._waiting)  # told by the old owner: nothing was sent yet
    moving.tell()
    with pytest.raises(CrossShardError, match="on 2 shards"):
        await writing.result()
    both = f"coordkit:1:{{{moving.name}}}:x".encode(), key.encode()
    [refused] = await fence._core._store.run_many([(moving.name, Call(INCR, both, ()))])
    assert isinstance(refused, CrossShardError)
    assert await maybe(shards.get(key)) == b"1"


async def test_locks_that_stay_are_renewed_while_a_move_is_stuck(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """The mover died after it had announced: what moves to the shard is lost in the end, what is there is not."""
    moving, _, target = await started(cluster)
    shards = await moving.client()
    table = cluster.ledger.now.owners
    name = next(name for i in range(999) if table.lookup(f"{{{(name := f'{moving.name}-{i}')}}}".encode()) == target)
    going = await maybe(flavour.Lock(shards, moving.name, ttl=2.0).acquire())
    staying = await maybe(flavour.Lock(shards, name, ttl=2.0).acquire())
    slot = slot_of(f"{{{moving.name}}}")
    await cluster.ledger.write(cluster.ledger.now.begin_move([slot], table.table[slot], target))
    moving.tell()
    with pytest.raises(LeaseLost):
        await flavour.until(lambda: not going.ensure(), timeout=20)
    await flavour.sleep(3.0)
    await maybe(staying.ensure())
    await maybe(staying.release())


async def test_a_lock_that_cannot_be_brought_fails_alone(cluster: Cluster, flavour: Any, maybe: Any) -> None:
    """Its source is down, as far as it is concerned; another's keys, of the same move, had been brought before."""
    moving, _, target = await started(cluster)
    shards = await moving.client()
    await moving.announce(target)
    moving.tell()
    stuck, brought = (f"{{{moving.name}}}:{part}".encode() for part in ("stuck", "brought"))
    moment, store = shards._live.now, flavour.Fence(shards, moving.name)._core._store
    bring = moment._bring

    async def partly(keys: Any) -> Any:
        if stuck in keys:
            raise StoreUnavailable(moving.name, "its source is down")
        return await bring(keys)

    moment._bring = partly
    calls = [(moving.name, Call(INCR, (key,), ())) for key in (stuck, brought)]
    failed, counted = await store.run_many(calls, within=10.0)
    assert isinstance(failed, StoreUnavailable)
    assert counted == 1
    assert all(isinstance(reply, StoreUnavailable) for reply in await store.run_many(calls, within=0.0))
    assert all(isinstance(reply, StoreUnavailable) for reply in await store.run_many(calls[:1]))
