"""What barriers on ZooKeeper promise, in both flavours, on one real server and on three."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from zk_lines import in_order, meddle, names, record, watched

import coordkit.aio.zk
import coordkit.zk
from coordkit._ports_zookeeper import Create, Delete, Multi, SetData
from coordkit.core.session import GRACE
from coordkit.errors import AcquireTimeout, CoordError, NotAcquired, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/all/ready"


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


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


def line(zk: Any, path: str) -> list[str]:
    return in_order(zk, f"{path}/double")


async def _wait(flavour: Any, barrier: Any, timeout: float | None = 30) -> float:
    await flavour.maybe(barrier.wait(timeout))
    return time.monotonic()


# -- the barrier


async def test_whoever_waits_goes_on_when_it_is_removed(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    barrier = flavour.zk.Barrier(zk, path)
    await flavour.maybe(barrier.wait(timeout=0))  # it never was
    await flavour.maybe(barrier.create())
    await flavour.maybe(barrier.create())
    waiters = [client() for _ in range(3)]
    running = [flavour.spawn(_wait, flavour, flavour.zk.Barrier(each, path)) for each in waiters]
    for each in waiters:
        await flavour.until(lambda each=each: watched(each) == {f"{path}/barrier"})
    with pytest.raises(NotAcquired) as up:
        await flavour.maybe(barrier.wait(timeout=0))
    assert not isinstance(up.value, AcquireTimeout)
    with pytest.raises(AcquireTimeout, match="still up") as late:
        await flavour.maybe(barrier.wait(timeout=0.05))
    assert late.value.timeout == 0.05
    assert not any(each.done() for each in running)
    await flavour.maybe(barrier.remove())
    await flavour.maybe(barrier.remove())
    for each in running:
        await each.result()
    for each in waiters:
        assert each._coordkit_wire.bells._waiting == {}


async def test_what_is_carried_out_late_changes_nothing(flavour: Any, client: Any, path: str) -> None:
    """A server that was cut off hands on what its clients gave up long ago: here, whatever was asked, once more."""
    zk, asked = client(), []
    zk.ensure_path(path)  # else the servers might remove it in between
    barrier = flavour.zk.Barrier(zk, path)

    def again() -> None:
        for request in [each for each in asked if isinstance(each, Multi)]:
            transaction = zk.transaction()
            for step in request.steps:
                if isinstance(step, SetData):
                    transaction.set_data(step.path, step.data, step.version)
                elif isinstance(step, Create):
                    transaction.create(step.path)
                else:
                    transaction.delete(step.path)
            assert any(isinstance(each, Exception) for each in transaction.commit())

    await flavour.maybe(barrier.create())
    record(zk, asked)
    zk.set(path, b"somebody's")
    for _ in range(2):
        await flavour.maybe(barrier.remove())
        again()
        await flavour.maybe(barrier.remove())  # it is down already
        again()
        await flavour.maybe(barrier.wait(timeout=0))
        await flavour.maybe(barrier.create())
        again()
        with pytest.raises(NotAcquired, match="up"):
            await flavour.maybe(barrier.wait(timeout=0))
    assert len([each for each in asked if isinstance(each, Multi)]) >= 6
    assert zk.get(path)[0] == b"somebody's"


async def test_a_removal_that_was_given_up_does_not_come_after_it_was_put_up(
    flavour: Any, client: Any, path: str
) -> None:
    zk, late = client(), []
    zk.ensure_path(path)  # else the servers might remove it in between
    barrier = flavour.zk.Barrier(zk, path)
    await flavour.maybe(barrier.create())

    def never_sent(request: Any, _: Any) -> Any:
        late.append(request)
        raise StoreUnavailable(path, "for the test")

    meddle(zk, Multi, never_sent)
    with pytest.raises(StoreUnavailable):
        await flavour.maybe(barrier.remove())
    await flavour.maybe(barrier.create())  # it is up still
    (written, deleted) = late[0].steps
    transaction = zk.transaction()
    transaction.set_data(written.path, written.data, written.version)
    transaction.delete(deleted.path)
    assert any(isinstance(each, Exception) for each in transaction.commit())
    with pytest.raises(NotAcquired, match="up"):
        await flavour.maybe(barrier.wait(timeout=0))


@pytest.mark.parametrize("up", [True, False])
async def test_what_comes_late_in_the_middle_of_another_step_is_seen(
    flavour: Any, client: Any, path: str, up: bool
) -> None:
    """What was found to be there, or not, may change until the znode above is written, which says that it did not."""
    zk, other = client(), client()
    zk.ensure_path(path)
    barrier, others = flavour.zk.Barrier(zk, path), flavour.zk.Barrier(other, path)
    if up:
        await flavour.maybe(others.create())
    alone = []

    def in_between(request: Any, submit: Callable[[], Any]) -> Any:
        if len(request.steps) == 1:
            alone.append(request)
            if len(alone) == 1:
                transaction = other.transaction()
                transaction.set_data(path, b"", request.steps[0].version)
                (transaction.delete if up else transaction.create)(f"{path}/barrier")
                transaction.commit()
        return submit()

    meddle(zk, Multi, in_between, times=9)
    await flavour.maybe(barrier.create() if up else barrier.remove())
    assert alone
    assert bool(other.exists(f"{path}/barrier")) is up


async def test_a_creation_that_was_given_up_does_not_come_after_its_removal(
    flavour: Any, client: Any, path: str
) -> None:
    zk, asked, late = client(), [], []
    zk.ensure_path(path)  # else the servers might remove it in between
    barrier = flavour.zk.Barrier(zk, path)
    await flavour.maybe(barrier.create())
    await flavour.maybe(barrier.remove())

    def never_sent(request: Any, _: Any) -> Any:
        late.append(request)
        raise StoreUnavailable(path, "for the test")

    meddle(zk, Multi, never_sent)
    with pytest.raises(StoreUnavailable):
        await flavour.maybe(barrier.create())
    record(zk, asked)
    await flavour.maybe(barrier.remove())
    assert asked, "though it is down"
    (written, created) = late[0].steps
    transaction = zk.transaction()
    transaction.set_data(written.path, written.data, written.version)
    transaction.create(created.path)
    assert any(isinstance(each, Exception) for each in transaction.commit())
    await flavour.maybe(barrier.wait(timeout=0))


async def test_a_waiter_survives_a_reconnect_and_a_new_session(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """kazoo's sleeps for ever then (K10): its watch is gone, and the event that says so is ignored."""
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    barrier = flavour.zk.Barrier(direct, path)
    await flavour.maybe(barrier.create())
    running = flavour.spawn(_wait, flavour, flavour.zk.Barrier(zk, path))
    await flavour.until(lambda: watched(zk))
    for _ in range(2):
        proxy.reset_all()
        await flavour.until(lambda: not zk.connected)
        await flavour.until(lambda: zk.connected and watched(zk))
    session = zk.client_id
    kill_session(zk)
    await flavour.until(lambda: zk.connected and zk.client_id != session and watched(zk))
    assert not running.done()
    await flavour.maybe(barrier.remove())
    await running.result()


