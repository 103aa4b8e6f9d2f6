"""Readers, writers and permits when things go wrong: lost answers, the dead and the stopped, servers that refuse."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit import LeaseLost, StoreRefused
from coordkit._threads.runtime import now
from coordkit.testing import FaultProxy
from coordkit.testing.processes import start_redis

KINDS = ["read", "write", "permit"]
kinds = pytest.mark.parametrize("kind", KINDS)
GRANTED = {"read": b"*3\r\n:1\r\n", "write": b"*2\r\n:1\r\n", "permit": b"*3\r\n:1\r\n"}  # the replies that say so
SAID_YES = b":1\r\n"


def made(flavour: Any, client: Any, name: str, kind: str, *, ttl: float = 60, **arguments: Any) -> Any:
    """Return something that can be held: one side of a readers-writer lock, or a semaphore's only permit."""
    if kind == "permit":
        return flavour.Semaphore(client, name, permits=1, ttl=ttl, **arguments)
    return getattr(flavour.ReadWriteLock(client, name, ttl=ttl, **arguments), kind)


PROCESS = """
import sys
import redis
import coordkit

client, name, kind, ttl = redis.Redis.from_url(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
if kind == "permit":
    held = coordkit.Semaphore(client, name, permits=1, ttl=ttl)
else:
    held = getattr(coordkit.ReadWriteLock(client, name, ttl=ttl), kind)
lease = held.acquire()
print("got", int(lease.token), flush=True)
sys.stdin.readline()
try:
    lease.ensure()
    print("held", flush=True)
except coordkit.LeaseLost as error:
    print("lost", flush=True)
"""


