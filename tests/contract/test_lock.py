"""What a lock promises when nothing goes wrong, in both flavours, on a real Redis: standalone, Sentinel, Cluster."""

from __future__ import annotations

import gc
import time
from importlib.metadata import version
from typing import Any

import pytest
from deployed import KINDS

from coordkit import AcquireTimeout, LeaseLost, NotAcquired, StoreRefused
from coordkit.testing import expire

# What a test counts or sets on the one server and its one connection.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a lock; with a name of its own unless one is given."""

    def lock(name: str = "job", *, ttl: float = 10, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        client = deployment.redis(**(options or {}))
        return flavour.Lock(client, f"{coordkit_namespace}:{name}", ttl=ttl, **arguments)

    return lock


async def warm(maybe: Any, lock: Any) -> Any:
    """Connect before a short ttl begins: a Cluster's client first asks for slots and for all commands there are."""
    await maybe(lock.client.exists(lock.key))
    return lock


async def test_one_holds_and_the_other_does_not(flavour: Any, make: Any, maybe: Any) -> None:
    lock, other = make(), make()
    lease = await maybe(lock.acquire())

    assert await maybe(other.try_acquire()) is None
    with pytest.raises(NotAcquired, match="held by"):
        await maybe(other.acquire(timeout=0))
    assert await maybe(lease.release()) is True
    again = await maybe(other.try_acquire())
    assert again is not None
    assert await maybe(again.release()) is True


async def test_tokens_rise_from_grant_to_grant(make: Any, maybe: Any) -> None:
    locks, tokens = [make(), make()], []
    for turn in range(20):
        lease = await maybe(locks[turn % 2].acquire())
        tokens.append(lease.token)
        await maybe(lease.release())

    assert tokens == sorted(set(tokens))
    assert tokens[0].holder != tokens[1].holder


async def test_tokens_rise_although_the_server_forgets(flavour: Any, make: Any, maybe: Any) -> None:
    """FLUSHALL, an eviction, a restart without persistence: the server's clock is the floor."""
    lock = make()
    async with flavour.within(lock) as lease:
        before = lease.token
    await maybe(lock.client.delete(lock.key, lock.key.removesuffix("lock") + "token"))
    async with flavour.within(lock) as lease:
        assert lease.token > before


async def test_the_holder_stands_in_the_key(flavour: Any, make: Any, maybe: Any) -> None:
    """`redis-cli GET` shows who holds it: host, process, and what makes it unique."""
    lock = make()
    async with flavour.within(lock) as lease:
        assert (await maybe(lock.client.get(lock.key))).decode() == lease.holder == lease.token.holder
        assert 0 < await maybe(lock.client.pttl(lock.key)) <= 10_000


@standalone
async def test_acquire_and_release_are_one_round_trip_each(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock):  # the server learns the scripts
        pass
    before = await maybe(lock.client.info("commandstats"))
    async with flavour.within(lock):
        pass
    after = await maybe(lock.client.info("commandstats"))

    def calls(stats: dict[str, Any], command: str) -> int:
        return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    sent = {c: calls(after, c) - calls(before, c) for c in ("evalsha", "eval", "script|load", "ping", "hello")}
    assert sent == {"evalsha": 2, "eval": 0, "script|load": 0, "ping": 0, "hello": 0}


async def test_a_waiter_gets_it_when_it_is_given_back(flavour: Any, make: Any, maybe: Any) -> None:
    """It is told: were it to ask again by itself, that would be in a minute."""
    from tenacity import wait_fixed

    lock, other = make(ttl=60), make(ttl=60, wait=wait_fixed(60))
    lease = await maybe(lock.acquire())

    async def wait() -> Any:
        return await maybe(other.acquire(timeout=20))

    waiter = flavour.spawn(wait)
    await flavour.until(lambda: lock.client.exists(lock.key.removesuffix("lock") + "queue"))
    await maybe(lease.release())
    got = await waiter.result()
    assert got.token > lease.token
    await maybe(got.release())


async def test_a_waiter_never_sleeps_past_the_holders_ttl(flavour: Any, make: Any, maybe: Any) -> None:
    """A crashed holder costs at most the rest of its ttl, however long the waiter's pauses have grown."""
    from tenacity import wait_fixed

    crashed = await maybe((await warm(maybe, make(ttl=1.0, renew=False))).acquire())
    other = make(wait=wait_fixed(60))

    lease = await maybe(other.acquire(timeout=20))
    assert lease.token > crashed.token
    await maybe(lease.release())


@pytest.mark.parametrize("timeout", [0.0005, 0.12])
async def test_a_timeout_is_kept(flavour: Any, make: Any, maybe: Any, timeout: float) -> None:
    """Not a pause too early (redis-py), not anew at every wake-up (kazoo), not rounded (python-redis-lock)."""
    from coordkit._threads.runtime import now

    lock, other = make(), make()
    async with flavour.within(lock) as lease:
        began = now()
        with pytest.raises(AcquireTimeout, match=lease.holder) as caught:
            await maybe(other.acquire(timeout=timeout))

        assert now() - began >= timeout
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.timeout == timeout


async def test_it_is_renewed_while_it_is_held(flavour: Any, make: Any, maybe: Any) -> None:
    lock, other = make(ttl=4.5), make(ttl=4.5)
    async with flavour.within(lock) as lease:
        await flavour.renewed(lease)
        assert lease.ensure() is True
        assert 0 < lease.remaining() <= 4.5
        assert await maybe(other.try_acquire()) is None
    assert lease.remaining() == 0.0


async def test_a_renewal_counts_from_when_it_was_asked_for(flavour: Any, make: Any, maybe: Any) -> None:
    """The server counts from some moment before its answer came: who counts from that believes for too long."""
    lease = await maybe((await warm(maybe, make(ttl=60, renew=False))).acquire())
    core = lease._core
    renew = core.grantor.renew

    async def slowly(*args: Any) -> Any:
        said = await renew(*args)
        await core._runtime.sleep(1.0)
        return said

    core.grantor.renew = slowly
    await maybe(lease.renew())
    assert lease.remaining() <= 60 - 1.0
    await maybe(lease.release())


async def test_without_renewal_it_ends_and_says_so(flavour: Any, make: Any, maybe: Any) -> None:
    lease = await maybe((await warm(maybe, make(ttl=1.0, renew=False))).acquire())

    assert await maybe(lease.lost.wait(10)) is True
    assert lease.lost
    assert lease.remaining() == 0.0
    with pytest.raises(LeaseLost, match="not renewed"):
        lease.ensure()
    assert await maybe(lease.release()) is False


async def test_max_hold_bounds_a_body_that_hangs(flavour: Any, make: Any, maybe: Any) -> None:
    lease = await maybe((await warm(maybe, make(ttl=1.0, max_hold=2.0))).acquire())
    await flavour.sleep(0.3)
    assert lease.ensure()

    assert await maybe(lease.lost.wait(10))
    with pytest.raises(LeaseLost, match="max_hold"):
        lease.ensure()


async def test_an_explicit_renewal_starts_the_ttl_anew(flavour: Any, make: Any, maybe: Any) -> None:
    lease = await maybe(make(ttl=5, renew=False).acquire())
    await flavour.sleep(0.1)
    before = time.monotonic() + lease.remaining()
    await maybe(lease.renew())

    assert time.monotonic() + lease.remaining() > before
    await maybe(lease.release())
    with pytest.raises(LeaseLost, match="given back"):
        await maybe(lease.renew())


async def test_a_renewal_is_for_nobody_else(flavour: Any, make: Any, maybe: Any, admin: Any) -> None:
    lock = make(renew=False)
    lease = await maybe(lock.acquire())
    admin.set(lock.key, "another", px=5000)
    with pytest.raises(LeaseLost):
        await maybe(lease.renew())
    assert 0 < admin.pttl(lock.key) <= 5000
    admin.delete(lock.key)


async def test_a_renewal_never_makes_a_lock_again(flavour: Any, make: Any, maybe: Any) -> None:
    """aioredlock and redsync take an expired lock by extending it, behind the back of whoever came between."""
    lock, other = make(renew=False), make()
    lease = await maybe(lock.acquire())
    await maybe(expire(lock))
    async with flavour.within(other):
        pass
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(lease.renew())

    assert await maybe(lock.client.exists(lock.key)) == 0
    assert lease.lost


async def test_losing_it_under_way_is_loud(flavour: Any, make: Any, maybe: Any) -> None:
    """The key vanished early: threads learn it at the exit at the latest, asyncio cancels the body."""
    lock = await warm(maybe, make(ttl=1.0))
    reached = []
    with pytest.raises(LeaseLost, match="no longer has it"):
        async with flavour.within(lock.hold()) as lease:
            await maybe(expire(lock))
            if flavour.is_async:
                await flavour.sleep(30)
            else:
                assert lease.lost.wait(10)
            reached.append("end of the body")

    assert reached == ([] if flavour.is_async else ["end of the body"])


async def test_the_bodys_own_error_wins(flavour: Any, make: Any, maybe: Any) -> None:
    """redis-py and pottery raise the release's error over it."""
    lock = make()
    with pytest.raises(KeyError):
        async with flavour.within(lock.hold()):
            await maybe(lock.client.delete(lock.key))
            raise KeyError


async def test_a_block_may_be_given_back_inside(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock.hold()) as lease:
        assert await maybe(lease.release()) is True
        assert await maybe(lease.release()) is False
        async with flavour.within(lock.hold(timeout=0)):
            pass


async def test_hold_waits_and_gives_up(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock):
        with pytest.raises(NotAcquired):
            async with flavour.within(lock.hold(timeout=0)):
                pytest.fail("entered without the lock")
    assert await maybe(lock.client.exists(lock.key)) == 0


async def test_hold_decorates(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    if flavour.is_async:

        @lock.hold(timeout=0)
        async def job(x: int, *, y: int) -> int:
            assert await lock.try_acquire() is None
            return x + y

    else:

        @lock.hold(timeout=0)
        def job(x: int, *, y: int) -> int:
            assert lock.try_acquire() is None
            return x + y

    assert [await maybe(job(1, y=2)), await maybe(job(3, y=4))] == [3, 7]
    assert job.__name__ == "job"
    async with flavour.within(lock):
        with pytest.raises(NotAcquired):
            await maybe(job(1, y=2))


async def test_one_lock_serves_many(flavour: Any, make: Any, maybe: Any) -> None:
    """A Lock is a description: threads and tasks share it, and no two are ever inside at once."""
    lock = make()
    inside, most, turns = [0], [0], 8

    async def work() -> None:
        for _ in range(turns):
            async with flavour.within(lock):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                await flavour.sleep(0.001)
                inside[0] -= 1

    await flavour.gather(*(work() for _ in range(4)))
    assert most == [1]
    assert await maybe(lock.client.exists(lock.key)) == 0


async def test_the_late_one_does_not_release_the_next(flavour: Any, make: Any, maybe: Any) -> None:
    """redis.asyncio: two tasks share a Lock, the lease of one expires, and its release deletes the other's.

    Redisson: the late one that asks for its token is told the other's.
    """
    lock = make(renew=False)
    late = await maybe(lock.acquire())
    token = int(late.token)
    await maybe(expire(lock))
    current = await maybe(lock.acquire())

    assert late.token == token
    assert await maybe(late.release()) is False
    assert (await maybe(lock.client.get(lock.key))).decode() == current.holder
    assert late.token < current.token
    await maybe(current.release())


@pytest.mark.parametrize("deployment", ["standalone"], indirect=True)
async def test_a_lease_that_nobody_keeps_is_held_on(flavour: Any, make: Any, maybe: Any) -> None:
    """sherlock gives back in ``__del__``: what is held depends on when garbage is collected."""
    lock = make(ttl=6)
    holder = (await maybe(lock.acquire())).holder
    gc.collect()
    left = [await maybe(lock.client.pttl(lock.key))]

    async def renewed() -> bool:
        left.append(await maybe(lock.client.pttl(lock.key)))
        return bool(left[-1] > left[-2])

    await flavour.until(renewed)
    assert (await maybe(lock.client.get(lock.key))).decode() == holder
    await maybe(lock.break_lease())


@pytest.mark.parametrize("deployment", ["standalone"], indirect=True)
async def test_what_was_acquired_and_reached_nobody_is_given_back(
    flavour: Any, make: Any, maybe: Any, caplog: Any
) -> None:
    """As when an exception of a signal handler comes between the grant and whoever asked for it."""
    lock = make(ttl=1.5)
    core = await lock._contender.acquire(None)
    await flavour.sleep(2.0)
    assert core.ensure()
    del core
    await flavour.until(lambda: maybe(lock.try_acquire()))
    assert "nobody has it any more" in caplog.text
    await maybe(lock.break_lease())


@pytest.mark.parametrize("name", ["naïve-名前", "{user}:42", "a}b", "a b\n", "x" * 500])
async def test_any_text_is_a_name(flavour: Any, make: Any, maybe: Any, name: str) -> None:
    lock, other = make(name), make(name + "'")
    async with flavour.within(lock), flavour.within(other):
        assert await maybe(lock.try_acquire()) is None


# hiredis 2.3 crashes the interpreter when it reads what a Cluster's client asks first, in RESP3.
RESP3 = KINDS if int(version("hiredis").partition(".")[0]) >= 3 else ("standalone", "sentinel")


@pytest.mark.parametrize(
    ("deployment", "options"),
    [(kind, options) for kind in KINDS for options in ({"decode_responses": True}, {"encoding": "latin-1"})]
    + [(kind, {"protocol": 3}) for kind in RESP3],
    indirect=["deployment"],
)
async def test_any_client_will_do(flavour: Any, make: Any, maybe: Any, options: dict[str, Any]) -> None:
    """What a client decodes or encodes is its own affair: all fleets agree on the keys."""
    lock, plain = make("é", options=options), make("é")
    async with flavour.within(lock) as lease:
        assert await maybe(plain.try_acquire()) is None
        await maybe(lease.renew())


@standalone
async def test_a_client_that_is_one_connection(flavour: Any, make: Any, maybe: Any) -> None:
    """Through the client's own generic path, where connections of our own are not to be made."""
    lock = make(options={"single_connection_client": True}, ttl=4.5)
    async with flavour.within(lock) as lease:
        assert await maybe(lock.try_acquire()) is None
        await flavour.renewed(lease)
    assert await maybe(lock.client.exists(lock.key)) == 0


async def test_a_server_that_forgot_the_scripts(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    await maybe(lock.client.script_flush())
    await maybe(lease.renew())
    await maybe(lock.client.script_flush())

    assert await maybe(lease.release()) is True


@pytest.mark.parametrize("counter", ["many", "9007199254740991", "1e300", "nan"])
async def test_a_counter_that_is_no_number_refuses(flavour: Any, make: Any, maybe: Any, counter: str) -> None:
    """A token that cannot rise is not given out."""
    lock = make()
    await maybe(lock.client.set(lock.key.removesuffix("lock") + "token", counter))
    with pytest.raises(StoreRefused, match="token counter"):
        await maybe(lock.acquire(timeout=0))

    assert await maybe(lock.client.exists(lock.key)) == 0


@standalone
async def test_a_key_without_expiry_is_not_asked_for_in_a_hurry(flavour: Any, make: Any, maybe: Any) -> None:
    """Somebody else's key under our name: the pauses grow as ever, and the message says what is odd."""
    lock = make()
    await maybe(lock.client.set(lock.key, "not ours"))
    asked = (await maybe(lock.client.info("commandstats"))).get("cmdstat_evalsha", {"calls": 0})["calls"]
    with pytest.raises(AcquireTimeout, match="held by not ours, without expiry"):
        await maybe(lock.acquire(timeout=0.5))
    after = (await maybe(lock.client.info("commandstats")))["cmdstat_evalsha"]["calls"]

    assert 1 <= after - asked < 60


async def test_max_hold_bounds_what_the_server_keeps(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=5, max_hold=6)
    lease = await maybe(lock.acquire())
    await flavour.sleep(1.5)
    await maybe(lease.renew())

    assert await maybe(lock.client.pttl(lock.key)) <= 4_500
    await maybe(lease.release())


async def test_a_renewal_keeps_the_counter_too(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    counter = lock.key.removesuffix("lock") + "token"
    lease = await maybe(lock.acquire())
    await maybe(lock.client.pexpire(counter, 1000))
    await maybe(lease.renew())

    assert await maybe(lock.client.pttl(counter)) > 1000
    await maybe(lease.release())


async def test_the_counter_outlasts_a_lease_of_weeks(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=30 * 86_400)
    lease = await maybe(lock.acquire())
    for _ in range(2):
        assert await maybe(lock.client.pttl(lock.key.removesuffix("lock") + "token")) > 30 * 86_400_000
        await maybe(lease.renew())
    await maybe(lease.release())


async def test_repr_says_what_it_is(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    async with flavour.within(lock) as lease:
        assert repr(lock) == f"<Lock {lock.name} ttl=10.0s>"
        assert repr(lease).startswith(f"<Lease {lock.name} token={lease.token} remaining=")
