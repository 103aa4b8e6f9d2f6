"""What several locks at once promise, in both flavours."""

from __future__ import annotations

import asyncio
import string
from typing import Any

import pytest
from conftest import Flavour, deployed
from deployed import UNSHARDED, Deployed

from coordkit import AcquireTimeout, LeaseLost, NotAcquired
from coordkit._threads.runtime import now
from coordkit.core.lease import DRIFT
from coordkit.testing import expire

# What takes seconds, and is settled by the client's own clock, is shown on one server.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture(params=UNSHARDED)
def deployment(request: pytest.FixtureRequest, flavour: Any) -> Deployed:
    """Give what is slower over shards only where a test asks for it: each shard is a server, and has its own tests."""
    return deployed(request, flavour)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a MultiLock, or a Lock for a name that stands alone."""

    def lock(names: Any, *, ttl: float = 10, **arguments: Any) -> Any:
        client = deployment.redis()
        if isinstance(names, str) and len(names) == 1:
            return flavour.Lock(client, f"{coordkit_namespace}:{names}", ttl=ttl, **arguments)
        return flavour.MultiLock(client, [f"{coordkit_namespace}:{name}" for name in names], ttl=ttl, **arguments)

    return lock


async def keys(lock: Any, maybe: Any) -> int:
    return int(await maybe(lock.client.exists(*(f"coordkit:1:{{{name}}}:lock" for name in lock.names))))


async def test_it_holds_all_with_a_token_each(flavour: Any, make: Any, maybe: Any) -> None:
    lock, alone = make("bca"), make("b")
    began = now()
    async with flavour.within(lock) as lease:
        assert list(lease.tokens) == list(lock.names) == sorted(lock.names)
        assert isinstance(lease, flavour.MultiLease)
        assert await maybe(alone.try_acquire()) is None
        assert (await maybe(alone.holder())).token == lease.tokens[alone.name]
        assert lease.ensure() is True
        left = lease.remaining()
        assert 10 * (1 - DRIFT) - (now() - began) <= left <= 10
        await maybe(lease.renew())
    assert await keys(lock, maybe) == 0
    again = await maybe(lock.acquire(timeout=1))
    assert all(again.tokens[name] > lease.tokens[name] for name in lock.names)
    assert await maybe(again.release()) is True
    assert await maybe(again.release()) is False
    assert again.remaining() == 0
    with pytest.raises(LeaseLost, match="given back"):
        again.ensure()
    with pytest.raises(AttributeError, match=r"use tokens\[name\]"):
        again.token  # noqa: B018  asking is what fails
    assert repr(again).startswith(f"<MultiLease {', '.join(lock.names)} ")
    assert repr(lock) == f"<MultiLock {', '.join(lock.names)} ttl=10.0s>"


async def test_all_or_none(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make("abc")
    async with flavour.within(make("c")) as alone:
        assert await maybe(lock.try_acquire()) is None
        assert await keys(lock, maybe) == 1
        with pytest.raises(NotAcquired, match=alone.holder):
            await maybe(lock.acquire(timeout=0))
        with pytest.raises(AcquireTimeout, match=rf"{alone.name}: held by {alone.holder}; waited 0.2 s for all of"):
            await maybe(lock.acquire(timeout=0.2))
        assert await keys(lock, maybe) == 1
        with pytest.raises(AcquireTimeout):
            async with flavour.within(lock.hold(timeout=0.05)):
                pytest.fail("entered without the lock")
    assert await keys(lock, maybe) == 0


@standalone
async def test_the_timeout_is_for_all_together(flavour: Any, make: Any, maybe: Any) -> None:
    from coordkit._threads.runtime import now

    async with flavour.within(make("c", ttl=30)):
        first = await maybe(make("a").acquire())

        async def free_the_first() -> None:
            await flavour.sleep(4.0)
            await maybe(first.release())

        freeing, began = flavour.spawn(free_the_first), now()
        with pytest.raises(AcquireTimeout) as caught:
            await maybe(make("ac").acquire(timeout=5.0))
        assert 5.0 <= now() - began < 4.0 + 5.0  # a timeout for each would make that 9
        assert caught.value.timeout == 5.0
        await freeing.result()


@pytest.mark.parametrize(
    ("deployment", "renew"), [*((kind, True) for kind in UNSHARDED), ("standalone", False)], indirect=["deployment"]
)
async def test_what_is_held_is_renewed_while_the_rest_is_waited_for(
    flavour: Any, make: Any, maybe: Any, renew: bool
) -> None:
    lock, first, last = make("ab", ttl=3, renew=renew), make("a"), make("b")
    held = await maybe(last.acquire())
    waiting = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
    await flavour.until(lambda: maybe(first.holder()))
    holder, left = (await maybe(first.holder())).id, [await maybe(first.remaining())]

    async def renewed() -> bool:
        left.append(await maybe(first.remaining()))
        return bool(left[-1] > left[-2])

    await flavour.until(renewed)
    assert not waiting.done()
    await maybe(held.release())
    lease = await waiting.result()

    assert lease.tokens[first.name].holder == holder
    assert lease.remaining() > 0.2
    if renew:
        await flavour.renewed(lease)
        await maybe(lease.release())
    else:
        assert await maybe(lease.lost.wait(10))


@standalone
async def test_max_hold_counts_from_the_last_grant(flavour: Any, make: Any, maybe: Any) -> None:
    lock, last = make("ab", ttl=1.4, max_hold=1.5), make("b")
    held = await maybe(last.acquire())
    waiting = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
    await flavour.sleep(1.6)
    await maybe(held.release())
    lease = await waiting.result()
    assert lease.ensure()

    assert await maybe(lease.lost.wait(10))
    with pytest.raises(LeaseLost, match="max_hold"):
        lease.ensure()


async def test_opposite_orders_do_not_wait_for_each_other(flavour: Any, make: Any, maybe: Any) -> None:
    one, two, turns = make("abc"), make("cba"), []

    async def work(lock: Any) -> None:
        for _ in range(15):
            async with flavour.within(lock.hold(timeout=20)):
                turns.append(lock)

    await flavour.gather(*(work(lock) for lock in (one, two, one, two)))
    assert len(turns) == 60
    assert await keys(one, maybe) == 0


async def test_one_that_is_lost_loses_all(flavour: Any, make: Any, maybe: Any) -> None:
    lock, one, other = make("abc", ttl=1.0), make("b"), make("c")
    with pytest.raises(LeaseLost, match=rf"{one.name}: the server no longer has it"):
        async with flavour.within(lock) as lease:
            await maybe(expire(one))
            if flavour.is_async:
                await flavour.sleep(30)
            else:
                assert lease.lost.wait(10)
    assert lease.remaining() == 0
    with pytest.raises(LeaseLost, match=one.name):
        lease.ensure()
    assert await maybe(lease.release()) is False
    got = await maybe(other.acquire(timeout=10))  # given back, and not renewed on
    await maybe(got.release())


async def test_the_others_are_given_back_at_once(flavour: Any, make: Any, maybe: Any) -> None:
    """Also if whoever holds them looks at nothing."""
    lease = await maybe(make("abc", ttl=1.5).acquire())
    await maybe(make("b").break_lease())
    got = await maybe(make("c").acquire(timeout=20))

    assert lease.lost
    await maybe(got.release())


@standalone
async def test_what_is_not_renewed_begins_with_a_whole_ttl(flavour: Any, make: Any, maybe: Any) -> None:
    lock, last = make("ab", ttl=6, renew=False), make("b")
    held = await maybe(last.acquire())
    waiting = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
    await flavour.until(lambda: maybe(make("a").holder()))
    await flavour.sleep(1.2)
    await maybe(held.release())
    lease = await waiting.result()

    assert lease.remaining() > 6 * 0.99 - 1
    await maybe(lease.release())


@standalone
async def test_what_expired_while_the_rest_was_waited_for_is_asked_for_anew(
    flavour: Any, make: Any, maybe: Any
) -> None:
    lock, first, last = make("ab", ttl=1.2), make("a"), make("b")
    held = await maybe(last.acquire())
    waiting = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
    await flavour.until(lambda: maybe(first.holder()))
    token = await maybe(first.break_lease())
    await flavour.sleep(1.0)  # more than a third of the ttl: its renewal was told
    await maybe(held.release())
    lease = await waiting.result()

    assert lease.ensure()
    assert lease.tokens[first.name] > token
    assert await maybe(lease.release()) is True


async def are_free(lock: Any) -> bool:
    return await keys(lock, Flavour.maybe) == 0


@pytest.mark.parametrize("flavour", ["asyncio"], indirect=True)
@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16, 32, 64])
async def test_a_cancelled_acquire_leaves_nothing(flavour: Any, make: Any, steps: int) -> None:
    lock = make("abc", ttl=60)
    task = asyncio.create_task(lock.acquire())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, flavour.MultiLease):  # it was quicker
        await outcome.release()
    await flavour.until(lambda: are_free(lock))


@pytest.mark.parametrize("flavour", ["asyncio"], indirect=True)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 6, 8, 12])
async def test_a_block_that_is_cancelled_while_it_gives_back_leaves_nothing(
    flavour: Any, make: Any, steps: int
) -> None:
    lock, entered = make("abc", ttl=60), asyncio.Event()

    async def block() -> None:
        async with lock:
            entered.set()

    task = asyncio.create_task(block())
    await entered.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await flavour.until(lambda: are_free(lock))


class Interrupted(BaseException):
    """What is raised from outside: by a signal handler, or by a timeout of a user's."""


