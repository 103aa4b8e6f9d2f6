"""What a lock promises when things go wrong: lost answers, dead and paused servers, killed clients, forks.

Most of these break a peer; the line under the name says which.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit import CoordError, LeaseLost, StoreRefused, StoreUnavailable
from coordkit._threads import runtime
from coordkit._threads.runtime import now
from coordkit.testing import FaultProxy, expire
from coordkit.testing.processes import start_redis

ACQUIRED, RELEASED = b"*2\r\n:1\r\n", b":1\r\n"  # the replies that say so


async def close(client: redis.asyncio.Redis) -> None:
    await (getattr(client, "aclose", None) or client.close)()  # aclose came with redis-py 5.0.1


@pytest.fixture
def proxy(coordkit_faults: Any, coordkit_redis_server: Any) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_redis_server)


@pytest.fixture
def through(flavour: Any, proxy: FaultProxy, coordkit_namespace: str) -> Any:
    """Give a lock whose client speaks through the proxy."""
    client = flavour.redis(proxy.url, socket_timeout=2)
    return flavour.Lock(client, f"{coordkit_namespace}:job", ttl=10)


# -- lost answers


async def test_a_lost_answer_to_acquire_costs_nothing(flavour: Any, through: Any, proxy: Any, maybe: Any) -> None:
    """redis-py, python-redis-lock, sherlock: the lock waits for itself until its ttl, or for ever."""
    proxy.drop_reply_matching(ACQUIRED)
    lease = await maybe(through.acquire(timeout=5))

    assert proxy.hits["drop_reply_matching"] == 1
    assert lease.remaining() > 5
    assert await maybe(lease.release()) is True


async def test_a_lost_request_costs_nothing(flavour: Any, through: Any, proxy: Any, maybe: Any) -> None:
    async with flavour.within(through):
        pass
    proxy.drop_request_matching(b"EVALSHA")
    lease = await maybe(through.acquire(timeout=5))

    assert proxy.hits["drop_request_matching"] == 1
    assert await maybe(lease.release()) is True


async def test_a_lost_answer_to_release_is_no_loss(
    flavour: Any, through: Any, proxy: Any, maybe: Any, coordkit_redis: Any
) -> None:
    """redis-py, sherlock: LockNotOwnedError although it was released correctly."""
    async with flavour.within(through):
        proxy.drop_reply_matching(RELEASED)

    assert proxy.hits["drop_reply_matching"] == 1
    assert not coordkit_redis.exists(through.key)


async def test_a_lost_answer_to_a_renewal_is_no_loss(
    flavour: Any, proxy: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """python-redis-lock: one error ends renewal for good, and the holder is not told."""
    lock = flavour.Lock(flavour.redis(proxy.url, socket_timeout=2), f"{coordkit_namespace}:job", ttl=4)
    async with flavour.within(lock) as lease:
        before = lease._core.expires
        proxy.drop_reply_matching(RELEASED)
        await flavour.until(lambda: proxy.hits["drop_reply_matching"] == 1)
        await flavour.until(lambda: lease._core.expires > before)
        lease.ensure()


async def test_a_renewal_that_is_answered_too_late_renews_nothing(
    flavour: Any, proxy: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """pottery: a slow extend "succeeds" on a lease that has expired meanwhile."""
    client = flavour.redis(proxy.url, socket_timeout=5)
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=0.5, renew=False)
    lease = await maybe(lock.acquire())
    proxy.latency = 0.4
    with pytest.raises(LeaseLost, match=r"not renewed|before a renewal was answered"):
        await maybe(lease.renew())


@pytest.mark.parametrize("timeout", [0.0, 0.4])
async def test_a_slow_line_does_not_stretch_the_wait(
    flavour: Any, proxy: Any, maybe: Any, coordkit_redis: Any, coordkit_namespace: str, timeout: float
) -> None:
    """sherlock counts its pauses and not the time; python-redis-lock begins anew at every wake-up."""
    name = f"{coordkit_namespace}:job"
    lock = flavour.Lock(flavour.redis(proxy.url), name, ttl=10)
    with coordkit.Lock(coordkit_redis, name, ttl=60):
        with pytest.raises(coordkit.NotAcquired):
            await maybe(lock.acquire(timeout=0))
        proxy.latency = 0.1
        began = now()
        with pytest.raises(coordkit.NotAcquired):
            await maybe(lock.acquire(timeout=timeout))
        took = now() - began

    # One ask is on its way when the time is up, at most; the last margin is for a busy machine.
    assert timeout <= took < timeout + 2 * 0.1 * 2 + 3


async def test_waiting_longer_than_the_clients_own_timeout(
    flavour: Any, maybe: Any, coordkit_redis: Any, coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """python-redis-lock on redis-py 8: a wait of 7 seconds ended after 60, in an exception."""
    name = f"{coordkit_namespace}:job"
    client = flavour.redis(coordkit_redis_server.url, socket_timeout=0.3)
    held = coordkit.Lock(coordkit_redis, name, ttl=60).acquire()
    waiting = flavour.spawn(lambda: maybe(flavour.Lock(client, name, ttl=10).acquire(timeout=20)))
    await flavour.sleep(0.8)
    assert not waiting.done()
    held.release()

    assert await maybe((await waiting.result()).release()) is True


async def test_the_clients_wall_clock_does_not_matter(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rueidislock, Redisson's fair lock: with a clock that is behind, everybody holds."""
    import time

    lock = flavour.Lock(flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:job", ttl=10)
    tokens = []
    for wrong in (-86400.0, 86400.0, 0.0):
        right = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda wrong=wrong, right=right: right() + wrong)
            async with flavour.within(lock) as lease:
                assert await maybe(lock.try_acquire()) is None
                tokens.append(lease.token)

    assert tokens == sorted(set(tokens))


