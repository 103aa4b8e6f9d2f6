"""What befalls every kind of lock alike: cancellation, forks, cut connections, servers that hang, forget and fail over.

A kind that is added to ``held.py`` is tested here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from held import KINDS, SERVERS, forget, kept, made, rival, tokens, waiters

import coordkit
import coordkit.aio
from coordkit import CoordError, LeaseLost, StoreRefused, StoreUnavailable, _redis
from coordkit._threads.runtime import now
from coordkit.core import waiting
from coordkit.testing.deployments import tell
from coordkit.testing.processes import start_redis, start_redis_servers

kinds = pytest.mark.parametrize("kind", KINDS)
on_one_server = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SERVERS])


@pytest.fixture(scope="module")
def three() -> Iterator[list[Any]]:
    """Give three servers that are a quorum; the first of them serves all other kinds."""
    servers = start_redis_servers(3)
    with ExitStack() as stack:
        coordkit.Quorum([stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]).initialise()
    yield list(servers)
    for server in servers:
        server.stop()


@pytest.fixture
def servers(three: list[Any], kind: str) -> list[Any]:
    return three[: SERVERS.get(kind, 1)]


@pytest.fixture
def here(flavour: Any, servers: list[Any], coordkit_namespace: str) -> Callable[..., Any]:
    """Give a function that makes something to hold, over clients of its own."""

    def make(kind: str, ttl: float = 60, **options: Any) -> Any:
        clients = [flavour.redis(server.url, socket_timeout=2) for server in servers]
        return made(flavour, clients, kind, coordkit_namespace, ttl, **options)

    return make


async def sooner_or_later(flavour: Any, held: Any) -> Any:
    """Acquire as a program does that must go on: an outage is tried again."""
    while True:
        try:
            return await flavour.maybe(held.acquire(timeout=30))
        except (StoreUnavailable, StoreRefused):
            await flavour.sleep(0.05)


# -- cancelled


@kinds
async def test_cancelled_at_every_await_of_acquire(kind: str, servers: list[Any], coordkit_namespace: str) -> None:
    """Free, waited for, and while it is handed on: whatever was under way, nothing is left at any server."""
    clients = [redis.asyncio.Redis.from_url(server.url) for server in servers]
    names: list[str] = []

    async def cancelled(steps: int, how: str) -> bool:
        """Return whether it was still under way after so many turns of the loop."""
        names.append(f"{coordkit_namespace}-{how}-{steps}")
        ahead = made(coordkit.aio, clients, rival(kind), names[-1], 60)
        lease = None if how == "free" else await ahead.acquire()
        task = asyncio.create_task(made(coordkit.aio, clients, kind, names[-1], 60).acquire())
        for _ in range(steps):
            await asyncio.sleep(0)
        if how == "handed on":
            while not waiters(servers, names[-1]) and not SERVERS.get(kind):  # noqa: ASYNC110  it happens at the server
                await asyncio.sleep(0.001)
            giving = asyncio.create_task(lease.release())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await giving
        under_way = task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        if hasattr(outcome, "release"):
            await outcome.release()
        if how == "waited for":
            await lease.release()
        return under_way

    async with made(coordkit.aio, clients, kind, f"{coordkit_namespace}-first", 60):
        steps = 0  # from here on the connections are there
    while await cancelled(steps, "free") and steps < 200:
        steps += 1
    assert 1 < steps < 200  # each turn of the loop, from the first to the last
    for steps in range(40):
        await cancelled(steps, "waited for")
        await cancelled(steps, "handed on")
    for _ in range(1000):
        if not kept(servers, names):
            break
        await asyncio.sleep(0.02)
    assert kept(servers, names) == []
    for client in clients:
        await (getattr(client, "aclose", None) or client.close)()


# -- forked


@kinds
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
def test_a_forked_child_holds_nothing_and_waits_for_itself(
    kind: str, here: Callable[..., Any], servers: list[Any], coordkit_namespace: str
) -> None:
    """Its parent's lease is not its own; it is refused, waits over connections of its own, and is handed it."""
    held, other = here(kind, ttl=1.5), here(rival(kind))
    with contextlib.suppress(coordkit.AcquireTimeout), held:  # so that the parent listens, too
        other.acquire(timeout=0.1)
    lease = held.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with contextlib.suppress(LeaseLost):
                lease.ensure()
                os._exit(2)
            if lease.remaining() or lease.release() or other.try_acquire() is not None:
                os._exit(3)
            os.write(writing, b"refused\n")
            with other.hold(timeout=30) as mine:
                os.write(writing, b"%d\n" % tokens(mine)[0])
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.readline() == "refused\n"
        if kind not in SERVERS:
            while not waiters(servers, coordkit_namespace):
                os.sched_yield()
        threading.Event().wait(2.0)  # longer than the ttl: the parent is renewed on
        lease.ensure()
        assert lease.release() is True
        assert int(said.readline()) > tokens(lease)[0]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with held.hold(timeout=30) as again:
        assert tokens(again) > tokens(lease)


