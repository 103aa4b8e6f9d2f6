"""The subscription itself when things go wrong: refused, moved, too many channels; what is seen to after a claim."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from redis import exceptions

import coordkit
import coordkit.aio
from coordkit._asyncio.wire import hang_up
from coordkit._threads.runtime import now
from coordkit.core import keeper
from coordkit.routing.placement.slots import slot_of
from coordkit.testing.deployments import tell

CLUSTER = pytest.param("cluster", marks=pytest.mark.filterwarnings("ignore::ResourceWarning"))
cluster = pytest.mark.parametrize("deployment", [CLUSTER], indirect=True)


def queue_of(lock: Any) -> str:
    return str(lock.key.removesuffix("lock") + "queue")


def lines_module(flavour: Any) -> Any:
    return importlib.import_module(f"coordkit.{'_asyncio' if flavour.is_async else '_threads'}.inbox_lines")


@pytest.fixture
def no_sharded_channels(deployment: Any) -> Any:
    """Give a user who may do all but subscribe to sharded channels, as on a Cluster of Redis 6.2."""
    rights = ("reset", "on", ">secret", "~*", "&*", "+@all", "-ssubscribe")
    for server in deployment.servers.nodes:
        tell(server, "ACL", "SETUSER", "plain", *rights)
    yield {"username": "plain", "password": "secret"}
    for server in deployment.servers.nodes:
        tell(server, "ACL", "DELUSER", "plain")


@cluster
async def test_a_refused_channel_costs_nobody_the_connection(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, no_sharded_channels: Any, monkeypatch: Any
) -> None:
    """Each no broke the line that others listened on, who subscribed anew, and were told no: 750 times a second."""
    client = deployment.redis(**no_sharded_channels)
    opened = []
    connect = lines_module(flavour).InboxLines._connect
    monkeypatch.setattr(
        lines_module(flavour).InboxLines, "_connect", lambda self, *to: opened.append(to) or connect(self, *to)
    )
    # One hash tag, so one node: "{tag" of these names.
    locks = [flavour.Lock(client, f"{{{coordkit_namespace}}}{number}", ttl=60) for number in range(4)]
    primary = deployment.servers.primary_for(locks[0].key)
    held = [await maybe(lock.acquire()) for lock in locks]

    async def work(lock: Any) -> float:
        lease = await maybe(lock.acquire(timeout=40))
        came = now()
        await maybe(lease.release())
        return came

    running = [flavour.spawn(work, lock) for lock in locks]
    for lock in locks:
        await flavour.until(lambda lock=lock: tell(primary, "ZCARD", queue_of(lock)) == 1)
    await flavour.sleep(0.5)
    assert len(opened) == 1
    for lease, one in zip(held, running, strict=True):
        assert await maybe(lease.release()) is True
        await one.result()
    assert len(opened) == 1


@cluster
async def test_channels_at_which_nobody_waits_are_left(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, monkeypatch: Any
) -> None:
    """On a Cluster each lock has a channel; they were kept while anybody of this client waited for anything."""
    monkeypatch.setattr(lines_module(flavour), "MANY", 5)
    client = deployment.redis()
    first = flavour.Lock(client, f"{{{coordkit_namespace}}}first", ttl=60)
    primary = deployment.servers.primary_for(first.key)

    async def work(lock: Any) -> Any:
        lease = await maybe(lock.acquire(timeout=40))
        return await maybe(lease.release())

    async def wait_for(lock: Any) -> tuple[Any, Any]:
        held = await maybe(lock.acquire())
        running = flavour.spawn(work, lock)
        await flavour.until(lambda: tell(primary, "ZCARD", queue_of(lock)) == 1)
        return held, running

    held, waits = await wait_for(first)
    for number in range(20):
        lease, running = await wait_for(flavour.Lock(client, f"{{{coordkit_namespace}}}{number}", ttl=60))
        assert await maybe(lease.release()) is True
        assert await running.result() is True
    channels = tell(primary, "PUBSUB", "SHARDCHANNELS", f"*{coordkit_namespace}*")
    assert 1 <= len(channels) <= 6
    assert await maybe(held.release()) is True
    assert await waits.result() is True


@cluster
async def test_a_slot_that_nobody_serves_is_an_outage(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str
) -> None:
    """redis-py's SlotNotCoveredError came out of acquire as it was, when the client looked at the wrong moment."""
    client = deployment.redis()
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    other = flavour.Lock(client, f"{coordkit_namespace}:other", ttl=60)
    held = [await maybe(lock.acquire()), await maybe(other.acquire())]
    inbox = lock._contender.grantor.inbox() if hasattr(lock, "_contender") else client._coordkit_store.inbox()
    assert await inbox.open(lock.name, now() + 20)
    slots = client.nodes_manager.slots_cache
    kept = dict(slots)
    slots.clear()
    try:
        assert inbox.address(other.name) == ""
        assert await inbox.open(other.name, now() + 20) == ""
    finally:
        slots.update(kept)
    for lease in held:
        await maybe(lease.release())


