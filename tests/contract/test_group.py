"""What a group promises, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kazoo.exceptions import NoNodeError
from kazoo.protocol.connection import _SESSION_EXPIRED
from kazoo.security import make_acl
from zk_lines import names

import coordkit
from coordkit import _kazoo_trees
from coordkit._ports_zookeeper import GetData, Multi, SetData
from coordkit._threads import runtime
from coordkit.core import own_znode
from coordkit.errors import LeaseLost, StoreRefused, StoreUnavailable
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


def at_last(zk: Any) -> Any:
    """Return a client whose node has heard of all that was written by now."""
    zk.retry(zk.sync, "/")  # it may be reconnecting, where its request for a watch was refused
    return zk


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/members"


@pytest.fixture(params=["recursive", "one by one", "refused"])
def watches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the servers know recursive watches, or pretend that they do not; or be asked, refuse, and hang up."""
    if request.param == "one by one":
        monkeypatch.setattr(_kazoo_trees.Trees, "supported", False)
    elif request.param == "refused":
        monkeypatch.setattr(_kazoo_trees.AddWatch, "type", 1106)
    return str(request.param)


class Reader:
    """A stream that is read at the side; ``members`` is what it said last."""

    def __init__(self, flavour: Any, group: Any) -> None:
        self.changes: list[Any] = []
        self._flavour = flavour
        self._stream = group.watch()
        self._running = flavour.spawn(self._read)

    async def _read(self) -> None:
        async for change in self._flavour.each(self._stream):
            self.changes.append(change)

    @property
    def members(self) -> Any:
        return dict(self.changes[-1].members) if self.changes else None

    async def close(self) -> None:
        self._stream.close()
        await self._running.result()


async def test_members_come_change_and_go(flavour: Any, zk_client: Any, path: str) -> None:
    group = flavour.Group(zk_client(), path)

    async def seen(members: dict[str, bytes]) -> None:
        async def is_so() -> bool:
            return bool(await flavour.maybe(group.members()) == members)

        await flavour.until(is_so)

    assert await flavour.maybe(group.members()) == {}
    async with flavour.within(group.join("billing-7", data=b"10.0.0.7:80")) as member:
        assert await flavour.maybe(group.members()) == {"billing-7": b"10.0.0.7:80"}
        async with flavour.within(flavour.Group(zk_client(), path).join("billing-3")):
            await seen({"billing-7": b"10.0.0.7:80", "billing-3": b""})  # by another node, it may be a moment later
        await flavour.maybe(member.update(b"draining"))
        await seen({"billing-7": b"draining"})
        assert (member.identity, member.name, member.data) == ("billing-7", path, b"draining")
        assert member.ensure() is True
        assert not member.lost
    assert await flavour.maybe(group.members()) == {}
    with pytest.raises(LeaseLost):
        member.ensure()


@pytest.mark.parametrize("identity", ["a/b", ".", "..", "ünï côde", "100%", "a b", "zookeeper", "x" * 1024, "%2E"])
async def test_any_text_is_an_identity(flavour: Any, zk_client: Any, path: str, identity: str) -> None:
    group = flavour.Group(zk_client(), path)
    async with flavour.within(group.join(identity, data=b"1")):
        assert await flavour.maybe(group.members()) == {identity: b"1"}


@pytest.mark.usefixtures("watches")
async def test_the_first_change_is_the_present_state(flavour: Any, zk_client: Any, path: str) -> None:
    group = flavour.Group(zk_client(), path)
    async with flavour.within(group.join("a", data=b"1")):
        async for change in flavour.each(group.watch()):
            assert change == ({"a": b"1"}, {"a"}, frozenset(), frozenset(), False)
            break


@pytest.mark.usefixtures("watches")
async def test_each_change_says_who_joined_left_and_was_updated(flavour: Any, zk_client: Any, path: str) -> None:
    group, other = flavour.Group(zk_client(), path), flavour.Group(zk_client(), path)
    stream = flavour.each(group.watch())

    assert await anext(stream) == ({}, frozenset(), frozenset(), frozenset(), False)
    async with flavour.within(other.join("a", data=b"1")) as member:
        assert await anext(stream) == ({"a": b"1"}, {"a"}, frozenset(), frozenset(), False)
        await flavour.maybe(member.update(b"2"))
        assert await anext(stream) == ({"a": b"2"}, frozenset(), frozenset(), {"a"}, False)
    assert await anext(stream) == ({}, frozenset(), {"a"}, frozenset(), False)


