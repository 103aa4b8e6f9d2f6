"""A topology in ZooKeeper: one line of epochs, written by the leader alone; on one ZooKeeper and on three."""

from __future__ import annotations

from typing import Any

import pytest

import coordkit
from coordkit.errors import BadTopology, LeadershipLost, StoreUnavailable, TransactionFailed
from coordkit.routing import Shard, Topology
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble

FIRST = Topology.first("users", {"a": "redis://a:6379/0", "b": Shard("redis://b:6379/0", weight=2)})


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/services/users"


@pytest.fixture
def store(flavour: Any, zk_client: Any, path: str) -> Any:
    return flavour.TopologyStore(zk_client(), path, history=3)


async def steps(flavour: Any, store: Any, leadership: Any, count: int) -> Topology:
    """Publish so many epochs, one after the other."""
    topology = await flavour.maybe(store.read())
    for number in range(count):
        following = topology.reweighted("a", 2 + number + topology.epoch)
        await flavour.maybe(store.publish(following, expected=topology, leadership=leadership))
        topology = following
    return topology


async def test_it_is_created_once_whoever_tries(flavour: Any, zk_client: Any, path: str, store: Any) -> None:
    with pytest.raises(BadTopology, match="there is no topology; make the first one") as missing:
        await flavour.maybe(store.read())
    assert missing.value.name == path
    assert await flavour.maybe(store.create(FIRST)) == FIRST
    assert await flavour.maybe(store.read()) == FIRST
    other = flavour.TopologyStore(zk_client(), path)
    assert await flavour.maybe(other.create(Topology.first("users", {"z": "z:1"}))) == FIRST
    with pytest.raises(BadTopology, match="here is the topology 'users', not 'carts'"):
        await flavour.maybe(other.create(Topology.first("carts", {"z": "z:1"})))
    assert await flavour.maybe(store.history()) == [1]
    assert await flavour.maybe(store.at(1)) == FIRST
    assert await flavour.maybe(store.clients()) == {}


async def test_it_is_created_where_somebody_stands_already(flavour: Any, path: str, store: Any) -> None:
    """Then the znode is there, without data, for what is below it."""
    async with flavour.within(store.rebalancer("early")) as leadership:
        with pytest.raises(BadTopology, match="there is no topology"):
            await flavour.maybe(store.read())
        async with flavour.within(store.observe()) as topologies:
            assert await flavour.maybe(topologies.next(0.05)) is None
            assert await flavour.maybe(store.create(FIRST)) == FIRST
            assert await flavour.maybe(topologies.next(10)) == FIRST
        assert await flavour.maybe(store.history()) == [1]
        assert (await steps(flavour, store, leadership, 1)).epoch == 2
        assert await flavour.maybe(store.create(FIRST)) == await flavour.maybe(store.read())
        # What was emptied by hand is made anew, beside its history.
        store.client.set(path, b"")
        assert await flavour.maybe(store.create(FIRST)) == FIRST
        assert await flavour.maybe(store.history()) == [1, 2]


async def test_the_leader_publishes_and_the_log_keeps_the_last(flavour: Any, zk_client: Any, store: Any) -> None:
    await flavour.maybe(store.create(FIRST))
    async with flavour.within(store.rebalancer("one")) as leadership:
        last = await steps(flavour, store, leadership, 4)
        assert last.epoch == 5
        assert await flavour.maybe(store.read()) == last
        assert await flavour.maybe(store.history()) == [3, 4, 5]
        assert (await flavour.maybe(store.at(4))).epoch == 4
        with pytest.raises(BadTopology, match=r"the history has no epoch 2; it has \[3, 4, 5\]"):
            await flavour.maybe(store.at(2))
        # What was asked for twice, after no answer, is done once.
        await flavour.maybe(store.publish(last, expected=await flavour.maybe(store.at(4)), leadership=leadership))
        assert zk_client().get(store.path)[1].version == 4


async def test_what_is_no_longer_as_expected_is_not_overwritten(flavour: Any, store: Any) -> None:
    await flavour.maybe(store.create(FIRST))
    async with flavour.within(store.rebalancer("one")) as leadership:
        last = await steps(flavour, store, leadership, 1)
        mine = FIRST.draining("b")
        with pytest.raises(TransactionFailed, match=r"it has epoch 2 .* and not 1 .*: read it") as refused:
            await flavour.maybe(store.publish(mine, expected=FIRST, leadership=leadership))
        assert refused.value.path == store.path
        assert await flavour.maybe(store.read()) == last
        for wrong, message in [
            (FIRST, "epoch=1 after 2"),
            (Topology.first("x", {"a": "a:1"}).raised_to(9), "name='x'"),
        ]:
            with pytest.raises(ValueError, match=message):
                await flavour.maybe(store.publish(wrong, expected=last, leadership=leadership))


