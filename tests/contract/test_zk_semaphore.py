"""What a semaphore on ZooKeeper promises, in both flavours, on one real server and on three."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from kazoo.client import KazooClient
from zk_lines import in_order, meddle, names, raze, watched

import coordkit.aio.zk
import coordkit.zk
from coordkit._ports_zookeeper import Create, Multi
from coordkit.errors import AcquireTimeout, LeaseLost, NotAcquired, StoreRefused
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import kill_session


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/licences"


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
    return in_order(zk, f"{path}/semaphore")


def slots(zk: Any, path: str) -> list[str]:
    return sorted(names(zk, f"{path}/slots"))


async def _once(flavour: Any, semaphore: Any, timeout: float | None = 20) -> tuple[int, int]:
    async with flavour.within(semaphore.hold(timeout)) as lease:
        lease.ensure()
        return lease.slot, int(lease.token)


async def test_so_many_hold_it_and_no_more(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    one, other = (flavour.zk.Semaphore(each, path, permits=3) for each in (zk, client()))
    leases = [await flavour.maybe(each.acquire(timeout=20)) for each in (one, other, one)]
    assert [lease.slot for lease in leases] == [0, 1, 2]
    tokens = [lease.token for lease in leases]
    assert tokens == sorted(set(tokens))
    await flavour.until(lambda: len(slots(zk, path)) == 3)
    stats = [zk.get(f"{path}/slots/{name}")[1] for name in slots(zk, path)]
    assert [stat.czxid for stat in stats] == tokens
    assert await flavour.maybe(other.try_acquire()) is None
    with pytest.raises(AcquireTimeout, match="all of its 3 permits are held"):
        await flavour.maybe(one.acquire(timeout=0.05))
    with pytest.raises(NotAcquired) as refused:
        await flavour.maybe(one.acquire(timeout=0))
    assert not isinstance(refused.value, AcquireTimeout)
    assert await flavour.maybe(leases[1].release()) is True
    again = await flavour.maybe(one.acquire(timeout=20))
    assert again.slot == 1
    assert again.token > tokens[-1]
    for lease in (leases[0], leases[2], again):
        assert lease.ensure()
        assert await flavour.maybe(lease.release()) is True
    await flavour.until(lambda: slots(zk, path) == line(zk, path) == [])


async def test_waiters_are_served_in_their_order(flavour: Any, client: Any, path: str) -> None:
    zk, order = client(), []
    semaphore = flavour.zk.Semaphore(zk, path, permits=2)
    held = [await flavour.maybe(semaphore.acquire()) for _ in range(2)]

    async def wait(name: str) -> None:
        lease = await flavour.maybe(flavour.zk.Semaphore(client(), path, permits=2).acquire(timeout=30))
        order.append((name, lease.slot, int(lease.token)))
        await flavour.until(lambda: name in go_on)
        await flavour.maybe(lease.release())

    running, go_on = [], []
    for count, name in enumerate("abcd", 1):
        running.append(flavour.spawn(wait, name))
        await flavour.until(lambda count=count: len(line(zk, path)) == count)
    assert order == []
    await flavour.maybe(held[1].release())
    await flavour.until(lambda: len(order) == 1)
    await flavour.maybe(held[0].release())
    await flavour.until(lambda: len(order) == 2)
    go_on += ["b"]
    await flavour.until(lambda: len(order) == 3)
    go_on += ["c"]
    await flavour.until(lambda: len(order) == 4)
    go_on += ["a", "d"]
    for each in running:
        await each.result()

    assert [(name, slot) for name, slot, _ in order] == [("a", 1), ("b", 0), ("c", 0), ("d", 0)]
    tokens = [token for _, _, token in order]
    assert tokens == sorted(set(tokens))


async def test_a_slot_is_nobody_elses_meanwhile(flavour: Any, client: Any, path: str) -> None:
    """And of two that hold a slot one after the other, the later has the greater token."""
    semaphores = [flavour.zk.Semaphore(client(), path, permits=3) for _ in range(2)]
    inside: dict[int, Any] = {}
    tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}

    async def work(worker: int) -> None:
        for _ in range(6):
            async with flavour.within(semaphores[worker % 2].hold(timeout=30)) as lease:
                assert inside.setdefault(lease.slot, lease) is lease
                tokens[lease.slot].append(int(lease.token))
                await flavour.sleep(0.002)
                del inside[lease.slot]

    await flavour.gather(*(work(each) for each in range(8)))

    assert sum(map(len, tokens.values())) == 48
    assert all(each == sorted(set(each)) for each in tokens.values())
    assert set(tokens) == {0, 1, 2}


async def test_two_are_woken_for_a_hand_over_however_many_wait(flavour: Any, zk_client: Any, path: str) -> None:
    """Only the head of the line watches the slots; each of the others the one before it."""
    look = zk_client()
    held = await flavour.maybe(flavour.zk.Semaphore(zk_client(), path, permits=1).acquire())
    clients, running = [zk_client() for _ in range(4)], []
    for count, zk in enumerate(clients, 1):
        running.append(flavour.spawn(_once, flavour, flavour.zk.Semaphore(zk, path, permits=1)))
        await flavour.until(lambda count=count: len(line(look, path)) == count)
    stand = line(look, path)
    await flavour.until(lambda: watched(clients[0]) == {f"{path}/slots", stand[0]})
    for at in (1, 2, 3):
        await flavour.until(lambda at=at: watched(clients[at]) == {stand[at - 1], stand[at]})
    await flavour.maybe(held.release())
    for each in running:
        await each.result()
    for zk in clients:
        await flavour.until(lambda zk=zk: zk._coordkit_wire.bells._waiting == {})


async def test_asking_once_gets_a_permit_that_is_there(flavour: Any, zk_client: Any, path: str) -> None:
    """Though others are just about to take theirs."""
    semaphore = flavour.zk.Semaphore(zk_client(), path, permits=6)

    async def ask() -> Any:
        return await flavour.maybe(semaphore.try_acquire())

    for _ in range(5):
        leases = await flavour.gather(*(ask() for _ in range(6)))
        assert sorted(lease.slot for lease in leases) == [0, 1, 2, 3, 4, 5]
        assert await ask() is None
        await flavour.gather(*(_release(flavour, lease) for lease in leases))


async def _release(flavour: Any, lease: Any) -> None:
    assert await flavour.maybe(lease.release()) is True


async def test_polls_leave_no_watches_and_no_listeners(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's adds a listener at every attempt (K24)."""
    zk = zk_client()
    async with flavour.within(flavour.zk.Semaphore(zk_client(), path, permits=1)):
        for timeout in (0, 0.0005):
            semaphore = flavour.zk.Semaphore(zk, path, permits=1)
            for _ in range(50):
                with pytest.raises(NotAcquired):
                    await flavour.maybe(semaphore.acquire(timeout))
        assert line(zk, path) == []
        assert len(slots(zk, path)) == 1
        assert zk._coordkit_wire.bells._waiting == {}
        assert sum(len(each) for each in (*list(zk._data_watchers.values()), *list(zk._child_watchers.values()))) <= 2
        assert len(zk.state_listeners) == 1
        assert len(zk._coordkit_wire._listeners) <= 1


