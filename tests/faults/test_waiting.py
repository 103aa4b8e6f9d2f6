"""Waiting when things go wrong: dead, stopped and deaf waiters, lost messages, servers that go away, cancellations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit._threads.runtime import now
from coordkit.core import waiting
from coordkit.testing.processes import start_redis

WAITER = """
import sys
import redis
import coordkit

lock = coordkit.Lock(redis.Redis.from_url(sys.argv[1]), sys.argv[2], ttl=60)
lease = lock.acquire()
print("got", int(lease.token), flush=True)
sys.stdin.readline()
print("released", lease.release(), flush=True)
"""


def queue_of(lock: Any) -> str:
    return str(lock.key.removesuffix("lock") + "queue")


class Waiter:
    """A process that waits for a lock, says when it has it, and gives it back when it is told to."""

    def __init__(self, url: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITER, url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def give_back(self) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.said()


@pytest.fixture
def lock(flavour: Any, coordkit_redis_server: Any, coordkit_namespace: str) -> Any:
    return flavour.Lock(flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:job", ttl=60)


@pytest.fixture
def elsewhere(flavour: Any, lock: Any, coordkit_redis_server: Any, coordkit_redis: Any) -> Iterator[Callable[[], Any]]:
    """Give a way to start a process that waits for the lock, and to know that it does."""
    waiters: list[Waiter] = []

    async def start() -> Waiter:
        before = coordkit_redis.zcard(queue_of(lock))
        waiters.append(Waiter(coordkit_redis_server.url, lock.name))
        await flavour.until(lambda: coordkit_redis.zcard(queue_of(lock)) == before + 1, 20)
        return waiters[-1]

    yield start
    for one in waiters:
        one.resume()
        one.kill()
        for pipe in (one.process.stdin, one.process.stdout):
            assert pipe is not None
            pipe.close()


async def queued(flavour: Any, lock: Any, client: Any, work: Any) -> Any:
    """Have somebody wait in this process, and return once it stands in the queue."""
    before = client.zcard(queue_of(lock))
    running = flavour.spawn(work)
    await flavour.until(lambda: client.zcard(queue_of(lock)) == before + 1)
    return running


async def test_a_killed_waiter_is_passed_over_in_the_same_script(
    flavour: Any, lock: Any, maybe: Any, elsewhere: Any, coordkit_redis: Any
) -> None:
    """python-redis-lock: the wake-up was for the dead one, and everybody else hangs for ever."""
    held = await maybe(lock.acquire())
    dead = await elsewhere()
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=20)))
    dead.kill()
    await flavour.until(lambda: coordkit_redis.execute_command("PUBSUB", "CHANNELS", "coordkit:1:inbox:*") != [])
    before = coordkit_redis.zcard(queue_of(lock))
    await maybe(held.release())
    holder = coordkit_redis.get(lock.key).decode()
    lease = await running.result()

    assert before == 2
    assert holder == lease.holder
    await maybe(lease.release())


@pytest.mark.parametrize("kind", ["lock", "write", "read", "permit"])
async def test_thousands_who_died_in_one_process_cost_one_message(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str, kind: str
) -> None:
    """Nobody else is served while a script runs: each of them was published to, 6 us apiece."""
    client, name = flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:job"
    both = flavour.ReadWriteLock(client, name, ttl=60)
    held, wanted, queue, mode = {
        "lock": (flavour.Lock(client, name, ttl=60), flavour.Lock(client, name, ttl=60), "queue", "x"),
        "write": (both.read, both.write, "rw:queue", "w"),
        "read": (both.read, both.read, "rw:queue", "w"),
        "permit": (*2 * (flavour.Semaphore(client, name, permits=1, ttl=60),), "semaphore:queue", "s"),
    }[kind]
    first = await maybe(held.acquire())
    queue, told = f"coordkit:1:{{{name}}}:{queue}", "cmdstat_pubsub|numsub" if kind == "read" else "cmdstat_publish"
    dead = {f"{mode} 1000 PUBLISH host:1:{i:032x} {name}:inbox{i % 3}": i + 1 for i in range(2500)}
    coordkit_redis.zadd(queue, dead)
    before = coordkit_redis.info("commandstats").get(told, {"calls": 0})["calls"]
    if kind == "read":  # it is a reader who asks that takes dead writers out of its way
        lease = await maybe(wanted.acquire(timeout=0))
    assert await maybe(first.release()) is True
    assert coordkit_redis.zcard(queue) == 0
    assert coordkit_redis.info("commandstats")[told]["calls"] - before == 3
    if kind != "read":
        lease = await maybe(wanted.acquire(timeout=0))
    assert await maybe(lease.release()) is True


@pytest.mark.parametrize("how_many", [1, 3])
async def test_stopped_waiters_cost_a_claim_each_and_not_a_ttl(
    flavour: Any, lock: Any, maybe: Any, elsewhere: Any, coordkit_redis: Any, how_many: int
) -> None:
    """The server takes a stopped process for one that listens; it is granted a claim, and does not make it a lease."""
    held = await maybe(lock.acquire())
    stopped = [await elsewhere() for _ in range(how_many)]
    for one in stopped:
        one.stop()
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=50)))
    began = now()
    await maybe(held.release())
    lease = await running.result(50)
    took = now() - began

    assert took >= how_many * waiting.CLAIM * 0.9
    assert took < 30  # of a ttl of 60: on a busy machine, too
    for one in stopped:  # they come back to a claim that is long over, and wait on, at their place
        one.resume()
    await flavour.until(lambda: coordkit_redis.zcard(queue_of(lock)) == how_many, 20)
    assert lease.ensure()
    await maybe(lease.release())
    got, token = stopped[0].said()
    assert (got, int(token) > lease.token) == ("got", True)
    assert stopped[0].give_back() == ["released", "True"]


async def test_whoever_is_killed_when_it_is_woken_costs_one_claim(
    flavour: Any, lock: Any, maybe: Any, elsewhere: Any, coordkit_redis: Any
) -> None:
    held = await maybe(lock.acquire())
    woken = await elsewhere()
    woken.stop()  # so that the grant finds it alive, and it does nothing with it
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=50)))
    await maybe(held.release())
    woken.kill()
    began = now()
    lease = await running.result(50)

    assert now() - began < 30
    await maybe(lease.release())


async def test_a_lost_message_costs_one_ask(
    flavour: Any, lock: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_server: Any, coordkit_redis: Any
) -> None:
    """The connection breaks with the grant in it: the waiter asks, and holds."""
    proxy = coordkit_faults.proxy(coordkit_redis_server)
    client = flavour.redis(proxy.url)
    deaf = flavour.Lock(client, lock.name, ttl=60)
    held = await maybe(lock.acquire())
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(deaf.acquire(timeout=20)))
    proxy.drop_reply_matching(b"grant")
    await maybe(held.release())
    lease = await running.result()

    assert proxy.hits["drop_reply_matching"] == 1
    assert lease.token > held.token
    await maybe(lease.release())


async def test_a_subscription_that_is_cut_keeps_its_place(
    flavour: Any, lock: Any, maybe: Any, elsewhere: Any, coordkit_redis: Any
) -> None:
    held = await maybe(lock.acquire())
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=20)))
    [first] = coordkit_redis.zrange(queue_of(lock), 0, -1, withscores=True)
    behind = await elsewhere()
    for _ in range(3):
        coordkit_redis.client_kill_filter(_type="pubsub")
        await flavour.until(lambda: coordkit_redis.execute_command("PUBSUB", "NUMPAT") == 0)
        await flavour.sleep(0.1)
    await maybe(held.release())
    lease = await running.result()
    assert lease.token > held.token
    assert first[1] > 0
    await maybe(lease.release())
    got, token = behind.said()
    assert (got, int(token) > lease.token) == ("got", True)


async def test_a_server_that_stops_for_a_while(
    flavour: Any, lock: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_server: Any, coordkit_redis: Any
) -> None:
    held = await maybe(lock.acquire())
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=30)))
    coordkit_faults.pause(coordkit_redis_server)
    await flavour.sleep(0.5)
    coordkit_faults.resume(coordkit_redis_server)
    await maybe(held.release())
    assert await maybe((await running.result()).release()) is True


@pytest.mark.parametrize("appendonly", ["no", "always"])
async def test_a_server_that_is_restarted(flavour: Any, maybe: Any, appendonly: Any) -> None:
    """Without its memory the lock is free, with it it is the holder's; whoever waited waits on, and tokens rise."""
    with start_redis(appendonly=appendonly) as server:
        admin = redis.Redis.from_url(server.url)
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=1.5)
        held = await maybe(lock.acquire())

        async def patient() -> Any:
            while True:
                try:
                    return await maybe(lock.acquire(timeout=50))
                except coordkit.StoreUnavailable:  # an outage is told, to who waits as well
                    await flavour.sleep(0.05)

        running = await queued(flavour, lock, admin, patient)
        server.restart()
        await flavour.until(lambda: running.done() or held.lost.is_set() or held.remaining() > 1, 20)
        with contextlib.suppress(coordkit.StoreUnavailable):
            await maybe(held.release())
        lease = await running.result(50)
        assert lease.token > held.token
        await maybe(lease.release())
        admin.close()


