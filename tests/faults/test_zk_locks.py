"""Locks on ZooKeeper in bad weather: lost requests and answers, partitions, holders and servers that stop or die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.handlers.threading import KazooTimeoutError as KazooTimeout
from zk_lines import names, raze, watched

import coordkit.aio.zk
import coordkit.zk
from coordkit.core.session import GRACE
from coordkit.errors import AcquireTimeout, CoordError, LeaseLost, NotAcquired, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/invoices"


class Kind:
    """One kind of lock, with room for one holder."""

    def __init__(self, flavour: Any, name: str) -> None:
        self.name = name
        self._zk = flavour.zk

    def make(self, zk: Any, path: str) -> Any:
        if self.name == "lock":
            return self._zk.Lock(zk, path)
        if self.name == "semaphore":
            return self._zk.Semaphore(zk, path, permits=1)
        return self._zk.ReadWriteLock(zk, path).write

    @property
    def line(self) -> str:
        return {"lock": "lock", "semaphore": "semaphore", "writer": "rw"}[self.name]

    @property
    def held(self) -> str:
        return "slots" if self.name == "semaphore" else self.line

    def left(self, zk: Any, path: str) -> list[str]:
        """Return every znode of those who hold or wait."""
        return [name for parent in {self.line, self.held} for name in names(zk, f"{path}/{parent}")]


@pytest.fixture(params=["lock", "writer", "semaphore"])
def kind(request: pytest.FixtureRequest, flavour: Any) -> Kind:
    return Kind(flavour, request.param)


TWO_KINDS = pytest.mark.parametrize("kind", ["lock", "semaphore"], indirect=True)  # a writer waits as a lock does


def partition(proxy: FaultProxy) -> None:
    """Let nothing through, and say nothing: what a cut cable does."""
    proxy.drop_requests = proxy.drop_replies = True


def heal(proxy: FaultProxy) -> None:
    proxy.drop_requests = proxy.drop_replies = False


async def _once(flavour: Any, lock: Any, timeout: float | None = 30) -> int:
    async with flavour.within(lock.hold(timeout)) as lease:
        lease.ensure()
        return int(lease.token)


CHECK, DELETE, MULTI = 13, 2, 14  # types of requests


# -- lost messages


@pytest.mark.parametrize("lose", ["drop_request_matching", "drop_reply_matching"])
async def test_a_lost_entry_costs_neither_the_lock_nor_an_orphan(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str, lose: str
) -> None:
    """kazoo's raw create leaves an orphan, and with a retry a second znode (K11, K12)."""
    direct, zk = zk_client(), zk_client(timeout=10.0, hosts=proxy.address)
    lock = kind.make(zk, path)
    async with flavour.within(lock):
        pass
    getattr(proxy, lose)(f"{path}/{kind.line}/".encode())
    async with flavour.within(lock.hold(timeout=20)) as lease:
        assert sum(proxy.hits.values()) == 1
        assert len(kind.left(direct, path)) == 1
        assert lease.ensure()
    assert kind.left(direct, path) == []


@pytest.mark.parametrize("lose", ["drop_request_matching", "drop_reply_matching"])
async def test_a_lost_proof_costs_nothing(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str, lose: str
) -> None:
    """What takes over is asked again, and carried out once or to the same end."""
    direct, zk = zk_client(), zk_client(timeout=10.0, hosts=proxy.address)
    first = await flavour.maybe(kind.make(direct, path).acquire())
    running = flavour.spawn(_once, flavour, kind.make(zk, path))
    await flavour.until(lambda: len(watched(zk)) == 2)
    multi = struct.pack(">i", MULTI) + b"\x00\x00\x00"  # the type, and the first step's, which is less than 256
    reply = struct.pack(">i?i", DELETE if kind.name == "semaphore" else CHECK, False, 0)
    getattr(proxy, lose)(multi if lose == "drop_request_matching" else reply)
    await flavour.maybe(first.release())
    assert await running.result(40) > first.token
    assert sum(proxy.hits.values()) == 1
    await flavour.until(lambda: kind.left(direct, path) == [])