@pytest.mark.parametrize("at", ["a", "b", "c"])
@pytest.mark.parametrize("kind", [Interrupted, ZeroDivisionError])
async def test_a_release_that_is_interrupted_leaves_nothing(
    flavour: Any, make: Any, maybe: Any, at: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever is no word of the server's: a signal, or what a credential provider raises."""
    lock = make("abc", ttl=60)
    lease = await maybe(lock.acquire())
    [grantor] = [each.grantor for each in lease._core._leases if each.name == make(at).name]
    revoke, raised = grantor.revoke, []

    async def interrupted(*arguments: Any) -> Any:
        if not raised:
            raised.append(True)
            raise kind
        return await revoke(*arguments)

    monkeypatch.setattr(grantor, "revoke", interrupted)
    with pytest.raises(kind):
        await maybe(lease.release())

    await flavour.until(lambda: are_free(lock))
    assert lease.remaining() == 0


async def test_a_give_back_of_an_acquire_that_is_interrupted_leaves_nothing(
    flavour: Any, make: Any, maybe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last name is another's, and giving the first ones back is interrupted."""
    lock, another = make("abc", ttl=60), await maybe(make("c").acquire())
    grantor = lock._contender._contenders[1].grantor
    revoke, raised = grantor.revoke, []

    async def interrupted(*arguments: Any) -> Any:
        if not raised:
            raised.append(True)
            raise ZeroDivisionError
        return await revoke(*arguments)

    monkeypatch.setattr(grantor, "revoke", interrupted)
    with pytest.raises(ZeroDivisionError):
        await maybe(lock.try_acquire())

    async def others_are_free() -> bool:
        return await keys(lock, maybe) == 1

    await flavour.until(others_are_free)
    await maybe(another.release())


@pytest.mark.parametrize("deployment", ["cluster", "shards"], indirect=True)
async def test_names_on_several_servers(
    flavour: Any, deployment: Any, make: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """Each name is a lock of its own, so all or none needs no transaction over nodes or shards."""
    client, on = deployment.redis(), {}

    def server_of(name: str) -> Any:
        key = f"{{{coordkit_namespace}:{name}}}"
        return client.shard_for(key) if deployment.kind == "shards" else deployment.servers.primary_for(key).port

    for name in string.ascii_letters:
        on.setdefault(server_of(name), []).append(name)
    assert len(on) == 3
    letters = "".join("".join(four) for four in zip(*on.values(), strict=False))[:12]  # in turn, four on each
    lock, one, last = make(letters), make(letters[0]), make(max(letters))
    async with flavour.within(lock) as lease:
        await maybe(lease.renew())
        assert await maybe(make(letters[6:]).try_acquire()) is None
        assert len(await maybe(one.waiters())) == 0
        held = [await maybe(make(name).holder()) for name in sorted(letters)]
        assert [each.token for each in held] == [lease.tokens[name] for name in lock.names]
        waiting = flavour.spawn(lambda: maybe(make(letters[6:]).acquire(timeout=20)))
        await flavour.until(lambda: maybe(make(min(letters[6:])).waiters()))
    got = await waiting.result()
    assert await keys(lock, maybe) == 6
    assert all(got.tokens[name] > lease.tokens[name] for name in got.tokens)
    assert await maybe(lock.try_acquire()) is None  # the first six, on whatever servers, are given back again
    assert await keys(lock, maybe) == 6
    await maybe(got.release())
    held_last = await maybe(last.acquire())
    assert await maybe(lock.try_acquire()) is None
    assert await keys(lock, maybe) == 1
    await maybe(held_last.release())
