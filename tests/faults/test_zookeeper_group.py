"""Groups in bad weather: lost requests and answers, partitions, a restarted server, cancelled joins."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.exceptions import NoNodeError

import coordkit.aio
from coordkit.core.session import GRACE
from coordkit.core.znodes import may_be_member
from coordkit.errors import StoreUnavailable
from coordkit.testing import processes
from coordkit.testing.faults import Faults
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/members"


def partition(proxy: FaultProxy) -> None:
    """Let nothing through, and say nothing: what a cut cable does."""
    proxy.drop_requests = proxy.drop_replies = True


def heal(proxy: FaultProxy) -> None:
    proxy.drop_requests = proxy.drop_replies = False


def members(client: Any, path: str) -> dict[str, bytes]:
    found = {}
    with contextlib.suppress(NoNodeError):  # it changes while we look: look again
        for name in filter(may_be_member, client.get_children(path)):
            found[name] = client.get(f"{path}/{name}")[0]
        return found
    return members(client, path) if client.exists(path) else {}


@pytest.mark.parametrize("lose", [FaultProxy.drop_request_matching, FaultProxy.drop_reply_matching])
async def test_a_join_that_is_lost_is_made_good(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, lose: Callable[[FaultProxy, bytes], None]
) -> None:
    direct, zk = zk_client(), zk_client(timeout=10.0, hosts=proxy.address)
    lose(proxy, f"{path}/a".encode())
    async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")) as member:
        assert sum(proxy.hits.values()) == 1
        assert members(direct, path) == {"a": b"1"}
        assert direct.get(f"{path}/a")[1].czxid == member.token
    assert members(direct, path) == {}


async def test_a_leave_that_is_lost_is_made_good(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    try:
        async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")):
            session = zk.client_id
            node = f"{path}/a".encode()
            proxy.drop_request_matching(struct.pack(">ii", 2, len(node)) + node)
    except StoreUnavailable:
        pass  # it took longer than the grace: said, and made good in the background
    assert proxy.hits["drop_request_matching"] == 1
    await flavour.until(lambda: members(direct, path) == {})
    await flavour.until(lambda: zk.connected)
    assert zk.client_id == session


async def test_a_member_that_was_cut_off_comes_back(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Its session ends meanwhile; others see it leave and join, and its own stream ends up with the truth."""
    direct, cut, states = zk_client(), zk_client(timeout=1.0, hosts=proxy.address), []
    group = flavour.Group(cut, path)
    stream = group.watch()

    async def read() -> None:
        async for change in flavour.each(stream):
            states.append(change.members)  # noqa: PERF401  each is looked at while the next is awaited

    async with flavour.within(group.join("a", data=b"1")) as member:
        running = flavour.spawn(read)
        await flavour.until(lambda: states[-1:] == [{"a": b"1"}])
        partition(proxy)
        await flavour.until(lambda: members(direct, path) == {}, 20)
        async with flavour.within(flavour.Group(direct, path).join("b")):
            heal(proxy)
            await flavour.until(lambda: members(direct, path) == {"a": b"1", "b": b""}, 20)
            await flavour.until(lambda: states[-1:] == [{"a": b"1", "b": b""}], 20)
            assert member.ensure()
        await flavour.until(lambda: states[-1:] == [{"a": b"1"}])
        stream.close()
        await running.result()
    assert members(direct, path) == {}


