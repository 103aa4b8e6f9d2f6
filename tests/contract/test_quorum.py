"""What a quorum lock promises when nothing goes wrong, in both flavours, on five real servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordkit import AcquireTimeout, LeaseLost, NoQuorum, NotAcquired, StoreRefused

SET = "coordkit:1:quorum:"


@pytest.fixture
def quorum(flavour: Any, coordkit_redis_quorum: Any) -> Any:
    """Give a set of five, not yet initialised in this test."""
    return flavour.Quorum([flavour.redis(server.url) for server in coordkit_redis_quorum])


@pytest.fixture
def make(flavour: Any, quorum: Any, coordkit_namespace: str, maybe: Any) -> Any:
    """Give a function that makes a lock on the initialised set."""

    async def lock(name: str = "job", *, ttl: float = 10, **arguments: Any) -> Any:
        await maybe(quorum.initialise())
        return flavour.QuorumLock(quorum, f"{coordkit_namespace}:{name}", ttl=ttl, **arguments)

    return lock


def holders(servers: Any, key: str) -> list[str | None]:
    """Return who has the vote of each server."""
    found = []
    for server in servers:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            found.append(client.get(key))
    return found


async def test_one_holds_and_the_other_does_not(make: Any, maybe: Any) -> None:
    lock, other = await make(), await make()
    lease = await maybe(lock.acquire())

    assert await maybe(other.try_acquire()) is None
    with pytest.raises(NotAcquired, match=f"held by {lease.holder}"):
        await maybe(other.acquire(timeout=0))
    assert await maybe(lease.release()) is True
    again = await maybe(other.try_acquire())
    assert again.token > lease.token
    assert await maybe(again.release()) is True
    assert await maybe(again.release()) is False


async def test_every_server_has_the_holder_and_gives_it_back(
    flavour: Any, make: Any, coordkit_redis_quorum: Any
) -> None:
    lock = await make()
    async with flavour.within(lock) as lease:
        await flavour.until(lambda: None not in holders(coordkit_redis_quorum, lock.key))
        assert {holder.rpartition("/")[0] for holder in holders(coordkit_redis_quorum, lock.key)} == {lease.holder}
    await flavour.until(lambda: holders(coordkit_redis_quorum, lock.key) == [None] * 5)


async def test_tokens_rise_from_grant_to_grant(make: Any, maybe: Any) -> None:
    locks, tokens = [await make(), await make()], []
    for turn in range(20):
        lease = await maybe(locks[turn % 2].acquire())
        tokens.append(lease.token)
        await maybe(lease.release())

    assert tokens == sorted(set(tokens))
    assert tokens[0].holder != tokens[1].holder


async def test_an_acquisition_is_one_request_to_each_server(
    flavour: Any, make: Any, coordkit_redis_quorum: Any
) -> None:
    """Two scripts each: one that votes, one that gives back; nothing is confirmed where ballots are equal."""
    lock = await make()
    async with flavour.within(lock):
        pass

    def calls() -> list[dict[str, int]]:
        found = []
        for server in coordkit_redis_quorum:
            with redis.Redis.from_url(server.url) as client:
                stats = client.info("commandstats")
                found.append(
                    {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")}
                )
        return found

    before = calls()
    for _ in range(5):
        async with flavour.within(lock):
            pass
    wanted = [{"evalsha": one["evalsha"] + 10, "eval": one["eval"]} for one in before]
    await flavour.until(lambda: calls() == wanted)


async def test_ballots_that_came_apart_are_confirmed_and_meet_again(
    flavour: Any, make: Any, coordkit_redis_quorum: Any
) -> None:
    """One round trip more, the highest is the token, and the release raises those that are behind."""
    lock = await make()
    async with flavour.within(lock) as lease:
        token = lease.token
    clients = [redis.Redis.from_url(server.url) for server in coordkit_redis_quorum]
    ahead = token + 10**9  # about a quarter of an hour
    ballot = lock.key.removesuffix("vote") + "ballot"
    for i, client in enumerate(clients):
        client.set(ballot, ahead + 10 * i)
    async with flavour.within(lock) as lease:
        assert lease.token > ahead
        first = lease.token
    await flavour.until(lambda: all(int(client.get(ballot)) >= first for client in clients))
    async with flavour.within(lock) as lease:
        assert lease.token > first
    for client in clients:
        client.close()


async def test_a_clock_that_is_years_ahead_burns_no_numbers(
    flavour: Any, make: Any, maybe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is ignored more than a day ahead; a clock that is behind is no problem at all."""
    import time

    lock, tokens = await make(), []
    right = time.time
    for wrong in (-1e9, 1e9, 0.0):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda wrong=wrong: right() + wrong)
            async with flavour.within(lock) as lease:
                tokens.append(lease.token)

    assert tokens == sorted(set(tokens))
    assert max(tokens) < (right() + 86400 * 2) * 1e6


