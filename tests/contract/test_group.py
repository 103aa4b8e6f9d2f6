"""What a group promises, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.protocol.connection import _SESSION_EXPIRED

from coordkit.errors import LeaseLost, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture
def client(coordkit_zk_server: ZooKeeperEnsemble) -> Iterator[Callable[..., Any]]:
    """Make started clients, each with a session of its own."""
    made: list[Any] = []

    def make(timeout: float = 4.0, hosts: str = "") -> Any:
        made.append(start_kazoo(hosts or coordkit_zk_server.hosts, timeout))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/members"


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


async def test_members_come_change_and_go(flavour: Any, client: Any, path: str) -> None:
    group = flavour.Group(client(), path)

    assert await flavour.maybe(group.members()) == {}
    async with flavour.within(group.join("billing-7", data=b"10.0.0.7:80")) as member:
        assert await flavour.maybe(group.members()) == {"billing-7": b"10.0.0.7:80"}
        async with flavour.within(flavour.Group(client(), path).join("billing-3")):
            assert await flavour.maybe(group.members()) == {"billing-7": b"10.0.0.7:80", "billing-3": b""}
        await flavour.maybe(member.update(b"draining"))
        assert await flavour.maybe(group.members()) == {"billing-7": b"draining"}
        assert (member.identity, member.name, member.data) == ("billing-7", path, b"draining")
        assert member.ensure() is True
        assert not member.lost
    assert await flavour.maybe(group.members()) == {}
    with pytest.raises(LeaseLost):
        member.ensure()


@pytest.mark.parametrize("identity", ["a/b", ".", "..", "ünï côde", "100%", "a b", "zookeeper", "x" * 1024, "%2E"])
async def test_any_text_is_an_identity(flavour: Any, client: Any, path: str, identity: str) -> None:
    group = flavour.Group(client(), path)
    async with flavour.within(group.join(identity, data=b"1")):
        assert await flavour.maybe(group.members()) == {identity: b"1"}


async def test_the_first_change_is_the_present_state(flavour: Any, client: Any, path: str) -> None:
    group = flavour.Group(client(), path)
    async with flavour.within(group.join("a", data=b"1")):
        async for change in flavour.each(group.watch()):
            assert change == ({"a": b"1"}, {"a"}, frozenset(), frozenset())
            break


async def test_each_change_says_who_joined_left_and_was_updated(flavour: Any, client: Any, path: str) -> None:
    group, other = flavour.Group(client(), path), flavour.Group(client(), path)
    stream = flavour.each(group.watch())

    assert await anext(stream) == ({}, frozenset(), frozenset(), frozenset())
    async with flavour.within(other.join("a", data=b"1")) as member:
        assert await anext(stream) == ({"a": b"1"}, {"a"}, frozenset(), frozenset())
        await flavour.maybe(member.update(b"2"))
        assert await anext(stream) == ({"a": b"2"}, frozenset(), frozenset(), {"a"})
    assert await anext(stream) == ({}, frozenset(), {"a"}, frozenset())


async def test_a_late_reader_gets_one_change_that_says_all(flavour: Any, client: Any, path: str) -> None:
    group, other = flavour.Group(client(), path), flavour.Group(client(), path)
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


async def test_a_member_is_made_anew_in_a_new_session(flavour: Any, client: Any, path: str) -> None:
    """kazoo's Party goes on ``participating`` while the server is empty (K20)."""
    zk, watching = client(), client()
    reader = Reader(flavour, flavour.Group(watching, path))
    async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")) as member:
        await flavour.maybe(member.update(b"2"))
        for _ in range(2):
            before = watching.get(f"{path}/a")[1].ephemeralOwner
            kill_session(zk)
            await flavour.until(lambda before=before: _owner(watching, f"{path}/a") not in (None, before))
            assert watching.get(f"{path}/a")[0] == b"2"
            assert member.ensure()
        await flavour.until(lambda: reader.members == {"a": b"2"})
    await flavour.until(lambda: reader.members == {})
    await reader.close()


def _owner(zk: Any, node: str) -> int | None:
    stat = zk.exists(node)
    return None if stat is None else stat.ephemeralOwner


async def test_nobody_sees_a_member_change_its_session(flavour: Any, client: Any, path: str) -> None:
    """The servers still have the old session: its znode is replaced in one transaction."""
    zk, watching = client(timeout=30.0), client()
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


async def test_the_last_to_join_has_the_identity(flavour: Any, client: Any, path: str) -> None:
    """A restarted process does not wait for its former session; its former self, if it lives, is told."""
    seen = client()
    with pytest.raises(LeaseLost) as lost:
        async with flavour.within(flavour.Group(client(), path).join("a", data=b"old")) as old:
            reader = Reader(flavour, flavour.Group(seen, path))
            await flavour.until(lambda: reader.members == {"a": b"old"})
            running = flavour.spawn(_join_until, flavour, flavour.Group(client(), path), old.lost)
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            assert old.lost.wait(10)
            old.ensure()
    assert await running.result() > lost.value.token == old.token
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [set(each.left) for each in reader.changes] == [set(), set(), {"a"}], "it was never seen to leave before"