def test_a_lease_may_be_given_back_by_another_thread(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """redis-py: AttributeError about a thread-local; python-redis-lock: gives back the other thread's lock."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=10)
    lease = lock.acquire()
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(lease.release()))
    thread.start()
    thread.join(10)

    assert said == [True]
    assert not coordkit_redis.exists(lock.key)


async def test_a_connection_that_died_idle_is_made_anew(
    flavour: Any, through: Any, maybe: Any, coordkit_redis: Any
) -> None:
    """CLIENT KILL, a server's idle timeout, a restarted proxy."""
    async with flavour.within(through):
        coordkit_redis.client_kill_filter(_type="normal", skipme=True)
    async with flavour.within(through):
        coordkit_redis.client_kill_filter(_type="normal", skipme=True)


# -- no answer at all, and answers that say no


async def test_a_server_that_is_down(flavour: Any, proxy: Any, maybe: Any, coordkit_namespace: str) -> None:
    """No answer is an incident, not "held by another"; the client's cause is kept."""
    lock = flavour.Lock(flavour.redis(proxy.url), f"{coordkit_namespace}:job", ttl=10)
    proxy.cut()
    for attempt in (lock.try_acquire, lambda: lock.acquire(timeout=1), lock.acquire):
        with pytest.raises(StoreUnavailable, match=rf"{coordkit_namespace}:job: no answer from Redis at") as caught:
            await maybe(attempt())
        assert isinstance(caught.value.__cause__, redis.ConnectionError)


async def test_a_server_that_hangs_is_told_within_the_clients_own_timeout(
    flavour: Any, proxy: Any, maybe: Any, coordkit_namespace: str
) -> None:
    client = flavour.redis(proxy.url, socket_timeout=0.3, socket_connect_timeout=0.3)
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=10)
    proxy.drop_requests = True
    began = now()
    with pytest.raises(StoreUnavailable, match="unknown"):
        await maybe(lock.acquire(timeout=0.2))

    assert now() - began < 0.2 + 0.3 + 5  # far below redis-py's eleven tries; the margin is for a busy machine