@pytest.mark.usefixtures("watches")
async def test_a_late_reader_gets_one_change_that_says_all(flavour: Any, zk_client: Any, path: str) -> None:
    group, other = flavour.Group(zk_client(), path), flavour.Group(zk_client(), path)
    stream = flavour.each(group.watch())
    await anext(stream)
    async with flavour.within(other.join("gone")):
        pass
    async with flavour.within(other.join("a", data=b"1")) as member, flavour.within(other.join("b")):
        for i in range(20):
            await flavour.maybe(member.update(b"%d" % i))
        members = None
        while members != {"a": b"19", "b": b""}:
            change = await anext(stream)
            members = change.members
        assert "gone" not in change.left


@pytest.mark.usefixtures("watches")
async def test_a_member_is_made_anew_in_a_new_session(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Party goes on ``participating`` while the server is empty (K20)."""
    zk, watching = zk_client(), zk_client()
    reader = Reader(flavour, flavour.Group(watching, path))
    async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")) as member:
        await flavour.maybe(member.update(b"2"))
        for _ in range(2):
            before = at_last(watching).get(f"{path}/a")[1].ephemeralOwner
            kill_session(zk)
            await flavour.until(lambda before=before: _owner(watching, f"{path}/a") not in (None, before))
            assert at_last(watching).get(f"{path}/a")[0] == b"2"
            assert member.ensure()
        await flavour.until(lambda: reader.members == {"a": b"2"})
    await flavour.until(lambda: reader.members == {})
    await reader.close()


def _owner(zk: Any, node: str) -> int | None:
    stat = at_last(zk).exists(node)
    return None if stat is None else stat.ephemeralOwner


@pytest.mark.usefixtures("watches")
async def test_nobody_sees_a_member_change_its_session(flavour: Any, zk_client: Any, path: str) -> None:
    """The servers still have the old session: its znode is replaced in one transaction."""
    zk, watching = zk_client(timeout=30.0), zk_client()
    reader = Reader(flavour, flavour.Group(watching, path))
    async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")) as member:
        await flavour.until(lambda: reader.members == {"a": b"1"})
        before = _owner(watching, f"{path}/a")
        zk._call(_SESSION_EXPIRED, None)
        await flavour.until(lambda: _owner(watching, f"{path}/a") != before)
        assert _owner(watching, f"{path}/a") is not None
        await flavour.until(lambda: zk.connected)
        await flavour.maybe(member.update(b"2"))
        await flavour.until(lambda: reader.members == {"a": b"2"})
        assert [each.left for each in reader.changes if each.left] == []
    await flavour.until(lambda: reader.members == {})
    await reader.close()


@pytest.mark.usefixtures("watches")
async def test_the_last_to_join_has_the_identity(flavour: Any, zk_client: Any, path: str) -> None:
    """A restarted process does not wait for its former session; its former self, if it lives, is told."""
    seen = zk_client()
    with pytest.raises(LeaseLost) as lost:
        async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"old")) as old:
            reader = Reader(flavour, flavour.Group(seen, path))
            await flavour.until(lambda: reader.members == {"a": b"old"})
            running = flavour.spawn(_join_until, flavour, flavour.Group(zk_client(), path), old.lost)
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            assert old.lost.wait(10)
            old.ensure()
    assert await running.result() > lost.value.token == old.token
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [set(each.left) for each in reader.changes if each.left] == [{"a"}], "it was never seen to leave before"


async def _join_until(flavour: Any, group: Any, lost: Any) -> int:
    async with flavour.within(group.join("a", data=b"new")) as new:
        await flavour.until(lost.is_set)
        assert await flavour.maybe(group.members()) == {"a": b"new"}
        return int(new.token)


async def test_a_member_deleted_by_hand_comes_back(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"1")):
        for _ in range(3):
            before = at_last(zk).get(f"{path}/a")[1].czxid
            zk.delete(f"{path}/a")
            await flavour.until(
                lambda before=before: at_last(zk).exists(f"{path}/a") and at_last(zk).get(f"{path}/a")[1].czxid > before
            )
    assert at_last(zk).get_children(path) == []


@pytest.mark.usefixtures("watches")
async def test_a_stream_outlives_its_group(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's ChildrenWatch stops for ever when the parent is deleted, as an idle container is (K18)."""
    zk = zk_client()
    reader = Reader(flavour, flavour.Group(zk_client(), path))
    for i in range(3):
        async with flavour.within(flavour.Group(zk, path).join("a", data=b"%d" % i)):
            await flavour.until(lambda i=i: reader.members == {"a": b"%d" % i})
        await flavour.until(lambda: reader.members == {})
        zk.delete(path)
    await reader.close()


@pytest.mark.usefixtures("watches")
async def test_a_stream_outlives_its_session(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    reader = Reader(flavour, flavour.Group(zk, path))
    async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"1")) as member:
        await flavour.until(lambda: reader.members == {"a": b"1"})
        kill_session(zk)
        await flavour.maybe(member.update(b"2"))
        await flavour.until(lambda: reader.members == {"a": b"2"})
        await flavour.until(lambda: zk.connected)
        await flavour.maybe(member.update(b"3"))
        await flavour.until(lambda: reader.members == {"a": b"3"})
    await reader.close()


