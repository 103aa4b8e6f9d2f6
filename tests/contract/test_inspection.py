"""Who holds, who waits, and how an operator takes a lock away, in both flavours."""

from __future__ import annotations

import math
import os
import socket
from typing import Any

import pytest

from coordkit import CoordError, LeaseLost, StaleToken
from coordkit.testing.processes import start_redis


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a lock."""

    def lock(*, ttl: float = 10, **arguments: Any) -> Any:
        client = deployment.redis()
        return flavour.Lock(client, f"{coordkit_namespace}:job", ttl=ttl, **arguments)

    return lock


async def test_a_free_lock(make: Any, maybe: Any) -> None:
    lock = make()

    assert await maybe(lock.holder()) is None
    assert await maybe(lock.waiters()) == []
    assert await maybe(lock.remaining()) is None


async def test_the_holder_is_told(flavour: Any, make: Any, maybe: Any) -> None:
    label = "nightly run: 7 % done\n名"
    lock = make(label=label, ttl=60)
    seconds = int(await maybe(lock.client.eval("return redis.call('TIME')[1]", 1, lock.key)))
    async with flavour.within(lock) as lease:
        who = await maybe(make().holder())

        assert who == (lease.holder, socket.gethostname(), os.getpid(), lease.token / 1e6, label, lease.token)
        assert (who.label, who.token, who.since) == (label, lease.token, lease.token / 1e6)
        assert abs(who.since - seconds) < 30
        assert 50 < await maybe(lock.remaining()) <= 60
        assert (
            (await maybe(lock.client.get(lock.key))).decode().endswith(":nightly%20run:%207%20%25%20done%0A%E5%90%8D")
        )


label = "nightly run: 7 % done\n名"


async def test_the_waiters_are_told_in_order(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    held, waiting = await maybe(lock.acquire()), []
    for label in ("first", "second", "third one"):
        mine = make(label=label)
        waiting.append(flavour.spawn(lambda mine=mine: maybe(mine.acquire(timeout=20))))
        await flavour.until(lambda: _count(lock, maybe, len(waiting)))
    seen = await maybe(lock.waiters())

    assert [one.label for one in seen] == ["first", "second", "third one"]
    assert [one.token for one in seen] == [None] * 3
    assert [one.since for one in seen] == sorted(one.since for one in seen)
    assert seen[0].pid == os.getpid()
    for who, each in zip([None, *seen[:2]], [held, *waiting[:2]], strict=True):
        got = each if who is None else await each.result()
        assert who is None or got.holder == who.id
        await maybe(got.release())
    await maybe((await waiting[2].result()).release())


async def _count(lock: Any, maybe: Any, number: int) -> bool:
    return len(await maybe(lock.waiters())) == number


async def test_breaking_fences_the_holder_off(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=0.6)
    fence = flavour.Fence(lock.client, f"{lock.name}:ledger")
    lease = await maybe(lock.acquire())
    key = f"{{{fence.name}}}:1"
    await maybe(fence.set(key, "mine", token=lease.token))
    token = await maybe(lock.break_lease())
    await maybe(fence.claim(token=token))

    assert token > lease.token
    with pytest.raises(StaleToken):
        await maybe(fence.set(key, "late", token=lease.token))
    assert await maybe(lease.lost.wait(10))
    with pytest.raises(LeaseLost, match="taken away"):
        lease.ensure()
    async with flavour.within(lock) as after:
        assert after.token > token
        await maybe(fence.set(key, "next", token=after.token))


async def test_breaking_hands_it_on(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=60)
    held = await maybe(lock.acquire())
    waiting = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
    await flavour.until(lambda: _count(lock, maybe, 1))
    token = await maybe(lock.break_lease(holder=held.holder))
    got = await waiting.result()

    assert held.token < token < got.token
    assert await maybe(held.release()) is False
    assert (await maybe(lock.holder())).id == got.holder
    await maybe(got.release())


async def test_breaking_what_is_free_raises_the_token(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock) as lease:
        pass
    tokens = [await maybe(lock.break_lease()) for _ in range(3)]
    async with flavour.within(lock) as after:
        tokens = [lease.token, *tokens, after.token]

    assert tokens == sorted(set(tokens))


async def test_only_the_one_that_was_seen_is_evicted(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock) as before:
        pass
    with pytest.raises(CoordError, match=rf"free by now, and not held by {before.holder}: nothing was broken"):
        await maybe(lock.break_lease(holder=before.holder))
    async with flavour.within(lock) as lease:
        with pytest.raises(CoordError, match=f"held by {lease.holder} by now"):
            await maybe(lock.break_lease(holder=before.holder))
        await maybe(lease.renew())
    with pytest.raises(TypeError, match="holder must be"):
        await maybe(lock.break_lease(holder=7))


async def test_a_key_that_is_not_ours(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    await maybe(lock.client.set(lock.key, b"some\xffbody"))
    assert await maybe(lock.holder()) == (r"some\xffbody", None, None, None, "", None)
    assert await maybe(lock.remaining()) == math.inf
    await maybe(lock.break_lease())

    async with flavour.within(lock.hold(timeout=0)):
        pass


async def test_a_server_without_memory(flavour: Any, maybe: Any) -> None:
    with start_redis(args=["--maxmemory-policy", "noeviction"]) as server:
        client = flavour.redis(server.url)
        lock = flavour.Lock(client, "job", ttl=10)
        lease = await maybe(lock.acquire())
        await maybe(client.config_set("maxmemory", 1))

        assert (await maybe(lock.holder())).id == lease.holder
        assert await maybe(lock.break_lease()) > lease.token
        assert await maybe(lock.holder()) is None
        assert await maybe(lease.release()) is False


async def test_a_replica_shows_what_it_has(flavour: Any, maybe: Any) -> None:
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        there = flavour.Lock(flavour.redis(primary.url), "job", ttl=10)
        here = flavour.Lock(flavour.redis(replica.url), "job", ttl=10)
        async with flavour.within(there) as lease:
            await flavour.until(lambda: maybe(here.holder()))
            assert (await maybe(here.holder())).token == lease.token