async def test_all_must_agree_how_many_there_are(flavour: Any, client: Any, path: str) -> None:
    zk, other = client(), client()
    two, three = (flavour.zk.Semaphore(each, path, permits=n) for each, n in ((zk, 2), (other, 3)))
    async with flavour.within(two) as lease:
        for _ in range(2):
            with pytest.raises(StoreRefused, match=r"it has 2 permits .* and 3 were asked with"):
                await flavour.maybe(three.acquire(timeout=5))
            with pytest.raises(StoreRefused, match="it has 2 permits"):
                await flavour.maybe(three.try_acquire())
        async with flavour.within(two.hold()):
            running = flavour.spawn(_once, flavour, two)
            await flavour.until(lambda: len(line(zk, path)) == 1)
            with pytest.raises(StoreRefused, match="it has 2 permits"):
                await flavour.maybe(three.acquire(timeout=5))
        await running.result()
        assert lease.ensure()
    await flavour.until(lambda: line(other, path) == [])
    async with flavour.within(three.hold(timeout=20)) as lease:
        assert lease.slot == 0
        with pytest.raises(StoreRefused, match=r"it has 3 permits .* and 2 were asked with"):
            await flavour.maybe(two.acquire(timeout=5))


async def test_one_that_was_refused_misleads_nobody(flavour: Any, zk_client: Any, path: str) -> None:
    """A wrong number in the line, on its way out, is no number that counts."""
    direct = zk_client()
    semaphore = flavour.zk.Semaphore(zk_client(), path, permits=2)
    async with flavour.within(semaphore):
        direct.create(f"{path}/semaphore/{'0' * 32}-7-", ephemeral=True, sequence=True)
        running = flavour.spawn(_once, flavour, semaphore)
        await flavour.until(lambda: len(line(direct, path)) == 2)
        direct.delete(line(direct, path)[0])
        assert (await running.result())[0] == 1


