"""Watching who leads: always the latest, through whatever happens; on one ZooKeeper and on three."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import coordkit
from coordkit._ports_zookeeper import GetData
from coordkit.errors import StoreUnavailable
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/leader"


async def next_view(flavour: Any, views: Any, timeout: float | None = 10.0) -> Any:
    return await flavour.maybe(views.next(timeout))


async def until_shown(flavour: Any, views: Any, state: str) -> Any:
    """Return the first view of this state; those before it are of the same history."""
    while True:
        view = await next_view(flavour, views)
        assert view is not None, f"never shown: {state}"
        if view.state == state:
            return view


async def test_each_state_is_shown_with_its_token(flavour: Any, zk_client: Any, path: str) -> None:
    election = flavour.Election(zk_client(), path, identity="one")
    async with flavour.within(flavour.Election(zk_client(), path, identity="x").observe()) as views:
        assert await next_view(flavour, views) == (None, None, "none")
        async with flavour.within(election) as leadership:
            view = await until_shown(flavour, views, "leading")
            assert view == ("one", leadership.token, "leading")
            assert view.token.holder == leadership.token.holder
        assert await next_view(flavour, views) == (None, None, "resigned")
        assert await next_view(flavour, views, 0.05) is None
        async with flavour.within(election) as leadership:
            assert (await until_shown(flavour, views, "leading")).token == leadership.token


async def test_a_stream_is_iterated_over(flavour: Any, zk_client: Any, path: str) -> None:
    views, seen = flavour.Election(zk_client(), path, identity="x").observe(), []
    for name in ("one", "two"):
        async with flavour.within(flavour.Election(zk_client(), path, identity=name)):
            async for view in flavour.each(views):
                seen.append(view.leader)
                if view.leader == name:
                    break
    views.close()
    async for _ in flavour.each(views):
        pytest.fail("it is closed")
    assert [each for each in seen if each] == ["one", "two"]


async def test_whoever_looks_late_sees_the_latest(flavour: Any, zk_client: Any, path: str) -> None:
    """It conflates: what came and went in between is not told, the last is; a list of children tells neither (K19)."""
    views = flavour.Election(zk_client(), path, identity="x").observe()
    assert (await next_view(flavour, views)).state == "none"
    election = flavour.Election(zk_client(), path, identity="one")
    for _ in range(5):
        async with flavour.within(election):
            pass
    async with flavour.within(election) as leadership:
        views._core._session.ensemble.session()  # whatever the watch told, the next look tells all
        view = await until_shown(flavour, views, "leading")
        while view.token != leadership.token:  # another server may be late
            view = await until_shown(flavour, views, "leading")
    views.close()


async def test_a_leader_that_is_gone_is_shown_as_lost(flavour: Any, zk_client: Any, path: str) -> None:
    """Also while nobody succeeds it: its znode is watched beside the record."""
    views, zk = flavour.Election(zk_client(), path, identity="x").observe(), zk_client()
    with pytest.raises(coordkit.LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            assert (await until_shown(flavour, views, "leading")).leader == "one"
            watching = flavour.spawn(until_shown, flavour, views, "lost")
            kill_session(zk)
            try:
                await flavour.maybe(leadership.lost.wait(10))
            finally:
                assert (await watching.result()).token is None
            leadership.ensure()
    views.close()


async def test_it_survives_new_sessions_and_parents_made_anew(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's ChildrenWatch stops for ever when its znode is made anew (K18), and its Barrier at a reconnect (K10)."""
    zk, direct = zk_client(), zk_client()
    views = flavour.Election(zk, path, identity="x").observe()
    election = flavour.Election(direct, path, identity="one")
    tokens = []
    assert (await next_view(flavour, views)).state == "none"
    for disturb in (kill_session, lambda _: direct.delete(path, recursive=True), kill_session):
        async with flavour.within(election) as leadership:
            while True:
                view = await until_shown(flavour, views, "leading")
                if view.token == leadership.token:
                    break
            tokens.append(view.token)
        assert (await until_shown(flavour, views, "resigned")).leader is None
        disturb(zk)
    assert tokens == sorted(set(tokens))
    views.close()