async def test_a_waiter_gets_it_when_it_is_given_back(flavour: Any, make: Any, maybe: Any) -> None:
    lock, other = await make(), await make()
    lease = await maybe(lock.acquire())

    async def wait() -> Any:
        return await maybe(other.acquire(timeout=20))

    waiter = flavour.spawn(wait)
    with pytest.raises(AcquireTimeout):
        await maybe((await make()).acquire(timeout=0.1))
    assert not waiter.done()
    await maybe(lease.release())
    got = await waiter.result()
    assert got.token > lease.token
    await maybe(got.release())


async def test_many_contend_and_no_two_are_inside(flavour: Any, make: Any) -> None:
    """Split votes are untangled; the critical section is never shared, and its tokens rise."""
    lock = await make()
    inside, most, tokens = [0], [0], []

    async def work() -> None:
        for _ in range(4):
            async with flavour.within(lock.hold(timeout=30)) as lease:
                tokens.append(lease.token)
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                await flavour.sleep(0.001)
                inside[0] -= 1

    await flavour.gather(*(work() for _ in range(4)))
    assert most == [1]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 16


async def test_it_is_renewed_while_it_is_held(flavour: Any, make: Any, maybe: Any) -> None:
    lock = await make(ttl=5)
    async with flavour.within(lock) as lease:
        token = lease.token
        await flavour.renewed(lease)
        assert lease.ensure() is True
        assert lease.token == token
        assert await maybe(lock.try_acquire()) is None


async def test_an_explicit_renewal_starts_the_ttl_anew(flavour: Any, make: Any, maybe: Any) -> None:
    lease = await maybe((await make(ttl=5, renew=False)).acquire())
    await flavour.sleep(0.1)
    before = lease.remaining()
    await maybe(lease.renew())

    assert lease.remaining() > before
    await maybe(lease.release())


async def test_without_renewal_it_ends_and_says_so(make: Any, maybe: Any) -> None:
    lease = await maybe((await make(ttl=1.0, renew=False)).acquire())

    assert await maybe(lease.lost.wait(10)) is True
    with pytest.raises(LeaseLost, match="not renewed"):
        lease.ensure()
    assert await maybe(lease.release()) is False


async def test_a_renewal_never_makes_a_key_again(
    flavour: Any, make: Any, maybe: Any, coordkit_redis_quorum: Any
) -> None:
    """Three of five lost the vote early: a majority does not have it any more, so the lease is lost."""
    lock = await make(renew=False)
    lease = await maybe(lock.acquire())
    await flavour.until(lambda: None not in holders(coordkit_redis_quorum, lock.key))
    for server in coordkit_redis_quorum[:2]:
        with redis.Redis.from_url(server.url) as client:
            client.delete(lock.key)
    await maybe(lease.renew())
    with redis.Redis.from_url(coordkit_redis_quorum[2].url) as client:
        client.delete(lock.key)
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(lease.renew())

    assert holders(coordkit_redis_quorum[:3], lock.key) == [None] * 3
    await flavour.until(lambda: holders(coordkit_redis_quorum, lock.key) == [None] * 5)  # and the rest is given back


async def test_the_late_one_does_not_release_the_next(
    flavour: Any, make: Any, maybe: Any, coordkit_redis_quorum: Any
) -> None:
    lock = await make(renew=False)
    late = await maybe(lock.acquire())
    await flavour.until(lambda: None not in holders(coordkit_redis_quorum, lock.key))
    for server in coordkit_redis_quorum:
        with redis.Redis.from_url(server.url) as client:
            client.delete(lock.key)
    current = await maybe(lock.acquire())

    assert await maybe(late.release()) is False
    assert {holder.rpartition("/")[0] for holder in holders(coordkit_redis_quorum, lock.key) if holder} == {
        current.holder
    }
    assert late.token < current.token
    await maybe(current.release())


async def test_hold_decorates(flavour: Any, make: Any, maybe: Any) -> None:
    lock = await make()
    if flavour.is_async:

        @lock.hold(timeout=0)
        async def job(x: int) -> int:
            return x + 1

    else:

        @lock.hold(timeout=0)
        def job(x: int) -> int:
            return x + 1

    assert [await maybe(job(1)), await maybe(job(3))] == [2, 4]