async def test_what_a_hanging_server_may_have_granted_is_given_back(
    flavour: Any, proxy: Any, maybe: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """The caller got StoreUnavailable; the request may yet be carried out; nobody waits a whole ttl for that."""
    client = flavour.redis(proxy.url, socket_timeout=0.3)
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    async with flavour.within(lock):
        pass
    proxy.drop_replies = True
    with pytest.raises(StoreUnavailable):
        await maybe(lock.acquire(timeout=0))
    assert coordkit_redis.exists(lock.key)
    proxy.drop_replies = False

    await flavour.until(lambda: not coordkit_redis.exists(lock.key))


async def test_a_release_without_an_answer_is_seen_to(
    flavour: Any, proxy: Any, maybe: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    lock = flavour.Lock(flavour.redis(proxy.url, socket_timeout=0.3), f"{coordkit_namespace}:job", ttl=60)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(lock):
            proxy.drop_requests = True
    assert coordkit_redis.exists(lock.key)
    proxy.drop_requests = False

    await flavour.until(lambda: not coordkit_redis.exists(lock.key))


@pytest.mark.parametrize(
    ("server", "client", "said"),
    [
        ({"password": "right"}, {"password": "wrong"}, "WRONGPASS|invalid username-password|password"),
        ({"password": "right"}, {}, "password|NOAUTH|Authentication"),
        ({"args": ["--maxmemory", "1", "--maxmemory-policy", "noeviction"]}, {}, "out of memory"),
        ({"args": ["--min-replicas-to-write", "1"]}, {}, "too few replicas"),
    ],
    ids=["wrong password", "no password", "out of memory", "too few replicas"],
)
async def test_a_server_that_says_no(
    flavour: Any, maybe: Any, server: dict[str, Any], client: dict[str, Any], said: str
) -> None:
    """An answer is not silence: StoreRefused says what to do, at once, and leaves nothing behind."""
    with start_redis(**server) as refusing:
        redis_client = flavour.redis(f"redis://127.0.0.1:{refusing.port}", **client)
        lock, fence = flavour.Lock(redis_client, "job", ttl=10), flavour.Fence(redis_client, "ledger")
        for attempt in (lock.try_acquire, lock.acquire, lambda: fence.claim(token=1)):
            with pytest.raises(StoreRefused, match=said) as caught:
                await maybe(attempt())
            assert isinstance(caught.value.__cause__, redis.RedisError)


async def test_a_read_only_replica(flavour: Any, maybe: Any) -> None:
    """Also while it shows somebody's lock: "held" would be a wrong answer there."""
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        there = flavour.Lock(flavour.redis(primary.url), "job", ttl=10)
        here = flavour.Lock(flavour.redis(replica.url), "job", ttl=10)
        with pytest.raises(StoreRefused, match="read-only replica"):
            await maybe(here.try_acquire())
        async with flavour.within(there):
            with pytest.raises(StoreRefused, match="read-only replica"):
                await maybe(here.acquire(timeout=5))


async def test_a_key_of_another_type(flavour: Any, through: Any, maybe: Any, coordkit_redis: Any) -> None:
    coordkit_redis.rpush(through.key, "a list")
    with pytest.raises(StoreRefused, match=r"WRONGTYPE.*another kind of value"):
        await maybe(through.acquire())


async def test_a_release_works_on_a_server_that_ran_out_of_memory(flavour: Any, maybe: Any) -> None:
    with start_redis(args=["--maxmemory-policy", "noeviction"]) as server:
        client = flavour.redis(server.url)
        lock = flavour.Lock(client, "job", ttl=10)
        async with flavour.within(lock) as lease:
            await maybe(client.config_set("maxmemory", 1))
            await maybe(lease.renew())

        assert await maybe(client.exists(lock.key)) == 0


# -- servers that pause and restart


async def test_a_paused_server_ends_no_lease_early_and_none_late(flavour: Any, maybe: Any) -> None:
    """A pause shorter than the ttl costs nothing; a longer one ends the lease at its own deadline, loudly."""
    with start_redis() as server:
        client = flavour.redis(server.url, socket_timeout=0.1)
        lock = flavour.Lock(client, "job", ttl=3)
        lease = await maybe(lock.acquire())
        server.pause()
        await flavour.until(lambda: lease.remaining() < 1.8)  # past the first renewals
        server.resume()
        await flavour.until(lambda: lease.remaining() > 2)
        lease.ensure()
        server.pause()
        assert await maybe(lease.lost.wait(10))
        with pytest.raises(LeaseLost, match="before a renewal was answered") as caught:
            lease.ensure()
        assert isinstance(caught.value.__cause__, StoreUnavailable)
        server.resume()


async def test_a_restarted_server_that_kept_the_lock(flavour: Any, maybe: Any) -> None:
    with start_redis(appendonly="always") as server:
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=10)
        lease = await maybe(lock.acquire())
        server.kill()
        server.restart()
        await maybe(lease.renew())
        assert await maybe(lock.try_acquire()) is None

        assert await maybe(lease.release()) is True


async def test_a_restarted_server_that_forgot_the_lock(flavour: Any, maybe: Any) -> None:
    """The holder is told by the next renewal; the next token is higher all the same."""
    with start_redis() as server:
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=3)
        lease = await maybe(lock.acquire())
        server.kill()
        server.restart()
        assert await maybe(lease.lost.wait(20))
        with pytest.raises(LeaseLost):
            lease.ensure()
        async with flavour.within(lock) as after:
            assert after.token > lease.token