@kinds
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
async def test_a_child_forked_out_of_a_loop_holds_nothing_and_waits_for_itself(
    kind: str, servers: list[Any], coordkit_namespace: str
) -> None:
    """The same under asyncio: in the child a loop of its own runs, while the parent's goes on in the parent."""
    clients = [redis.asyncio.Redis.from_url(server.url, socket_timeout=2) for server in servers]
    held = made(coordkit.aio, clients, kind, coordkit_namespace, 1.5)
    other = made(coordkit.aio, clients, rival(kind), coordkit_namespace, 60)
    async with held:  # so that the parent listens, too
        with contextlib.suppress(coordkit.AcquireTimeout):
            await other.acquire(timeout=0.1)
    lease = await held.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(_of_a_child(lease, other, writing))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert await asyncio.to_thread(said.readline) == "refused\n"
        while kind not in SERVERS and not waiters(servers, coordkit_namespace):  # noqa: ASYNC110  it happens at the server
            await asyncio.sleep(0.01)
        await asyncio.sleep(2.0)  # longer than the ttl: the parent is renewed on
        lease.ensure()
        assert await lease.release() is True
        assert int(await asyncio.to_thread(said.readline)) > tokens(lease)[0]
    assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
    async with held.hold(timeout=30) as again:
        assert tokens(again) > tokens(lease)
    for client in clients:
        await (getattr(client, "aclose", None) or client.close)()


async def _of_a_child(lease: Any, other: Any, writing: int) -> None:
    with pytest.raises(LeaseLost, match="forked child"):
        lease.ensure()
    assert not lease.remaining()
    assert not await lease.release()
    assert await other.try_acquire() is None
    os.write(writing, b"refused\n")
    async with other.hold(timeout=30) as mine:
        os.write(writing, b"%d\n" % tokens(mine)[0])


# -- cut connections, and servers that forget


