"""What a share of work promises, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest

import coordkit
import coordkit.aio
from coordkit import _kazoo_trees
from coordkit.errors import CoordError, LeaseLost, StoreUnavailable
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble

KEYS = [f"p{i}" for i in range(12)]


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/workers"


class Log:
    """What all workers of a test did, in order: (key, who, token, "begin" or "end")."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int, str]] = []
        self.linger = 0.0  # seconds that a worker takes to end

    def add(self, partition: Any, who: str, what: str) -> None:
        self.entries.append((partition.key, who, int(partition.token), what))

    def now(self) -> dict[str, str]:
        """Return who works on what."""
        working = {}
        for key, who, _, what in list(self.entries):
            if what == "begin":
                working[key] = who
            else:
                working.pop(key, None)
        return working

    def check(self) -> None:
        """See that no two worked on one partition at once, and that tokens rise."""
        busy: dict[str, str] = {}
        tokens: dict[str, int] = {}
        for key, who, token, what in self.entries:
            if what == "end":
                assert busy.pop(key) == who
                continue
            assert key not in busy, f"{who} began on {key} while {busy[key]} worked on it"
            assert token > tokens.get(key, 0)
            busy[key], tokens[key] = who, token


class Worker:
    """A share that is run at the side."""

    def __init__(self, flavour: Any, zk: Any, path: str, who: str, log: Log, keys: Any = KEYS, **options: Any) -> None:
        self.share = flavour.Group(zk, path).share(who, keys, **options)
        self.who = who
        self.running = flavour.spawn(self._run, flavour, log)

    async def _run(self, flavour: Any, log: Log) -> None:
        def serve(partition: Any) -> None:
            log.add(partition, self.who, "begin")
            assert partition.ensure()
            partition.ending.wait()
            time.sleep(log.linger)
            log.add(partition, self.who, "end")

        async def serve_async(partition: Any) -> None:
            log.add(partition, self.who, "begin")
            assert partition.ensure()
            try:
                await asyncio.sleep(3600)
            finally:
                assert partition.ending
                await asyncio.sleep(log.linger)
                log.add(partition, self.who, "end")

        await flavour.maybe(self.share.run(serve_async if flavour.is_async else serve))

    async def stop(self) -> None:
        self.share.stop()
        await self.running.result()


def even(log: Log, *workers: Worker, keys: Any = KEYS) -> bool:
    counts = Counter(log.now().values())
    return (
        set(log.now()) == set(keys)
        and set(counts) == {each.who for each in workers}
        and max(counts.values()) - min(counts.values()) <= 1
    )


@pytest.mark.parametrize("trees", [True, False])
async def test_each_partition_is_worked_on_by_one_member(
    flavour: Any, zk_client: Any, path: str, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kazoo_trees.Trees, "supported", trees)
    log = Log()
    log.linger = 0.05
    one = Worker(flavour, zk_client(), path, "one", log)
    await flavour.until(lambda: even(log, one))
    assert set(one.share.held()) == set(KEYS)
    two = Worker(flavour, zk_client(), path, "two", log)
    three = Worker(flavour, zk_client(), path, "three", log)
    await flavour.until(lambda: even(log, one, two, three))
    owners = await flavour.maybe(two.share.owners())
    assert {key: owner.identity for key, owner in owners.items()} == log.now()
    assert {key: two.share.held()[key].token for key in two.share.held()} == {
        key: owner.token for key, owner in owners.items() if owner.identity == "two"
    }
    await one.stop()
    assert "one" not in log.now().values()
    await flavour.until(lambda: even(log, two, three))
    await two.stop()
    await flavour.until(lambda: even(log, three))
    await three.stop()
    assert log.now() == {}
    log.check()
    assert await flavour.maybe(three.share.owners()) == {}


async def test_only_what_must_move_moves(flavour: Any, zk_client: Any, path: str) -> None:
    log, keys = Log(), [f"p{i}" for i in range(60)]
    workers = [Worker(flavour, zk_client(timeout=20.0), path, f"w{i}", log, keys) for i in range(3)]
    await flavour.until(lambda: even(log, *workers, keys=keys))
    before = log.now()
    workers.append(Worker(flavour, zk_client(timeout=20.0), path, "w3", log, keys))
    await flavour.until(lambda: even(log, *workers, keys=keys))
    assert sum(before[key] != log.now()[key] for key in keys) <= 25, "15 is the least, 45 would be shuffling"
    for each in workers:
        await each.stop()
    log.check()