@cluster
async def test_a_slot_that_moves_is_no_refusal(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was logged, once and for all, that nobody may subscribe; what really was refused later, was not."""
    name = f"{coordkit_namespace}:job"
    lock, client = flavour.Lock(deployment.redis(), name, ttl=60), deployment.redis()
    held = await maybe(lock.acquire())
    running = flavour.spawn(lambda: maybe(flavour.Lock(client, name, ttl=60).acquire(timeout=60)))
    old = deployment.servers.primary_for(lock.key)
    await flavour.until(lambda: tell(old, "ZCARD", queue_of(lock)) == 1)
    new = next(each for each in deployment.servers.primaries() if each is not old)
    deployment.servers.move_slot(slot_of(lock.key), new)
    try:
        channels = f"coordkit:1:{{{name}}}:inbox:*"
        await flavour.until(lambda: len(tell(new, "PUBSUB", "SHARDCHANNELS", channels)) == 1, 30)
        await maybe(held.release())
        assert await maybe((await running.result()).release()) is True
        assert [one for one in caplog.messages if "cannot subscribe" in one] == []
    finally:
        deployment.servers.move_slot(slot_of(lock.key), old)


async def test_silence_is_waited_for_once(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_namespace: str, monkeypatch: Any
) -> None:
    """Of ten that want to listen each waited for the same dead end, one after the other."""
    tried = []

    async def later_async(_self: Any, *to: Any) -> Any:
        tried.append(to)
        await flavour.sleep(1.2)
        raise exceptions.TimeoutError("no connection within 1.2 s")

    def later_blocking(_self: Any, *to: Any) -> Any:
        tried.append(to)
        threading.Event().wait(1.2)
        raise exceptions.TimeoutError("no connection within 1.2 s")

    monkeypatch.setattr(
        lines_module(flavour).InboxLines, "_connect", later_async if flavour.is_async else later_blocking
    )
    lock = flavour.Lock(flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:job", ttl=60)
    held = await maybe(lock.acquire())

    async def work() -> float:
        began = now()
        with pytest.raises(coordkit.AcquireTimeout):
            await maybe(lock.acquire(timeout=0.5))
        return now() - began

    running = [flavour.spawn(work) for _ in range(10)]
    took = [await one.result(60) for one in running]
    assert len(tried) == 1
    assert max(took) < 8
    await maybe(held.release())


@pytest.mark.parametrize("lost", [b"CLIENT", b"SUBSCRIBE", b"PUBLISH"])
async def test_a_subscription_that_hangs_does_not_stretch_the_wait(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_faults: Any, coordkit_namespace: str, lost: bytes
) -> None:
    """Whatever of it has no answer: it took the client's own timeout for each, the caller's was over long before."""
    proxy = coordkit_faults.proxy(coordkit_redis_server)
    through = flavour.redis(proxy.url, socket_timeout=30, socket_connect_timeout=30, client_name="ours")
    name = f"{coordkit_namespace}:job"
    held = await maybe(flavour.Lock(flavour.redis(coordkit_redis_server.url), name, ttl=60).acquire())
    lock = flavour.Lock(through, name, ttl=60)
    assert await maybe(lock.try_acquire()) is None  # the connection that asks is there
    proxy.drop_request_matching(lost)
    began = now()
    with pytest.raises(coordkit.AcquireTimeout):
        await maybe(lock.acquire(timeout=0.5))
    assert 0.5 <= now() - began < 15
    assert proxy.hits["drop_request_matching"] == 1
    proxy.heal()
    await maybe(held.release())
    lease = await maybe(lock.acquire(timeout=10))
    assert await maybe(lease.release()) is True


# -- what was handed on is looked after, whatever became of the timers


def stopped(lock: Any, client: Any) -> Callable[[], list[str]]:
    """Put two into the queue who listen and do nothing; return a function that says who was granted it so far."""
    channel = f"coordkit:1:inbox:{lock.name}"
    ears = client.pubsub(ignore_subscribe_messages=True)
    ears.subscribe(channel)
    while client.execute_command("PUBSUB", "NUMSUB", channel)[1] < 1:
        os.sched_yield()
    for place, who in enumerate(("first", "second")):
        client.zadd(queue_of(lock), {f"x 300 PUBLISH {who} {channel}": place + 1})
    granted: list[str] = []

    def look() -> list[str]:
        while (message := ears.get_message(timeout=0.01)) is not None:
            who, what, *_ = message["data"].decode().split()
            granted.extend([who] if what == "grant" else [])
        if granted == ["first", "second"]:
            ears.close()
        return granted

    return look


def test_a_claim_is_looked_after_in_the_next_event_loop_too(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """The timer went with the loop in which a claim was made, and the next one relied on it: nobody looked any more."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)

    async def hand_on() -> Callable[[], list[str]]:
        held = await lock.acquire()
        look = stopped(lock, coordkit_redis)
        await held.release()
        return look

    async def briefly() -> None:
        await hand_on()
        await (getattr(client, "aclose", None) or client.close)()

    async def patiently() -> None:
        look, deadline = await hand_on(), now() + 20
        while look() != ["first", "second"] and now() < deadline:  # noqa: ASYNC110  it happens at the server
            await asyncio.sleep(0.02)
        assert look() == ["first", "second"]
        await (getattr(client, "aclose", None) or client.close)()

    asyncio.run(briefly())
    coordkit_redis.delete(lock.key, queue_of(lock))
    time.sleep(keeper._LOST + 0.5)
    asyncio.run(patiently())


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_claim_is_looked_after_in_a_forked_child_too(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """The timer was the parent's."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)
    held = lock.acquire()
    granted = stopped(lock, coordkit_redis)
    held.release()
    while granted()[:1] != ["first"]:
        os.sched_yield()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            time.sleep(keeper._LOST + 0.5)
            coordkit_redis.delete(lock.key, queue_of(lock))
            held = lock.acquire()
            look, deadline = stopped(lock, coordkit_redis), now() + 20
            held.release()
            while look() != ["first", "second"] and now() < deadline:
                time.sleep(0.02)
            status = int(look() != ["first", "second"])
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _hang_up_on_who_does_not_read() -> int:
    async def never_read(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        _writer.close()

    class Connection:
        async def disconnect(self, *, nowait: bool) -> None:  # as redis-py's does
            assert nowait
            writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(never_read, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that also reads
    writer.write(bytes(50_000_000))
    connection = Connection()
    connection._writer = writer  # type: ignore[attr-defined]  # redis-py's name
    await hang_up(connection)
    for _ in range(3):
        await asyncio.sleep(0)
    gone.set()
    server.close()
    await server.wait_closed()
    return int(writer.get_extra_info("socket").fileno())


def test_hanging_up_waits_for_nobody() -> None:
    """A loop that ended left sockets open: TLS said goodbye first, and what a stalled server did not take was kept."""
    assert asyncio.run(_hang_up_on_who_does_not_read()) == -1