@kinds
async def test_killed_connections_cost_nobody_anything(
    flavour: Any,
    maybe: Any,
    kind: str,
    here: Callable[..., Any],
    servers: list[Any],
    coordkit_namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CLIENT KILL of all there are, again and again: it is renewed on, and whoever waits for it gets it."""
    monkeypatch.setattr(_redis, "IDLE", 60.0)  # so that the next renewal finds its connection dead
    lease = await maybe(here(kind, ttl=4).acquire())
    running = flavour.spawn(sooner_or_later, flavour, here(rival(kind)))
    if kind not in SERVERS:
        await flavour.until(lambda: waiters(servers, coordkit_namespace))
    for _ in range(8):  # past the first renewal
        for server in servers:
            with redis.Redis.from_url(server.url) as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
                admin.client_kill_filter(_type="pubsub", skipme=True)
        await flavour.sleep(0.2)
    await flavour.until(lambda: lease.remaining() > 3)
    lease.ensure()
    assert not running.done()
    assert await maybe(lease.release()) is True
    after = await running.result(60)
    assert tokens(after) > tokens(lease)
    assert await maybe(after.release()) is True


@kinds
async def test_an_early_end_is_told_and_somebody_else_may_have_it(
    flavour: Any, maybe: Any, kind: str, here: Callable[..., Any], servers: list[Any], coordkit_namespace: str
) -> None:
    """A server whose clock jumped, an eviction, DEL by hand."""
    lease = await maybe(here(kind, ttl=4.5).acquire())
    forget(servers, coordkit_namespace)
    after = await maybe(here(rival(kind)).acquire(timeout=0))
    assert all(late < later for late, later in zip(tokens(lease), tokens(after), strict=True))
    assert await maybe(lease.lost.wait(20))
    with pytest.raises(LeaseLost, match="no longer has it"):
        lease.ensure()
    assert await maybe(lease.release()) is False
    assert after.ensure()
    assert await maybe(after.release()) is True


# -- waiters that leave


@pytest.mark.parametrize("kind", ["lock", "read", "write", "permit"])
async def test_whoever_leaves_tells_the_next_when_to_look(
    flavour: Any,
    maybe: Any,
    kind: str,
    here: Callable[..., Any],
    servers: list[Any],
    coordkit_namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five stood ahead, and left; the holder crashed. That costs its ttl: it cost a claim for each of them besides."""
    monkeypatch.setattr(waiting, "CLAIM", 20.0)
    await here("write" if kind == "read" else kind)._contender.grantor.grant("somebody:who:crashed", 4.0)
    began = now()

    async def briefly(number: int) -> None:
        with pytest.raises(coordkit.NotAcquired):
            await maybe(here(rival(kind)).acquire(timeout=max(0.0, began + 2.5 + number / 50 - now())))

    leaving = []
    for number in range(5):
        leaving.append(flavour.spawn(briefly, number))
        await flavour.until(
            lambda number=number: leaving[0].done() or waiters(servers, coordkit_namespace) == number + 1
        )
    lease = await maybe(here(kind).acquire(timeout=60))
    assert now() - began < 18
    for one in leaving:
        await one.result()
    await maybe(lease.release())


# -- servers that pause and restart


@pytest.mark.parametrize("kind", KINDS[1:])  # of a lock: test_lock.py
async def test_a_server_that_hangs_ends_it_at_its_own_deadline(flavour: Any, maybe: Any, kind: str) -> None:
    with ExitStack() as stack:
        own = [stack.enter_context(start_redis()) for _ in range(SERVERS.get(kind, 1))]
        clients = [flavour.redis(server.url, socket_timeout=0.6) for server in own]
        held = made(flavour, clients, kind, "job", 2.5)
        if kind in SERVERS:
            await maybe(held.quorum.initialise())
        lease = await maybe(held.acquire())
        for server in own:
            server.pause()
        assert await maybe(lease.lost.wait(20))
        with pytest.raises(LeaseLost, match="before a renewal was answered"):
            lease.ensure()
        for server in own:
            server.resume()
        after = await sooner_or_later(flavour, made(flavour, clients, rival(kind), "job", 20))
        assert tokens(after) > tokens(lease)
        await maybe(after.release())


@pytest.mark.parametrize(
    ("kind", "appendonly"),
    [*((kind, "always") for kind in KINDS[1:]), ("reentrant", "no"), ("several", "no")],
)
async def test_a_restart_with_and_without_memory(flavour: Any, maybe: Any, kind: str, appendonly: Any) -> None:
    """What test_lock.py, test_kinds.py and test_quorum.py have not: among them a set that forgot as a whole."""
    with ExitStack() as stack:
        own = [stack.enter_context(start_redis(appendonly=appendonly)) for _ in range(SERVERS.get(kind, 1))]
        clients = [flavour.redis(server.url) for server in own]
        held = made(flavour, clients, kind, "job", 30)
        other = made(flavour, clients, rival(kind), "job", 30)
        if kind in SERVERS:
            await maybe(held.quorum.initialise())
        lease = await maybe(held.acquire())
        for server in own:
            server.restart()
        if appendonly == "always":
            assert await maybe(other.try_acquire()) is None
            await maybe(lease.renew())
            assert await maybe(lease.release()) is True
        else:
            with pytest.raises(LeaseLost, match="no longer has it"):
                await maybe(lease.renew())
        after = await maybe(other.acquire(timeout=20))
        assert all(late < later for late, later in zip(tokens(lease), tokens(after), strict=True))
        await maybe(after.release())


# -- a replica that is behind is promoted


@on_one_server
async def test_a_replica_that_missed_the_last_grant_is_promoted(
    flavour: Any, maybe: Any, kind: str, coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """Two believe to hold it: the later one has the higher token, and the earlier one is told when it renews."""
    replicas, old = coordkit_redis_replicated, coordkit_redis_replicated.primary
    client = flavour.redis(old.url)
    held = made(flavour, [client], kind, coordkit_namespace, 30)
    first = await maybe(held.acquire())
    await maybe(first.release())
    replicas.wait_in_sync()
    replica = replicas.replicas[0]
    coordkit_faults.pause(replica)
    tell(old, "CLIENT", "KILL", "TYPE", "replica")
    lease = await maybe(held.acquire())
    coordkit_faults.kill(old)
    coordkit_faults.resume(replica)
    replicas.promote(replica)

    assert kept([replica], [coordkit_namespace]) == []  # else this test shows nothing
    after = await maybe(
        made(flavour, [flavour.redis(replicas.primary.url)], rival(kind), coordkit_namespace, 30).acquire()
    )
    for late, missed, later in zip(tokens(first), tokens(lease), tokens(after), strict=True):
        assert late < missed < later
    await maybe(after.release())


async def test_who_joins_readers_that_had_left_is_refused_by_a_fence(
    flavour: Any, maybe: Any, coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """The replica remembers a phase that was over: its token is given out again, below that of a writer after it.

    That is all that is promised of what is shared: the fence tells, and the next phase has a higher token.
    """
    replicas, old, replica = coordkit_redis_replicated, coordkit_redis_replicated.primary, None
    both = flavour.ReadWriteLock(flavour.redis(old.url), coordkit_namespace, ttl=30)
    resource = flavour.Fence(flavour.redis(coordkit_redis_replicated.replicas[1].url), coordkit_namespace)
    reader = await maybe(both.read.acquire())
    replicas.wait_in_sync()
    replica = replicas.replicas[0]
    coordkit_faults.pause(replica)
    tell(old, "CLIENT", "KILL", "TYPE", "replica")
    assert await maybe(reader.release()) is True
    writer = await maybe(both.write.acquire())
    coordkit_faults.kill(old)
    coordkit_faults.resume(replica)
    replicas.promote(replica)

    after = flavour.ReadWriteLock(flavour.redis(replicas.primary.url), coordkit_namespace, ttl=30)
    joined = await maybe(after.read.acquire(timeout=0))
    assert joined.token == reader.token < writer.token
    resource = flavour.Fence(flavour.redis(replicas.primary.url), coordkit_namespace)
    await maybe(resource.claim(token=writer.token))
    with pytest.raises(coordkit.StaleToken):
        await maybe(resource.claim(token=joined.token))
    await maybe(joined.release())
    forget([replica], coordkit_namespace)  # the ttl of the one that had left
    async with flavour.within(after.read) as later:
        assert later.token > writer.token
        await maybe(resource.claim(token=later.token))


# -- dead and stopped holders

PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import redis, coordkit
from held import made

kind, name = sys.argv[2:4]
lease = made(coordkit, [redis.Redis.from_url(url) for url in sys.argv[4:]], kind, name, 1.0).acquire()
print(int(getattr(lease, "token", 0) or 0), flush=True)
sys.stdin.readline()
try:
    lease.ensure()
    print("held", flush=True)
except coordkit.LeaseLost:
    print("lost", flush=True)
"""


@contextlib.contextmanager
def elsewhere(kind: str, name: str, servers: list[Any]) -> Iterator[Any]:
    """Have another process hold something for a second at a time."""
    words = [sys.executable, "-c", PROCESS, str(Path(__file__).parents[1]), kind, name, *(each.url for each in servers)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["several", "quorum"])  # of the others: test_lock.py, test_kinds.py
async def test_a_holder_that_is_killed_costs_a_ttl_and_one_that_is_stopped_is_told(
    flavour: Any, maybe: Any, kind: str, here: Callable[..., Any], servers: list[Any], coordkit_namespace: str
) -> None:
    other = here(rival(kind))
    with elsewhere(kind, coordkit_namespace, servers) as process:
        with contextlib.suppress(CoordError):
            assert await maybe(other.try_acquire()) is None
        process.kill()
        first = await sooner_or_later(flavour, other)
        assert await maybe(first.release()) is True
    with elsewhere(kind, coordkit_namespace, servers) as process:
        process.send_signal(signal.SIGSTOP)
        second = await sooner_or_later(flavour, other)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("\n", timeout=30)
        assert said == "lost\n"
        assert second.ensure()
        assert tokens(second) > tokens(first)
        assert await maybe(second.release()) is True
