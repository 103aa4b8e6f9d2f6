"""What a lock promises that whoever holds it may acquire again, in both flavours."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest

import coordkit
import coordkit.aio
from coordkit import LeaseLost, NotAcquired
from coordkit.testing import expire

# What takes seconds and is the client's own affair is shown on one server.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a reentrant lock."""

    def lock(**arguments: Any) -> Any:
        client = deployment.redis()
        return flavour.Lock(client, f"{coordkit_namespace}:job", **{"ttl": 10, "reentrant": True, **arguments})

    return lock


async def test_the_last_release_gives_it_back(make: Any, maybe: Any) -> None:
    lock, other = make(), make()
    outer = await maybe(lock.acquire())
    inner = await maybe(lock.acquire(timeout=0))
    innermost = await maybe(lock.try_acquire())

    assert outer.token == inner.token == innermost.token
    assert outer.holder == inner.holder
    for level in (outer, innermost):  # in whatever order
        assert await maybe(level.release()) is True
        assert await maybe(level.release()) is False
        assert level.remaining() == 0
        with pytest.raises(LeaseLost, match="this level of it was given back"):
            level.ensure()
        assert inner.ensure()
        assert await maybe(other.try_acquire()) is None
    await maybe(inner.renew())
    assert await maybe(inner.release()) is True
    assert await maybe(lock.client.exists(lock.key)) == 0
    with pytest.raises(LeaseLost, match="given back"):
        outer.ensure()


async def test_without_asking_for_it_nobody_enters_twice(make: Any, maybe: Any) -> None:
    lock = make(reentrant=False)
    lease = await maybe(lock.acquire())
    assert await maybe(lock.try_acquire()) is None
    await maybe(lease.release())


async def test_blocks_nest(flavour: Any, make: Any, maybe: Any) -> None:
    """In one frame, in another function, by hold(), by a decorator, and on an ExitStack."""
    lock = make()

    async def deeper() -> int:
        async with flavour.within(lock) as lease, flavour.within(lock.hold(timeout=0)):
            return int(lease.token)

    async with flavour.within(lock) as outer:
        async with flavour.within(lock) as inner:
            assert inner.token == outer.token == await deeper()
        outer.ensure()
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(flavour.within(lock))
        outer.ensure()
        assert await maybe(lock.client.exists(lock.key)) == 1
    assert await maybe(lock.client.exists(lock.key)) == 0


async def test_another_thread_or_task_waits(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    outer = await maybe(lock.acquire())
    await maybe(lock.acquire())

    async def another() -> Any:
        with pytest.raises(NotAcquired):
            await maybe(lock.acquire(timeout=0))
        return await maybe(lock.acquire(timeout=20))

    waiting = flavour.spawn(another)
    await maybe(outer.release())
    await flavour.sleep(0.1)
    assert not waiting.done()
    await maybe((await maybe(lock.try_acquire())).release())
    await maybe(lock.break_lease())

    got = await waiting.result()
    assert got.token > outer.token
    await maybe(got.release())


async def test_released_by_another_it_counts_for_the_one_that_acquired(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    outer, inner = await maybe(lock.acquire()), await maybe(lock.acquire())

    async def another() -> Any:
        assert await maybe(inner.release()) is True
        return await maybe(lock.try_acquire())

    assert await flavour.spawn(another).result() is None
    assert await maybe(outer.release()) is True
    assert await maybe(lock.client.exists(lock.key)) == 0


async def test_a_loss_is_the_loss_of_every_level(flavour: Any, make: Any, maybe: Any) -> None:
    """And whoever acquires again then gets a lease of its own, not a dead one."""
    lock, caught_inside = make(ttl=3.0), False
    with pytest.raises(LeaseLost):
        async with flavour.within(lock) as outer:
            with pytest.raises(LeaseLost):
                async with flavour.within(lock) as inner:
                    await maybe(expire(lock))
                    await maybe(inner.lost.wait(10))
                    await flavour.sleep(0)
            assert outer.lost
            for level in (outer, inner):
                with pytest.raises(LeaseLost):
                    level.ensure()
            again = await maybe(lock.acquire(timeout=5))
            assert again.token > outer.token
            assert await maybe(again.release()) is True
            caught_inside = True
    assert caught_inside


@standalone
async def test_past_the_deadline_the_server_is_asked(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=1, renew=False)
    before = await maybe(lock.acquire())
    await flavour.until(lambda: before.remaining() == 0)
    after = await maybe(lock.acquire(timeout=5))

    assert after.token > before.token
    assert await maybe(before.release()) is False
    assert after.ensure()
    assert await maybe(after.release()) is True


async def test_a_deadline_that_nobody_has_told_of_yet_counts(make: Any, maybe: Any) -> None:
    """A process that was stopped wakes: its own clock says that it is over, whatever its timers have come to."""
    lock = make(renew=False)
    before = await maybe(lock.acquire())
    before._core._stack.lease.expires -= 10

    assert not before.lost
    assert await maybe(lock.try_acquire()) is None  # asked, the server says that an earlier one of ours has it
    assert await maybe(before.release()) is False


def test_a_thread_inherits_nothing_from_one_that_ended(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """A thread's id is used again, at once."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60, reentrant=True)
    leases: list[coordkit.Lease] = []
    ended = threading.Thread(target=lambda: leases.append(lock.acquire()))
    ended.start()
    ended.join()
    refused: list[bool] = []
    for _ in range(200):
        thread = threading.Thread(target=lambda: refused.append(lock.try_acquire() is None))
        thread.start()
        thread.join()
        if thread.ident == ended.ident:
            break
    else:
        pytest.fail("no id was used again: this shows nothing")

    assert all(refused)
    assert leases[0].release() is True


async def test_who_may_be_waiting_for_itself_can_read_of_it(
    coordkit_redis_server: Any, coordkit_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before Python 3.12, ``wait_for`` runs acquire in a task of its own; nobody can tell whose the lease is then."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=10, reentrant=True)
    async with lock:  # one that waits for another says nothing
        with pytest.raises(coordkit.AcquireTimeout):
            await asyncio.create_task(lock.acquire(timeout=0.05))
    assert not caplog.records

    lease = await asyncio.create_task(lock.acquire())
    for _ in range(2):
        with pytest.raises(coordkit.AcquireTimeout):
            await lock.acquire(timeout=0.05)
    [record] = caplog.records
    assert record.getMessage().startswith(f"{lock.name}: whoever acquired it has ended without giving it back")
    await lease.release()
    caplog.clear()
    await (await lock.acquire(timeout=1)).release()
    assert not caplog.records
    await (getattr(client, "aclose", None) or client.close)()


async def test_a_task_inherits_nothing_from_one_that_ended(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=10, reentrant=True)
    ended = asyncio.create_task(lock.acquire())
    lease = await ended
    assert lock._reentrant is not None
    assert len(lock._reentrant._stacks) == 1
    del ended
    for _ in range(100):  # the loop lets go of it in its own time; until then its id is not used again
        gc.collect()
        if not len(lock._reentrant._stacks):
            break
        await asyncio.sleep(0.01)

    assert len(lock._reentrant._stacks) == 0
    assert await asyncio.create_task(lock.try_acquire()) is None
    await lease.release()
    await (getattr(client, "aclose", None) or client.close)()


async def test_child_tasks_do_not_hold_what_their_parent_holds(flavour: Any, make: Any, maybe: Any) -> None:
    """A context variable would be inherited by them."""
    lock = make()

    async def child() -> Any:
        return await maybe(lock.try_acquire())

    async with flavour.within(lock):
        assert await flavour.spawn(child).result() is None