@pytest.mark.parametrize("trees", [True, False])
async def test_parts_are_by_weight(
    flavour: Any, zk_client: Any, path: str, trees: bool, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """By what the members show, also when that changes; whoever shows something else has weight 1."""
    monkeypatch.setattr(_kazoo_trees.Trees, "supported", trees)
    log, by_hand = Log(), zk_client()
    log.linger = 0.02

    def worker(who: str, data: bytes) -> Worker:
        return Worker(flavour, zk_client(timeout=20.0), path, who, log, data=data, weigh=int)

    def parts() -> Counter[str]:
        return Counter(log.now().values())

    one, two = worker("one", b"3"), worker("two", b"1")
    await flavour.until(lambda: parts() == {"one": 9, "two": 3})
    three = worker("three", b"a lot")
    await flavour.until(lambda: sum(parts().values()) == 12 and parts()["three"] in (2, 3))
    assert parts()["one"] in (7, 8)
    assert "member three has weight 1" in caplog.text
    await three.stop()
    await flavour.until(lambda: parts() == {"one": 9, "two": 3})
    two.share._core._shift._member._content.change(b"9")  # as an update of the member does; no share updates its own
    by_hand.set(f"{path}/two", b"9")
    await flavour.until(lambda: parts() == {"one": 3, "two": 9})
    await one.stop()
    await two.stop()
    log.check()


async def test_one_that_knows_of_no_weights_works_on_nothing_that_another_works_on(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """As an older version in a rolling upgrade: who does what is not agreed upon then, that only one does it is."""
    log = Log()
    new = Worker(flavour, zk_client(), path, "new", log, data=b"5", weigh=int)
    await flavour.until(lambda: len(log.now()) == len(KEYS))
    old = Worker(flavour, zk_client(), path, "old", log, data=b"1")
    await flavour.until(lambda: len(new.share.held()) == 10)
    await flavour.until(lambda: set(log.now().values()) == {"new", "old"})
    assert len(old.share.held()) <= 2
    await new.stop()
    await flavour.until(lambda: len(old.share.held()) == len(KEYS))
    await old.stop()
    log.check()


def test_weigh_is_a_function(flavour: Any, zk_client: Any, path: str) -> None:
    with pytest.raises(TypeError, match="weigh must be a function"):
        flavour.Group(zk_client(), path).share("one", KEYS, weigh=3)


async def test_the_next_owner_waits_for_the_work_to_end(flavour: Any, zk_client: Any, path: str) -> None:
    """However long that takes, and though the claim's time is proven again and again meanwhile."""
    log = Log()
    one = Worker(flavour, zk_client(timeout=1.0), path, "one", log, ["p"])
    await flavour.until(lambda: log.now() == {"p": "one"})
    log.linger = 3.0
    two = Worker(flavour, zk_client(), path, "two", log, ["p"])
    began = time.monotonic()
    one.share.stop()
    await flavour.until(lambda: log.now() == {"p": "two"}, 20)
    assert time.monotonic() - began >= 2.9
    log.linger = 0.0
    await one.running.result()
    await two.stop()
    log.check()


async def test_a_lost_session_ends_the_work_and_begins_anew(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's SetPartitioner cannot go on then (K25)."""
    log, zk = Log(), zk_client()
    one = Worker(flavour, zk, path, "one", log, ["p", "q"])
    await flavour.until(lambda: len(log.now()) == 2)
    held = one.share.held()["p"]
    kill_session(zk)
    await flavour.until(lambda: len(log.entries) == 6, 20)
    assert len(log.now()) == 2
    assert held.lost
    with pytest.raises(LeaseLost):
        held.ensure()
    assert one.share.held()["p"].token > held.token
    assert one.share.held()["p"].epoch > held.epoch
    await one.stop()
    log.check()


async def test_a_claim_deleted_by_hand_is_lost_and_made_anew(flavour: Any, zk_client: Any, path: str) -> None:
    log, zk = Log(), zk_client()
    one = Worker(flavour, zk_client(), path, "one", log, ["p"])
    await flavour.until(lambda: len(log.now()) == 1)
    for i in range(3):
        zk.delete(f"{path}/%claims/p")
        await flavour.until(lambda i=i: [each[3] for each in log.entries] == [*["begin", "end"] * (i + 1), "begin"])
    await one.stop()
    log.check()


async def test_a_reconnect_changes_nothing(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    proxy, log = coordkit_faults.proxy(zk_servers.nodes[0]), Log()
    cut = zk_client(timeout=10.0, hosts=proxy.address)
    one = Worker(flavour, cut, path, "one", log)
    await flavour.until(lambda: even(log, one))
    for _ in range(3):
        proxy.reset_all()
        await flavour.until(lambda: not cut.connected)
        await flavour.until(lambda: cut.connected)
    two = Worker(flavour, zk_client(), path, "two", log)
    await flavour.until(lambda: even(log, one, two))
    assert len(log.entries) == len(KEYS) + 2 * (len(KEYS) // 2)
    await one.stop()
    await two.stop()
    log.check()


async def test_an_error_of_the_work_ends_all_and_is_raised(flavour: Any, zk_client: Any, path: str) -> None:
    share = flavour.Group(zk_client(), path).share("one", KEYS)
    ended: list[str] = []

    def serve(partition: Any) -> None:
        if partition.key == "p3":
            raise ZeroDivisionError
        partition.ending.wait()
        ended.append(partition.key)

    async def serve_async(partition: Any) -> None:
        if partition.key == "p3":
            raise ZeroDivisionError
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(partition.key)

    with pytest.raises(ZeroDivisionError):
        await flavour.maybe(share.run(serve_async if flavour.is_async else serve))
    zk = zk_client()
    zk.sync("/")
    assert zk.get_children(f"{path}/%claims") == []
    assert await flavour.maybe(flavour.Group(zk, path).members()) == {}
    assert "p3" not in ended


async def test_work_that_is_done_keeps_its_partition(flavour: Any, zk_client: Any, path: str) -> None:
    """Until it moves: then it is given back like any other; and after a lost session it begins anew."""
    zk, done = zk_client(), []
    share = flavour.Group(zk, path).share("one", ["p", "q"])

    def serve(partition: Any) -> None:
        done.append(partition.key)

    async def serve_async(partition: Any) -> None:
        done.append(partition.key)

    async def run() -> None:
        await flavour.maybe(share.run(serve_async if flavour.is_async else serve))

    running, log = flavour.spawn(run), Log()
    await flavour.until(lambda: sorted(done) == ["p", "q"])
    kill_session(zk)
    await flavour.until(lambda: sorted(done) == ["p", "p", "q", "q"], 20)
    two = Worker(flavour, zk_client(), path, "two", log, ["p", "q"])
    await flavour.until(lambda: len(log.now()) == 1)
    await two.stop()
    await flavour.until(lambda: len(done) == 5)
    share.stop()
    await running.result()


async def test_the_identity_is_lost_to_a_newer_incarnation(flavour: Any, zk_client: Any, path: str) -> None:
    log = Log()
    old = Worker(flavour, zk_client(), path, "one", log, ["p"])
    await flavour.until(lambda: len(log.now()) == 1)
    new = Worker(flavour, zk_client(), path, "one", log, ["p"])
    with pytest.raises(LeaseLost):
        await old.running.result()
    await flavour.until(lambda: len(log.entries) == 3)
    await new.stop()
    log.check()


async def test_a_stopped_client_ends_the_work(flavour: Any, zk_client: Any, path: str) -> None:
    zk, log = zk_client(), Log()
    one = Worker(flavour, zk, path, "one", log)
    await flavour.until(lambda: even(log, one))
    zk.stop()
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await one.running.result()
    assert log.now() == {}
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await flavour.maybe(one.share.owners())


async def test_one_run_at_a_time(flavour: Any, zk_client: Any, path: str) -> None:
    log = Log()
    one = Worker(flavour, zk_client(), path, "one", log)
    await flavour.until(lambda: even(log, one))
    with pytest.raises(CoordError, match="in progress"):
        await one._run(flavour, log)
    await one.stop()
    assert one.share.held() == {}


def test_a_cancelled_run_ends_its_work_first(zk_client: Any, path: str) -> None:
    zk, log = zk_client(), []

    async def serve(partition: Any) -> None:
        log.append("begin")
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.2)
            log.append("end")

    async def main() -> None:
        from coordkit.aio import Group

        share = Group(zk, path).share("one", ["p", "q"])
        running = asyncio.create_task(share.run(serve))
        while len(log) < 2:  # noqa: ASYNC110  the work is what is watched
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert log == ["begin", "begin", "end", "end"]
        zk.sync("/")
        assert zk.get_children(f"{path}/%claims") == []

    asyncio.run(main())


def test_partitions_and_kinds_of_work_are_checked(zk_client: Any, path: str) -> None:
    group = coordkit.Group(zk_client(), path)
    with pytest.raises(TypeError, match="partitions must be an iterable"):
        group.share("one", "p1")
    with pytest.raises(ValueError, match="partitions must be distinct"):
        group.share("one", ["a", "b", "a"])
    with pytest.raises(ValueError, match="each of partitions must not be empty"):
        group.share("one", [""])

    async def serve(partition: Any) -> None:
        pytest.fail("never called")

    with pytest.raises(TypeError, match=r"coordkit\.aio"):
        group.share("one", ["a"]).run(serve)  # a coroutine that nobody would await
    with pytest.raises(TypeError, match="coroutine function"):
        asyncio.run(coordkit.aio.Group(group.client, path).share("one", ["a"]).run(print))


async def test_any_text_is_a_partition(flavour: Any, zk_client: Any, path: str) -> None:
    log, keys = Log(), ["a/b", ".", "ünï côde", "100%", "%claims"]
    one = Worker(flavour, zk_client(), path, "one", log, keys)
    await flavour.until(lambda: set(log.now()) == set(keys))
    assert set(await flavour.maybe(one.share.owners())) == set(keys)
    await one.stop()


def test_no_thread_is_left(zk_client: Any, path: str) -> None:
    before = set(threading.enumerate())
    share = coordkit.Group(zk_client(), path).share("one", KEYS)
    running = threading.Thread(target=share.run, args=(lambda partition: partition.ending.wait(),))
    running.start()
    while len(share.held()) < len(KEYS):
        time.sleep(0.001)
    share.stop()
    running.join(10)
    left = {each for each in set(threading.enumerate()) - before if each.name.startswith("coordkit-p")}
    for each in left:
        each.join(10)
    assert not any(each.is_alive() for each in left)
