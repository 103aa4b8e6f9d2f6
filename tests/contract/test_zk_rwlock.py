"""What a readers-writer lock on ZooKeeper promises, in both flavours, on one real server and on three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from zk_lines import in_order, meddle, names, raze, watched

from coordkit._ports_zookeeper import Multi
from coordkit.errors import AcquireTimeout, LeaseLost, NotAcquired
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


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
    return in_order(zk, f"{path}/rw")


async def _once(flavour: Any, side: Any, timeout: float | None = 20) -> int:
    async with flavour.within(side.hold(timeout)) as lease:
        lease.ensure()
        return int(lease.token)


async def test_readers_share_it_and_a_writer_has_it_alone(flavour: Any, client: Any, path: str) -> None:
    one, two = (flavour.zk.ReadWriteLock(client(), path) for _ in range(2))
    async with flavour.within(one.read) as first, flavour.within(two.read) as second:
        assert first.ensure()
        assert second.ensure()
        assert await flavour.maybe(one.write.try_acquire()) is None
        with pytest.raises(NotAcquired, match="another holds it"):
            await flavour.maybe(two.write.acquire(timeout=0))
    async with flavour.within(one.write) as writer:
        assert await flavour.maybe(two.read.try_acquire()) is None
        assert await flavour.maybe(two.write.try_acquire()) is None
        with pytest.raises(AcquireTimeout, match="writer"):
            await flavour.maybe(two.read.acquire(timeout=0.05))
    async with flavour.within(two.read) as last:
        pass
    assert first.token == second.token
    assert first.token < writer.token < last.token


async def test_tokens_fence_writers_off_and_let_readers_in_together(
    flavour: Any, client: Any, path: str, coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """Readers of one phase share a token, also those that never met; every writer's is greater than all before."""
    zk = client()
    lock = flavour.zk.ReadWriteLock(zk, path)
    fence = flavour.Fence(flavour.redis(coordkit_redis_server.url), f"{{{coordkit_namespace}}}")
    phases: list[list[Any]] = []
    for _ in range(3):
        tokens = []
        a = await flavour.maybe(lock.read.acquire())
        b = await flavour.maybe(lock.read.acquire())
        await flavour.maybe(a.release())
        c = await flavour.maybe(lock.read.acquire())
        await flavour.maybe(b.release())
        await flavour.maybe(c.release())
        tokens += [a.token, b.token, c.token]
        for token in (*tokens, tokens[0]):
            await flavour.maybe(fence.claim(token=token))
        phases.append(tokens)
        async with flavour.within(lock.write) as writer:
            await flavour.maybe(fence.claim(token=writer.token))
            phases.append([writer.token])
    assert all(len({(token, token.holder) for token in tokens}) == 1 for tokens in phases)
    order = [tokens[0] for tokens in phases]
    assert order == sorted(set(order))