async def test_a_grant_for_somebody_who_left_is_given_back(
    flavour: Any, lock: Any, maybe: Any, coordkit_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request to queue up was sent twice, and the second came after it had gone."""
    monkeypatch.setattr(waiting, "CLAIM", 50.0)
    held = await maybe(lock.acquire())
    running = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=1.5)))
    [entry] = coordkit_redis.zrange(queue_of(lock), 0, -1)
    with pytest.raises(coordkit.AcquireTimeout):
        await running.result()
    other = await queued(flavour, lock, coordkit_redis, lambda: maybe(lock.acquire(timeout=30)))  # somebody listens
    coordkit_redis.zadd(queue_of(lock), {entry: 1})
    await maybe(held.release())
    lease = await other.result(20)
    assert await maybe(lease.release()) is True


@pytest.mark.parametrize("timeout", [0, 5])
async def test_a_queue_that_is_none_keeps_nobody_out(
    flavour: Any, lock: Any, maybe: Any, coordkit_redis: Any, timeout: float
) -> None:
    """The script had set the lock before it met the wrong type: each refusal cost everybody a ttl."""
    coordkit_redis.set(queue_of(lock), "not a queue")
    with pytest.raises(coordkit.StoreRefused, match="WRONGTYPE"):
        await maybe(lock.acquire(timeout=timeout))
    assert not coordkit_redis.exists(lock.key)


async def test_what_is_no_text_is_the_matter_of_one_request(
    flavour: Any, lock: Any, maybe: Any, coordkit_redis_server: Any, coordkit_redis: Any
) -> None:
    """Under asyncio it killed the shared connection: all who had a request under way got a UnicodeDecodeError."""
    client = flavour.redis(coordkit_redis_server.url, decode_responses=True)
    strange = flavour.Lock(client, f"{lock.name}:strange", ttl=60)
    others = [flavour.Lock(client, f"{lock.name}:{number}", ttl=60) for number in range(5)]
    coordkit_redis.set(strange.key, b"\xff\xfe", px=60_000)

    async def refused() -> None:
        with pytest.raises(coordkit.StoreRefused, match="no text"):
            await maybe(strange.acquire(timeout=0))

    async def granted(other: Any) -> None:
        async with flavour.within(other.hold(timeout=0)):
            pass

    await granted(others[0])
    await flavour.gather(refused(), *(granted(other) for other in others))


# -- cancellation and forks


async def test_cancelled_at_any_moment_it_leaves_nothing(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """At every await of an acquire that waits: no key, no place in the queue, no lease that nobody has."""
    client = redis.asyncio.Redis.from_url(coordkit_redis_server.url)
    lock = coordkit.aio.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    for steps in range(60):
        held = await lock.acquire(timeout=10)
        task = asyncio.create_task(lock.acquire())
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 30 else 0.0005)
        if steps % 2:
            await held.release()  # cancelled while it is being handed on
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, coordkit.aio.Lease):
            await outcome.release()
        if not steps % 2:
            await held.release()
        for _ in range(2000):
            if not coordkit_redis.exists(lock.key, queue_of(lock)):
                break
            await asyncio.sleep(0.005)
        assert not coordkit_redis.exists(lock.key, queue_of(lock)), f"cancelled after {steps} steps"
    await (getattr(client, "aclose", None) or client.close)()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_listens_for_itself(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """Two processes on one subscription would each hear half."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=60)
    with lock, pytest.raises(coordkit.AcquireTimeout):
        lock.acquire(timeout=0.1)
    held = lock.acquire()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with lock.hold(timeout=20):
                status = 0
        finally:
            os._exit(status)
    while coordkit_redis.zcard(queue_of(lock)) < 1:
        os.sched_yield()
    held.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with lock.hold(timeout=20):
        pass


def test_threads_that_wait_share_one_subscription(
    coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """Thirty threads, one of which reads for all: each is woken by its own grant."""
    import threading

    client = redis.Redis.from_url(coordkit_redis_server.url, client_name=coordkit_namespace)
    lock = coordkit.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    order: list[int] = []

    def work(number: int) -> None:
        with lock.hold(timeout=40):
            order.append(number)

    held = lock.acquire()
    threads = []
    for number in range(30):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        while coordkit_redis.zcard(queue_of(lock)) < number + 1:
            os.sched_yield()
    subscribed = [one for one in coordkit_redis.client_list("pubsub") if one["name"] == coordkit_namespace]
    held.release()
    for thread in threads:
        thread.join(40)
    client.close()

    assert order == list(range(30))
    assert len(subscribed) == 1