class Elsewhere:
    """A process that waits for something, says when it has it, and what became of it when it is asked."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def token(self) -> int:
        return int(self._said().split()[1])

    def ask(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._said().strip()

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def name(coordkit_namespace: str) -> str:
    return f"{coordkit_namespace}:job"


@pytest.fixture
def elsewhere(coordkit_redis_server: Any, name: str) -> Iterator[Callable[..., Elsewhere]]:
    """Give a way to start a process that acquires something."""
    started: list[Elsewhere] = []

    def start(kind: str, ttl: float = 60) -> Elsewhere:
        started.append(Elsewhere(coordkit_redis_server.url, name, kind, str(ttl)))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def queued(flavour: Any, coordkit_redis: Any, name: str) -> Any:
    """Give a way to wait until so many stand in the queue of a kind."""

    async def until(kind: str, number: int) -> None:
        queue = f"coordkit:1:{{{name}}}:{'semaphore' if kind == 'permit' else 'rw'}:queue"
        await flavour.until(lambda: coordkit_redis.zcard(queue) == number, timeout=20)

    return until


@pytest.fixture
def gone(flavour: Any, coordkit_redis: Any, name: str) -> Any:
    """Give a way to wait until the server knows that the first who waits for a kind has died."""

    async def until(kind: str) -> None:
        queue = f"coordkit:1:{{{name}}}:{'semaphore' if kind == 'permit' else 'rw'}:queue"
        channel = coordkit_redis.zrange(queue, 0, 0)[0].split(b" ")[-1]
        await flavour.until(lambda: coordkit_redis.pubsub_numsub(channel)[0][1] == 0, timeout=20)

    return until


@pytest.fixture
def holders(coordkit_redis: Any, name: str) -> Callable[[], int]:
    """Give a way to count who holds anything, as the server sees it."""

    def count() -> int:
        tag = f"coordkit:1:{{{name}}}:"
        return int(
            coordkit_redis.exists(tag + "rw:writer")
            + coordkit_redis.zcount(tag + "rw:readers", 1, "+inf")
            + coordkit_redis.zcount(tag + "semaphore:permits", 1, "+inf")
        )

    return count


@pytest.fixture
def proxy(coordkit_faults: Any, coordkit_redis_server: Any) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_redis_server)


@pytest.fixture
def here(flavour: Any, coordkit_redis_server: Any, name: str) -> Any:
    """Give a function that makes something to hold on a client of its own."""
    return lambda kind, **arguments: made(flavour, flavour.redis(coordkit_redis_server.url), name, kind, **arguments)


# -- lost answers


@kinds
async def test_a_lost_answer_to_acquire_costs_nothing(
    flavour: Any, proxy: Any, maybe: Any, name: str, kind: str, holders: Any
) -> None:
    """It is asked again, as its present holder: no second permit, no reader who is there twice."""
    held = made(flavour, flavour.redis(proxy.url, socket_timeout=2), name, kind)
    proxy.drop_reply_matching(GRANTED[kind])
    lease = await maybe(held.acquire(timeout=5))

    assert proxy.hits["drop_reply_matching"] == 1
    assert lease.remaining() > 55
    assert holders() == 1
    assert await maybe(lease.release()) is True
    assert holders() == 0


@kinds
async def test_a_lost_request_costs_nothing(flavour: Any, proxy: Any, maybe: Any, name: str, kind: str) -> None:
    held = made(flavour, flavour.redis(proxy.url, socket_timeout=2), name, kind)
    async with flavour.within(held):
        pass
    proxy.drop_request_matching(b"EVALSHA")
    lease = await maybe(held.acquire(timeout=5))

    assert proxy.hits["drop_request_matching"] == 1
    assert await maybe(lease.release()) is True


@kinds
async def test_a_lost_answer_to_release_is_no_loss(
    flavour: Any, proxy: Any, name: str, kind: str, holders: Any
) -> None:
    async with flavour.within(made(flavour, flavour.redis(proxy.url, socket_timeout=2), name, kind)):
        proxy.drop_reply_matching(SAID_YES)

    assert proxy.hits["drop_reply_matching"] == 1
    assert holders() == 0


@kinds
async def test_a_lost_answer_to_a_renewal_is_no_loss(flavour: Any, proxy: Any, name: str, kind: str) -> None:
    held = made(flavour, flavour.redis(proxy.url, socket_timeout=2), name, kind, ttl=4)
    async with flavour.within(held) as lease:
        before = lease._core.expires
        proxy.drop_reply_matching(SAID_YES)
        await flavour.until(lambda: proxy.hits["drop_reply_matching"] == 1)
        await flavour.until(lambda: lease._core.expires > before)
        lease.ensure()


@kinds
async def test_a_repeated_ask_is_answered_alike(here: Any, kind: str, holders: Any) -> None:
    """The same token and slot, and the ttl anew: each script, asked twice by one holder."""
    held = here(kind)
    grantor = held._contender.grantor
    first = await grantor.grant("me", 5.0)
    again = await grantor.grant("me", 60.0)
    assert again == first
    assert holders() == 1
    assert await grantor.renew("me", 60.0) is True
    assert await grantor.renew("me", 60.0) is True
    assert await grantor.renew("you", 60.0) is False
    assert [(await grantor.revoke("me")).value for _ in range(2)] == [1, 0]
    assert holders() == 0


async def test_who_comes_back_into_another_slot_keeps_that(flavour: Any, name: str, coordkit_redis_server: Any) -> None:
    """A permit ended before its holder's repeated ask was answered; the slot it had is given to somebody else."""
    client = flavour.redis(coordkit_redis_server.url)
    grantor = flavour.Semaphore(client, name, permits=3, ttl=60)._contender.grantor
    assert [(await grantor.grant(holder, 60.0)).slot for holder in ("stays", "a")] == [0, 1]
    ended = await grantor.grant("b", 0.05)
    assert ended.slot == 2
    await flavour.sleep(0.1)
    assert (await grantor.revoke("a")).value == 1
    back = await grantor.grant("b", 60.0)
    assert back.slot == 1
    assert back.token > ended.token
    assert (await grantor.grant("c", 60.0)).slot == 2
    assert [await grantor.renew(holder, 60.0) for holder in ("a", "b", "c")] == [False, True, True]


# -- dead and stopped holders


