"""Locks over three shards, both flavours: each lives on the shard of its name, and on no other.

What a lock promises is tested in the files of each kind, which run over shards as well (``deployment``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordkit.errors import CrossShardError, StaleToken, StoreUnavailable
from coordkit.routing import Topology, slot_map
from coordkit.routing.client import live as client_live
from coordkit.routing.client import live_aio as client_live_aio
from coordkit.routing.commands.router import Router

NAMES = ("a", "b", "c")


@pytest.fixture
def make(flavour: Any, coordkit_redis_shards: Any) -> Callable[..., Any]:
    """Give a function that makes a ShardedRedis with clients of its own."""

    def sharded(**options: Any) -> Any:
        options = {"socket_timeout": 1, "socket_connect_timeout": 1, **options}
        clients = {
            name: flavour.redis(one.url, **options) for name, one in zip(NAMES, coordkit_redis_shards, strict=True)
        }
        return flavour.ShardedRedis(clients)

    return sharded


@pytest.fixture
def name_on(make: Any, coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth lock of this test on a shard."""
    shards = make()

    def find(shard: str, nth: int = 0) -> str:
        names = (f"{coordkit_namespace}:{i}" for i in range(1000))
        return [name for name in names if shards.shard_for(name) == shard][nth]

    return find


async def homes(flavour: Any, shards: Any, name: str) -> set[str]:
    """Return the shards that have keys of a lock."""
    found = await flavour.maybe(shards.on_all("KEYS", f"coordkit:1:{{{name}}}:*"))
    return {shard for shard, keys in found.items() if keys}


async def test_each_kind_lives_on_the_shard_of_its_name(flavour: Any, make: Any, name_on: Any, maybe: Any) -> None:
    shards = make()
    for shard in NAMES:
        name = name_on(shard)
        for kind in (
            flavour.Lock(shards, name, ttl=20),
            flavour.Semaphore(shards, name, permits=2, ttl=20),
            flavour.ReadWriteLock(shards, name, ttl=20).read,
            flavour.ReadWriteLock(shards, name, ttl=20).write,
            flavour.MultiLock(shards, [name], ttl=20),
        ):
            lease = await maybe(kind.acquire(timeout=5))
            assert await homes(flavour, shards, name) == {shard} == {shards.shard_for(name)}
            await maybe(lease.release())
        fence = flavour.Fence(shards, name)
        await maybe(fence.set(f"{{{name}}}:value", "v", token=7))
        assert await maybe(shards.client_for(name).get(f"{{{name}}}:value")) == b"v"
        with pytest.raises(StaleToken):
            await maybe(fence.get(f"{{{name}}}:value", token=6))


async def test_tokens_rise_whoever_holds(flavour: Any, make: Any, name_on: Any, maybe: Any) -> None:
    ours, theirs, tokens = make(), make(), []
    for shards in (ours, theirs, ours, theirs):
        lock = flavour.Lock(shards, name_on("b"), ttl=20)
        lease = await maybe(lock.try_acquire())
        assert await maybe(flavour.Lock(theirs, lock.name, ttl=20).try_acquire()) is None
        holder = await maybe(flavour.Lock(theirs, lock.name, ttl=20).holder())
        assert holder.id == lease.holder
        tokens.append(int(lease.token))
        await maybe(lease.release())
    assert tokens == sorted(set(tokens))