async def test_a_reconnect_is_no_news_and_nothing_is_missed(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    proxy = coordkit_faults.proxy(zk_servers.nodes[0])
    zk = zk_client(timeout=20.0, hosts=proxy.address)
    views = flavour.Election(zk, path, identity="x").observe()
    election = flavour.Election(zk_client(), path, identity="one")
    async with flavour.within(election):
        assert (await until_shown(flavour, views, "leading")).leader == "one"
        for _ in range(3):
            proxy.reset_all()
            await flavour.until(lambda: not zk.connected)
            await flavour.until(lambda: zk.connected)
            assert await next_view(flavour, views, 0.05) is None
        proxy.cut()
        await flavour.until(lambda: not zk.connected)
    assert await next_view(flavour, views, 0.05) is None  # what was last known stands
    proxy.heal()
    assert (await until_shown(flavour, views, "resigned")).leader is None
    views.close()


async def test_it_leaves_no_watch_and_no_listener(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    observer = flavour.Election(zk, path, identity="x")
    async with flavour.within(flavour.Election(zk_client(), path, identity="one")):
        for _ in range(50):
            async with flavour.within(observer.observe()) as views:
                assert (await until_shown(flavour, views, "leading")).leader == "one"
        async for view in flavour.each(observer.observe()):
            if view.state == "leading":
                break
        session = observer._core._session()
        await flavour.until(lambda: not session._listeners)  # what was left by break is let go by the collector
        assert zk._coordkit_wire.bells._waiting == {}
        assert sum(len(each) for each in list(zk._data_watchers.values())) <= 3


async def test_only_two_znodes_are_watched(flavour: Any, zk_client: Any, path: str) -> None:
    """No herd: whoever comes into the line or leaves it wakes no observer."""
    views = flavour.Election(zk_client(), path, identity="x").observe()
    async with flavour.within(flavour.Election(zk_client(), path, identity="one")):
        assert (await until_shown(flavour, views, "leading")).leader == "one"
        looks, look = [], views._core._session.read

        async def counted(*args: Any) -> Any:
            looks.append([request for request in args[1] if isinstance(request, GetData)])
            return await look(*args)

        views._core._session.read = counted
        watching = flavour.spawn(next_view, flavour, views, 1.0)
        await flavour.until(lambda: len(looks) == 2)  # it looks once, and then waits
        other = flavour.Election(zk_client(), path, identity="two")
        for _ in range(10):
            with pytest.raises(coordkit.NotAcquired):
                async with flavour.within(other.lead(timeout=0)):
                    pytest.fail("two leaders")
        assert await watching.result() is None
        views._core._session.read = look
        assert len(looks) <= 4  # once more at the end of its time
    views.close()


async def test_closing_wakes_who_waits(flavour: Any, zk_client: Any, path: str) -> None:
    views = flavour.Election(zk_client(), path, identity="x").observe()
    assert (await next_view(flavour, views)).state == "none"
    waiting = flavour.spawn(next_view, flavour, views, None)
    await flavour.sleep(0.02)
    views.close()
    views.close()
    assert await waiting.result() is None


async def test_a_client_that_is_stopped_is_said(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    views = flavour.Election(zk, path, identity="x").observe()
    assert (await next_view(flavour, views)).state == "none"
    zk.stop()
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await next_view(flavour, views)
    views.close()


def test_a_thread_may_close_what_another_waits_for(zk_client: Any, path: str) -> None:
    views, seen = coordkit.Election(zk_client(), path, identity="x").observe(), []
    thread = threading.Thread(target=lambda: seen.extend(views))
    thread.start()
    while not seen:
        thread.join(0.001)
    views.close()
    thread.join(10)
    assert not thread.is_alive()