@kinds
async def test_a_killed_holder_costs_a_ttl(maybe: Any, here: Any, elsewhere: Any, kind: str) -> None:
    dead = elsewhere(kind, 0.6)
    token = dead.token()
    other = here("write" if kind == "read" else kind)
    assert await maybe(other.try_acquire()) is None
    dead.kill()
    lease = await maybe(other.acquire(timeout=20))

    assert lease.token > token
    await maybe(lease.release())


@kinds
async def test_a_stopped_holder_learns_that_it_lost(maybe: Any, here: Any, elsewhere: Any, kind: str) -> None:
    stopped = elsewhere(kind, 0.6)
    token = stopped.token()
    stopped.stop()
    lease = await maybe(here("write" if kind == "read" else kind).acquire(timeout=20))
    assert lease.token > token
    stopped.resume()

    assert stopped.ask() == "lost"
    lease.ensure()
    assert await maybe(lease.release()) is True


async def test_a_killed_reader_does_not_end_the_others(maybe: Any, here: Any, elsewhere: Any, flavour: Any) -> None:
    """A waiting writer gets in when the last live one leaves and the dead one's ttl is over; the token is higher."""
    dead = elsewhere("read", 1.0)
    token = dead.token()
    lease = await maybe(here("read").acquire())
    assert lease.token == token
    dead.kill()
    await flavour.sleep(1.2)
    assert await maybe(here("write").try_acquire()) is None
    lease.ensure()
    await maybe(lease.release())
    writer = await maybe(here("write").acquire(timeout=0))
    assert writer.token > token
    await maybe(writer.release())


# -- dead and stopped waiters


@kinds
async def test_a_killed_waiter_is_passed_over(
    flavour: Any,
    maybe: Any,
    here: Any,
    elsewhere: Any,
    queued: Any,
    gone: Any,
    kind: str,
    name: str,
    coordkit_redis: Any,
) -> None:
    """In the very script that hands on: nobody waits a claim for the dead."""
    first = "permit" if kind == "permit" else "write"
    held = await maybe(here(first).acquire())
    dead = elsewhere(kind)
    await queued(kind, 1)
    next_one = flavour.spawn(lambda: maybe(here(first).acquire(timeout=30)))
    await queued(kind, 2)
    dead.kill()
    await gone(kind)
    await maybe(held.release())
    tag = f"coordkit:1:{{{name}}}:"
    by = coordkit_redis.hget(tag + "semaphore:holders", "#0") or coordkit_redis.get(tag + "rw:writer")
    lease = await next_one.result()

    assert by.decode() == lease.holder
    assert lease.token > held.token
    await maybe(lease.release())


@kinds
async def test_a_stopped_waiter_costs_a_claim(
    flavour: Any, maybe: Any, here: Any, elsewhere: Any, queued: Any, kind: str
) -> None:
    """It is heard of, and handed it; the next is told when to look."""
    first = "permit" if kind == "permit" else "write"
    held = await maybe(here(first).acquire())
    stopped = elsewhere(kind)
    await queued(kind, 1)
    next_one = flavour.spawn(lambda: maybe(here(first).acquire(timeout=30)))
    await queued(kind, 2)
    stopped.stop()
    began = now()
    await maybe(held.release())
    lease = await next_one.result()

    assert 0.9 < now() - began < 10
    assert lease.token > held.token
    stopped.resume()
    await maybe(lease.release())
    assert stopped.token() > lease.token  # it asks again, and is served


async def test_readers_do_not_wait_for_a_writer_that_died_waiting(
    flavour: Any, maybe: Any, here: Any, elsewhere: Any, queued: Any, gone: Any
) -> None:
    """Others read on, for hours perhaps: whoever asks next sees that nobody listens there."""
    reading = await maybe(here("read", ttl=10).acquire())
    dead = elsewhere("write")
    await queued("write", 1)
    behind = flavour.spawn(lambda: maybe(here("read").acquire(timeout=30)))
    await queued("read", 2)
    assert await maybe(here("read").try_acquire()) is None
    dead.kill()
    await gone("write")
    lease = await maybe(here("read").acquire(timeout=0))
    behind_lease = await behind.result()

    assert lease.token == behind_lease.token == reading.token
    for one in (lease, behind_lease, reading):
        assert await maybe(one.release()) is True