async def test_two_writers_at_once_make_one_line(flavour: Any, zk_client: Any, store: Any) -> None:
    """The version is compared by the servers: what was changed between look and write is refused there."""
    await flavour.maybe(store.create(FIRST))
    zk = zk_client()
    async with flavour.within(store.rebalancer("one")) as leadership:
        real = store._core._read

        async def meddled() -> Any:
            answer = await real()
            zk.set(store.path, answer[0])  # the same again, of another version
            return answer

        store._core._read = meddled
        with pytest.raises(TransactionFailed, match=r"step 1 of 2 .* has another version; nothing was done"):
            await steps(flavour, store, leadership, 1)
        store._core._read = real
        assert await flavour.maybe(store.history()) == [1]


async def test_a_deposed_rebalancer_writes_nothing(flavour: Any, zk_client: Any, path: str, store: Any) -> None:
    """Its write is refused by the servers, although it believes that it leads and knows what is there."""
    await flavour.maybe(store.create(FIRST))
    successor, direct = flavour.TopologyStore(zk_client(), path), zk_client()
    with pytest.raises(LeadershipLost):
        async with flavour.within(store.rebalancer("one")) as deposed:
            deposed._core.ensure, deposed._core.lose = lambda: True, lambda _: None  # as after a long pause
            direct.sync(path)
            (candidate,) = direct.get_children(f"{path}/rebalancer/candidates")
            direct.delete(f"{path}/rebalancer/candidates/{candidate}")
            async with flavour.within(successor.rebalancer("two")) as leading:
                last = await steps(flavour, successor, leading, 1)
            assert await flavour.maybe(store.read()) == last
            await flavour.maybe(store.publish(last.draining("a"), expected=last, leadership=deposed))
    assert await flavour.maybe(successor.read()) == last
    assert await flavour.maybe(successor.history()) == [1, 2]


async def test_another_election_gives_no_right(flavour: Any, zk_client: Any, path: str, store: Any) -> None:
    await flavour.maybe(store.create(FIRST))
    async with flavour.within(flavour.Election(zk_client(), f"{path}/other", identity="x")) as leadership:
        with pytest.raises(ValueError, match="is of another election"):
            await flavour.maybe(store.publish(FIRST.draining("a"), expected=FIRST, leadership=leadership))


async def test_a_stream_shows_the_latest(flavour: Any, zk_client: Any, path: str, store: Any) -> None:
    """It waits for the first, conflates, passes over what is gone, and tells of a document that is none."""
    zk = zk_client()
    async with flavour.within(flavour.TopologyStore(zk_client(), path).observe()) as topologies:
        assert await flavour.maybe(topologies.next(0.05)) is None
        await flavour.maybe(store.create(FIRST))
        assert await flavour.maybe(topologies.next(10)) == FIRST
        assert await flavour.maybe(topologies.next(0.05)) is None
        async with flavour.within(store.rebalancer("one")) as leadership:
            last = await steps(flavour, store, leadership, 5)
        await shown(flavour, topologies, last)
        zk.set(path, b"{}")
        with pytest.raises(BadTopology, match="format None") as bad:
            await flavour.maybe(topologies.next(10))
        assert bad.value.name == path
        zk.delete(path, recursive=True)
        assert await flavour.maybe(topologies.next(0.05)) is None
        await flavour.maybe(store.create(FIRST))
        assert await flavour.maybe(topologies.next(10)) == FIRST
    assert await flavour.maybe(topologies.next(1)) is None


async def test_a_stream_outlives_sessions_and_connections(
    flavour: Any, zk_client: Any, path: str, store: Any, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    await flavour.maybe(store.create(FIRST))
    proxy = coordkit_faults.proxy(zk_servers.nodes[0])
    zk = zk_client(hosts=proxy.address)
    topologies = flavour.TopologyStore(zk, path).observe()
    assert await flavour.maybe(topologies.next(10)) == FIRST
    async with flavour.within(store.rebalancer("one")) as leadership:
        for disturb in (lambda: kill_session(zk), proxy.reset_all, proxy.cut):
            disturb()
            last = await steps(flavour, store, leadership, 1)
            proxy.heal()
            await shown(flavour, topologies, last)
    topologies.close()
    async for _ in flavour.each(topologies):
        pytest.fail("it is closed")


async def shown(flavour: Any, topologies: Any, last: Topology) -> None:
    """Wait until the stream shows ``last``; epochs rise until then."""
    epoch = 0
    while True:
        topology = await flavour.maybe(topologies.next(20))
        assert topology is not None, f"never shown: {last}"
        assert topology.epoch > epoch
        if topology == last:
            return
        epoch = topology.epoch


async def test_without_servers_it_says_so(flavour: Any, zk_client: Any, path: str, store: Any) -> None:
    await flavour.maybe(store.create(FIRST))
    store.client.stop()
    for ask in (store.read, store.history, store.clients, lambda: store.at(1), lambda: store.create(FIRST)):
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(ask())


def test_arguments_are_checked(zk_client: Any) -> None:
    zk = zk_client()
    for kind in (coordkit.TopologyStore, coordkit.aio.TopologyStore):
        for wrong in ({"path": "users"}, {"history": 0}, {"history": 10_001}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                kind(zk, **{"path": "/users", **wrong})
        for wrong in ({"zk": "localhost"}, {"history": "3"}, {"path": 1}):
            with pytest.raises(TypeError):
                kind(**{"zk": zk, "path": "/users", **wrong})