@pytest.mark.usefixtures("watches")
async def test_a_reconnect_changes_nothing(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    """Curator's discovery deletes and creates every member at every blip."""
    proxy, zk = coordkit_faults.proxy(zk_servers.nodes[0]), zk_client()
    reader = Reader(flavour, flavour.Group(zk, path))
    cut = zk_client(timeout=10.0, hosts=proxy.address)
    async with flavour.within(flavour.Group(cut, path).join("a", data=b"1")) as member:
        await flavour.until(lambda: reader.members == {"a": b"1"})
        made = at_last(zk).get(f"{path}/a")[1]
        for i in range(3):
            proxy.reset_all()
            await flavour.until(lambda: not cut.connected)
            await flavour.until(lambda: cut.connected)
            await flavour.maybe(member.update(b"%d" % i))
        assert at_last(zk).get(f"{path}/a")[1].czxid == made.czxid
        await flavour.until(lambda: reader.members == {"a": b"2"})
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [each.left for each in reader.changes if each.left] == [{"a"}]
    assert [each.joined for each in reader.changes if each.joined] == [{"a"}]


async def test_fifty_members_are_read_in_two_round_trips(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    """kazoo's Party takes one round trip for each (K20)."""
    zk, proxy = zk_client(), coordkit_faults.proxy(zk_servers.nodes[0])
    zk.ensure_path(path)
    for made in [zk.create_async(f"{path}/m{i}", b"%d" % i, ephemeral=True) for i in range(50)]:
        made.get(timeout=20)
    far = zk_client(timeout=20.0, hosts=proxy.address)
    group = flavour.Group(far, path)
    sent = [0]
    submit = far._coordkit_wire.submit

    def counted(request: Any, deliver: Any) -> Any:
        # A round trip is a request that was sent when nothing else was under way.
        sent[0] += not (far._pending or far._queue)
        return submit(request, deliver)

    far._coordkit_wire.submit = counted
    proxy.latency = 0.05
    assert await flavour.maybe(group.members()) == {f"m{i}": b"%d" % i for i in range(50)}
    assert sent[0] == 2


@pytest.mark.usefixtures("watches")
async def test_closed_streams_leave_nothing_behind(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    group = flavour.Group(zk, path)
    async with flavour.within(flavour.Group(zk_client(), path).join("a")):
        for i in range(200):
            stream = group.watch()
            async for change in flavour.each(stream):
                assert change.members == {"a": b""}
                break
            if i % 2:
                stream.close()
        del stream
        gc.collect()
        session = zk._coordkit_sessions.here() if flavour.is_async else zk._coordkit_session
        assert session._listeners == set()
        assert session.ensemble._wire.bells._waiting == {}
        assert len(session.ensemble._wire.trees) == 0
        watches = [*zk._data_watchers.values(), *zk._child_watchers.values()]
        assert sum(len(each) for each in watches) <= 2


async def test_a_stream_may_be_asked_for_a_while(flavour: Any, zk_client: Any, path: str) -> None:
    """Also by who never waits for as long as a look takes."""
    group = flavour.Group(zk_client(), path)
    stream = group.watch()

    async def polled() -> Any:
        change = await flavour.maybe(stream.next(timeout=0))
        if change is not None:
            seen.append(change)
        return change

    seen: list[Any] = []
    first = await flavour.maybe(stream.next(timeout=scaled(10)))
    assert first.members == {}
    assert await flavour.maybe(stream.next(timeout=0.05)) is None
    async with flavour.within(group.join("a")):
        assert (await flavour.maybe(stream.next(timeout=scaled(10)))).joined == {"a"}
        assert await polled() is None
        async with flavour.within(group.join("b")):
            await flavour.until(polled)
        assert seen[0].joined == {"b"}
        stream.close()
        assert await flavour.maybe(stream.next(timeout=scaled(10))) is None


async def test_who_only_looks_in_is_told_that_the_group_may_not_be_read(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """Between two short looks the servers refused, and the next look began anew, as if they had not."""
    zk = zk_client()
    zk.ensure_path(path.rpartition("/")[0])
    zk.create(path, acl=[make_acl("ip", "192.0.2.1", all=True)])
    stream = flavour.Group(zk, path).watch()

    async def refused() -> bool:
        try:
            assert await flavour.maybe(stream.next(timeout=0)) is None
        except StoreRefused:
            return True
        return False

    await flavour.until(refused)
    stream.close()


async def test_closing_a_stream_ends_its_reader(flavour: Any, zk_client: Any, path: str) -> None:
    reader = Reader(flavour, flavour.Group(zk_client(), path))
    await flavour.until(lambda: reader.changes)
    await reader.close()
    assert len(reader.changes) == 1


async def test_the_blocks_own_error_wins_and_the_member_leaves(flavour: Any, zk_client: Any, path: str) -> None:
    group = flavour.Group(zk_client(), path)
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(group.join("a")):
            raise ZeroDivisionError
    assert await flavour.maybe(group.members()) == {}


async def test_a_stopped_client_is_said(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    group = flavour.Group(zk, path)
    zk.stop()
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await flavour.maybe(group.members())
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        async with flavour.within(group.join("a")):
            pytest.fail("a member without a session")
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        async for _ in flavour.each(group.watch()):
            pytest.fail("a state without a session")


async def test_it_works_inside_a_chroot(flavour: Any, coordkit_zk: Any) -> None:
    group = flavour.Group(coordkit_zk, "/members")
    async with flavour.within(group.join("a", data=b"1")):
        assert coordkit_zk.get("/members/a")[0] == b"1"
        stream = flavour.each(group.watch())
        assert (await anext(stream)).members == {"a": b"1"}
        async with flavour.within(group.join("b")):
            assert (await anext(stream)).joined == {"b"}
        assert (await anext(stream)).left == {"b"}
        coordkit_zk.set("/members/a", b"by hand")
        await flavour.until(lambda: coordkit_zk.get("/members/a")[0] == b"1")


async def test_only_members_are_members(flavour: Any, zk_client: Any, path: str) -> None:
    """An election whose path is below that of the group is no member of it, though its znodes are there."""
    zk = zk_client()
    zk.ensure_path(f"{path}/leader")
    group = flavour.Group(zk, path)
    async with flavour.within(group.join("a", data=b"1")):
        assert await flavour.maybe(group.members()) == {"a": b"1"}
        async for change in flavour.each(group.watch()):
            assert change.members == {"a": b"1"}
            break


def test_of_many_that_join_at_once_the_last_has_the_identity(zk_client: Any, path: str) -> None:
    """Whoever made its znode last, by its token; each has a token of its own, and all others are told."""
    clients = [zk_client(10.0) for _ in range(6)]
    for i in range(6):
        blocks = [coordkit.Group(zk, f"{path}/{i}").join("a") for zk in clients]
        together = threading.Barrier(len(blocks))

        def join(block: Any, together: threading.Barrier = together) -> Any:
            together.wait(10)
            return block.__enter__()

        with ThreadPoolExecutor(len(blocks)) as pool:
            members = sorted(pool.map(join, blocks), key=lambda member: int(member.token))
        assert len({member.token for member in members}) == len(members)
        for former in members[:-1]:
            assert former.lost.wait(10)
        assert members[-1].ensure()
        for block in blocks:
            block.__exit__(ValueError, ValueError("the block's own"), None)


def meddle(zk: Any, kind: type, action: Callable[[], Any], *, after: bool, by: threading.Thread | None = None) -> None:
    """Have ``action`` run once, in the moment before or after the next request of this kind is carried out."""
    wire = zk._coordkit_wire
    submit, due = wire.submit, [action]

    def meddling(request: Any, deliver: Any) -> Any:
        mine = isinstance(request, kind) and bool(due) and by in (None, threading.current_thread())
        act = due.pop() if mine else None
        if act is not None and not after:
            act()
        result = submit(request, deliver)
        if act is not None and after:
            result.wait(10)
            act()
        return result

    wire.submit = meddling


@pytest.mark.parametrize("same_client", [False, True])
@pytest.mark.parametrize("after", [True, False])
def test_a_member_made_anew_learns_who_joined_meanwhile(
    zk_client: Any, path: str, same_client: bool, after: bool
) -> None:
    """Another joins in the moment before or after the znode is made anew: there is one member, and it is the other."""
    old_zk, seen = zk_client(), zk_client()
    new_zk = old_zk if same_client else zk_client()
    old_block = coordkit.Group(old_zk, path).join("a", data=b"old")
    new_block = coordkit.Group(new_zk, path).join("a", data=b"new")
    old, joined = old_block.__enter__(), []
    meddle(old_zk, Multi, lambda: joined.append(new_block.__enter__()), after=after)
    seen.delete(f"{path}/a")
    assert old.lost.wait(10)
    (new,) = joined
    assert new.ensure()
    assert new.token > old.token
    assert at_last(seen).get(f"{path}/a")[0] == b"new"
    assert at_last(seen).get(f"{path}/a")[1].czxid == new.token
    with pytest.raises(LeaseLost):
        old_block.__exit__(None, None, None)
    new_block.__exit__(None, None, None)
    assert at_last(seen).get_children(path) == []


def test_an_update_never_reaches_another_incarnation(
    zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lost the identity without having heard of it is told, and the other's znode is never written."""
    old_zk, new_zk = zk_client(), zk_client()
    old = coordkit.Group(old_zk, path).join("a", data=b"old").__enter__()
    # By the numbers of their joins, both znodes would begin with the same version.
    monkeypatch.setattr(own_znode, "_joins", itertools.count(old._core._znode._join + own_znode._VERSIONS))
    block, joined = coordkit.Group(new_zk, path).join("a", data=b"new"), []

    def join() -> None:
        joined.append(block.__enter__())
        joined.append(at_last(new_zk).get(f"{path}/a")[1].version)

    meddle(old_zk, SetData, join, after=False, by=threading.current_thread())
    with pytest.raises(LeaseLost):
        old.update(b"late")
    assert old.lost
    new, version = joined
    data, stat = at_last(new_zk).get(f"{path}/a")
    assert data == b"new"
    assert stat.version == version
    assert new.ensure()
    block.__exit__(None, None, None)


def test_leaving_says_that_it_was_lost_though_it_was_heard_late(zk_client: Any, path: str) -> None:
    """A loss is found while the block is being left: that is no outage."""
    zk = zk_client()
    block = coordkit.Group(zk, path).join("a", data=b"old")
    core = block.__enter__()._core

    def until_left() -> None:
        end = time.monotonic() + 10
        while not core._leaving and time.monotonic() < end:
            time.sleep(0.001)

    meddle(zk, GetData, until_left, after=False)
    with coordkit.Group(zk_client(), path).join("a", data=b"new") as new:
        with pytest.raises(LeaseLost):
            block.__exit__(None, None, None)
        assert new.ensure()


async def test_a_refused_join_leaves_nothing_that_tries_again(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    zk.ensure_path(path)
    owner = zk_client()
    owner.create(f"{path}/a", ephemeral=True, acl=[make_acl("ip", "192.0.2.1", all=True)])
    with pytest.raises(StoreRefused):
        async with flavour.within(flavour.Group(zk, path).join("a")):
            pytest.fail("a member that may not be written")
    session = zk._coordkit_sessions.here() if flavour.is_async else zk._coordkit_session
    assert session.guests == set()
    assert session._listeners == set()
    assert session.joins == {}


async def test_a_znode_with_children_is_in_nobodys_place(flavour: Any, zk_client: Any, path: str) -> None:
    """It cannot be replaced, however often that is tried."""
    zk = zk_client()
    zk.ensure_path(f"{path}/a/child")
    sent = [0]
    group = flavour.Group(zk, path)
    wire = zk._coordkit_wire
    submit = wire.submit

    def counted(request: Any, deliver: Any) -> Any:
        sent[0] += 1
        return submit(request, deliver)

    wire.submit = counted
    with pytest.raises(StoreRefused, match="children"):
        async with flavour.within(group.join("a")):
            pytest.fail("it is another's")
    assert sent[0] < 20


async def test_a_join_that_is_always_overtaken_ends(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def overtaken(*_: Any, **__: Any) -> bool:
        tries.append(time.monotonic())
        return False

    monkeypatch.setattr(own_znode.OwnZnode, "put", overtaken)
    zk = zk_client(timeout=2.0)
    with pytest.raises(StoreUnavailable, match="changed by others"):
        async with flavour.within(flavour.Group(zk, path).join("a")):
            pytest.fail("it is another's")
    assert len(tries) < 500
    assert 1.9 < tries[-1] - tries[0] < scaled(5.0)


async def test_a_member_is_told_that_its_client_is_stopped(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    told: list[Any] = []

    async def be_a_member() -> None:
        async with flavour.within(flavour.Group(zk, path).join("a")) as member:
            told.append(member)
            await flavour.until(lambda: member.lost, 20)

    running = flavour.spawn(be_a_member)
    await flavour.until(lambda: told)
    assert told[0].ensure()
    zk.stop()
    with pytest.raises(LeaseLost, match="stopped"):
        await running.result()
    with pytest.raises(LeaseLost, match="stopped"):
        told[0].ensure()
    zk.start()
    assert told[0].lost, "what was lost stays lost"
    assert await flavour.maybe(flavour.Group(zk, path).members()) == {}


async def test_a_block_that_was_not_entered_says_so(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    with pytest.raises(AttributeError, match=r"update: enter it \("):
        flavour.Group(zk, path).join("a").update(b"1")
    with pytest.raises(AttributeError, match=r"token: enter it \("):
        _ = flavour.Election(zk, path, identity="a").lead().token


async def _hold(flavour: Any, group: Any, data: bytes, got: list[Any], end: threading.Event) -> None:
    async with flavour.within(group.join("a", data=data)) as member:
        got.append(member)
        await flavour.until(end.is_set, 30)


def _hang(member: Any, hung: bool) -> None:
    """Have the worker of a member do nothing, as in a process that was stopped; or let it go on."""
    member._core._joined = not hung
    if not hung:
        member._core._worker.poke()


async def test_an_older_incarnation_that_comes_back_gives_way(flavour: Any, zk_client: Any, path: str) -> None:
    """The newer one's session has ended, and the older one, which never heard of it, is made anew first."""
    old_zk, new_zk, seen = zk_client(), zk_client(), zk_client()
    members: list[Any] = []
    ends = [threading.Event(), threading.Event()]
    running = [flavour.spawn(_hold, flavour, flavour.Group(old_zk, path), b"old", members, ends[0])]
    await flavour.until(lambda: len(members) == 1)
    _hang(members[0], True)
    kill_session(old_zk)
    running.append(flavour.spawn(_hold, flavour, flavour.Group(new_zk, path), b"new", members, ends[1]))
    await flavour.until(lambda: len(members) == 2)
    old, new = members
    first = int(new.token)
    _hang(new, True)
    kill_session(new_zk)
    _hang(old, False)
    await flavour.until(lambda: _data(seen, f"{path}/a") == b"old")
    assert at_last(seen).exists(f"{path}/a").czxid > first
    assert not old.lost
    _hang(new, False)
    await flavour.until(lambda: _data(seen, f"{path}/a") == b"new")
    await flavour.until(old.lost.is_set)
    await flavour.until(lambda: old.token < new.token)  # it hears of its own znode by another node than ``seen``
    assert not new.lost
    await flavour.maybe(new.update(b"newer"))
    assert await flavour.maybe(flavour.Group(seen, path).members()) == {"a": b"newer"}
    ends[0].set()
    with pytest.raises(LeaseLost):
        await running[0].result()
    assert _data(seen, f"{path}/a") == b"newer"
    ends[1].set()
    await running[1].result()
    assert at_last(seen).get_children(path) == []


async def test_a_member_that_was_made_anew_and_deleted_by_hand_leaves_nothing(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """Its mark stayed, as long as its session did."""
    zk, seen = zk_client(), zk_client()
    async with flavour.within(flavour.Group(zk, path).join("a")) as member:
        kill_session(zk)
        await flavour.until(lambda: set(names(at_last(seen), path)) == {"a", "a%"}, 20)
        await flavour.until(lambda: not (zk._queue or zk._pending))
        _hang(member, True)
        seen.delete(f"{path}/a")
        zk.sync(path)
    assert names(at_last(seen), path) == []


def _data(zk: Any, node: str) -> bytes | None:
    try:
        return bytes(at_last(zk).get(node)[0])
    except NoNodeError:
        return None


async def test_a_watch_of_the_programs_own_does_not_deafen_a_stream(flavour: Any, zk_client: Any, path: str) -> None:
    """Servers before 3.9 keep one mode of watching for each client and path (ZOOKEEPER-4466)."""
    zk = zk_client()
    reader = Reader(flavour, flavour.Group(zk, path))
    await flavour.until(lambda: reader.members == {})
    seen: list[Any] = []
    for i in range(3):
        zk.exists(path, watch=seen.append)
        async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"%d" % i)):
            await flavour.until(lambda i=i: reader.members == {"a": b"%d" % i})
        await flavour.until(lambda: reader.members == {})
    assert len(seen) == 1, "the program's own watch was told of the creation, and of nothing below"
    await reader.close()


async def test_one_watch_serves_all_streams_of_a_client(flavour: Any, zk_client: Any, path: str) -> None:
    """A stream that is closed does not take the watch of another with it; the last one leaves none at the server."""
    zk = zk_client()
    group = flavour.Group(zk, path)
    first, second = Reader(flavour, group), Reader(flavour, group)
    await flavour.until(lambda: first.members == second.members == {})
    await first.close()
    heard, trees = [], zk._coordkit_wire.trees
    listen = trees._heard
    trees._heard = lambda path: heard.append(path) or listen(path)
    async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"1")):
        await flavour.until(lambda: second.members == {"a": b"1"})
        assert f"{path}/a" in heard
        await second.close()
        zk.sync(path)
        heard.clear()
    async with flavour.within(flavour.Group(zk_client(), path).join("b")):
        zk.sync(path)
        assert heard == []


def test_a_join_is_read_with_its_data_in_one_round_trip(zk_client: Any, path: str) -> None:
    """Nothing is listed anew: the news says whose data is to be read."""
    zk = zk_client()
    with coordkit.Group(zk_client(), path).join("first"), coordkit.Group(zk, path).watch() as stream:
        next(stream)
        asked: list[Any] = []
        submit = zk._coordkit_wire.submit
        zk._coordkit_wire.submit = lambda request, deliver: asked.append(request) or submit(request, deliver)
        with coordkit.Group(zk_client(), path).join("a", data=b"1"):
            assert next(stream).joined == {"a"}
        assert [(type(each).__name__, each.path) for each in asked] == [("GetData", f"{path}/a")]


def test_news_is_told_late_where_no_thread_can_be_started(
    zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch is gone, and nothing else may happen for hours; a member is kept as it should be as well."""
    monkeypatch.setattr(runtime, "_IDLE", 0.01)
    start, refused, seen, zk, other = threading.Thread.start, [], [], zk_client(), zk_client()

    def starting(thread: threading.Thread) -> None:
        if thread.name == "coordkit-worker":
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    def read(stream: Any) -> None:
        seen.extend(dict(change.members) for change in stream)

    def until(check: Any) -> None:
        end = time.monotonic() + scaled(20)
        while not check():
            assert time.monotonic() < end
            time.sleep(0.005)

    with coordkit.Group(zk, path).watch() as stream, coordkit.Group(zk, path).join("a", data=b"1"):
        reader = threading.Thread(target=read, args=(stream,))
        reader.start()
        until(lambda: seen[-1:] == [{"a": b"1"}])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", starting)
            # From here on none begins, so once all have ended nobody looks at what changes.
            until(lambda: not any(each.name == "coordkit-worker" for each in threading.enumerate()))
            other.create(f"{path}/b", b"2", ephemeral=True)
            other.delete(f"{path}/a")
            before = len(refused)
            until(lambda: len(refused) > before + 3)
            assert seen[-1] == {"a": b"1"}
        until(lambda: seen[-1] == {"a": b"1", "b": b"2"} and other.exists(f"{path}/a"))
        stream.close()
        reader.join()
    assert "a watch failed" not in caplog.text


async def test_who_is_cut_off_does_not_claim_to_know(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    """Curator's GroupMember always lists itself, connected or not; kazoo's Party says ``participating`` (K20)."""
    proxy = coordkit_faults.proxy(zk_servers.nodes[0])
    cut, seen = zk_client(timeout=2.0, hosts=proxy.address), zk_client()
    group = flavour.Group(cut, path)
    async with flavour.within(group.join("a")):
        proxy.cut()
        await flavour.until(lambda: not cut.connected)
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(group.members())
        proxy.heal()
        await flavour.until(lambda: cut.connected, 20)
        await flavour.until(lambda: _owner(seen, f"{path}/a") == cut.client_id[0], 20)
        assert await flavour.maybe(group.members()) == {"a": b""}


async def test_a_restarted_process_has_its_identity_at_once(flavour: Any, zk_client: Any, path: str) -> None:
    """tooz raises MemberAlreadyExist, and kazoo shows a twin, until the session of the dead one has ended."""
    dead, seen = zk_client(timeout=30.0), zk_client()
    seen.ensure_path(path)
    dead.create(f"{path}/a", b"before", ephemeral=True)  # and then it died without a word
    reader = Reader(flavour, flavour.Group(seen, path))
    await flavour.until(lambda: reader.members == {"a": b"before"})
    async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"after")):
        await flavour.until(lambda: reader.members == {"a": b"after"})
        assert await flavour.maybe(flavour.Group(seen, path).members()) == {"a": b"after"}
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [set(each.left) for each in reader.changes] == [set(), set(), {"a"}], "there was no gap"


async def test_a_join_and_a_leave_between_two_looks_is_no_news(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's ChildrenWatch calls with the list that it called with before (K19)."""
    other, reader = flavour.Group(zk_client(), path), Reader(flavour, flavour.Group(zk_client(), path))
    await flavour.until(lambda: reader.members == {})
    for i in range(30):
        async with flavour.within(other.join(f"m{i}")):
            pass
    async with flavour.within(other.join("last")):
        await flavour.until(lambda: reader.members == {"last": b""})
    await reader.close()
    assert all(each.joined or each.left or each.updated for each in reader.changes[1:])


async def test_a_resync_is_marked(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    """What came and went while the connection was lost is not told, and that is."""
    proxy, other = coordkit_faults.proxy(zk_servers.nodes[0]), flavour.Group(zk_client(), path)
    cut = zk_client(timeout=20.0, hosts=proxy.address)
    reader = Reader(flavour, flavour.Group(cut, path))
    await flavour.until(lambda: reader.members == {})
    async with flavour.within(other.join("a")):
        await flavour.until(lambda: reader.members == {"a": b""})
        proxy.cut()
        await flavour.until(lambda: not cut.connected)
        async with flavour.within(other.join("came and went")):
            pass
        async with flavour.within(other.join("b")):
            proxy.heal()
            await flavour.until(lambda: reader.members == {"a": b"", "b": b""}, 20)
        await flavour.until(lambda: reader.members == {"a": b""})
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [each.resync for each in reader.changes] == [False, False, True, False, False]