async def test_any_client_will_do(flavour: Any, make: Any, maybe: Any, coordkit_redis_quorum: Any) -> None:
    lock = await make("é")
    options: list[dict[str, Any]] = [{"decode_responses": True}, {"protocol": 3}, {}, {"encoding": "latin-1"}, {}]
    mixed = flavour.Quorum([flavour.redis(s.url, **o) for s, o in zip(coordkit_redis_quorum, options, strict=True)])
    other = flavour.QuorumLock(mixed, lock.name, ttl=10)
    async with flavour.within(other) as lease:
        assert await maybe(lock.try_acquire()) is None
        await maybe(lease.renew())


async def test_servers_that_forgot_the_scripts(flavour: Any, make: Any, maybe: Any, coordkit_redis_quorum: Any) -> None:
    lock = await make()

    def forget() -> None:
        for server in coordkit_redis_quorum[:4]:
            with redis.Redis.from_url(server.url) as client:
                client.script_flush()

    forget()
    lease = await maybe(lock.acquire())
    forget()
    await maybe(lease.renew())
    forget()
    assert await maybe(lease.release()) is True
    await flavour.until(lambda: holders(coordkit_redis_quorum, lock.key) == [None] * 5)


async def test_repr_says_what_it_is(make: Any, quorum: Any) -> None:
    lock = await make()

    assert repr(lock) == f"<QuorumLock {lock.name} ttl=10.0s on 5 servers>"
    assert repr(quorum) == "<Quorum of 5>"


# -- sets that are refused


@pytest.mark.parametrize("count", [0, 1, 2, 4])
async def test_a_set_that_is_too_small_or_even(flavour: Any, coordkit_redis_quorum: Any, count: int) -> None:
    clients = [flavour.redis(server.url) for server in coordkit_redis_quorum[:count]]
    with pytest.raises(ValueError, match=f"odd number, got {count}"):
        flavour.Quorum(clients)


async def test_a_client_that_is_there_twice(flavour: Any, coordkit_redis_quorum: Any) -> None:
    clients = [flavour.redis(server.url) for server in coordkit_redis_quorum[:2]]
    with pytest.raises(ValueError, match="twice"):
        flavour.Quorum([*clients, clients[0]])


async def test_what_is_no_client(flavour: Any, coordkit_redis_quorum: Any) -> None:

    other = redis.Redis if flavour.is_async else __import__("redis.asyncio").asyncio.Redis
    with pytest.raises(TypeError, match="flavour"):
        flavour.Quorum([other() for _ in range(3)])
    with pytest.raises(TypeError, match="redis must be"):
        flavour.Quorum(["localhost:6379"] * 3)
    with pytest.raises(TypeError, match="quorum must be a Quorum"):
        flavour.QuorumLock(flavour.redis(coordkit_redis_quorum[0].url), "job", ttl=1)


async def test_a_server_that_is_there_twice(flavour: Any, coordkit_redis_quorum: Any, maybe: Any) -> None:
    """Two names of one server: it would vote twice."""
    urls = [coordkit_redis_quorum[i].url for i in (0, 1, 0)]
    quorum = flavour.Quorum([flavour.redis(url) for url in urls])
    for ask in (quorum.initialise, quorum.readmit, flavour.QuorumLock(quorum, "job", ttl=10).try_acquire):
        with pytest.raises(StoreRefused, match="are the same server: it would vote twice"):
            await maybe(ask())


async def test_servers_in_another_order(flavour: Any, make: Any, coordkit_redis_quorum: Any, maybe: Any) -> None:
    await make()
    quorum = flavour.Quorum([flavour.redis(server.url) for server in reversed(coordkit_redis_quorum)])
    with pytest.raises(StoreRefused, match="in the order in which the set was initialised"):
        await maybe(flavour.QuorumLock(quorum, "job", ttl=10).try_acquire())


async def test_a_part_of_a_set(flavour: Any, make: Any, coordkit_redis_quorum: Any, maybe: Any) -> None:
    """Three of the five would be a quorum of two, which another three do not meet."""
    await make()
    quorum = flavour.Quorum([flavour.redis(server.url) for server in coordkit_redis_quorum[:3]])
    with pytest.raises(StoreRefused, match="belongs to a set of 5 servers: name all of them"):
        await maybe(quorum.initialise())


async def test_no_quorum_says_why(flavour: Any, maybe: Any) -> None:
    quorum = flavour.Quorum([flavour.redis(f"redis://127.0.0.1:{port}") for port in (1, 2, 3)])
    for ask in (quorum.initialise, quorum.readmit, flavour.QuorumLock(quorum, "job", ttl=10).try_acquire):
        with pytest.raises(NoQuorum, match=r"0 answered of 3 servers: Redis at 127\.0\.0\.1:1: no answer") as caught:
            await maybe(ask())
        assert list(caught.value.errors) == [f"Redis at 127.0.0.1:{port}" for port in (1, 2, 3)]