async def test_who_comes_after_a_waiting_writer_waits_behind_it(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    lock, order = flavour.zk.ReadWriteLock(zk, path), []

    async def enter(name: str, side: str) -> None:
        async with flavour.within(getattr(flavour.zk.ReadWriteLock(client(), path), side)) as lease:
            order.append((name, int(lease.token)))
            if side == "read":
                await flavour.until(lambda: sum(each[0].startswith("r") for each in order) == 2)

    first = await flavour.maybe(lock.read.acquire())
    running = []
    for count, (name, side) in enumerate([("w1", "write"), ("r2", "read"), ("r3", "read"), ("w4", "write")], 2):
        running.append(flavour.spawn(enter, name, side))
        await flavour.until(lambda count=count: len(line(zk, path)) == count)
    with pytest.raises(NotAcquired):
        await flavour.maybe(lock.read.acquire(timeout=0))
    assert order == []
    await flavour.maybe(first.release())
    for each in running:
        await each.result()

    names_ = [name for name, _ in order]
    assert names_[0] == "w1"
    assert sorted(names_[1:3]) == ["r2", "r3"]
    assert names_[3] == "w4"
    tokens = dict(order)
    assert first.token < tokens["w1"] < tokens["r2"] == tokens["r3"] < tokens["w4"]


async def test_many_read_and_write_and_nothing_overlaps(flavour: Any, client: Any, path: str) -> None:
    lock, inside, tokens = flavour.zk.ReadWriteLock(client(), path), [], []

    async def work(worker: int) -> None:
        for turn in range(4):
            side = "write" if (worker + turn) % 3 == 0 else "read"
            async with flavour.within(getattr(lock, side)) as lease:
                inside.append(side)
                assert side == "read" or len(inside) == 1
                assert inside.count("write") == (side == "write")
                tokens.append((int(lease.token), side))
                await flavour.sleep(0.001)
                inside.remove(side)

    await flavour.gather(*(work(each) for each in range(8)))

    assert len(tokens) == 32
    assert tokens == sorted(tokens)
    writers = [token for token, side in tokens if side == "write"]
    assert len(set(writers)) == len(writers)
    assert not set(writers) & {token for token, side in tokens if side == "read"}


async def test_each_watches_one_znode_only(flavour: Any, zk_client: Any, path: str) -> None:
    """A reader the last writer before it, a writer the one before it; and themselves."""
    look, reader, writer = zk_client(), zk_client(), zk_client()
    holds = await flavour.maybe(flavour.zk.ReadWriteLock(zk_client(), path).write.acquire())
    running = [flavour.spawn(_once, flavour, flavour.zk.ReadWriteLock(zk_client(), path).write)]
    await flavour.until(lambda: len(line(look, path)) == 2)
    running.append(flavour.spawn(_once, flavour, flavour.zk.ReadWriteLock(zk_client(), path).read))
    await flavour.until(lambda: len(line(look, path)) == 3)
    running.append(flavour.spawn(_once, flavour, flavour.zk.ReadWriteLock(reader, path).read))
    await flavour.until(lambda: len(line(look, path)) == 4)
    running.append(flavour.spawn(_once, flavour, flavour.zk.ReadWriteLock(writer, path).write))
    await flavour.until(lambda: len(line(look, path)) == 5)
    stand = line(look, path)
    await flavour.until(lambda: watched(reader) == {stand[1], stand[3]})
    await flavour.until(lambda: watched(writer) == {stand[3], stand[4]})
    await flavour.maybe(holds.release())
    for each in running:
        await each.result()


async def test_polls_leave_no_watches(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    lock = flavour.zk.ReadWriteLock(zk, path)
    async with flavour.within(flavour.zk.ReadWriteLock(zk_client(), path).write):
        for side in (lock.read, lock.write):
            for timeout in (0, 0.0005):
                for _ in range(30):
                    with pytest.raises(NotAcquired):
                        await flavour.maybe(side.acquire(timeout))
        assert len(line(zk, path)) == 1
        assert zk._coordkit_wire.bells._waiting == {}
        assert sum(len(each) for each in list(zk._data_watchers.values())) <= 2


async def test_a_reader_enters_in_one_round_trip_and_a_writer_in_two(flavour: Any, zk_client: Any, path: str) -> None:
    """A reader is in with its entry; a writer leaves its mark, from which the readers after it have their token."""
    zk, asked = zk_client(), []
    lock = flavour.zk.ReadWriteLock(zk, path)
    async with flavour.within(lock.read):
        pass
    await flavour.maybe((await flavour.maybe(lock.read.acquire())).release())
    ensemble = flavour.zk.Lock(zk, path)._turns._session().ensemble if not flavour.is_async else None
    if ensemble is None:
        from coordkit._asyncio.zookeeper import session_of

        ensemble = session_of(zk).ensemble
    ask = ensemble.ask

    async def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[1])
        return await ask(*arguments, **options)

    ensemble.ask = counted
    async with flavour.within(lock.read):
        assert len(asked) == 1
    assert len(asked) == 2
    async with flavour.within(lock.write):
        assert len(asked) == 4
    assert len(asked) == 5


async def test_losses_are_told_on_both_sides(flavour: Any, zk_client: Any, path: str) -> None:
    zk, direct = zk_client(), zk_client()
    for word in ("read", "write"):
        side = getattr(flavour.zk.ReadWriteLock(zk, path), word)
        with pytest.raises(LeaseLost) as lost:
            async with flavour.within(side.hold(timeout=20)) as lease:
                kill_session(zk)
                await flavour.maybe(lease.lost.wait(10))
                lease.ensure()
        assert lost.value.token == lease.token
    assert line(direct, path) == []


@pytest.mark.parametrize("side", ["read", "write"])
async def test_a_head_whose_znode_is_gone_does_not_hold(flavour: Any, zk_client: Any, path: str, side: str) -> None:
    zk, direct = zk_client(), zk_client()
    first = await flavour.maybe(flavour.zk.ReadWriteLock(direct, path).write.acquire())
    running = flavour.spawn(_once, flavour, getattr(flavour.zk.ReadWriteLock(zk, path), side))
    await flavour.until(lambda: len(line(direct, path)) == 2)
    old = line(direct, path)[1]
    await flavour.until(lambda: len(watched(zk)) == 2)

    def without(_: Any, send: Callable[[], Any]) -> Any:
        direct.delete(old)
        direct.create(f"{path}/rw/mark")  # a transaction between the two
        return send()

    meddle(zk, Multi, without)
    await flavour.maybe(first.release())
    assert await running.result() > first.token
    assert old.rpartition("/")[2] not in names(direct, f"{path}/rw")


async def test_tokens_rise_though_the_path_was_deleted(flavour: Any, zk_client: Any, path: str) -> None:
    zk, tokens = zk_client(), []
    lock = flavour.zk.ReadWriteLock(zk, path)
    for _ in range(3):
        for side in (lock.read, lock.write, lock.read):
            async with flavour.within(side) as lease:
                tokens.append(lease.token)
        raze(zk, path)
    assert tokens == sorted(set(tokens))


async def test_a_writer_that_crashed_has_left_its_mark(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """The readers after it have a greater token, though it never gave it back."""
    zk = zk_client()
    writer = await flavour.maybe(flavour.zk.ReadWriteLock(zk, path).write.acquire())
    kill_session(zk)
    async with flavour.within(flavour.zk.ReadWriteLock(zk_client(), path).read.hold(timeout=20)) as reader:
        assert reader.token > writer.token
    assert await flavour.maybe(writer.release()) is False
