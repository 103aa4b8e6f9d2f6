"""What a lost connection does to a leadership, by policy; and who is told of a loss."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

import coordkit
import coordkit.aio
from coordkit.errors import LeadershipLost
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/leader"


def candidates(client: Any, path: str) -> list[str]:
    return client.get_children(f"{path}/candidates") if client.exists(f"{path}/candidates") else []


async def test_a_blip_is_outlived_by_the_session_policy(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """The leadership goes on, is proven again, and our znode is watched again."""
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    election = flavour.Election(zk, path, identity="one", policy="session")
    with pytest.raises(LeadershipLost, match="deleted"):
        async with flavour.within(election) as leadership:
            for _ in range(3):
                before = leadership._core.expires
                proxy.reset_all()
                await flavour.until(lambda: not zk.connected)
                assert leadership.ensure()
                await flavour.until(lambda: zk.connected)
                await flavour.until(lambda before=before: leadership._core.expires > before)
                await flavour.maybe(leadership.verify())
                assert not leadership.lost
            assert (await flavour.maybe(election.leader())).token == leadership.token
            direct.delete(f"{path}/candidates/{candidates(direct, path)[0]}")
            await flavour.maybe(leadership.lost.wait(5))  # long before the next proof is due
            leadership.ensure()


async def test_the_proven_time_counts_from_before_the_request(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """The servers have been counting since they had it; W6 finds whoever counts from the answer, if it has luck."""
    zk, answer = zk_client(timeout=12.0, hosts=proxy.address), 0.2  # each way
    async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
        await flavour.maybe(leadership.verify())
        proxy.latency = answer
        began = time.monotonic()
        await flavour.maybe(leadership.verify())
        spent, left = time.monotonic() - began, leadership.remaining()
        assert spent >= answer
        assert left <= 2 / 3 * 12.0 - spent + 0.05
        await flavour.maybe(leadership.resign())
    async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:  # so does the first one
        assert leadership.remaining() <= 2 / 3 * 12.0 - answer
        proxy.latency = 0.0


async def test_the_session_policy_ends_with_the_lease_before_a_successor_leads(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    zk, told, ends = zk_client(timeout=2.0, hosts=proxy.address), [], []
    successor = flavour.Election(zk_client(), path, identity="two")

    async def succeed() -> tuple[float, int]:
        async with flavour.within(successor) as leadership:
            return time.monotonic(), int(leadership.token)

    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one", policy="session")) as leadership:
            running = flavour.spawn(succeed)
            await flavour.until(lambda: len(candidates(successor.client, path)) == 2)
            proxy.cut()
            await flavour.until(lambda: not zk.connected)
            assert leadership.ensure()  # a strict one is lost by now
            ends.append(time.monotonic() + leadership.remaining())
            try:
                if flavour.is_async:
                    await flavour.sleep(30)
                leadership.lost.wait(30)
            finally:
                told.append(time.monotonic())
    led, token = await running.result()
    assert told[0] < led
    assert ends[0] < led
    assert token > leadership.token
    proxy.heal()
    await flavour.until(lambda: zk.connected, 20)


@pytest.mark.parametrize("policy", ["strict", "session"])
async def test_another_session_ends_it_in_both_policies(flavour: Any, zk_client: Any, path: str, policy: Any) -> None:
    zk, direct = zk_client(timeout=20.0), zk_client()
    with pytest.raises(LeadershipLost, match="session has ended" if policy == "session" else "connection was lost"):
        async with flavour.within(flavour.Election(zk, path, identity="one", policy=policy)) as leadership:
            kill_session(zk)
            assert await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert candidates(direct, path) == []


async def test_a_stopped_client_ends_it_in_both_policies(flavour: Any, zk_client: Any, path: str) -> None:
    for policy in ("strict", "session"):
        zk = zk_client(timeout=20.0)
        with pytest.raises(LeadershipLost, match="stopped"):
            async with flavour.within(flavour.Election(zk, path, identity="one", policy=policy)) as leadership:
                zk.stop()
                assert await flavour.maybe(leadership.lost.wait(10))
                leadership.ensure()


async def test_a_loss_is_told_once_and_a_resignation_is_not(flavour: Any, zk_client: Any, path: str) -> None:
    zk, told, threads = zk_client(), [], []

    def on_lost(error: Any) -> None:
        told.append(error)
        threads.append(threading.current_thread())

    election = flavour.Election(zk, path, identity="one", on_lost=on_lost)
    async with flavour.within(election):
        pass
    async with flavour.within(election) as leadership:
        await flavour.maybe(leadership.resign())

    async def serve(leadership: Any) -> str:
        if not told:
            kill_session(zk)
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
        return "served"

    def blocking(leadership: Any) -> str:
        if not told:
            kill_session(zk)
            assert leadership.lost.wait(10)
            leadership.ensure()
        return "served"

    assert await flavour.maybe(election.run(serve if flavour.is_async else blocking)) == "served"
    await flavour.until(lambda: len(told) == 1)
    assert isinstance(told[0], LeadershipLost)
    assert told[0].token > leadership.token
    assert threads[0].name == ("MainThread" if flavour.is_async else "coordkit-on-lost")


async def test_what_the_callback_raises_is_logged(
    flavour: Any, zk_client: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def on_lost(_: Any) -> None:
        raise ZeroDivisionError

    zk = zk_client()
    with caplog.at_level(logging.ERROR, "coordkit"), pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one", on_lost=on_lost)) as leadership:
            kill_session(zk)
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    await flavour.until(lambda: any("on_lost failed" in each.message for each in caplog.records))
    assert any(each.exc_info and each.exc_info[0] is ZeroDivisionError for each in caplog.records)


def test_a_callback_that_blocks_keeps_nobody_waiting(zk_client: Any, path: str) -> None:
    """Neither other leaderships' deadlines nor kazoo's threads."""
    zk, go, called = zk_client(), threading.Event(), threading.Event()

    def on_lost(_: Any) -> None:
        called.set()
        go.wait(20)

    try:
        with pytest.raises(LeadershipLost), coordkit.Election(zk, path, identity="one", on_lost=on_lost) as leadership:
            kill_session(zk)
            assert leadership.lost.wait(10)
            assert called.wait(10)
        with coordkit.Election(zk, path, identity="one").lead(timeout=20) as again:
            again.verify()
            with pytest.raises(LeadershipLost):
                again._core.lose("for the test")
                again.ensure()
            assert not go.is_set()
    except LeadershipLost:
        pass  # of the second block
    finally:
        go.set()


async def test_the_wall_clock_is_never_asked(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kazoo's Lease compares the clocks of hosts (K31): one that steps ends nothing here, and grants nothing."""
    async with flavour.within(flavour.Election(zk_client(), path, identity="one")) as leadership:
        for step in (-1e6, 1e6):
            real = time.time
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda step=step, real=real: real() + step)
                assert leadership.ensure()
                assert 0 < leadership.remaining() <= leadership._core.ttl
                await flavour.maybe(leadership.verify())
        assert not leadership.lost


