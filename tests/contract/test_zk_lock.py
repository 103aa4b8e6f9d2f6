"""What a lock on ZooKeeper promises, in both flavours, on one real server and on three."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from kazoo.protocol.connection import _SESSION_EXPIRED
from zk_lines import in_order, meddle, raze, watched

import coordkit.aio.zk
import coordkit.zk
from coordkit._ports_zookeeper import Create, GetChildren, Link, Multi
from coordkit._threads.zookeeper import session_of
from coordkit.core import znodes
from coordkit.core.session import GRACE, PROVEN, Session
from coordkit.errors import AcquireTimeout, CoordError, LeaseLost, NotAcquired, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/invoices"


@pytest.fixture(params=[1, 3])
def client(request: pytest.FixtureRequest) -> Any:
    """Give a way to make clients, of one server and of three."""
    ensemble = request.getfixturevalue("coordkit_zk_server" if request.param == 1 else "coordkit_zk_ensemble")
    made: list[Any] = []

    def make(timeout: float = 10.0) -> Any:
        made.append(start_kazoo(ensemble.hosts, timeout))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


def line(zk: Any, path: str) -> list[str]:
    return in_order(zk, f"{path}/lock")


async def test_one_holds_and_the_other_does_not(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    lock, other = flavour.zk.Lock(zk, path), flavour.zk.Lock(client(), path)
    async with flavour.within(lock) as lease:
        assert lease.ensure() is True
        assert lease.name == path
        assert 0 < lease.remaining() <= lease.ttl == zk._coordkit_wire.session_timeout() * PROVEN
        assert not lease.lost
        assert lease.slot is None
        assert lease.token == zk.get(line(zk, path)[0])[1].czxid
        assert lease.token.holder == lease.holder
        assert await flavour.maybe(other.try_acquire()) is None
        with pytest.raises(NotAcquired) as refused:
            await flavour.maybe(other.acquire(timeout=0))
        assert not isinstance(refused.value, AcquireTimeout)
        await flavour.until(lambda: len(line(zk, path)) == 1)
    await flavour.until(lambda: line(zk, path) == [])
    with pytest.raises(LeaseLost, match="given back"):
        lease.ensure()
    later = await flavour.maybe(other.acquire(timeout=20))
    assert later.token > lease.token
    assert await flavour.maybe(later.release()) is True
    assert await flavour.maybe(later.release()) is False


async def test_waiters_are_served_in_their_order(flavour: Any, client: Any, path: str) -> None:
    zk, order = client(), []

    async def wait(name: str) -> None:
        async with flavour.within(flavour.zk.Lock(client(), path, label=name)) as lease:
            order.append((name, lease.token))

    lock = flavour.zk.Lock(zk, path, label="first of all")
    async with flavour.within(lock) as first:
        running = []
        for count, name in enumerate("abc", 2):
            running.append(flavour.spawn(wait, name))
            await flavour.until(lambda count=count: len(line(zk, path)) == count)
        holder = await flavour.maybe(lock.holder())
        assert (holder.id, holder.pid, holder.label) == (first.holder, os.getpid(), "first of all")
        assert holder.token == first.token
        assert abs(holder.since - time.time()) < 60
        assert [each.label for each in await flavour.maybe(lock.waiters())] == ["a", "b", "c"]
        assert order == []
    for each in running:
        await each.result()

    assert [name for name, _ in order] == ["a", "b", "c"]
    tokens = [first.token, *(token for _, token in order)]
    assert tokens == sorted(set(tokens))
    assert await flavour.maybe(lock.holder()) is None
    assert await flavour.maybe(lock.waiters()) == []


async def test_one_lock_is_shared_by_many(flavour: Any, client: Any, path: str) -> None:
    lock, inside, tokens = flavour.zk.Lock(client(), path), [], []

    async def work() -> None:
        for _ in range(3):
            async with flavour.within(lock) as lease:
                inside.append(lease)
                assert len(inside) == 1
                tokens.append(lease.token)
                await flavour.sleep(0.001)
                inside.remove(lease)

    await flavour.gather(*(work() for _ in range(8)))

    assert len(tokens) == 24
    assert tokens == sorted(set(tokens))


async def test_a_timeout_ends_the_wait_and_leaves_nothing(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    async with flavour.within(flavour.zk.Lock(zk, path)):
        with pytest.raises(AcquireTimeout) as late:
            async with flavour.within(flavour.zk.Lock(zk_client(), path).hold(timeout=0.1)):
                pytest.fail("two holders")
        assert late.value.timeout == 0.1
        assert late.value.name == path
        assert isinstance(late.value, TimeoutError)
        assert len(line(zk, path)) == 1


async def test_hold_decorates(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()

    async def awaited() -> int:
        return len(line(zk, path))

    def blocking() -> int:
        return len(line(zk, path))

    work = flavour.zk.Lock(zk, path).hold(timeout=5)(awaited if flavour.is_async else blocking)
    assert [await flavour.maybe(work()) for _ in range(2)] == [1, 1]
    assert line(zk, path) == []


async def test_entering_is_one_round_trip_and_so_is_leaving(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """kazoo's Lock takes three to five (fact 10 of the notes); a hand-over takes a push and one round trip."""
    far = zk_client(timeout=20.0, hosts=coordkit_faults.proxy(coordkit_zk_server).address)
    lock, sent = flavour.zk.Lock(far, path), []
    submit = far._coordkit_wire.submit
    async with flavour.within(lock):
        pass  # makes the path

    def counted(request: Any, deliver: Any) -> Any:
        sent.append(time.monotonic())
        return submit(request, deliver)

    def round_trips() -> int:
        """What is sent less than one of them after another was not sent because of its answer."""
        return sum(now - before > 0.1 for before, now in zip([0.0, *sent], sent, strict=False))

    far._coordkit_wire.submit = counted
    coordkit_faults._proxies[-1].latency = 0.1
    async with flavour.within(lock):
        assert round_trips() == 1
    assert round_trips() == 2
    near = flavour.zk.Lock(zk_client(), path)
    async with flavour.within(near):
        running = flavour.spawn(_once, flavour, lock)
        await flavour.until(lambda: len(watched(far)) == 2)
        await flavour.sleep(0.5)
        before = round_trips()
        meddle(far, GetChildren, lambda *_: pytest.fail("it listed the line, though the one before it was the head"))
    await running.result()
    assert round_trips() == before + 2  # the proof, and leaving