async def test_a_batch_with_a_dead_and_a_stopped_reader(
    flavour: Any, maybe: Any, here: Any, elsewhere: Any, queued: Any, gone: Any
) -> None:
    """The live reader is in at once; the writer behind them waits for it, and a claim for the stopped one."""
    held = await maybe(here("write").acquire())
    dead = elsewhere("read")
    await queued("read", 1)
    stopped = elsewhere("read")
    await queued("read", 2)
    reader = flavour.spawn(lambda: maybe(here("read").acquire(timeout=30)))
    await queued("read", 3)
    writer = flavour.spawn(lambda: maybe(here("write").acquire(timeout=30)))
    await queued("write", 4)
    dead.kill()
    stopped.stop()
    await gone("read")
    await maybe(held.release())
    lease = await reader.result()
    assert lease.token > held.token
    await maybe(lease.release())
    wrote = await writer.result()
    assert wrote.token > lease.token
    stopped.resume()
    await maybe(wrote.release())
    assert stopped.token() > wrote.token


# -- servers that say no


@kinds
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--maxmemory", "1", "--maxmemory-policy", "noeviction"], "out of memory"),
        (["--min-replicas-to-write", "1"], "too few replicas"),
    ],
    ids=["out of memory", "too few replicas"],
)
async def test_a_server_that_says_no(flavour: Any, maybe: Any, kind: str, args: list[str], said: str) -> None:
    with start_redis(args=args) as server:
        client = flavour.redis(server.url)
        held = made(flavour, client, "job", kind)
        for attempt in (held.try_acquire, held.acquire):
            with pytest.raises(StoreRefused, match=said):
                await maybe(attempt())
        assert await maybe(client.dbsize()) == 0


@kinds
async def test_a_read_only_replica(flavour: Any, maybe: Any, kind: str) -> None:
    """Also while it shows that others hold: "held" would be a wrong answer there."""
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        there = made(flavour, flavour.redis(primary.url), "job", kind)
        at_replica = flavour.redis(replica.url)
        here = made(flavour, at_replica, "job", kind)
        with pytest.raises(StoreRefused, match="read-only replica"):
            await maybe(here.try_acquire())
        async with flavour.within(there):
            await flavour.until(at_replica.dbsize)
            for timeout in (0, 5):
                with pytest.raises(StoreRefused, match="read-only replica"):
                    await maybe(here.acquire(timeout=timeout))


@kinds
async def test_renewal_release_and_hand_off_without_memory(flavour: Any, maybe: Any, kind: str) -> None:
    with start_redis(args=["--maxmemory-policy", "noeviction"]) as server:
        client = flavour.redis(server.url)
        held = made(flavour, client, "job", kind)
        lease = await maybe(held.acquire())
        other = made(flavour, flavour.redis(server.url), "job", "permit" if kind == "permit" else "write")
        waiting = flavour.spawn(lambda: maybe(other.acquire(timeout=20)))
        queue = "coordkit:1:{job}:" + ("semaphore:queue" if kind == "permit" else "rw:queue")
        await flavour.until(lambda: client.zcard(queue))
        await maybe(client.config_set("maxmemory", 1))
        await maybe(lease.renew())
        assert await maybe(lease.release()) is True
        got = await waiting.result()
        assert got.token > lease.token
        await maybe(got.release())


@kinds
async def test_a_restarted_server_that_forgot(flavour: Any, maybe: Any, kind: str) -> None:
    with start_redis() as server:
        held = made(flavour, flavour.redis(server.url), "job", kind, ttl=3)
        lease = await maybe(held.acquire())
        server.kill()
        server.restart()
        assert await maybe(lease.lost.wait(20))
        with pytest.raises(LeaseLost):
            lease.ensure()
        async with flavour.within(held) as after:
            assert after.token > lease.token