def test_an_answer_that_is_told_twice_is_settled_once(zk_client: Any, path: str) -> None:
    """A second ``rawlink`` on a result that is ready runs the first callback again (K15)."""
    zk = zk_client()

    async def main() -> None:
        wire = zk._coordkit_wire
        submit = wire.submit

        def twice(request: Any, deliver: Any) -> Any:
            result = submit(request, deliver)
            rawlink = result.rawlink

            def link(callback: Any) -> None:
                rawlink(callback)
                result.wait(10)
                rawlink(lambda _: None)

            result.rawlink = link
            return result

        loop, failed = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: failed.append(context))
        election = coordkit.aio.Election(zk, path, identity="one")
        wire.submit = twice
        async with election as leadership:
            await leadership.verify()
        assert await election.contenders() == []
        wire.submit = submit
        assert failed == []

    coordkit.aio.Election(zk, path, identity="one")
    asyncio.run(main())


def test_a_call_in_a_completion_callback_is_refused(zk_client: Any, path: str) -> None:
    """kazoo deadlocks there, and every later call of the process with it (K16)."""
    zk, said = zk_client(), []
    election = coordkit.Election(zk, path, identity="one")

    def ask(_: Any) -> None:
        try:
            with election.lead(timeout=1):
                said.append("led")
        except coordkit.CoordError as error:
            said.append(str(error))

    zk.exists_async("/").rawlink(ask)
    end = time.monotonic() + 10
    while not said and time.monotonic() < end:
        time.sleep(0.001)
    assert len(said) == 1
    assert "kazoo's own" in said[0]
    with election.lead(timeout=10) as leadership:
        assert leadership.ensure()


async def test_neither_standing_nor_leading_leaves_a_listener(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Semaphore adds one at every attempt (K24)."""
    zk = zk_client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(flavour.Election(zk_client(), path, identity="two")):
        for _ in range(20):
            with pytest.raises(coordkit.AcquireTimeout):
                async with flavour.within(election.lead(timeout=0.001)):
                    pytest.fail("two leaders")
    for _ in range(20):
        async with flavour.within(election.lead(timeout=20)):
            pass
    assert len(zk.state_listeners) == 1
    assert election._core._session()._listeners == set()