async def test_an_identity_taken_while_cut_off_is_lost(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    direct, cut = zk_client(), zk_client(timeout=10.0, hosts=proxy.address)
    block = flavour.Group(cut, path).join("a", data=b"old")
    old = await flavour.within(block).__aenter__()
    partition(proxy)
    async with flavour.within(flavour.Group(direct, path).join("a", data=b"new")) as new:
        heal(proxy)
        await _until_lost(flavour, old)
        assert members(direct, path) == {"a": b"new"}
        assert new.token > old.token
        assert new.ensure()
        await flavour.within(block).__aexit__(ValueError, ValueError("the block's own"), None)
        assert members(direct, path) == {"a": b"new"}


async def _until_lost(flavour: Any, member: Any) -> None:
    try:
        await flavour.until(member.lost.is_set, 20)
    except asyncio.CancelledError:  # the block was entered in this task, so the loss cancels it
        assert flavour.is_async
        assert member.lost


async def test_leaving_ends_in_time_in_a_partition(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(flavour.Group(zk, path).join("a")):
            partition(proxy)
            began = time.monotonic()
    assert time.monotonic() - began < scaled(3 * GRACE)
    assert members(direct, path) == {"a": b""}
    session = zk._session_id
    heal(proxy)
    await flavour.until(lambda: members(direct, path) == {}, 30)
    await flavour.until(lambda: zk.connected, 20)
    assert zk.client_id[0] == session


async def test_an_update_without_an_answer_is_made_later(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    async with flavour.within(flavour.Group(zk, path).join("a", data=b"1")) as member:
        partition(proxy)
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(member.update(b"2"))
        assert members(direct, path) == {"a": b"1"}
        heal(proxy)
        await flavour.until(lambda: members(direct, path) == {"a": b"2"}, 20)
        await flavour.until(lambda: zk.connected)


async def test_a_restarted_server_finds_its_members(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    zk = zk_client(timeout=10.0)
    group = flavour.Group(zk, path)
    stream = flavour.each(group.watch())
    async with flavour.within(group.join("a", data=b"1")) as member:
        while (await anext(stream)).members != {"a": b"1"}:
            pass
        coordkit_faults.restart(coordkit_zk_server)
        await flavour.until(lambda: zk.connected, 20)
        await flavour.maybe(member.update(b"2"))
        while (change := await anext(stream)).members != {"a": b"2"}:
            pass
        assert member.ensure()
        assert "a" not in change.left


def test_a_cancelled_join_leaves_no_member(zk_client: Any, path: str) -> None:
    """At whatever moment it is cancelled."""
    from coordkit.aio import Group

    zk, direct = zk_client(), zk_client()

    async def main() -> None:
        group = Group(zk, path)
        async with group.join("there"):
            for step in range(25):
                joining = asyncio.create_task(group.join("a").__aenter__())
                await asyncio.sleep(step * 0.0002)
                if not joining.cancel():
                    break  # it has joined already
                with pytest.raises(asyncio.CancelledError):
                    await joining
                assert set(members(direct, path)) == {"there"}
            assert step > 0

    asyncio.run(main())


@pytest.fixture(scope="module")
def collecting() -> Iterator[str]:
    """A ZooKeeper that removes empty containers within a moment, not within a minute."""
    why = processes.missing("zookeeper")
    if why is not None:
        pytest.skip(f"the interval can be set on a local process only: {why}")
    with processes.start_zookeeper() as ensemble:
        for node in ensemble.nodes:
            assert isinstance(node, processes.ZooKeeperProcess)
            node.command = [node.command[0], "-Dznode.container.checkIntervalMs=100", *node.command[1:]]
        ensemble.restart()
        yield ensemble.hosts


async def test_idle_znodes_are_collected_and_made_anew(
    flavour: Any, zk_client: Any, collecting: str, path: str
) -> None:
    """Paths that are used once do not fill the servers; who watches an idle group sees it come back."""
    zk, states, tokens = zk_client(hosts=collecting), [], []
    group, election = flavour.Group(zk, path), flavour.Election(zk, f"{path}-leader", identity="a")
    stream = group.watch()

    async def read() -> None:
        async for change in flavour.each(stream):
            states.append(change.members)  # noqa: PERF401  each is looked at while the next is awaited

    running = flavour.spawn(read)
    for data in (b"1", b"2"):
        async with flavour.within(group.join("a", data=data)):
            await flavour.until(lambda data=data: states[-1:] == [{"a": data}])
        async with flavour.within(election) as leadership:
            tokens.append(leadership.token)
        await flavour.until(lambda: not zk.exists(path) and not zk.exists(f"{path}-leader/candidates"))
        assert zk.exists(f"{path}-leader/epoch")
    await flavour.until(lambda: states[-1:] == [{}])
    stream.close()
    await running.result()
    assert tokens[0] < tokens[1]


def test_a_member_goes_though_its_event_loop_is_over(zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Leaving got no answer, and the loop ended: the blocking flavour's worker makes it good."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    session = zk.client_id

    async def main() -> None:
        async with coordkit.aio.Group(zk, path).join("a"):
            proxy.cut()
            while zk.connected:  # noqa: ASYNC110  kazoo has no event for it
                await asyncio.sleep(0.001)
            raise SystemExit

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert members(direct, path) == {"a": b""}
    proxy.heal()
    end = time.monotonic() + 20
    while members(direct, path) and time.monotonic() < end:
        time.sleep(0.01)
    assert members(direct, path) == {}
    while not zk.connected:
        time.sleep(0.001)
    assert zk.client_id == session, "it went with its session, which proves nothing"


async def test_a_stream_that_is_closed_in_an_outage_ends_at_once(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    zk, seen = zk_client(timeout=30.0, hosts=proxy.address), []
    stream = flavour.Group(zk, path).watch()

    async def read() -> None:
        async for change in flavour.each(stream):
            seen.append(change)  # noqa: PERF401  each is looked at while the next is awaited

    running = flavour.spawn(read)
    await flavour.until(lambda: len(seen) == 1)
    proxy.cut()
    await flavour.until(lambda: not zk.connected)
    began = time.monotonic()
    await flavour.sleep(0.1)
    stream.close()
    await running.result()
    assert time.monotonic() - began < scaled(5)


def test_a_stream_may_be_closed_from_another_thread(zk_client: Any, path: str) -> None:
    zk = zk_client()

    async def main() -> None:
        stream = coordkit.aio.Group(zk, path).watch()
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        await asyncio.to_thread(stream.close)
        assert await asyncio.wait_for(reading, 10) is None

    asyncio.run(main())