async def _once(flavour: Any, lock: Any, timeout: float | None = 20) -> int:
    async with flavour.within(lock.hold(timeout)) as lease:
        lease.ensure()
        return int(lease.token)


async def test_two_hundred_polls_leave_no_watches(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Lock leaves 200 watchers on the holder's znode (K9)."""
    zk = zk_client()
    async with flavour.within(flavour.zk.Lock(zk_client(), path)):
        for timeout in (0, 0.0005):
            for _ in range(100):
                with pytest.raises(NotAcquired):
                    await flavour.maybe(flavour.zk.Lock(zk, path).acquire(timeout))
        assert len(line(zk, path)) == 1
        assert zk._coordkit_wire.bells._waiting == {}
        assert sum(len(each) for each in list(zk._data_watchers.values())) <= 2
        assert len(zk.state_listeners) <= 1


async def test_who_asks_again_and_again_looks_first(flavour: Any, zk_client: Any, path: str) -> None:
    """The numbers of a line are finite, and kazoo uses one for each refused attempt (kazoo#730)."""
    zk, created = zk_client(), []
    lock = flavour.zk.Lock(zk, path)
    async with flavour.within(flavour.zk.Lock(zk_client(), path)):
        assert await flavour.maybe(lock.try_acquire()) is None
        meddle(zk, Create, lambda _, send: created.append(1) or send(), times=100)
        for _ in range(20):
            assert await flavour.maybe(lock.try_acquire()) is None
        assert created == []
    assert await flavour.maybe((await flavour.maybe(lock.try_acquire())).release())


async def test_a_waiter_watches_only_the_one_before_it(flavour: Any, zk_client: Any, path: str) -> None:
    """No herd: of the others' znodes, the third watches the second's only, and is not woken by the first's end."""
    second, third, looks = zk_client(), zk_client(), []
    first = await flavour.maybe(flavour.zk.Lock(zk_client(), path).acquire())
    held = flavour.spawn(_until_told, flavour, flavour.zk.Lock(second, path), looks)
    await flavour.until(lambda: len(line(third, path)) == 2)
    waits = flavour.spawn(_once, flavour, flavour.zk.Lock(third, path))
    await flavour.until(lambda: len(line(third, path)) == 3)
    await flavour.until(lambda: watched(third) == set(line(third, path)[1:]))
    meddle(third, GetChildren, lambda _, send: looks.append("list") or send(), times=100)
    meddle(third, Multi, lambda _, send: looks.append("proof") or send(), times=100)
    await flavour.maybe(first.release())
    await flavour.until(lambda: "held" in looks)
    assert watched(third) == set(line(third, path))
    looks.append("go on")
    await held.result()
    await waits.result()
    assert looks[:4] == ["held", "go on", "proof", "list"], "it was woken by another, or holds without a proof"


async def _until_told(flavour: Any, lock: Any, said: list[str]) -> None:
    async with flavour.within(lock):
        said.append("held")
        await flavour.until(lambda: "go on" in said)


async def test_the_bodys_own_error_wins_and_it_is_given_back(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(flavour.zk.Lock(zk, path)):
            raise ZeroDivisionError
    assert line(zk, path) == []


async def test_it_is_proven_as_long_as_it_is_held(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client(timeout=1.5)
    async with flavour.within(flavour.zk.Lock(zk, path)) as lease:
        lowest = lease.ttl
        for _ in range(30):
            await flavour.sleep(lease.ttl / 10)
            lease.ensure()
            lowest = min(lowest, lease.remaining())
        assert lowest > 0
        await flavour.maybe(lease.renew())


@pytest.mark.parametrize("bound", [0.3, 1.5])
async def test_max_hold_bounds_a_body_that_hangs(flavour: Any, zk_client: Any, path: str, bound: float) -> None:
    """Though it does not end, another has it."""
    zk = zk_client(timeout=1.0)
    other = flavour.zk.Lock(zk_client(), path)
    with pytest.raises(LeaseLost):
        async with flavour.within(flavour.zk.Lock(zk, path, max_hold=bound)) as lease:
            began = time.monotonic()
            while not lease.lost:
                assert lease.remaining() <= max(0.0, bound - (time.monotonic() - began)) + 1e-6
                await flavour.sleep(0.01)  # cancelled by the loss
            later = await flavour.maybe(other.acquire(timeout=20))
            assert later.token > lease.token
            later.release()
            lease.ensure()


@pytest.mark.parametrize("ahead", [0, 1, 2])
async def test_deleting_the_znode_ends_the_lease(flavour: Any, zk_client: Any, path: str, ahead: int) -> None:
    """An operator's way to take it away. The watch tells it, long before the next proof is due."""
    zk = zk_client()
    before = [flavour.spawn(_while_waited_for, flavour, zk, path, ahead + 1) for _ in range(ahead)]
    await flavour.until(lambda: len(line(zk, path)) == ahead)
    with pytest.raises(LeaseLost, match=r"deleted|gone") as lost:
        async with flavour.within(flavour.zk.Lock(zk_client(timeout=60.0), path)) as lease:
            for each in before:
                await each.result()
            zk.delete(line(zk, path)[0])
            assert await flavour.maybe(lease.lost.wait(10))
            lease.ensure()
    assert lost.value.token == lease.token


async def _while_waited_for(flavour: Any, zk: Any, path: str, enough: int) -> None:
    """Hold it, if only once so many are in line and watch each other, or some have left."""
    async with flavour.within(flavour.zk.Lock(zk, path)):
        await flavour.until(lambda: len(line(zk, path)) == enough or int(line(zk, path)[0].rpartition("-")[2]) > 0)
        await flavour.sleep(0.1)


async def test_the_end_of_the_session_is_a_loss_and_the_lock_is_good_again(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """kazoo's Lock believes to hold it for ever, and cannot be acquired again (K2)."""
    zk, tokens = zk_client(), []
    lock = flavour.zk.Lock(zk, path)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            async with flavour.within(lock.hold(timeout=20)) as lease:
                tokens.append(lease.token)
                kill_session(zk)
                await flavour.maybe(lease.lost.wait(10))
                lease.ensure()
    async with flavour.within(lock.hold(timeout=20)) as lease:
        assert [lease.token] > tokens[-1:] > tokens[:1]
    assert line(zk, path) == []


async def test_a_session_that_ends_in_line_is_replaced_and_that_is_told(
    flavour: Any, zk_client: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end of the line, with a new GUID; kazoo does it silently (K3)."""
    caplog.set_level(logging.INFO, "coordkit")
    zk, waiting = zk_client(), zk_client()
    async with flavour.within(flavour.zk.Lock(zk, path)) as first:
        running = flavour.spawn(_once, flavour, flavour.zk.Lock(waiting, path))
        await flavour.until(lambda: len(line(zk, path)) == 2)
        behind = flavour.spawn(_once, flavour, flavour.zk.Lock(zk_client(), path))
        await flavour.until(lambda: len(line(zk, path)) == 3)
        before = line(zk, path)
        kill_session(waiting)
        await flavour.until(lambda: len(line(zk, path)) == 3 and line(zk, path) != before)
        assert line(zk, path)[:2] == [before[0], before[2]]
        assert before[1].split("-")[-2] not in line(zk, path)[2]
    assert first.token < await behind.result() < await running.result()
    assert any("is in line again, at its end" in each.message for each in caplog.records)


async def test_tokens_rise_though_the_path_was_deleted(flavour: Any, zk_client: Any, path: str) -> None:
    """The numbers begin anew with a new parent; a token that were one would go back (fact 3 of the notes)."""
    zk, tokens = zk_client(), []
    lock = flavour.zk.Lock(zk, path)
    for _ in range(3):
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)
            assert line(zk, path)[0].endswith("-0000000000")
        zk.delete(path, recursive=True)
    assert tokens == sorted(set(tokens))


async def test_deleting_everything_below_the_path_is_survived(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    with pytest.raises(LeaseLost):
        async with flavour.within(flavour.zk.Lock(zk, path)) as lease:
            running = flavour.spawn(_once, flavour, flavour.zk.Lock(zk_client(), path))
            await flavour.until(lambda: len(line(zk, path)) == 2)
            raze(zk, path)
            await flavour.maybe(lease.lost.wait(10))
            lease.ensure()
    assert await running.result() > lease.token


async def test_a_head_whose_znode_is_gone_does_not_hold(flavour: Any, zk_client: Any, path: str) -> None:
    """It proves itself by a transaction, so it cannot believe: etcd's Campaign does (etcd#19597)."""
    zk, direct = zk_client(), zk_client()
    first = await flavour.maybe(flavour.zk.Lock(direct, path).acquire())
    running = flavour.spawn(_once, flavour, flavour.zk.Lock(zk, path))
    await flavour.until(lambda: len(line(direct, path)) == 2)
    old = line(direct, path)[1]

    def without(_: Any, send: Callable[[], Any]) -> Any:
        direct.delete(old)
        return send()

    await flavour.until(lambda: len(watched(zk)) == 2)
    stat = direct.get(old)[1]
    meddle(zk, Multi, without)
    await flavour.maybe(first.release())
    assert await running.result() > stat.czxid


async def test_a_znode_of_an_earlier_session_is_not_adopted(flavour: Any, zk_client: Any, path: str) -> None:
    """The answer to its creation was lost, and the session with it: it will go, and would take the lock with it."""
    zk, direct = zk_client(timeout=2.0), zk_client()
    lock = flavour.zk.Lock(zk, path)
    async with flavour.within(lock):
        pass

    def lost(_: Any, send: Callable[[], Any]) -> Any:
        assert send().wait(10)
        session = zk.client_id
        zk._call(_SESSION_EXPIRED, None)
        while not zk.connected or zk.client_id in (None, session):
            time.sleep(0.001)
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    meddle(zk, Create, lost)
    async with flavour.within(lock) as lease:
        assert {direct.exists(each).ephemeralOwner for each in line(direct, path)} == {zk.client_id[0]}
        assert direct.get(line(direct, path)[0])[1].czxid == lease.token


async def test_a_lease_ends_in_time_though_the_connection_stands(flavour: Any, zk_client: Any, path: str) -> None:
    """A server that is cut off from the quorum goes on answering pings: the lease ends all the same."""
    zk = zk_client(timeout=2.0)
    session = zk.client_id
    with pytest.raises(LeaseLost, match="ttl ran out"):
        async with flavour.within(flavour.zk.Lock(zk, path)) as lease:
            meddle(zk, Multi, lambda _, __: zk.handler.async_result(), times=100)
            await flavour.until(lambda: lease.remaining() == 0.0)
            assert zk.connected
            assert zk.client_id == session
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            assert lease.lost.wait(10)


async def test_an_answer_that_came_too_late_proves_nothing(flavour: Any, zk_client: Any, path: str) -> None:
    """The entry is a proof of the moment when it was sent: if that is long ago, the session is proven anew."""
    zk, multis = zk_client(timeout=2.0), []
    lock = flavour.zk.Lock(zk, path)
    async with flavour.within(lock):
        pass

    def slow(_: Any, send: Callable[[], Any]) -> Any:
        time.sleep(1.1 * zk._coordkit_wire.session_timeout() * PROVEN)
        return send()

    meddle(zk, GetChildren, slow)
    wire, submit = zk._coordkit_wire, zk._coordkit_wire.submit
    wire.submit = lambda request, deliver: multis.append(isinstance(request, Multi)) or submit(request, deliver)
    async with flavour.within(lock.hold(timeout=20)) as lease:
        assert any(multis)
        assert lease.ensure()


def test_what_is_lost_just_when_it_is_had_is_stood_for_again(
    zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kazoo's thread tells of the connection as soon as it is listened to, while the lease is being made."""
    subscribe, told = Session.subscribe, list[Any]()

    def subscribed(session: Session, listener: Callable[[Link], None]) -> None:
        subscribe(session, listener)
        if listener.__qualname__.startswith("Proven."):
            told.append(listener)
            monkeypatch.undo()
            kazoos = threading.Thread(target=listener, args=(Link.CLOSED,))
            kazoos.start()
            kazoos.join()

    monkeypatch.setattr(Session, "subscribe", subscribed)
    zk = zk_client()
    lease = coordkit.zk.Lock(zk, path).acquire()
    assert told
    assert lease.ensure()
    assert not session_of(zk)._listeners.intersection(told)
    assert lease.release()


async def test_a_lost_lease_is_in_the_way_until_it_is_given_back(flavour: Any, zk_client: Any, path: str) -> None:
    """Its work may go on; but nobody who never gives it back blocks the others for longer than its session could."""
    zk, direct = zk_client(timeout=4.0), zk_client()
    lock = flavour.zk.Lock(zk, path)
    lease = await flavour.maybe(lock.acquire())
    lease._core.lose("for the test")
    assert len(line(direct, path)) == 1
    assert await flavour.maybe(lease.release()) is False
    assert line(direct, path) == []

    lease = await flavour.maybe(lock.acquire())
    lease._core.lose("for the test")
    await flavour.until(lambda: line(direct, path) == [], 20)
    assert zk.connected


async def test_used_up_numbers_are_refused_before_they_repeat(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 2**31 ZooKeeper's counter sticks, and three kazoo locks are held at once (K28)."""
    zk = zk_client()
    lock = flavour.zk.Lock(zk, path)
    async with flavour.within(lock):
        monkeypatch.setattr(znodes, "LAST_SEQUENCE", 1)
        with pytest.raises(StoreRefused, match="used up"):
            await flavour.maybe(lock.acquire(timeout=1))
        assert len(line(zk, path)) == 1


async def test_what_may_not_be_written_is_refused(flavour: Any, zk_client: Any, path: str) -> None:
    from kazoo.security import READ_ACL_UNSAFE

    zk = zk_client()
    zk.ensure_path(path.rpartition("/")[0])
    zk.create(path, acl=READ_ACL_UNSAFE)
    with pytest.raises(StoreRefused, match="NoAuthError") as refused:
        await flavour.maybe(flavour.zk.Lock(zk, path).acquire(timeout=5))
    assert refused.value.__cause__ is not None
    assert refused.value.name == path


async def test_it_works_inside_a_chroot(flavour: Any, coordkit_zk: Any) -> None:
    lock = flavour.zk.Lock(coordkit_zk, "/a")
    async with flavour.within(lock):
        assert await flavour.maybe(lock.try_acquire()) is None
        assert (await flavour.maybe(lock.holder())).pid == os.getpid()
        assert len(line(coordkit_zk, "/a")) == 1


async def test_without_a_client_that_runs_it_is_unavailable(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, path: str
) -> None:
    zk = KazooClient(coordkit_zk_server.hosts, timeout=4.0)
    lock = flavour.zk.Lock(zk, path)
    for ask in (lock.acquire, lock.try_acquire, lock.holder):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"start\(\)"):
            await flavour.maybe(ask())
        assert time.monotonic() - began < scaled(2 * GRACE)
    zk.start(20)
    try:
        async with flavour.within(lock) as lease:
            assert lease.ensure()
    finally:
        close_kazoo(zk)


def test_a_cancelled_waiter_is_gone(zk_client: Any, path: str) -> None:
    """At whatever moment it is cancelled."""
    zk, other = zk_client(), zk_client()

    async def main() -> None:
        async with coordkit.aio.zk.Lock(zk, path):
            for step in range(25):
                waiting = asyncio.create_task(coordkit.aio.zk.Lock(other, path).acquire())
                await asyncio.sleep(step * 0.0004)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert len(line(zk, path)) == 1
        assert other._coordkit_wire.bells._waiting == {}

    asyncio.run(main())


def test_an_interrupted_waiter_is_gone(zk_client: Any, path: str) -> None:
    """Ctrl-C while it waits in line."""
    zk, lock = zk_client(), coordkit.zk.Lock(zk_client(), path)
    with coordkit.zk.Lock(zk, path):
        interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt), lock:
            pytest.fail("two holders")
        interrupt.join()
        assert len(line(zk, path)) == 1


def test_what_is_held_when_its_event_loop_ends_is_given_back(zk_client: Any, path: str) -> None:
    """Else it is held for as long as the client keeps its session, by nobody."""
    zk, direct = zk_client(timeout=30.0), zk_client()

    async def main() -> None:
        await coordkit.aio.zk.Lock(zk, path).acquire()

    asyncio.run(main())
    with coordkit.zk.Lock(direct, path).hold(timeout=10) as lease:
        assert lease.ensure()
    assert zk.connected


_FORKS = """
import os, sys
from kazoo.client import KazooClient
from coordkit.errors import CoordError, LeaseLost
from coordkit.zk import Lock
zk = KazooClient(sys.argv[1], timeout=4.0)
zk.start(20)
lock = Lock(zk, sys.argv[2])
with lock as lease:
    child = os.fork()
    if child == 0:
        said = [str(lease.release())]
        for use in (lock.try_acquire, lease.ensure, lambda: lock.acquire(timeout=1), lock.holder):
            try:
                use()
            except CoordError as error:
                said.append(type(error).__name__ + " fork" * ("fork" in str(error)))
        os.write(1, ",".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert lease.ensure()
zk.stop()
zk.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_use_after_a_fork_is_refused(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    """kazoo hangs there (K26)."""
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, coordkit_zk_server.hosts, path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, env=dict(os.environ))

    assert said.stdout == "False,CoordError fork,LeaseLost fork,CoordError fork,CoordError fork", said.stderr
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("module", [coordkit.zk, coordkit.aio.zk])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("redis",), {}, TypeError, "zk must be a kazoo.client.KazooClient, got 'redis'"),
        ((None, "no/slash"), {}, ValueError, "path must be absolute"),
        ((None, 7), {}, TypeError, "path must be a str, got 7"),
        ((None, "/a"), {"max_hold": 0}, ValueError, "max_hold must be None or more than 0 seconds, got 0"),
        ((None, "/a"), {"max_hold": "1"}, TypeError, "max_hold must be a number of seconds, got '1'"),
        ((None, "/a"), {"label": "x" * 101}, ValueError, "label must be at most 100 bytes"),
    ],
)
def test_mistakes_are_refused_where_they_are_made(
    module: Any, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    zk = KazooClient() if arguments[0] is None else arguments[0]
    rest = arguments[1:] or ("/a",)
    for kind, more in ((module.Lock, {}), (module.ReadWriteLock, {}), (module.Semaphore, {"permits": 2})):
        with pytest.raises(error, match=said):
            kind(zk, *rest, **options, **more)


@pytest.mark.parametrize("module", [coordkit.zk, coordkit.aio.zk])
def test_repr_says_what_it_is(module: Any) -> None:
    zk = KazooClient()
    assert repr(module.Lock(zk, "/a")) == "<Lock /a>"
    assert repr(module.ReadWriteLock(zk, "/a")) == "<ReadWriteLock /a>"
    assert repr(module.ReadWriteLock(zk, "/a").read) == "<ReadWriteLock /a read>"
    assert repr(module.Semaphore(zk, "/a", permits=2)) == "<Semaphore /a permits=2>"
    assert repr(module.Barrier(zk, "/a")) == "<Barrier /a>"
    assert repr(module.DoubleBarrier(zk, "/a", parties=2)) == "<DoubleBarrier /a parties=2>"


async def test_it_is_no_lease_that_can_be_handed_over(flavour: Any, zk_client: Any, path: str) -> None:
    async with flavour.within(flavour.zk.Lock(zk_client(), path)) as lease:
        with pytest.raises(CoordError, match="handed over"):
            await flavour.maybe(lease.handover())
        assert lease.ensure()