@pytest.mark.parametrize("lose", ["drop_request_matching", "drop_reply_matching"])
async def test_a_release_that_is_lost_is_made_good(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str, lose: str
) -> None:
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    lock = kind.make(zk, path)
    lease = await flavour.maybe(lock.acquire())
    session = zk.client_id
    if lose == "drop_request_matching":
        proxy.drop_request_matching(f"{path}/{kind.held}/".encode())
    else:
        proxy.drop_replies = True
    with contextlib.suppress(StoreUnavailable):  # it took longer than the grace: said, and made good in the background
        assert await flavour.maybe(lease.release()) is True
    proxy.drop_replies = False
    assert sum(proxy.hits.values()) >= 1
    await flavour.until(lambda: kind.left(direct, path) == [])
    await flavour.until(lambda: zk.connected, 20)
    assert zk.client_id == session, "it went with its session, which proves nothing"


async def test_a_lost_cleanup_leaves_no_orphan(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """In kazoo the innocent loser then heads the line until its session dies (K13, kazoo#732)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    lock = kind.make(zk, path)
    first = await flavour.maybe(kind.make(direct, path).acquire())
    session = zk.client_id
    node = f"{path}/{kind.line}/"
    head = struct.pack(">ii", DELETE, len(node) + _name(kind)) + node.encode()
    proxy.drop_request_matching(head, times=2)
    try:
        if kind.name == "semaphore":  # who asks once for a permit is refused before it is in line to take one
            with pytest.raises(AcquireTimeout):
                await flavour.maybe(lock.acquire(timeout=0.2))
        else:
            assert await flavour.maybe(lock.try_acquire()) is None
    except StoreUnavailable:
        pass
    await flavour.until(lambda: proxy.hits["drop_request_matching"] == 2, 30)
    await flavour.until(lambda: len(kind.left(direct, path)) == 1, 30)
    await flavour.until(lambda: zk.connected, 20)
    assert zk.client_id == session, "it went with its session, which proves nothing"
    await flavour.maybe(first.release())
    assert await _once(flavour, kind.make(direct, path), 10) > first.token


def _name(kind: Kind) -> int:
    """Return the length of an entry's name."""
    return {"lock": 32 + 11, "writer": 32 + 2 + 11, "semaphore": 32 + 2 + 11}[kind.name]


# -- partitions


@TWO_KINDS
async def test_a_holder_that_is_cut_off_knows_before_another_holds(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """kazoo's holder runs on beside the next for as long as the partition lasts (K1)."""
    cut, direct, told = zk_client(timeout=2.0, hosts=proxy.address), zk_client(), []

    async def succeed() -> tuple[float, int]:
        async with flavour.within(kind.make(direct, path)) as lease:
            return time.monotonic(), int(lease.token)

    with pytest.raises(LeaseLost) as lost:
        async with flavour.within(kind.make(cut, path)) as lease:
            running = flavour.spawn(succeed)
            await flavour.until(lambda: len(kind.left(direct, path)) == 2)
            partition(proxy)
            try:
                if flavour.is_async:
                    await flavour.sleep(30)
                lease.lost.wait(30)
            finally:
                told.append(time.monotonic())
    held, token = await running.result()

    assert told[0] < held
    assert token > lease.token == lost.value.token
    heal(proxy)
    await flavour.until(lambda: cut.connected, 20)
    await flavour.until(lambda: kind.left(direct, path) == [])


@TWO_KINDS
async def test_timeouts_are_kept_in_a_partition(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """kazoo's ``acquire(timeout=1)`` returned after 3.5 s, or not at all (K8)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    async with flavour.within(kind.make(direct, path)):
        lock = kind.make(zk, path)

        async def wait() -> float:
            with pytest.raises((AcquireTimeout, StoreUnavailable)):
                await flavour.maybe(lock.acquire(timeout=1))
            return time.monotonic()

        running = flavour.spawn(wait)
        await flavour.until(lambda: len(kind.left(direct, path)) == 2)
        began = time.monotonic()
        partition(proxy)
        assert await running.result() - began < 1 + scaled(3 * GRACE)
        for ask in (lock.try_acquire, lambda: lock.acquire(timeout=0.3)):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable) as unavailable:
                await flavour.maybe(ask())
            assert time.monotonic() - began < 0.3 + scaled(2 * GRACE)
            assert unavailable.value.__cause__ is not None
        heal(proxy)
        await flavour.until(lambda: zk.connected, 20)
        await flavour.until(lambda: len(kind.left(direct, path)) == 1)


@TWO_KINDS
async def test_giving_back_ends_in_time_in_a_partition(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """kazoo's ``__exit__`` blocks until the network is back (K7)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(kind.make(zk, path)):
            partition(proxy)
            began = time.monotonic()
    assert time.monotonic() - began < scaled(5 * GRACE)
    assert len(kind.left(direct, path)) == 1
    session = zk._session_id
    heal(proxy)
    await flavour.until(lambda: kind.left(direct, path) == [], 30)
    await flavour.until(lambda: zk.connected, 20)
    assert zk.client_id[0] == session


@TWO_KINDS
async def test_a_connection_lost_in_line_costs_nothing(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    async with flavour.within(kind.make(direct, path)):
        running = flavour.spawn(_once, flavour, kind.make(zk, path))
        await flavour.until(lambda: len(kind.left(direct, path)) == 2)
        before = sorted(kind.left(direct, path))
        for _ in range(3):
            proxy.reset_all()
            await flavour.until(lambda: not zk.connected)
            await flavour.until(lambda: zk.connected)
        assert sorted(kind.left(direct, path)) == before
    assert await running.result()


async def test_a_blip_ends_a_lease_and_the_lock_is_good_again(
    flavour: Any, kind: Kind, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """Whoever was cut off for a moment cannot know for how long."""
    zk = zk_client(timeout=20.0, hosts=proxy.address)
    lock = kind.make(zk, path)
    with pytest.raises(LeaseLost):
        async with flavour.within(lock.hold()) as lease:
            proxy.reset_all()
            await flavour.maybe(lease.lost.wait(10))
            lease.ensure()
    await flavour.until(lambda: zk.connected)
    assert await _once(flavour, lock, 20) > lease.token


def test_cancelling_is_immediate_in_a_partition(zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """kazoo's ``cancel`` is heard when the network is back (K6)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)

    async def main() -> None:
        async with coordkit.aio.zk.Lock(direct, path):
            waiting = asyncio.create_task(coordkit.aio.zk.Lock(zk, path).acquire())
            await _count(2, direct, path)
            partition(proxy)
            began = time.monotonic()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert time.monotonic() - began < scaled(2 * GRACE)
            heal(proxy)
            await _count(1, direct, path)

    asyncio.run(asyncio.wait_for(main(), scaled(40)))


async def _count(wanted: int, client: Any, path: str) -> None:
    while len(names(client, f"{path}/lock")) != wanted:  # noqa: ASYNC110  a server's state is polled, there is no event
        await asyncio.sleep(0.005)


# -- processes and servers that stop or die


_HOLDS = """
import sys, time
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.handlers.threading import KazooTimeoutError as KazooTimeout
from coordkit.zk import Lock
from coordkit.errors import LeaseLost
zk = KazooClient(sys.argv[1], timeout=1.0)
zk.start(20)
try:
    with Lock(zk, sys.argv[2]) as lease:
        print(int(lease.token), flush=True)
        while True:
            time.sleep(0.01)
            lease.ensure()
except LeaseLost as lost:
    print("lost", lost.token, flush=True)
zk.stop()
zk.close()
"""


@pytest.fixture
def process(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> Iterator[Any]:
    """A process that holds the lock, and says by which token."""
    command = [sys.executable, "-c", _HOLDS, coordkit_zk_server.hosts, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as holding:
        yield holding
        holding.kill()


async def test_a_killed_holder_is_replaced(flavour: Any, process: Any, zk_client: Any, path: str) -> None:
    token = int(process.stdout.readline())
    lock = flavour.zk.Lock(zk_client(), path)
    assert (await flavour.maybe(lock.holder())).pid == process.pid
    process.kill()
    assert await _once(flavour, lock) > token


async def test_a_stopped_holder_learns_of_its_loss_when_it_wakes(
    flavour: Any, process: Any, zk_client: Any, path: str
) -> None:
    token = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGSTOP)
    async with flavour.within(flavour.zk.Lock(zk_client(), path).hold(timeout=30)) as lease:
        assert lease.token > token
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == f"lost {token}\n"
        assert lease.ensure()


@TWO_KINDS
async def test_a_server_that_stops_answering_ends_the_lease(
    flavour: Any, kind: Kind, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """Nothing is heard: the end of what the last answered write proves is the end, at the latest."""
    zk = zk_client(timeout=1.0)
    with pytest.raises(LeaseLost):
        async with flavour.within(kind.make(zk, path)) as lease:
            coordkit_faults.pause(coordkit_zk_server)
            try:
                assert await flavour.maybe(lease.lost.wait(scaled(lease.ttl + 2)))
                assert lease.remaining() == 0
                lease.ensure()
            finally:
                coordkit_faults.resume(coordkit_zk_server)


async def test_a_lease_at_an_isolated_follower_ends_before_another_holds(
    flavour: Any, coordkit_zk_ensemble: ZooKeeperEnsemble, coordkit_faults: Faults, path: str
) -> None:
    """Both others stopped: no quorum, and our server pings on. A waiter that is told nothing must not believe."""
    retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
    zk = KazooClient(coordkit_zk_ensemble.hosts, timeout=4.0, connection_retry=retry)
    zk.start(scaled(20))
    try:
        lock = flavour.zk.Lock(zk, path)
        with pytest.raises(LeaseLost):
            async with flavour.within(lock.hold()) as lease:
                host, port = zk._connection._socket.getpeername()[:2]
                others = [node for node in coordkit_zk_ensemble.nodes if (node.host, node.port) != (host, port)]
                assert len(others) == 2
                for node in others:
                    coordkit_faults.pause(node)
                try:
                    assert await flavour.maybe(lease.lost.wait(scaled(lease.ttl + 2)))
                    assert await flavour.maybe(lease.release()) is False
                    with pytest.raises(StoreUnavailable):
                        await flavour.maybe(flavour.zk.Lock(zk, f"{path}/another").acquire(timeout=0))
                    lease.ensure()
                finally:
                    for node in others:
                        coordkit_faults.resume(node)
        assert await _once(flavour, lock, 30) > lease.token
    finally:
        close_kazoo(zk)


# -- tokens


def _ended(zk: Any) -> bool:
    """End a session; return False if that did not work: two clients fight for it, and may both be too slow."""
    try:
        kill_session(zk)
    except KazooTimeout:
        return False
    return True


STEPS = {7: "killed", 14: "deleted", 21: "dropped", 28: "razed"}
"""What happens at which of thirty grants, besides what is deleted at any moment."""


async def test_tokens_never_go_back_whatever_happens(flavour: Any, kind: Kind, zk_client: Any, path: str) -> None:
    """Hundreds of grants, with sessions that end, parents that are deleted, and holders that never give back.

    What is proven after others were granted must have a greater token than they. The numbers in the znodes' names,
    which are no tokens, go back meanwhile (fact 3 of the notes): so the disturbances are what they should be.
    """
    direct = zk_client()
    grants: list[int] = []
    numbers: list[int] = []
    inversions: list[tuple[int, int]] = []
    faults = dict.fromkeys(STEPS.values(), 0)
    wanted, end = 300 if kind.name == "lock" else 120, time.monotonic() + scaled(40)

    async def work() -> None:
        zk = zk_client(timeout=1.0)
        lock = kind.make(zk, path)
        while len(grants) < wanted and time.monotonic() < end:
            try:
                lease = await flavour.maybe(lock.acquire(timeout=10))
            except (StoreUnavailable, NotAcquired):
                continue
            try:
                if await turn(zk, lease):
                    await flavour.maybe(lease.release())
            except CoordError:
                await flavour.maybe(lease.release())
                await flavour.until(lambda: zk.connected, 20)

    async def turn(zk: Any, lease: Any) -> bool:
        before = max(grants, default=0)
        await flavour.maybe(lease.renew())  # it was ours after all of those before
        if lease.token <= before:
            inversions.append((before, int(lease.token)))
        grants.append(int(lease.token))
        node = lease._core.place.node
        numbers.append(0 if kind.name == "semaphore" else int(node.rpartition("-")[2]))
        what = STEPS.get(len(grants) % 30)
        if what == "killed" and not _ended(zk):
            return True
        if what is not None:
            faults[what] += 1
        if what == "razed":
            raze(direct, path)
        elif what == "deleted":
            with contextlib.suppress(NoNodeError):
                direct.delete(node)
        elif what == "dropped":
            lease._core.lose("for the test")  # and never given back: it is in the way until its time is up
            return False
        return True

    async def disturb() -> None:
        while len(grants) < wanted and time.monotonic() < end:
            await flavour.sleep(0.3)
            raze(direct, path)

    running = [flavour.spawn(disturb), *(flavour.spawn(work) for _ in range(4))]
    for each in running:
        await each.result(45)
    assert len(grants) >= wanted, f"only {len(grants)} grants, {faults}"
    assert min(faults.values()) > 0, faults
    assert any(later <= earlier for earlier, later in pairwise(numbers)), faults
    assert inversions == [], faults