async def test_one_that_went_while_there_was_no_connection(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    barrier = flavour.zk.Barrier(direct, path)
    await flavour.maybe(barrier.create())
    running = flavour.spawn(_wait, flavour, flavour.zk.Barrier(zk, path))
    await flavour.until(lambda: watched(zk))
    proxy.cut()
    await flavour.until(lambda: not zk.connected)
    await flavour.maybe(barrier.remove())
    proxy.heal()
    await running.result()


async def test_a_timeout_bounds_a_wait_in_a_partition(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    await flavour.maybe(flavour.zk.Barrier(direct, path).create())
    barrier = flavour.zk.Barrier(zk, path)
    proxy.drop_requests = proxy.drop_replies = True
    for timeout in (0, 0.3):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(barrier.wait(timeout))
        assert time.monotonic() - began < timeout + scaled(3 * GRACE)
    proxy.drop_requests = proxy.drop_replies = False


async def test_polls_leave_no_watches(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    barrier = flavour.zk.Barrier(zk, path)
    await flavour.maybe(barrier.create())
    for timeout in (0, 0.0005):
        for _ in range(100):
            with pytest.raises(NotAcquired):
                await flavour.maybe(barrier.wait(timeout))
    assert zk._coordkit_wire.bells._waiting == {}
    assert sum(len(each) for each in list(zk._data_watchers.values())) <= 1


async def test_a_missing_chroot_is_said(flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    zk = KazooClient(hosts=f"{coordkit_zk_server.hosts}{path}/none", timeout=4.0)
    zk.start_async().wait(10)
    try:
        with pytest.raises(StoreRefused, match="chroot"):
            await flavour.maybe(flavour.zk.Barrier(zk, "/a").create())
    finally:
        close_kazoo(zk)


# -- the double barrier


async def test_so_many_enter_together_and_leave_together(flavour: Any, client: Any, path: str) -> None:
    zk, said = client(), []

    async def cross(name: str) -> None:
        async with flavour.within(flavour.zk.DoubleBarrier(client(), path, parties=3)) as crossing:
            assert crossing.name == path
            said.append(("in", name))
            await flavour.until(lambda: name in go_on)
        said.append(("out", name))

    running, go_on = [], []
    for count, name in enumerate("abc", 1):
        assert said == []
        running.append(flavour.spawn(cross, name))
        if count < 3:
            await flavour.until(lambda count=count: len(line(zk, path)) == count)
    await flavour.until(lambda: len(said) == 3)
    go_on += ["a", "c"]
    await flavour.until(lambda: len(line(zk, path)) == 1)
    assert all(what == "in" for what, _ in said)
    go_on += ["b"]
    for each in running:
        await each.result()
    assert sorted(said[3:]) == [("out", "a"), ("out", "b"), ("out", "c")]


@pytest.mark.parametrize("workers", [3, 5, 7])
async def test_round_after_round(flavour: Any, zk_client: Any, path: str, workers: int) -> None:
    """Whoever is quick comes for the next round while others still leave; one too many waits for the next."""
    barrier, inside, most = flavour.zk.DoubleBarrier(zk_client(), path, parties=3), [], []
    rounds = 6

    async def work() -> int:
        crossed = 0
        while True:
            try:
                async with flavour.within(barrier.hold(timeout=1.5)):
                    inside.append(None)
                    most.append(len(inside))
                    await flavour.sleep(0.001)
                    inside.pop()
                crossed += 1
            except AcquireTimeout:
                return crossed
            if crossed == rounds:
                return crossed

    crossed = await flavour.gather(*(work() for _ in range(workers)))
    assert sum(crossed) % 3 == 0
    assert sum(crossed) >= 3 * rounds
    assert line(zk_client(), path) == []


async def test_one_too_many_waits_for_the_next_round(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo and Curator let in whoever finds the barrier ready."""
    zk = zk_client()
    barrier = flavour.zk.DoubleBarrier(zk, path, parties=2)

    async def enter() -> Any:
        return await flavour.maybe(barrier.enter(timeout=20))

    first = await flavour.gather(enter(), enter())
    with pytest.raises(NotAcquired, match="fewer than 2 came") as refused:
        await flavour.maybe(barrier.enter(timeout=0))
    assert not isinstance(refused.value, AcquireTimeout)
    with pytest.raises(AcquireTimeout, match="fewer than 2 came"):
        await flavour.maybe(barrier.enter(timeout=0.05))
    second = await flavour.gather(enter(), enter())
    assert len(line(zk, path)) == 4
    with pytest.raises(AcquireTimeout, match="still inside: 1"):
        await flavour.maybe(first[0].leave(timeout=0.05))
    await flavour.maybe(first[1].leave(timeout=20))
    await flavour.maybe(second[0].leave(timeout=0))
    await flavour.maybe(second[1].leave(timeout=20))
    assert line(zk, path) == []
    assert zk._coordkit_wire.bells._waiting == {}


async def test_all_must_agree_how_many_they_are(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    running = flavour.spawn(_cross, flavour, flavour.zk.DoubleBarrier(zk, path, parties=2))
    await flavour.until(lambda: len(line(zk, path)) == 1)
    with pytest.raises(StoreRefused, match="counts 2 parties, and we 3"):
        await flavour.maybe(flavour.zk.DoubleBarrier(zk, path, parties=3).enter(timeout=5))
    await _cross(flavour, flavour.zk.DoubleBarrier(zk, path, parties=2))
    await running.result()


async def _cross(flavour: Any, barrier: Any) -> None:
    async with flavour.within(barrier.hold(timeout=30)):
        pass


async def test_one_that_waits_no_more_is_not_counted(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    barrier = flavour.zk.DoubleBarrier(zk, path, parties=2)
    with pytest.raises(AcquireTimeout):
        await flavour.maybe(barrier.enter(timeout=0.05))
    with pytest.raises(AcquireTimeout):
        await flavour.maybe(barrier.enter(timeout=0.05))
    assert line(zk, path) == []


async def test_one_that_gives_up_just_when_it_is_let_in_is_in(flavour: Any, zk_client: Any, path: str) -> None:
    """Else the others would be in with somebody who is not."""
    zk = zk_client()
    waiting, other = (flavour.zk.DoubleBarrier(each, path, parties=2) for each in (zk, zk_client()))
    running = []

    def too_late(_: Any, send: Callable[[], Any]) -> Any:
        data = zk.get(line(zk, path)[0])[0]
        running.append(coordkit.zk.DoubleBarrier(other.client, path, parties=2).enter(timeout=20))
        assert zk.get(line(zk, path)[0])[0] != data
        return send()

    meddle(zk, Delete, too_late)
    crossing = await flavour.maybe(waiting.enter(timeout=0.1))
    assert len(running) == 1
    await flavour.maybe(crossing.leave(timeout=0))
    running[0].leave(timeout=20)


async def test_the_session_of_a_waiter_is_replaced(flavour: Any, zk_client: Any, path: str) -> None:
    zk, waiting = zk_client(), zk_client()
    running = flavour.spawn(_cross, flavour, flavour.zk.DoubleBarrier(waiting, path, parties=2))
    await flavour.until(lambda: len(line(zk, path)) == 1)
    before = line(zk, path)
    kill_session(waiting)
    await flavour.until(lambda: len(line(zk, path)) == 1 and line(zk, path) != before)
    await _cross(flavour, flavour.zk.DoubleBarrier(zk, path, parties=2))
    await running.result()


async def test_whoever_crashed_inside_has_left(flavour: Any, zk_client: Any, path: str) -> None:
    zk, doomed = zk_client(), zk_client()
    running = flavour.spawn(_enter_only, flavour, flavour.zk.DoubleBarrier(doomed, path, parties=2))
    crossing = await flavour.maybe(flavour.zk.DoubleBarrier(zk, path, parties=2).enter(timeout=20))
    theirs = await running.result()
    kill_session(doomed)
    await flavour.maybe(crossing.leave(timeout=20))
    await flavour.maybe(theirs.leave(timeout=20))
    assert line(zk, path) == []


async def _enter_only(flavour: Any, barrier: Any) -> Any:
    return await flavour.maybe(barrier.enter(timeout=20))


async def test_a_reconnect_is_survived_at_both_ends(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """kazoo's has the code that sleeps for ever (K10), and enters as if nothing were on every other error."""
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)

    async def cross() -> None:
        crossing = await flavour.maybe(flavour.zk.DoubleBarrier(zk, path, parties=2).enter(timeout=30))
        said.append("in")
        await flavour.maybe(crossing.leave(timeout=30))
        said.append("out")

    said: list[str] = []
    running = flavour.spawn(cross)
    await flavour.until(lambda: watched(zk))
    await _blip(flavour, zk, proxy)
    assert said == []
    theirs = await flavour.maybe(flavour.zk.DoubleBarrier(direct, path, parties=2).enter(timeout=20))
    await flavour.until(lambda: said == ["in"] and watched(zk))
    await _blip(flavour, zk, proxy)
    assert said == ["in"]
    await flavour.maybe(theirs.leave(timeout=20))
    await running.result()
    assert line(direct, path) == []


async def _blip(flavour: Any, zk: Any, proxy: FaultProxy) -> None:
    proxy.reset_all()
    await flavour.until(lambda: not zk.connected)
    await flavour.until(lambda: zk.connected)
    await flavour.until(lambda: watched(zk))


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_lost_answer_to_letting_in_lets_in_one_round(
    flavour: Any, zk_client: Any, path: str, carried_out: bool
) -> None:
    zk, direct = zk_client(), zk_client()
    running = flavour.spawn(_enter_only, flavour, flavour.zk.DoubleBarrier(direct, path, parties=2))
    await flavour.until(lambda: len(line(direct, path)) == 1)

    def lost(_: Any, send: Callable[[], Any]) -> Any:
        assert not carried_out or send().wait(10)
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    flavour.zk.DoubleBarrier(zk, path, parties=2)
    meddle(zk, Multi, lost)
    crossing = await flavour.maybe(flavour.zk.DoubleBarrier(zk, path, parties=2).enter(timeout=20))
    theirs = await running.result()
    assert direct.get(f"{path}/double")[1].version == 1
    await flavour.maybe(crossing.leave(timeout=0))
    await flavour.maybe(theirs.leave(timeout=20))


async def test_two_that_let_in_at_once_let_in_one_round(flavour: Any, zk_client: Any, path: str) -> None:
    """Each sees enough that wait; the second is refused, and looks again."""
    zk, direct = zk_client(), zk_client()
    running = flavour.spawn(_enter_only, flavour, flavour.zk.DoubleBarrier(direct, path, parties=2))
    await flavour.until(lambda: len(line(direct, path)) == 1)

    def second(_: Any, send: Callable[[], Any]) -> Any:
        with pytest.raises(NotAcquired):  # it lets the two before it in, and has to wait
            coordkit.zk.DoubleBarrier(direct, path, parties=2).enter(timeout=0)
        return send()

    flavour.zk.DoubleBarrier(zk, path, parties=2)
    meddle(zk, Multi, second)
    crossing = await flavour.maybe(flavour.zk.DoubleBarrier(zk, path, parties=2).enter(timeout=20))
    assert direct.get(f"{path}/double")[1].version == 1
    theirs = await running.result()
    await flavour.maybe(crossing.leave(timeout=0))
    await flavour.maybe(theirs.leave(timeout=20))


async def test_a_client_that_is_stopped_waits_for_nothing(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    barrier = flavour.zk.Barrier(zk, path)
    await flavour.maybe(barrier.create())
    running = flavour.spawn(_wait, flavour, barrier)
    await flavour.until(lambda: watched(zk))
    zk.stop()
    with pytest.raises(StoreUnavailable, match="not running"):
        await running.result()


async def test_a_block_that_fails_waits_for_nobody(flavour: Any, zk_client: Any, path: str) -> None:
    barrier = flavour.zk.DoubleBarrier(zk_client(), path, parties=2)
    running = flavour.spawn(_enter_only, flavour, barrier)
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(barrier):
            raise ZeroDivisionError
    theirs = await running.result()
    await flavour.maybe(theirs.leave(timeout=20))


async def test_a_block_is_entered_once(flavour: Any, zk_client: Any, path: str) -> None:
    block = flavour.zk.DoubleBarrier(zk_client(), path, parties=1).hold(timeout=20)
    async with flavour.within(block):
        with pytest.raises(CoordError, match="in use"):
            await flavour.within(block).__aenter__()


def test_a_cancelled_party_is_gone(zk_client: Any, path: str) -> None:
    zk, direct = zk_client(), zk_client()

    async def main() -> None:
        for step in range(20):
            waiting = asyncio.create_task(coordkit.aio.zk.DoubleBarrier(zk, path, parties=2).enter())
            await asyncio.sleep(step * 0.0005)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert line(direct, path) == []
        assert zk._coordkit_wire.bells._waiting == {}

    asyncio.run(main())


def test_who_is_inside_when_its_event_loop_ends_has_left(zk_client: Any, path: str) -> None:
    zk, direct = zk_client(timeout=30.0), zk_client()

    async def main() -> None:
        await coordkit.aio.zk.DoubleBarrier(zk, path, parties=1).enter()

    asyncio.run(main())
    end = time.monotonic() + scaled(10)
    while line(direct, path) and time.monotonic() < end:
        time.sleep(0.005)
    assert line(direct, path) == []
    assert zk.connected


_FORKS = """
import os, sys
from kazoo.client import KazooClient
from coordkit.errors import CoordError
from coordkit.zk import Barrier, DoubleBarrier
zk = KazooClient(sys.argv[1], timeout=4.0)
zk.start(20)
barrier, double = Barrier(zk, sys.argv[2]), DoubleBarrier(zk, sys.argv[2], parties=1)
with double as crossing:
    child = os.fork()
    if child == 0:
        said = []
        for use in (barrier.wait, barrier.create, double.enter, crossing.leave):
            try:
                use()
            except CoordError as error:
                said.append(type(error).__name__ + " fork" * ("fork" in str(error)))
        os.write(1, ",".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
zk.stop()
zk.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_use_after_a_fork_is_refused(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    """kazoo hangs there (K26)."""
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, coordkit_zk_server.hosts, path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, env=dict(os.environ))

    assert said.stdout == ",".join(["CoordError fork"] * 4), said.stderr
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("module", [coordkit.zk, coordkit.aio.zk])
@pytest.mark.parametrize(
    ("parties", "error", "said"),
    [
        (0, ValueError, "parties must be between 1 and 1000, got 0"),
        (1001, ValueError, "parties must be between 1 and 1000, got 1001"),
        (2.0, TypeError, r"parties must be an int, got 2\.0"),
    ],
)
def test_a_number_of_parties_that_is_none(module: Any, parties: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        module.DoubleBarrier(KazooClient(), "/a", parties=parties)
    with pytest.raises(TypeError, match=r"zk must be a kazoo\.client\.KazooClient"):
        module.Barrier("zk", "/a")
    with pytest.raises(ValueError, match="path must be absolute"):
        module.Barrier(KazooClient(), "a")


async def test_a_thousand_parties_fit_into_one_transaction(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client(timeout=20.0)
    barrier = flavour.zk.DoubleBarrier(zk, path, parties=1000)
    with pytest.raises(NotAcquired):
        await flavour.maybe(barrier.enter(timeout=0))
    made = [zk.create_async(f"{path}/double/{each:032x}-1000-", ephemeral=True, sequence=True) for each in range(999)]
    for each in made:
        each.get(20)
    crossing = await flavour.maybe(barrier.enter(timeout=20))
    assert len({zk.get(each.get())[1].mzxid for each in made[::97]}) == 1
    await flavour.maybe(crossing.leave(timeout=0))
    assert len(names(zk, f"{path}/double")) == 999