# -- cancelled, interrupted, killed


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_acquire_leaves_nothing(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str, steps: int
) -> None:
    """redis.asyncio leaks the lock 40 times of 40; here the cancellation comes at every one of its awaits in turn."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    task = asyncio.create_task(lock.acquire())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, coordkit.aio.Lease):  # it was quicker
        await outcome.release()
    for _ in range(500):
        if not coordkit_redis.exists(lock.key):
            break
        await asyncio.sleep(0.01)

    assert not coordkit_redis.exists(lock.key)
    await close(client)


async def test_a_cancelled_acquire_gives_back_what_was_on_its_way(
    coordkit_faults: Any, coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """The server has granted, the answer is held up in the network, and the caller loses patience."""
    proxy = coordkit_faults.proxy(coordkit_redis_server)
    client = redis.asyncio.Redis.from_url(proxy.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    async with lock:
        pass
    proxy.latency = 0.1
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(lock.acquire(), 0.15)
    proxy.latency = 0
    for _ in range(500):
        if not coordkit_redis.exists(lock.key):
            break
        await asyncio.sleep(0.01)

    assert not coordkit_redis.exists(lock.key)
    await close(client)


async def test_a_cancelled_waiter_leaves_nothing(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    async with lock:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lock.acquire(), 0.05)
    assert await client.exists(lock.key) == 0
    await close(client)


async def test_no_cancellation_of_a_waiter_is_swallowed(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    """redis-py writes under asyncio.wait_for, which before Python 3.12 may swallow one: it waited on for ever."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    async with lock:
        for turn in range(300):
            waiter = asyncio.create_task(lock.acquire())
            await asyncio.sleep((turn % 7) * 0.0002)
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter], timeout=10)
            assert waiter.cancelled()
    await close(client)


