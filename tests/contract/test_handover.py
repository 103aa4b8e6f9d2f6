"""A lease that goes to another process, in both flavours."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from coordkit import CoordError, LeaseLost, StaleToken
from coordkit.testing import expire

# The other process is a program with a URL.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a lock."""

    def lock(name: str = "job", *, ttl: float = 10, **arguments: Any) -> Any:
        client = deployment.redis()
        return flavour.Lock(client, f"{coordkit_namespace}:{name}", ttl=ttl, **arguments)

    return lock


async def test_it_goes_on_with_a_token_of_its_own(flavour: Any, make: Any, maybe: Any) -> None:
    giver, taker = make(ttl=60), make(ttl=4.5)
    async with flavour.within(giver) as lease:
        text = await maybe(lease.handover())
        assert lease.remaining() == 0
        assert not lease.lost
        with pytest.raises(LeaseLost, match="handed over"):
            lease.ensure()
        with pytest.raises(LeaseLost, match="handed over"):
            await maybe(lease.handover())
        assert await maybe(giver.remaining()) > 50
    assert await maybe(giver.try_acquire()) is None
    adopted = await maybe(taker.adopt(text))

    assert adopted.token > lease.token
    assert adopted.token.holder == adopted.holder
    assert adopted.holder != lease.holder
    assert (await maybe(taker.holder())).id == adopted.holder
    await flavour.renewed(adopted)
    assert 0 < adopted.remaining() <= 4.5  # with the taker's ttl
    assert await maybe(lease.release()) is False
    assert await maybe(adopted.release()) is True
    async with flavour.within(giver) as after:
        assert after.token > adopted.token


async def test_a_fence_refuses_what_the_giver_sends_late(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    fence = flavour.Fence(lock.client, f"{lock.name}:ledger")
    lease = await maybe(lock.acquire())
    await maybe(fence.claim(token=lease.token))
    once = await maybe(lock.adopt(await maybe(lease.handover())))
    await maybe(fence.claim(token=once.token))
    twice = await maybe(lock.adopt(await maybe(once.handover())))  # and on
    await maybe(fence.claim(token=twice.token))
    for late in (lease, once):
        with pytest.raises(StaleToken):
            await maybe(fence.set(f"{{{lock.name}:ledger}}:x", "late", token=late.token))

    assert await maybe(twice.release()) is True


async def test_only_one_adopts(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    text = await maybe(lease.handover())
    adopted = await maybe(lock.adopt(text))
    with pytest.raises(LeaseLost, match="adopted before") as caught:
        await maybe(make().adopt(text))

    assert caught.value.token == lease.token
    assert adopted.ensure()
    await maybe(adopted.renew())
    await maybe(adopted.release())


async def test_what_expired_on_the_way_is_gone(flavour: Any, make: Any, maybe: Any) -> None:
    """Also if another holds it by then."""
    lock = make()
    text = await maybe((await maybe(lock.acquire())).handover())
    await maybe(expire(lock))
    with pytest.raises(LeaseLost, match="gone"):
        await maybe(lock.adopt(text))
    assert await maybe(lock.client.exists(lock.key)) == 0
    async with flavour.within(lock) as other:
        with pytest.raises(LeaseLost, match="gone"):
            await maybe(lock.adopt(text))
        await maybe(other.renew())


async def test_what_is_lost_is_not_handed_over(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(renew=False)
    lease = await maybe(lock.acquire())
    await maybe(expire(lock))
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(lease.handover())
    assert lease.lost


async def test_texts_that_are_none(make: Any, maybe: Any) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    text = await maybe(lease.handover())
    for wrong in ("", "x", text[:-5], text[1:], "coordkit-lease-1." + "W10", text.replace("-1.", "-2."), text + "é"):
        with pytest.raises(ValueError, match="text must be what handover"):
            await maybe(lock.adopt(wrong))
    with pytest.raises(TypeError, match="text must be"):
        await maybe(lock.adopt(b"x"))
    with pytest.raises(ValueError, match="got one of"):
        await maybe(make("other").adopt(text))
    assert await maybe((await maybe(lock.adopt(text))).release()) is True


async def test_other_kinds_refuse(flavour: Any, make: Any, maybe: Any) -> None:
    several = flavour.MultiLock(make().client, [make("a").name, make("b").name], ttl=10)
    for lock in (make(reentrant=True), several):
        async with flavour.within(lock) as lease:
            with pytest.raises(CoordError, match="only a lease of a Lock that is not reentrant"):
                await maybe(lease.handover())
            assert lease.ensure()


async def test_a_reentrant_lock_adopts(make: Any, maybe: Any) -> None:
    lock = make(reentrant=True)
    text = await maybe((await maybe(make().acquire())).handover())
    adopted = await maybe(lock.adopt(text))
    again = await maybe(lock.acquire(timeout=0))

    assert again.token == adopted.token
    assert await maybe(adopted.release()) is True
    assert await maybe(again.release()) is True
    assert await maybe(lock.client.exists(lock.key)) == 0


TAKER = """
import sys, redis, coordkit
lock = coordkit.Lock(redis.Redis.from_url(sys.argv[1]), sys.argv[2], ttl=5)
lease = lock.adopt(sys.argv[3])
print(int(lease.token), lease.release())
"""


@standalone
async def test_across_processes(make: Any, maybe: Any, coordkit_redis_server: Any) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    text = await maybe(lease.handover())
    command = [sys.executable, "-c", TAKER, coordkit_redis_server.url, lock.name, text]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: ASYNC221  nothing else runs

    token, released = said.split()
    assert (int(token) > lease.token, released) == (True, "True")
