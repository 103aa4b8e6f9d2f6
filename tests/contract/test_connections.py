"""Connections of our own end with the client by whose recipe they were made."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit import _redis
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import wait_until


def client_of(flavour: Any, server: Any, name: str) -> Any:
    """Return a client that only its test closes."""
    kind = redis.asyncio.Redis if flavour.is_async else redis.Redis
    return kind.from_url(server.url, client_name=name)


async def closed(client: Any, maybe: Any) -> None:
    await maybe((getattr(client, "aclose", None) or client.close)())


def count_of(admin: Any, name: str) -> Callable[[], int]:
    return lambda: sum(one["name"] == name for one in admin.client_list())


def tasks() -> int:
    return len(asyncio.all_tasks())


async def test_they_end_with_their_client(
    flavour: Any,
    maybe: Any,
    coordkit_redis_server: Any,
    coordkit_redis: Any,
    coordkit_namespace: str,
) -> None:
    """A client for each job is common; and so is one whose last waiter left, and is remembered for its late grant."""
    name = coordkit_namespace.replace(":", "-")
    there = count_of(coordkit_redis, name)
    before = tasks() if flavour.is_async else 0
    client = client_of(flavour, coordkit_redis_server, name)
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    async with flavour.within(lock):
        with pytest.raises(flavour.AcquireTimeout):
            await maybe(lock.acquire(timeout=0.5))  # listens, too
    assert there() == 2
    await closed(client, maybe)
    del client, lock

    await flavour.until(lambda: gc.collect() is not None and there() == 0)
    if flavour.is_async:
        await flavour.until(lambda: tasks() == before)


@pytest.mark.parametrize("deployment", ["standalone", "cluster", "shards"], indirect=True)
async def test_they_end_when_they_are_told_to(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str
) -> None:
    """Only what nobody uses: a lease is held on, who waits goes on waiting, and what comes next connects anew."""
    client = deployment.redis()
    held, free = (flavour.Lock(client, f"{coordkit_namespace}:{each}", ttl=60) for each in ("held", "free"))
    lease = await maybe(held.acquire())
    with pytest.raises(flavour.AcquireTimeout):
        await maybe(held.acquire(timeout=0.5))  # listens, too
    assert kept(client)
    await maybe(flavour.disconnect(client))

    assert kept(client) == []
    assert lease.ensure()
    await maybe(lease.renew())
    waiting = flavour.spawn(_acquired, maybe, held)
    await flavour.until(lambda: maybe(_waits(maybe, held)))
    await maybe(flavour.disconnect(client))
    async with flavour.within(free):
        pass
    assert await maybe(lease.release())
    assert await maybe((await waiting.result()).release())
    await maybe(flavour.disconnect(client))
    assert kept(client) == []


async def _acquired(maybe: Any, lock: Any) -> Any:
    return await maybe(lock.acquire(timeout=20))


async def _waits(maybe: Any, lock: Any) -> bool:
    return bool(await maybe(lock.waiters()))


def kept(client: Any) -> list[Any]:
    """Return the connections that are kept for a client, or for its shards, under this event loop if there is one."""
    stores = [
        vars(each)["_coordkit_store"] for each in (client, *_redis.shards_of(client)) if "_coordkit_store" in vars(each)
    ]
    found: list[Any] = []
    for store in stores:
        if not hasattr(store, "_way"):
            continue  # of several clients, whose own are among these
        found += [
            wire
            for lines in (store._nodes._lines.values() if store._nodes else [store._lines])
            for home in getattr(lines, "_homes", {None: lines}).values()
            for wire in (*(home.idle if hasattr(home, "idle") else home._idle), getattr(home, "shared", None))
            if wire is not None
        ]
        inboxes = store._inboxes.values() if hasattr(store, "_inboxes") else [store._inbox]
        found += [line for inbox in inboxes for line in inbox._lines.by_node.values()]
    return found


@pytest.mark.parametrize("deployment", ["standalone", "cluster"], indirect=True)
async def test_what_is_under_way_is_not_cut_off(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str
) -> None:
    """Each would else meet an error, and ask again: but a script of the user's own, which is sent once."""
    client = deployment.redis()
    fence = flavour.Fence(client, coordkit_namespace)

    async def work() -> None:
        for _ in range(40):
            assert await maybe(fence.run("return 1", token=1)) == 1

    working = [flavour.spawn(work) for _ in range(4)]
    while not all(each.done() for each in working):
        await maybe(flavour.disconnect(client))
        await flavour.sleep(0.001)
    for each in working:
        await each.result()