async def test_losing_the_lease_cancels_the_body_and_nothing_else(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """The task can be used on afterwards; a cancellation from outside stays one."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=1.0)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            async with lock:
                await expire(lock)
                await asyncio.sleep(30)
        await asyncio.sleep(0)
    entered = asyncio.Event()

    async def body() -> None:
        async with lock:
            entered.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.exists(lock.key) == 0
    await close(client)


async def test_a_loss_that_the_task_itself_finds_hits_once(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    """ensure() raises in the body; no second cancellation waits for whatever the task awaits next."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=0.5, renew=False)
    with pytest.raises(LeaseLost):
        async with lock as lease:
            while now() < lease._core.expires:
                pass  # the loop has no chance to tell us first
            lease.ensure()
    await asyncio.sleep(0.01)
    await close(client)


def test_one_lock_under_one_loop_after_another(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    """Modules build their locks at import; tests and workers run a loop each. No socket is left to complain."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=10)

    async def turn() -> int:
        async with lock as lease:
            token = lease.token
        await close(client)
        return token

    tokens = [asyncio.run(turn()) for _ in range(3)]
    gc.collect()
    assert tokens == sorted(set(tokens))


WAITED_IN_A_CLOSED_LOOP = """
import asyncio, gc, sys, redis, redis.asyncio, coordkit, coordkit.aio
url, name = sys.argv[1:]
direct = redis.Redis.from_url(url)
held = coordkit.Lock(direct, name, ttl=60).acquire()

def wait():
    client, loop = redis.asyncio.Redis.from_url(url), asyncio.new_event_loop()
    lock = coordkit.aio.Lock(client, name, ttl=60)
    task = loop.create_task(lock.acquire())
    while not direct.zcard(lock.key.removesuffix("lock") + "queue"):
        loop.run_until_complete(asyncio.sleep(0.01))
    task._log_destroy_pending = False  # asyncio would complain of it
    loop.close()
    return lock

async def next_one(lock):
    task = asyncio.create_task(lock.acquire(timeout=20))
    await asyncio.sleep(0.1)
    held.release()
    assert await (await task).release() is True

lock = wait()
gc.collect()
asyncio.run(next_one(lock))
gc.collect()
"""


def test_who_waits_in_a_loop_that_was_closed_is_freed_in_silence(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """RuntimeError: no running event loop, out of whatever the collector interrupted."""
    quiet = [sys.executable, "-W", "ignore::ResourceWarning", "-c", WAITED_IN_A_CLOSED_LOOP]  # nobody closed sockets
    command = [*quiet, coordkit_redis_server.url, f"{coordkit_namespace}:job"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HOLDER = """
import sys, redis, coordkit
lock = coordkit.Lock(redis.Redis(port=int(sys.argv[1])), sys.argv[2], ttl=float(sys.argv[3]))
lease = lock.acquire()
print(lease.token, flush=True)
try:
    sys.stdin.readline()
    lease.ensure()
    print("held", flush=True)
except coordkit.LeaseLost as error:
    print("lost:", error, flush=True)
"""


@contextmanager
def holder(port: int, name: str, ttl: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a process that holds a lock, and give it with its token."""
    command = [sys.executable, "-c", HOLDER, str(port), name, str(ttl)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


async def test_a_killed_holder_costs_a_ttl(flavour: Any, maybe: Any) -> None:
    with start_redis() as server, holder(server.port, "job", 0.5) as (process, token):
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=10)
        assert await maybe(lock.try_acquire()) is None
        process.kill()
        lease = await maybe(lock.acquire(timeout=20))

        assert lease.token > token


async def test_a_stopped_holder_learns_that_it_lost(flavour: Any, maybe: Any) -> None:
    """SIGSTOP for longer than the ttl: the next one has a higher token, and the sleeper knows when it wakes."""
    with start_redis() as server, holder(server.port, "job", 0.5) as (process, token):
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=10)
        process.send_signal(signal.SIGSTOP)
        lease = await maybe(lock.acquire(timeout=20))
        assert lease.token > token
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()

        assert process.stdout.readline().startswith("lost: job:")
        lease.ensure()
        assert await maybe(lease.release()) is True


def forked(child: Any) -> int:
    """Run ``child`` in a forked process; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = child()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_holds_nothing(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """python-redis-lock: the child's exit releases the parent's lock."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=1.5)
    with lock as lease:

        def child() -> int:
            try:
                lease.ensure()
            except LeaseLost as error:
                told = "forked child" in str(error)
            return 0 if told and not lease._core.held and lease.remaining() == 0 and lease.release() is False else 1

        assert forked(child) == 0
        assert coordkit_redis.get(lock.key).decode() == lease.holder
        threading.Event().wait(2.0)
        lease.ensure()  # and the parent is renewed on


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_locks_for_itself(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """With connections, timer and worker of its own: renewal works in the child, and in the parent."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=1.5)
    other = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:other", ttl=1.5)
    with other as parents:

        def child() -> int:
            with lock as lease:
                if lease.lost.wait(2.0):
                    return 1
                lease.ensure()
            return 0

        assert forked(child) == 0
        parents.ensure()
        with lock:
            pass


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_ids_of_its_own() -> None:
    """Random bits are in stock. Who holds is told by them, also where a process's number is used again."""
    runtime._self.new_holder()
    stock = set(runtime._self._stock)
    assert stock

    assert forked(lambda: int(runtime._self.new_holder().rpartition(":")[2] in stock)) == 0
    assert runtime._self.new_holder().rpartition(":")[2] in stock


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """Two processes on one socket read each other's answers."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=10)
    with lock:
        pass
    store = coordkit_redis._coordkit_store
    sockets = [wire.connection._sock for wire in store._lines._idle]
    assert sockets

    def child() -> int:
        with lock:
            pass
        return 0 if not any(wire.connection._sock in sockets for wire in store._lines._idle) else 1

    assert forked(child) == 0


def test_idle_connections_are_closed(
    coordkit_redis_server: Any, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coordkit import _redis

    monkeypatch.setattr(_redis, "IDLE", 0.2)
    client = redis.Redis.from_url(coordkit_redis_server.url, client_name=coordkit_namespace)
    with coordkit.Lock(client, f"{coordkit_namespace}:job", ttl=10):
        pass
    mine = [one for one in client.client_list() if one["name"] == coordkit_namespace]
    assert len(mine) == 2  # the client's, and ours
    for _ in range(500):
        if len([one for one in client.client_list() if one["name"] == coordkit_namespace]) == 1:
            break
        threading.Event().wait(0.01)
    assert len([one for one in client.client_list() if one["name"] == coordkit_namespace]) == 1
    client.close()


async def test_no_connection_is_idle_that_owes_an_answer(coordkit_namespace: str, monkeypatch: Any) -> None:
    """A client that has the patience waits for a server that is slow: the connection was closed after so long."""
    from coordkit import _redis

    monkeypatch.setattr(_redis, "IDLE", 0.2)
    with ExitStack() as stack:
        servers = [stack.enter_context(start_redis()) for _ in range(3)]
        clients = [redis.asyncio.Redis.from_url(server.url, socket_timeout=30) for server in servers]
        fence, quorum = coordkit.aio.Fence(clients[0], coordkit_namespace), coordkit.aio.Quorum(clients)
        await quorum.initialise()
        lock = coordkit.aio.QuorumLock(quorum, coordkit_namespace, ttl=120)
        await (await lock.acquire()).release()
        await fence.claim(token=1)
        for server in servers:
            server.pause()
        asked = asyncio.gather(fence.run("return 7", keys=[], token=2), lock.acquire(timeout=0))  # each is sent once
        await asyncio.sleep(0.8)
        for server in servers:
            server.resume()
        said, lease = await asked
        assert said == 7
        assert await lease.release() is True
        for client in clients:
            await close(client)


def test_a_connection_grows_only_so_old(coordkit_redis: Any, coordkit_namespace: str, monkeypatch: Any) -> None:
    """So that present credentials and Sentinel's present master are used."""
    from coordkit import _redis

    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=10)
    store = coordkit_redis._coordkit_store
    with lock:
        pass
    first = store._lines._idle[-1]
    with lock:
        pass
    assert store._lines._idle[-1] is first
    monkeypatch.setattr(_redis, "MAX_AGE", 0.0)
    with lock:
        pass
    assert store._lines._idle[-1] is not first


# -- one answer that never comes, over a connection that stays open


async def test_one_lost_answer_to_a_renewal_loses_no_short_lease(
    flavour: Any, proxy: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """A client waits 5 seconds for an answer by default: a renewal must not, or every lease under 7 seconds is lost."""
    lock = flavour.Lock(flavour.redis(proxy.url, socket_timeout=5), f"{coordkit_namespace}:job", ttl=3)
    lease = await maybe(lock.acquire())
    proxy.drop_replies = True
    await flavour.until(lambda: proxy.hits["drop_replies"] >= 1)
    proxy._change(lambda: setattr(proxy._relay.replies, "all", False))  # as heal(), but the deaf connection stays open

    assert not await maybe(lease.lost.wait(3.5))
    lease.ensure()
    assert await maybe(lease.release()) is True


def test_a_slow_failure_is_not_waited_for_twice(proxy: Any, coordkit_namespace: str, monkeypatch: Any) -> None:
    """A caller waits its own timeout and one of the client's: what hung is asked again in the background only."""
    client = redis.Redis.from_url(proxy.url, socket_timeout=0.3)
    lock, fence = coordkit.Lock(client, f"{coordkit_namespace}:job", ttl=60), coordkit.Fence(client, coordkit_namespace)
    lease = lock.acquire()
    store, asked = client._coordkit_store, []

    def counted(was: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                asked.append(args)
            return was(*args, **kwargs)

        return run

    for way in ("run", "run_form"):
        monkeypatch.setattr(store, way, counted(getattr(store, way)))
    proxy.drop_requests = True
    for access in (lease.release, lambda: fence.claim(token=1), lambda: lock.acquire(timeout=0)):
        asked.clear()
        with pytest.raises(StoreUnavailable):
            access()
        assert len(asked) == 1
    proxy.drop_requests = False
    client.close()


async def test_a_wrong_password_is_tried_once(flavour: Any, maybe: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No lock-out by our own zeal, and no word of giving back what was never asked for."""
    with start_redis(password="right") as server:
        client = flavour.redis(f"redis://127.0.0.1:{server.port}", password="wrong")
        admin = redis.Redis.from_url(server.url)
        before = admin.info("stats")["total_connections_received"]
        with pytest.raises(StoreRefused):
            await maybe(flavour.Lock(client, "job", ttl=10).acquire())
        assert admin.info("stats")["total_connections_received"] - before == 1
        admin.close()
    assert "given back" not in caplog.text


async def test_a_loss_that_another_thread_finds_cancels_the_body(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """asyncio.to_thread(crunch, lease): ensure() there raises LeaseLost, and the body is cancelled all the same."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=1.0, renew=False)

    def crunch(lease: coordkit.aio.Lease) -> str:
        try:
            while lease.ensure():
                pass
        except LeaseLost as error:
            return str(error)
        return "never"

    crunched = None
    with pytest.raises(LeaseLost, match="not renewed"):
        async with lock as lease:
            crunched = asyncio.create_task(asyncio.to_thread(crunch, lease))
            await asyncio.sleep(30)
    assert "not renewed" in await crunched
    await close(client)


async def test_background_work_that_is_cancelled_before_it_began_is_done_all_the_same() -> None:
    """The renewal was due in the very moment in which somebody cancelled every task: the lease was lost."""
    from coordkit._asyncio.runtime import RUNTIME

    done = asyncio.Event()

    async def work() -> None:
        done.set()

    RUNTIME.worker(work).poke()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait_for(done.wait(), 10)


async def test_whoever_cancels_every_task_does_not_end_renewal(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=1.5)
    lease = await lock.acquire()
    for _ in range(20):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.06)  # long enough for a renewal, with a new connection, on a busy machine
    await asyncio.sleep(1.0)
    lease.ensure()
    assert await lease.release() is True
    await close(client)


# -- `with lock` left elsewhere than it was entered


def test_a_wrapper_class_gives_back_its_own(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """The frames that enter and leave are gone at once, and their addresses are used again by the next thread's."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)

    class Guarded:
        def __enter__(self) -> Any:
            return lock.__enter__()

        def __exit__(self, *error: object) -> None:
            lock.__exit__(*error)

    entered, leave = threading.Event(), threading.Event()
    outcome: list[Any] = []

    def first() -> None:
        try:
            with Guarded():
                expire(lock)
                entered.set()
                leave.wait(20)
        except LeaseLost:
            outcome.append("lost")

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(20)
    with Guarded() as mine:
        leave.set()
        thread.join(20)
        assert outcome == ["lost"]
        assert coordkit_redis.get(lock.key).decode() == mine.holder


def test_a_hold_is_entered_by_one_at_a_time(coordkit_redis: Any, coordkit_namespace: str) -> None:
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)
    hold = lock.hold()
    caught: list[BaseException] = []

    def second() -> None:
        try:
            with hold:
                pass
        except CoordError as error:
            caught.append(error)

    with lock:  # so that the first is still waiting when the second comes
        waiting = threading.Thread(target=lambda: hold.__enter__() and hold.__exit__(None, None, None))
        waiting.start()
        for _ in range(500):
            if not hold._free:
                break
            threading.Event().wait(0.01)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(20)
    waiting.join(20)

    assert "call hold() again" in str(caught[0])
    assert not coordkit_redis.exists(lock.key)


def test_a_block_left_in_another_thread_gives_back_its_own(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """A generator entered in one thread and closed in another, as web frameworks do, beside a block of that thread."""
    slow = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)

    def request() -> Iterator[Any]:
        with slow as lease:
            yield lease

    first = request()
    lost = next(first)
    expire(slow)  # so that a second block of the same lock can be open at once
    outcome: list[Any] = []

    def elsewhere() -> None:
        with slow as mine:
            try:
                first.close()
            except LeaseLost as error:
                outcome.append(error.token)
            outcome.append(mine.ensure())
            outcome.append(coordkit_redis.get(slow.key).decode() == mine.holder)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert outcome in ([True, True], [lost.token, True, True])  # a generator that is closed may swallow nothing else
    assert not coordkit_redis.exists(slow.key)


def test_an_exit_stack_that_moves_gives_back_the_only_one(coordkit_redis: Any, coordkit_namespace: str) -> None:
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)
    stack = ExitStack()
    stack.enter_context(lock)
    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join(20)

    assert not coordkit_redis.exists(lock.key)


def test_where_it_cannot_be_known_it_is_said(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """Two blocks are open, neither was entered by this thread: nobody's lease is given back by guess."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)
    stacks = [ExitStack(), ExitStack()]
    lease = stacks[0].enter_context(lock)
    expire(lock)
    current = stacks[1].enter_context(lock)
    caught: list[BaseException] = []

    def leave() -> None:
        try:
            stacks[0].close()
        except CoordError as error:
            caught.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join(20)

    assert "use `with lock.hold()`" in str(caught[0])
    assert coordkit_redis.get(lock.key).decode() == current.holder
    lease.release()
    current.release()


async def test_a_task_that_leaves_for_another_gives_back_the_only_one(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """A fixture or dependency that is set up in one task and torn down in another."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)

    async def dependency() -> Any:
        async with lock:
            yield

    entered = dependency()
    await asyncio.create_task(anext(entered))
    await asyncio.create_task(entered.aclose())
    assert await client.exists(lock.key) == 0
    await close(client)