async def test_whoever_waits_listens_on_the_shard_of_the_name_and_is_told(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    shards, name = make(), name_on("c")
    held = await maybe(flavour.Lock(shards, name, ttl=60).acquire())
    lock = flavour.Lock(make(), name, ttl=60)

    async def wait() -> Any:
        return await maybe(lock.acquire(timeout=20))

    async def listening() -> dict[str, int]:
        found = await maybe(shards.on_all("PUBSUB CHANNELS", "coordkit:1:inbox:*"))
        return {shard: len(channels) for shard, channels in found.items()}

    before = await listening()
    running = flavour.spawn(wait)
    await flavour.until(lambda: _length(flavour, lock, 1))
    assert await listening() == {**before, "c": before["c"] + 1}
    await maybe(held.release())
    lease = await running.result()  # far sooner than the ttl, after which it would have asked again
    assert lease.token > held.token
    await maybe(lease.release())


async def _length(flavour: Any, lock: Any, length: int) -> bool:
    return len(await flavour.maybe(lock.waiters())) == length


async def test_several_names_lie_on_several_shards_and_are_held_all_or_none(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    shards, names = make(), [name_on(shard) for shard in NAMES]
    several = flavour.MultiLock(shards, names, ttl=20)
    async with flavour.within(several) as lease:
        assert set(lease.tokens) == set(names)
        assert [await homes(flavour, shards, name) for name in names] == [{"a"}, {"b"}, {"c"}]
        for name in names:
            assert await maybe(flavour.Lock(shards, name, ttl=20).try_acquire()) is None
    blocking = await maybe(flavour.Lock(shards, names[1], ttl=20).acquire())
    assert await maybe(several.try_acquire()) is None
    for name in (names[0], names[2]):
        assert await maybe(flavour.Lock(shards, name, ttl=20).holder()) is None
    await maybe(blocking.release())


async def test_a_lock_shared_with_redis_py_lies_where_its_key_does(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    shards, name = make(), name_on("b")
    lock = flavour.Lock(shards, name, ttl=20, compatible_with="redis-py")
    lease = await maybe(lock.acquire())
    theirs = shards.client_for(name).lock(name, timeout=20)
    assert not await maybe(theirs.acquire(blocking=False))
    await maybe(lease.release())
    assert await maybe(theirs.acquire(blocking=False))
    assert await maybe(lock.try_acquire()) is None
    await maybe(theirs.release())


async def test_keys_on_other_shards_than_the_fence_are_refused(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    """A script is sent to one server, which does not notice."""
    fence, elsewhere = flavour.Fence(make(), name_on("a")), name_on("b")
    for refused in (
        lambda: fence.set(elsewhere, 1, token=1),
        lambda: fence.get(elsewhere, token=1),
        lambda: fence.run("return 1", keys=[elsewhere], token=1),
    ):
        with pytest.raises(CrossShardError, match=r"its keys are on 2 shards: .* on a, .* on b") as error:
            await maybe(refused())
        assert error.value.shards[elsewhere] == "b"
    await maybe(fence.claim(token=1))


async def test_a_shard_that_is_away_costs_its_own_locks_only(
    flavour: Any, make: Any, name_on: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """Renewals too: those of a silent shard are not waited for by the others', whose ttl may be shorter than that."""
    shards = make(socket_timeout=10)
    kept = [await maybe(flavour.Lock(shards, name_on(shard), ttl=1.5).acquire()) for shard in "ac"]
    silent = await maybe(flavour.Lock(shards, name_on("b"), ttl=9).acquire())
    coordkit_faults.pause(coordkit_redis_shards[1])
    await flavour.until(lambda: silent.remaining() < 4.5, timeout=20)
    for lease in kept:
        await maybe(lease.ensure())
    fresh = await maybe(flavour.Lock(shards, name_on("a", 1), ttl=3).acquire(timeout=1))
    hurried = make(socket_timeout=0.3)
    with pytest.raises(StoreUnavailable):
        await maybe(flavour.Lock(hurried, name_on("b", 1), ttl=3).acquire(timeout=1))
    coordkit_faults.resume(coordkit_redis_shards[1])
    for lease in (*kept, fresh, silent):
        await maybe(lease.release())
    back = await maybe(flavour.Lock(shards, name_on("b", 1), ttl=3).acquire(timeout=10))
    await maybe(back.release())


async def test_a_placement_that_is_swapped_is_followed(flavour: Any, make: Any, name_on: Any, maybe: Any) -> None:
    """By who holds, in the next renewal, and by who waits. Here the keys were not moved: the lease is gone."""
    shards, on_c = make(), slot_map(NAMES, {"c": 100})
    name = next(name for name in (name_on("a", nth) for nth in range(50)) if on_c.lookup(name) == "c")
    lock = flavour.Lock(shards, name, ttl=3)
    held = await maybe(lock.acquire())

    async def wait() -> Any:
        return await maybe(flavour.Lock(shards, name, ttl=3).acquire(timeout=20))

    running = flavour.spawn(wait)
    await flavour.until(lambda: _length(flavour, lock, 1))
    shards._router = Router(on_c)
    lease = await running.result()
    assert await maybe(shards.on("c").exists(lock.key)) == 1
    assert (await maybe(lock.holder())).id == lease.holder
    await flavour.until(lambda: held.remaining() <= 0, timeout=20)
    await maybe(lease.release())
    assert await maybe(shards.on("c").exists(lock.key)) == 0


async def test_a_lock_may_be_spoken_of_through_the_sharded_client_itself(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    """As where each command has to be looked at on its way: `store_client` names the sharded client."""
    shards, name = make(), name_on("b")
    shards.store_client = lambda _: shards
    lock = flavour.Lock(shards, name, ttl=20)
    async with flavour.within(lock):
        assert await homes(flavour, shards, name) == {"b"}
        assert await maybe(lock.try_acquire()) is None
    async with flavour.within(lock):
        pass


async def test_copies_are_waited_for_on_the_shard_of_the_name(
    flavour: Any, make: Any, name_on: Any, maybe: Any
) -> None:
    lock = flavour.Lock(make(), name_on("a"), ttl=1, min_replicas=1)
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas had it"):
        await maybe(lock.try_acquire())
    with pytest.raises(ValueError, match="single_connection_client"):
        flavour.Lock(make(max_connections=3), name_on("a"), ttl=1, min_replicas=1)


async def test_locks_over_a_live_topology_wait_as_any(
    flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str, maybe: Any
) -> None:
    """What they send goes by the topology, each time; who waits listens on the shard, and is told."""
    urls = {name: one.url for name, one in zip(NAMES, coordkit_redis_shards, strict=True)}

    async def live() -> Any:
        kind = (client_live_aio if flavour.is_async else client_live).LiveShardedRedis
        made = kind(lambda _, url: flavour.redis(url, socket_timeout=5), poll=30.0, patience=5.0)
        await maybe(made.follow(Topology.first(coordkit_namespace, urls)))  # for shards that know no epoch
        return flavour.closing(made)

    shards, others = await live(), await live()
    for i in range(3):
        lock, theirs = (flavour.Lock(one, f"{coordkit_namespace}:{i}", ttl=60) for one in (shards, others))
        held = await maybe(lock.acquire())
        assert await homes(flavour, shards, lock.name) == {shards.shard_for(lock.name)}

        async def wait(theirs: Any = theirs) -> Any:
            return await maybe(theirs.acquire(timeout=20))

        running = flavour.spawn(wait)
        await flavour.until(lambda lock=lock: _length(flavour, lock, 1))  # it stands in the queue, and does not poll
        await maybe(held.release())
        lease = await running.result()
        assert lease.token > held.token
        await maybe(lease.release())