async def _join_until(flavour: Any, group: Any, lost: Any) -> int:
    async with flavour.within(group.join("a", data=b"new")) as new:
        await flavour.until(lost.is_set)
        assert await flavour.maybe(group.members()) == {"a": b"new"}
        return int(new.token)


async def test_a_member_deleted_by_hand_comes_back(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    async with flavour.within(flavour.Group(client(), path).join("a", data=b"1")):
        for _ in range(3):
            before = zk.get(f"{path}/a")[1].czxid
            zk.delete(f"{path}/a")
            await flavour.until(lambda before=before: zk.exists(f"{path}/a") and zk.get(f"{path}/a")[1].czxid > before)
    assert zk.get_children(path) == []


async def test_a_stream_outlives_its_group(flavour: Any, client: Any, path: str) -> None:
    """kazoo's ChildrenWatch stops for ever when the parent is deleted, as an idle container is (K18)."""
    zk = client()
    reader = Reader(flavour, flavour.Group(client(), path))
    for i in range(3):
        async with flavour.within(flavour.Group(zk, path).join("a", data=b"%d" % i)):
            await flavour.until(lambda i=i: reader.members == {"a": b"%d" % i})
        await flavour.until(lambda: reader.members == {})
        zk.delete(path)
    await reader.close()


async def test_a_stream_outlives_its_session(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    reader = Reader(flavour, flavour.Group(zk, path))
    async with flavour.within(flavour.Group(client(), path).join("a", data=b"1")) as member:
        await flavour.until(lambda: reader.members == {"a": b"1"})
        kill_session(zk)
        await flavour.maybe(member.update(b"2"))
        await flavour.until(lambda: reader.members == {"a": b"2"})
        await flavour.until(lambda: zk.connected)
        await flavour.maybe(member.update(b"3"))
        await flavour.until(lambda: reader.members == {"a": b"3"})
    await reader.close()


async def test_a_reconnect_changes_nothing(
    flavour: Any, client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """Curator's discovery deletes and creates every member at every blip."""
    proxy, zk = coordkit_faults.proxy(coordkit_zk_server), client()
    reader = Reader(flavour, flavour.Group(zk, path))
    cut = client(timeout=10.0, hosts=proxy.address)
    async with flavour.within(flavour.Group(cut, path).join("a", data=b"1")) as member:
        await flavour.until(lambda: reader.members == {"a": b"1"})
        made = zk.get(f"{path}/a")[1]
        for i in range(3):
            proxy.reset_all()
            await flavour.until(lambda: not cut.connected)
            await flavour.until(lambda: cut.connected)
            await flavour.maybe(member.update(b"%d" % i))
        assert zk.get(f"{path}/a")[1].czxid == made.czxid
        await flavour.until(lambda: reader.members == {"a": b"2"})
    await flavour.until(lambda: reader.members == {})
    await reader.close()
    assert [each.left for each in reader.changes if each.left] == [{"a"}]
    assert [each.joined for each in reader.changes if each.joined] == [{"a"}]


async def test_fifty_members_are_read_in_two_round_trips(
    flavour: Any, client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """kazoo's Party takes one round trip for each (K20)."""
    zk, proxy = client(), coordkit_faults.proxy(coordkit_zk_server)
    zk.ensure_path(path)
    for made in [zk.create_async(f"{path}/m{i}", b"%d" % i, ephemeral=True) for i in range(50)]:
        made.get(timeout=20)
    far = client(timeout=20.0, hosts=proxy.address)
    group = flavour.Group(far, path)
    sent = [0]
    call = far._call

    def counted(request: Any, result: Any) -> Any:
        # A round trip is a request that was sent when nothing else was under way.
        sent[0] += not (far._pending or far._queue)
        return call(request, result)

    far._call = counted
    proxy.latency = 0.05
    assert await flavour.maybe(group.members()) == {f"m{i}": b"%d" % i for i in range(50)}
    assert sent[0] == 2


async def test_closed_streams_leave_nothing_behind(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    group = flavour.Group(zk, path)
    async with flavour.within(flavour.Group(client(), path).join("a")):
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
        assert session.ensemble._bells._waiting == {}
        watches = [*zk._data_watchers.values(), *zk._child_watchers.values()]
        assert sum(len(each) for each in watches) <= 2


async def test_closing_a_stream_ends_its_reader(flavour: Any, client: Any, path: str) -> None:
    reader = Reader(flavour, flavour.Group(client(), path))
    await flavour.until(lambda: reader.changes)
    await reader.close()
    assert len(reader.changes) == 1


async def test_the_blocks_own_error_wins_and_the_member_leaves(flavour: Any, client: Any, path: str) -> None:
    group = flavour.Group(client(), path)
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(group.join("a")):
            raise ZeroDivisionError
    assert await flavour.maybe(group.members()) == {}


async def test_a_stopped_client_is_said(flavour: Any, client: Any, path: str) -> None:
    zk = client()
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
        coordkit_zk.set("/members/a", b"by hand")
        await flavour.until(lambda: coordkit_zk.get("/members/a")[0] == b"1")