async def test_who_has_to_send_a_script_once_more_is_not_cut_off(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """A server that does not know the script says so, and what is shared was left to who waited for that."""
    with FaultProxy(
        coordkit_redis_server.host, coordkit_redis_server.port, server_url=coordkit_redis_server.url
    ) as line:
        client = flavour.redis(line.url)
        fence = flavour.Fence(client, coordkit_namespace)
        assert await maybe(fence.run("return 1", token=1)) == 1
        line.hold = True
        running = flavour.spawn(_run_anew, maybe, fence, coordkit_namespace)
        await flavour.until(
            lambda: not kept(client) or any(getattr(wire, "waited_for", False) for wire in kept(client))
        )
        await maybe(flavour.disconnect(client))
        line.hold = False
        assert await running.result() == 2


async def _run_anew(maybe: Any, fence: Any, unheard_of: str) -> Any:
    return await maybe(fence.run(f"return 2 -- {unheard_of}", token=1))


async def test_who_is_about_to_wait_keeps_the_connection_to_be_told_over(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    with FaultProxy(
        coordkit_redis_server.host, coordkit_redis_server.port, server_url=coordkit_redis_server.url
    ) as line:
        client = flavour.redis(line.url)
        lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=60)
        lease = await maybe(lock.acquire())
        line.latency = 0.3
        waiting = flavour.spawn(_acquired, maybe, lock)
        asked: list[Any] = []

        def subscribing() -> bool:
            asked[:] = [each for each in kept(client) if getattr(each, "asked", None)]
            return bool(asked)

        await flavour.until(subscribing)
        await maybe(flavour.disconnect(client))
        assert [each for each in kept(client) if each in asked] == asked
        line.latency = 0.0
        assert await maybe(lease.release())
        assert await maybe((await waiting.result()).release())


def test_what_was_retired_ends_with_its_loop(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """Who waited for its answer was cancelled, so that nobody does, and the answer does not come."""
    name = coordkit_namespace.replace(":", "-")
    there = count_of(coordkit_redis, name)

    async def story(line: FaultProxy) -> redis.asyncio.Redis:
        client = redis.asyncio.Redis.from_url(line.url, client_name=name)
        fence = coordkit.aio.Fence(client, coordkit_namespace)
        assert await fence.run("return 1", token=1) == 1
        line.hold = True
        running = asyncio.ensure_future(fence.run("return 1", token=1))
        while not kept(client)[0].waited_for:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0)
        await coordkit.aio.disconnect(client)
        running.cancel()
        await asyncio.wait([running])
        await (getattr(client, "aclose", None) or client.close)()
        return client

    with FaultProxy(
        coordkit_redis_server.host, coordkit_redis_server.port, server_url=coordkit_redis_server.url
    ) as line:
        client = asyncio.run(story(line))
        line.hold = False
        assert wait_until(lambda: there() == 0, 5.0, 0.02)
        del client


def test_another_thread_may_take_what_is_to_be_closed() -> None:
    """The last row of a quorum is borrowed between the look whether there is one and the taking."""

    class Borrowed(deque[Any]):
        def __bool__(self) -> bool:
            return True

    quorum = coordkit.Quorum([redis.Redis(port=port) for port in (1, 2, 3)])  # which never connect
    quorum._panel._rows = Borrowed()
    coordkit.disconnect(quorum)


async def test_what_was_no_client_is_not_disconnected(flavour: Any, maybe: Any) -> None:
    with pytest.raises(TypeError, match="redis must be a redis-py client"):
        await maybe(flavour.disconnect("redis://localhost"))


async def test_they_end_with_their_quorum(
    flavour: Any, maybe: Any, coordkit_redis_quorum: Any, coordkit_namespace: str
) -> None:
    name = coordkit_namespace.replace(":", "-")
    admins = [redis.Redis.from_url(server.url) for server in coordkit_redis_quorum]

    def there() -> int:
        return sum(count_of(admin, name)() for admin in admins)

    clients = [client_of(flavour, server, name) for server in coordkit_redis_quorum]
    quorum = flavour.Quorum(clients)
    await maybe(quorum.initialise())
    async with flavour.within(flavour.QuorumLock(quorum, f"{coordkit_namespace}:job", ttl=60)):
        pass
    for client in clients:
        await closed(client, maybe)
    assert there() >= len(clients)
    del client, clients, quorum

    await flavour.until(lambda: gc.collect() is not None and there() == 0)
    for admin in admins:
        admin.close()


async def test_those_of_a_quorum_end_when_they_are_told_to(
    flavour: Any, maybe: Any, coordkit_redis_quorum: Any, coordkit_namespace: str
) -> None:
    name = coordkit_namespace.replace(":", "-")
    admins = [flavour.closing(redis.Redis.from_url(server.url)) for server in coordkit_redis_quorum]
    quorum = flavour.Quorum([flavour.redis(server.url, client_name=name) for server in coordkit_redis_quorum])
    await maybe(quorum.initialise())
    lock = flavour.QuorumLock(quorum, f"{coordkit_namespace}:job", ttl=60)
    lease = await maybe(lock.acquire())

    async def gone() -> bool:
        await maybe(flavour.disconnect(quorum))  # again, for what a minority still owed an answer on
        return not any(count_of(admin, name)() for admin in admins)

    assert any(count_of(admin, name)() for admin in admins)
    await flavour.until(gone)
    await maybe(lease.renew())
    assert any(count_of(admin, name)() for admin in admins)
    assert await maybe(lease.release())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of redis-py and asyncio: connections that nobody closed
def test_what_loops_that_were_closed_by_hand_had_is_freed(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop for each job, and ``loop.close()``, is common with Celery and in notebooks; the client stays."""
    name = coordkit_namespace.replace(":", "-")
    there = count_of(coordkit_redis, name)
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url, client_name=name)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)

    async def story() -> None:
        async with lock:
            waiting = asyncio.ensure_future(lock.acquire())
            while not await lock.waiters():  # noqa: ASYNC110  no event tells; once it does, nothing is half opened
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.wait([waiting])

    loops = []
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loops.append(weakref.ref(loop))
        loop.run_until_complete(story())
        loop.close()
    del loop
    asyncio.run(story())
    for _ in range(5):  # what was waited for comes to life again, once for each finalizer
        gc.collect()

    assert [each() for each in loops] == [None] * 5
    assert wait_until(lambda: there() == 0, 10)
    assert caplog.text == ""  # no "Task was destroyed but it is pending!"


def test_they_end_with_a_client_that_a_loop_collects_last(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """Nothing is left to a loop that is closed: its transports would complain."""
    name = coordkit_namespace.replace(":", "-")
    there = count_of(coordkit_redis, name)

    async def story() -> None:
        client = redis.asyncio.Redis.from_url(coordkit_redis_server.url, client_name=name)
        lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
        async with lock:
            with pytest.raises(coordkit.AcquireTimeout):
                await lock.acquire(timeout=0.2)
        await (getattr(client, "aclose", None) or client.close)()
        assert there() == 2
        del client, lock
        gc.collect()

    asyncio.run(story())
    assert wait_until(lambda: there() == 0, 10)
    gc.collect()  # warnings are errors