async def test_losses_are_told_and_it_is_good_again(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's believes for ever that it holds (K24)."""
    zk, tokens = zk_client(), []
    semaphore = flavour.zk.Semaphore(zk, path, permits=2)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            async with flavour.within(semaphore.hold(timeout=20)) as lease:
                tokens.append(lease.token)
                kill_session(zk)
                await flavour.maybe(lease.lost.wait(10))
                lease.ensure()
    async with flavour.within(semaphore.hold(timeout=20)) as lease:
        assert [lease.token] > tokens[-1:] > tokens[:1]
    assert slots(zk, path) == []


async def test_deleting_the_slot_ends_the_lease(flavour: Any, zk_client: Any, path: str) -> None:
    direct = zk_client()
    with pytest.raises(LeaseLost):
        async with flavour.within(flavour.zk.Semaphore(zk_client(timeout=60.0), path, permits=2)) as lease:
            direct.delete(f"{path}/slots/{slots(direct, path)[0]}")
            assert await flavour.maybe(lease.lost.wait(10))
            lease.ensure()


@pytest.mark.parametrize("where", ["semaphore", "slots"])
async def test_deleting_what_it_stands_on_is_survived(flavour: Any, zk_client: Any, path: str, where: str) -> None:
    zk, direct = zk_client(), zk_client()
    semaphore = flavour.zk.Semaphore(zk, path, permits=1)
    async with flavour.within(semaphore):
        pass

    def without(_: Any, send: Callable[[], Any]) -> Any:
        direct.delete(f"{path}/{where}", recursive=True)
        return send()

    meddle(zk, Multi, without)
    async with flavour.within(semaphore.hold(timeout=20)) as lease:
        assert lease.slot == 0
        assert len(slots(direct, path)) == 1
    assert zk._coordkit_wire.bells._waiting == {}
    held = await flavour.maybe(semaphore.acquire(timeout=20))
    raze(direct, path)
    async with flavour.within(flavour.zk.Semaphore(direct, path, permits=1).hold(timeout=20)) as second:
        assert second.token > held.token > lease.token
    assert await flavour.maybe(held.lost.wait(10))
    assert await flavour.maybe(held.release()) is False


async def test_one_that_is_asked_again_takes_one_slot(flavour: Any, zk_client: Any, path: str) -> None:
    """The answer to taking it was lost: the transaction leaves the line, so it is carried out once."""
    from kazoo.exceptions import ConnectionLoss

    zk = zk_client()
    semaphore = flavour.zk.Semaphore(zk, path, permits=3)
    async with flavour.within(semaphore):
        pass

    def lost(_: Any, send: Callable[[], Any]) -> Any:
        assert send().wait(10)
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    meddle(zk, Multi, lost)
    async with flavour.within(semaphore.hold(timeout=20)) as lease:
        assert len(slots(zk, path)) == 1
        assert zk.get(f"{path}/slots/{slots(zk, path)[0]}")[1].czxid == lease.token
        assert line(zk, path) == []
    assert slots(zk, path) == []


def test_a_cancelled_waiter_is_gone(zk_client: Any, path: str) -> None:
    """At whatever moment it is cancelled: in line, or taking a slot."""
    zk, other = zk_client(), zk_client()

    async def main() -> None:
        async with coordkit.aio.zk.Semaphore(zk, path, permits=2):
            for step in range(30):
                waiting = asyncio.create_task(coordkit.aio.zk.Semaphore(other, path, permits=2).acquire())
                await asyncio.sleep(step * 0.0003)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await waiting).release()
                assert len(slots(zk, path)) == 1
                assert line(zk, path) == []
        assert other._coordkit_wire.bells._waiting == {}

    asyncio.run(main())


@pytest.mark.parametrize("module", [coordkit.zk, coordkit.aio.zk])
@pytest.mark.parametrize(
    ("permits", "error", "said"),
    [
        (0, ValueError, "permits must be between 1 and 1e9, got 0"),
        (True, TypeError, "permits must be an int, got True"),
        ("2", TypeError, "permits must be an int, got '2'"),
    ],
)
def test_a_number_of_permits_that_is_none(module: Any, permits: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        module.Semaphore(KazooClient(), "/a", permits=permits)


async def test_creations_are_counted(flavour: Any, zk_client: Any, path: str) -> None:
    """Who asks once again and again looks first: the numbers of a line are finite."""
    zk, created = zk_client(), []
    semaphore = flavour.zk.Semaphore(zk, path, permits=1)
    async with flavour.within(flavour.zk.Semaphore(zk_client(), path, permits=1)):
        assert await flavour.maybe(semaphore.try_acquire()) is None
        meddle(zk, Create, lambda _, send: created.append(1) or send(), times=100)
        for _ in range(10):
            assert await flavour.maybe(semaphore.try_acquire()) is None
        assert created == []
