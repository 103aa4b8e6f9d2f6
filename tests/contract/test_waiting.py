"""Waiting for a lock: first come, first served, told at once, nothing left behind; standalone, Sentinel, Cluster."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit.aio
from coordkit import AcquireTimeout, StoreUnavailable
from coordkit._threads.runtime import now
from coordkit.testing import expire

standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a lock on a client of its own."""

    def lock(name: str = "job", *, ttl: float = 60, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        client = deployment.redis(**(options or {}))
        return flavour.Lock(client, f"{coordkit_namespace}:{name}", ttl=ttl, **arguments)

    return lock


def queue_of(lock: Any) -> str:
    return str(lock.key.removesuffix("lock") + "queue")


@pytest.fixture
def waiting(flavour: Any, admin: Any) -> Any:
    """Give a way to have somebody wait for a lock, and to know that it stands in the queue."""

    async def wait(lock: Any, work: Any) -> Any:
        before = admin.zcard(queue_of(lock))
        running = flavour.spawn(work)
        await flavour.until(lambda: running.done() or admin.zcard(queue_of(lock)) == before + 1)
        return running

    return wait


async def test_first_come_first_served(flavour: Any, make: Any, maybe: Any, waiting: Any) -> None:
    """redis-py: whoever polls at the right moment; Jain's index 0.73, and waits of seconds."""
    lock, order = make(), []

    def contender(number: int) -> Any:
        async def work() -> None:
            async with flavour.within(make().hold(timeout=20)) as lease:
                order.append((number, lease.token))

        return work

    held = await maybe(lock.acquire())
    running = [await waiting(lock, contender(number)) for number in range(8)]
    await maybe(held.release())
    for one in running:
        await one.result()

    assert [number for number, _ in order] == list(range(8))
    assert [token for _, token in order] == sorted(token for _, token in order)


@standalone
async def test_what_is_no_message_of_ours_is_ignored_and_said_once(
    flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any, caplog: Any
) -> None:
    lock, waits = make(), make()

    async def wait() -> Any:
        return await maybe(waits.acquire(timeout=20))

    held = await maybe(lock.acquire())
    running = await waiting(lock, wait)
    [waiter] = await maybe(lock.waiters())
    entry = admin.zrange(queue_of(lock), 0, 0)[0]
    entry = entry if isinstance(entry, str) else entry.decode()
    for bad in (
        b"\xff\xfe",
        b"",
        b"H",
        b"H grant",
        b"H grant x y z",
        b"H grant 5 6",
        b"H grant 5 6 - a b",
        b"H next x",
    ):
        assert admin.publish(entry.split(" ", 4)[4], bad.replace(b"H", waiter.id.encode())) == 1
    assert await maybe(held.release())
    lease = await running.result()

    assert lease.ensure()
    assert lease.token > held.token
    assert len([line for line in caplog.messages if "none of coordkit's" in line]) == 1
    await maybe(lease.release())


@standalone
async def test_it_is_handed_on_in_the_very_release(
    flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any
) -> None:
    """No moment at which a newcomer could take it, and no request of the next holder's in between."""
    lock = make()
    held = await maybe(lock.acquire())

    async def work() -> Any:
        return await maybe(make().acquire(timeout=20))

    running = await waiting(lock, work)
    before = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    await maybe(held.release())
    assert admin.get(lock.key).decode() != held.holder
    assert await maybe(lock.try_acquire()) is None
    lease = await running.result()
    asked = admin.info("commandstats")["cmdstat_evalsha"]["calls"] - before

    assert lease.token > held.token
    assert asked <= 3  # the release, the try, and the claim if it was quick
    await flavour.until(lambda: lease.remaining() > 50)  # the claim became a whole lease
    assert admin.pttl(lock.key) > 40_000
    await maybe(lease.release())


@pytest.mark.parametrize("renew", [True, False])
async def test_a_lease_that_was_handed_on_lasts(
    flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any, renew: bool
) -> None:
    """It begins with a short claim; whether or not it renews in the background, the holder has its whole ttl."""
    lock = make()
    held = await maybe(lock.acquire())

    async def work() -> Any:
        return await maybe(make(ttl=5, renew=renew).acquire(timeout=20))

    running = await waiting(lock, work)
    await maybe(held.release())
    lease = await running.result()
    await flavour.until(lambda: lease.remaining() > 3)
    await flavour.sleep(1.2)  # more than a claim

    assert lease.ensure()
    assert admin.get(lock.key).decode() == lease.holder
    await maybe(lease.release())


async def test_whoever_gives_up_leaves_the_queue(flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any) -> None:
    lock = make()
    held = await maybe(lock.acquire())

    async def work() -> None:
        with pytest.raises(AcquireTimeout, match=held.holder):
            await maybe(make().acquire(timeout=2.0))

    await (await waiting(lock, work)).result()
    assert admin.exists(queue_of(lock)) == 0
    await maybe(held.release())
    assert admin.exists(lock.key) == 0


@standalone
@pytest.mark.parametrize("options", [{}, {"single_connection_client": True}], ids=["told", "asking again"])
async def test_whoever_gets_it_meanwhile_does_not_stretch_the_wait(
    flavour: Any, make: Any, maybe: Any, options: dict[str, Any]
) -> None:
    """python-redis-lock begins anew at each wake-up: 9 seconds of a timeout of 2, while newcomers barge in."""
    others, over = make(), False

    async def barge() -> None:
        while not over:
            async with flavour.within(others.hold(timeout=30)):
                await flavour.sleep(0.02)

    running = [flavour.spawn(barge) for _ in range(3)]
    patient = make(options=options)
    try:
        for _ in range(5):
            began = now()
            try:
                lease = await maybe(patient.acquire(timeout=0.3))
            except AcquireTimeout:
                assert now() - began >= 0.3
            else:
                await maybe(lease.release())
            assert now() - began < 0.3 + 5  # the margin is a busy machine's; by wake-ups it would be any number
    finally:
        over = True
    for one in running:
        await one.result()


async def test_a_try_does_not_overtake(flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any) -> None:
    """A lock that is free, but waited for, is the first waiter's."""
    lock = make()
    await maybe(lock.acquire())

    async def work() -> Any:
        return await maybe(make().acquire(timeout=20))

    running = await waiting(lock, work)
    admin.delete(lock.key)  # evicted: nobody was told

    assert await maybe(lock.try_acquire()) is None
    lease = await running.result()
    assert admin.get(lock.key).decode() == lease.holder
    await maybe(lease.release())


async def test_the_holders_end_is_noticed_by_who_waits(flavour: Any, make: Any, maybe: Any) -> None:
    """A crash costs the rest of the ttl: nobody tells, so the waiter looks."""
    patient = make()
    await maybe((await maybe(patient.acquire())).release())  # it is connected from here on
    crashed = await maybe(make(ttl=1.0, renew=False).acquire())
    lease = await maybe(patient.acquire(timeout=20))
    assert lease.token > crashed.token
    await maybe(lease.release())


@standalone
@pytest.mark.parametrize(
    "options", [{"decode_responses": True}, {"protocol": 3}, {"encoding": "latin-1"}, {"socket_timeout": 0.2}]
)
async def test_any_client_is_told(flavour: Any, make: Any, maybe: Any, waiting: Any, options: dict[str, Any]) -> None:
    lock = make("é")
    held = await maybe(lock.acquire())

    async def work() -> Any:
        return await maybe(make("é", options=options).acquire(timeout=20))

    running = await waiting(lock, work)
    await flavour.sleep(0.3)
    await maybe(held.release())
    assert await maybe((await running.result()).release()) is True


@standalone
@pytest.mark.parametrize("options", [{"single_connection_client": True}, {"max_connections": 3}])
async def test_a_client_that_allows_no_other_connection_asks_again(
    flavour: Any, make: Any, maybe: Any, options: dict[str, Any], caplog: Any
) -> None:
    """It chose how many connections there are: nothing is subscribed behind its back. That is said, once."""
    held = await maybe(make().acquire())
    lock = make(options=options)
    with pytest.raises(AcquireTimeout):
        await maybe(lock.acquire(timeout=0.05))

    async def work() -> Any:
        return await maybe(lock.acquire(timeout=20))

    running = flavour.spawn(work)
    await flavour.sleep(0.2)
    await maybe(held.release())
    assert await maybe((await running.result()).release()) is True
    assert len([line for line in caplog.messages if "ask again and again, in no order" in line]) == 1


# -- rights

COMMANDS = [
    *("+evalsha", "+eval", "+set", "+get", "+del", "+pexpire", "+pttl", "+time", "+exists"),
    *("+zadd", "+zrem", "+zremrangebyscore", "+zrange", "+zscore", "+zrank"),
]
HEARING = ["+publish", "+subscribe", "+ping", "+pubsub|numsub", "&coordkit:*"]


@pytest.fixture
def user(coordkit_redis: Any, coordkit_namespace: str) -> Any:
    """Give a way to make a user with some rights; it is deleted after."""
    names = []

    def make(*rights: str) -> dict[str, Any]:
        names.append(f"{coordkit_namespace}-{len(names)}")
        wanted = ("ACL", "SETUSER", names[-1], "reset", "resetchannels", "on", ">secret", "~coordkit:*", *rights)
        coordkit_redis.execute_command(*wanted)
        return {"username": names[-1], "password": "secret"}

    yield make
    if names:
        coordkit_redis.execute_command("ACL", "DELUSER", *names)


@standalone
async def test_a_lease_that_ends_sooner_than_it_said_is_noticed(
    flavour: Any, make: Any, maybe: Any, waiting: Any, admin: Any
) -> None:
    """The server's clock was set back, so the rest was long; then the holder renewed it, and died."""
    lock = make(renew=False)
    held = await maybe(lock.acquire())

    async def work() -> Any:
        return await maybe(make(ttl=1).acquire(timeout=20))

    running = await waiting(lock, work)
    admin.pexpire(lock.key, 100)
    lease = await running.result()

    assert lease.token > held.token
    await maybe(lease.release())


@standalone
@pytest.mark.parametrize("lacking", ["", "+ping"])
async def test_it_goes_to_and_fro(flavour: Any, make: Any, maybe: Any, waiting: Any, user: Any, lacking: str) -> None:
    """Whoever hands on again and again lets the other hear of it first, by a PING ahead of the release."""
    options = user(*COMMANDS, *(right for right in HEARING if right != lacking))
    locks, tokens = [make(options=options), make(options=options)], []
    held = await maybe(locks[0].acquire())
    for turn in range(1, 7):

        async def work(lock: Any = locks[turn % 2]) -> Any:
            return await maybe(lock.acquire(timeout=20))

        running = await waiting(locks[0], work)
        tokens.append(held.token)
        assert await maybe(held.release()) is True
        held = await running.result()
    tokens.append(held.token)

    assert await maybe(held.release()) is True
    assert tokens == sorted(set(tokens))


@standalone
@pytest.mark.parametrize("lacking", ["+publish", "+subscribe", "&coordkit:*"])
async def test_without_the_right_to_hear_it_asks_again_and_says_so_once(
    flavour: Any, make: Any, maybe: Any, user: Any, caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    options = user(*COMMANDS, *(right for right in HEARING if right != lacking))
    lock = make(options=options)
    with caplog.at_level(logging.WARNING, "coordkit"):
        for _ in range(3):
            held = await maybe(lock.acquire())
            running = flavour.spawn(lambda: maybe(lock.acquire(timeout=20)))
            await flavour.sleep(0.1)
            await maybe(held.release())
            assert await maybe((await running.result()).release()) is True

    assert len([record for record in caplog.records if "cannot subscribe" in record.getMessage()]) == 1


# -- many


async def test_a_thousand_tasks_wait_in_line(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """All are served, in the order in which they came, over a few connections that do not grow with them."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url, client_name=coordkit_namespace)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    order: list[int] = []
    most = 0

    async def work(number: int) -> None:
        async with lock:
            order.append(number)

    held = await lock.acquire()
    tasks = [asyncio.create_task(work(number)) for number in range(1000)]
    while coordkit_redis.zcard(queue_of(lock)) < 1000:
        await asyncio.sleep(0.01)
        most = max(most, sum(one["name"] == coordkit_namespace for one in coordkit_redis.client_list()))
    await held.release()
    await asyncio.gather(*tasks)
    await (getattr(client, "aclose", None) or client.close)()

    assert order == list(range(1000))
    assert most <= 34  # at most 32 that ask, one that listens, one of the client's own


# -- copies


@standalone
async def test_a_grant_without_its_copies_is_given_back(
    flavour: Any, make: Any, maybe: Any, coordkit_redis: Any
) -> None:
    """A server without replicas: nothing is granted that was to have one, and nothing stays behind."""
    lock = make(ttl=0.9, min_replicas=1)
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas had it"):
        await maybe(lock.acquire(timeout=0))
    await flavour.until(lambda: not coordkit_redis.exists(lock.key))


async def test_one_copy_of_two_is_not_enough(
    flavour: Any, maybe: Any, coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """Redisson: it is, whatever was asked for."""
    servers = coordkit_redis_replicated
    client = flavour.redis(servers.primary.url)
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=30, min_replicas=2)
    async with flavour.within(lock):
        pass
    coordkit_faults.pause(servers.replicas[0])
    with pytest.raises(StoreUnavailable, match="1 of 2 replicas had it"):
        await maybe(lock.acquire(timeout=0))
    await flavour.until(lambda: _is_free(lock, maybe))


async def _is_free(lock: Any, maybe: Any) -> bool:
    return await maybe(lock.holder()) is None


async def test_what_was_handed_on_has_its_copies_before_acquire_returns(
    flavour: Any, maybe: Any, coordkit_redis_replicated: Any, coordkit_namespace: str
) -> None:
    """Another wrote the grant, over another connection: whoever receives it writes, and waits, itself."""
    primary, replica = coordkit_redis_replicated.primary, coordkit_redis_replicated.replicas[0]
    lock = flavour.Lock(flavour.redis(primary.url), f"{coordkit_namespace}:job", ttl=60, min_replicas=2)
    admin = redis.Redis.from_url(primary.url)
    copy = redis.Redis.from_url(replica.url)
    held = await maybe(lock.acquire())

    async def work() -> Any:
        lease = await maybe(lock.acquire(timeout=20))
        return lease, copy.get(lock.key).decode(), copy.pttl(lock.key)

    running = flavour.spawn(work)
    await flavour.until(lambda: admin.zcard(queue_of(lock)) == 1)
    await maybe(held.release())
    lease, copied, left = await running.result()
    admin.close()
    copy.close()

    assert copied == lease.holder
    assert left > 50_000  # no mere claim
    await maybe(lease.release())


@standalone
async def test_expire_is_what_a_test_may_do(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    await maybe(expire(lock))
    again = await maybe(lock.acquire(timeout=5))
    assert again.token > lease.token
    await maybe(again.release())
