"""Elections in bad weather: lost requests and answers, partitions, servers and leaders that stop or die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError
from kazoo.handlers.threading import KazooTimeoutError as KazooTimeout
from kazoo.protocol.states import KeeperState

import coordkit.aio
from coordkit._ports_zookeeper import Delete, Sync
from coordkit.core.session import GRACE
from coordkit.errors import AcquireTimeout, LeadershipLost, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import Faults
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/leader"


def partition(proxy: FaultProxy) -> None:
    """Let nothing through, and say nothing: what a cut cable does."""
    proxy.drop_requests = proxy.drop_replies = True


def heal(proxy: FaultProxy) -> None:
    proxy.drop_requests = proxy.drop_replies = False


def candidates(client: Any, path: str) -> list[str]:
    return client.get_children(f"{path}/candidates") if client.exists(f"{path}/candidates") else []


def done(*kinds: int) -> bytes:
    """Return how the answer to a transaction of these operations begins."""
    return b"".join(struct.pack(">i?i", kind, False, 0) for kind in kinds)


CHECK, SET, DELETE = 13, 5, 2


@pytest.mark.parametrize(
    "lose",
    [
        lambda proxy, path: proxy.drop_request_matching(f"{path}/candidates/".encode()),
        lambda proxy, path: proxy.drop_reply_matching(f"{path}/candidates/".encode()),
        lambda proxy, _: proxy.drop_request_matching(b'"leading"'),
        lambda proxy, _: proxy.drop_reply_matching(done(CHECK, CHECK, SET)),
    ],
    ids=[
        "standing is not asked",
        "standing is not answered",
        "taking over is not asked",
        "taking over is not answered",
    ],
)
async def test_one_lost_message_costs_neither_the_term_nor_an_orphan(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, lose: Callable[[FaultProxy, str], None]
) -> None:
    """kazoo's raw create leaves an orphan, and with a retry a second znode (K11, K12)."""
    direct, zk = zk_client(), zk_client(timeout=10.0, hosts=proxy.address)
    lose(proxy, path)
    async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=20)) as leadership:
        assert sum(proxy.hits.values()) == 1
        assert len(candidates(direct, path)) == 1
        assert direct.get(f"{path}/epoch")[1].mzxid == leadership.token
        assert leadership.ensure()
    assert candidates(direct, path) == []


@pytest.mark.parametrize(
    "lose",
    [
        lambda proxy: proxy.drop_request_matching(b'"resigned"'),
        lambda proxy: proxy.drop_reply_matching(done(DELETE, SET)),
    ],
    ids=["not asked", "not answered"],
)
async def test_a_resignation_that_is_lost_is_made_good(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, lose: Callable[[FaultProxy], None]
) -> None:
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    try:
        async with flavour.within(flavour.Election(zk, path, identity="one")):
            lose(proxy)
    except StoreUnavailable:
        pass  # it took longer than the grace: said, and made good in the background
    assert sum(proxy.hits.values()) == 1
    await flavour.until(lambda: candidates(direct, path) == [])


async def test_a_lost_cleanup_leaves_no_orphan(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """In kazoo the innocent loser then heads the line until its session dies (K13, kazoo#732)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    async with flavour.within(flavour.Election(direct, path, identity="one")):
        node = f"{path}/candidates/{candidates(direct, path)[0]}"
        proxy.drop_request_matching(struct.pack(">ii", DELETE, len(node)) + f"{path}/candidates/".encode(), times=2)
        with pytest.raises(AcquireTimeout):
            async with flavour.within(flavour.Election(zk, path, identity="two").lead(timeout=0.2)):
                pytest.fail("two leaders")
        session = zk.client_id
        await flavour.until(lambda: proxy.hits["drop_request_matching"] == 2)
        await flavour.until(lambda: len(candidates(direct, path)) == 1)
        await flavour.until(lambda: zk.connected)
        assert session in (None, zk.client_id), "it went with its session, which proves nothing"


async def test_a_leader_that_is_cut_off_knows_before_its_successor_leads(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """kazoo's leader ran on for 12 s beside the new one (K1, fact 1 of the notes); asyncio cancels the body."""
    cut, told, left = zk_client(timeout=2.0, hosts=proxy.address), [], []
    successor = flavour.Election(zk_client(), path, identity="two")

    async def succeed() -> tuple[float, int]:
        async with flavour.within(successor) as leadership:
            return time.monotonic(), int(leadership.token)

    with pytest.raises(LeadershipLost) as lost:
        async with flavour.within(flavour.Election(cut, path, identity="one")) as leadership:
            running = flavour.spawn(succeed)
            await flavour.until(lambda: len(candidates(successor.client, path)) == 2)
            partition(proxy)
            try:
                if flavour.is_async:
                    await flavour.sleep(30)
                leadership.lost.wait(30)
            finally:
                told.append(time.monotonic())
    left.append(time.monotonic())
    led, token = await running.result()

    assert told[0] < led
    assert left[0] - told[0] < scaled(2 * GRACE)
    assert token > leadership.token == lost.value.token
    heal(proxy)
    await flavour.until(lambda: cut.connected, 20)
    assert candidates(cut, path) == []


async def test_waiting_ends_in_time_in_a_partition(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """kazoo's ``acquire(timeout=1)`` returned after 3.5 s, or not at all (K8)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    async with flavour.within(flavour.Election(direct, path, identity="one")):
        election = flavour.Election(zk, path, identity="two")

        async def stand() -> float:
            with pytest.raises((AcquireTimeout, StoreUnavailable)):
                async with flavour.within(election.lead(timeout=1)):
                    pytest.fail("two leaders")
            return time.monotonic()

        running = flavour.spawn(stand)
        await flavour.until(lambda: len(candidates(direct, path)) == 2)
        began = time.monotonic()
        partition(proxy)
        assert await running.result() - began < 1 + scaled(3 * GRACE)
        for timeout in (0, 0.3):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable) as unavailable:
                async with flavour.within(election.lead(timeout=timeout)):
                    pytest.fail("it leads without a connection")
            assert time.monotonic() - began < timeout + scaled(2 * GRACE)
            assert unavailable.value.__cause__ is not None
        heal(proxy)
        await flavour.until(lambda: zk.connected, 20)
        await flavour.until(lambda: len(candidates(direct, path)) == 1)


async def test_leaving_ends_in_time_in_a_partition(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """kazoo's ``__exit__`` blocks until the network is back (K7)."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(flavour.Election(zk, path, identity="one")):
            partition(proxy)
            began = time.monotonic()
    assert time.monotonic() - began < scaled(4 * GRACE)
    assert len(candidates(direct, path)) == 1
    session = zk._session_id
    heal(proxy)
    await flavour.until(lambda: candidates(direct, path) == [], 30)
    await flavour.until(lambda: zk.connected, 20)
    assert zk.client_id[0] == session


async def test_a_connection_lost_in_line_costs_nothing(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """The place in the line is kept, and the watch is set anew: kazoo's Barrier sleeps for ever then (K10)."""
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)

    async def stand() -> bool:
        async with flavour.within(flavour.Election(zk, path, identity="two").lead(timeout=30)) as leadership:
            return leadership.ensure()

    async with flavour.within(flavour.Election(direct, path, identity="one")):
        running = flavour.spawn(stand)
        await flavour.until(lambda: len(candidates(direct, path)) == 2)
        before = candidates(direct, path)
        for _ in range(3):
            proxy.reset_all()
            await flavour.until(lambda: not zk.connected)
            await flavour.until(lambda: zk.connected)
        assert sorted(candidates(direct, path)) == sorted(before)
    assert await running.result() is True


async def test_a_blip_ends_a_leadership(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Strict: whoever was cut off for a moment cannot know for how long."""
    zk = zk_client(timeout=20.0, hosts=proxy.address)
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            proxy.reset_all()
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    await flavour.until(lambda: zk.connected)
    async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=20)) as again:
        assert again.token > leadership.token


async def test_run_rides_out_a_restart_of_the_server(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    zk, tokens = zk_client(timeout=10.0), []
    election = flavour.Election(zk, path, identity="one")

    def serve(leadership: Any) -> Any:
        tokens.append(leadership.token)
        return _serve() if flavour.is_async else _end(_serve())

    async def _serve() -> str:
        if len(tokens) == 1:
            coordkit_faults.restart(coordkit_zk_server)
            await flavour.sleep(0.05)
            await flavour.until(lambda: zk.connected, 20)
            raise LeadershipLost(path, "seen by the function itself", token=tokens[0])
        return "served"

    assert await flavour.maybe(election.run(serve)) == "served"
    assert len(tokens) == 2
    assert tokens == sorted(tokens)


def _end(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it suspended")


async def test_a_server_that_stops_answering_ends_the_leadership(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """Nothing is heard: the end of what the last answered write proves is the end, at the latest."""
    zk = zk_client(timeout=1.0)
    proven = zk._session_timeout / 1000
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            coordkit_faults.pause(coordkit_zk_server)
            try:
                assert await flavour.maybe(leadership.lost.wait(scaled(proven + 2)))
                assert leadership.remaining() == 0
                leadership.ensure()
            finally:
                coordkit_faults.resume(coordkit_zk_server)


async def test_without_a_quorum_it_is_unavailable(
    flavour: Any, coordkit_zk_ensemble: ZooKeeperEnsemble, coordkit_faults: Faults, path: str
) -> None:
    # kazoo's own pauses between attempts grow to a minute
    retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
    zk = KazooClient(coordkit_zk_ensemble.hosts, timeout=4.0, connection_retry=retry)
    zk.start(scaled(20))
    try:
        election = flavour.Election(zk, path, identity="one")
        async with flavour.within(election) as leadership:
            assert leadership.ensure()
        for node in coordkit_zk_ensemble.nodes[:2]:
            coordkit_faults.kill(node)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            async with flavour.within(election.lead(timeout=1)):
                pytest.fail("it leads without a quorum")
        assert time.monotonic() - began < 1 + scaled(3 * GRACE)
        coordkit_faults.heal()
        await flavour.until(lambda: zk.connected, 30)
        async with flavour.within(election.lead(timeout=30)) as again:
            assert again.token > leadership.token
    finally:
        close_kazoo(zk)


async def test_refused_credentials_are_a_refusal(flavour: Any, zk_client: Any, path: str) -> None:
    """They end what is led, and are no outage: trying again would not help."""
    zk = zk_client()
    election = flavour.Election(zk, path, identity="one")
    with pytest.raises(LeadershipLost, match="credentials"):
        async with flavour.within(election) as leadership:
            with pytest.raises(AuthFailedError):
                zk.add_auth("no-such-scheme", "x")
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    with pytest.raises(StoreRefused) as refused:
        async with flavour.within(election.lead(timeout=5)):
            pytest.fail("it leads without a session")
    assert isinstance(refused.value.__cause__, AuthFailedError)


def test_a_cancelled_contender_is_gone(coordkit_zk_server: ZooKeeperEnsemble, zk_client: Any, path: str) -> None:
    """At whatever moment it is cancelled."""
    from coordkit.aio import Election

    zk, other = zk_client(), zk_client()

    async def main() -> None:
        async with Election(zk, path, identity="one"):
            for step in range(25):
                waiting = asyncio.create_task(Election(other, path, identity="two").lead().__aenter__())
                await asyncio.sleep(step * 0.0004)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert len(candidates(zk, path)) == 1

    asyncio.run(main())


def test_cancelling_is_immediate_in_a_partition(zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """kazoo's ``cancel`` is heard when the network is back (K6)."""
    from coordkit.aio import Election

    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)

    async def main() -> None:
        async with Election(direct, path, identity="one"):
            waiting = asyncio.create_task(Election(zk, path, identity="two").lead().__aenter__())
            await _count(2, direct, path)
            partition(proxy)
            began = time.monotonic()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert time.monotonic() - began < scaled(2 * GRACE)
            heal(proxy)
            await _count(1, direct, path)

    asyncio.run(asyncio.wait_for(main(), scaled(40)))


async def _count(wanted: int, client: Any, path: str) -> None:
    while len(candidates(client, path)) != wanted:  # noqa: ASYNC110  a server's state is polled, there is no event
        await asyncio.sleep(0.005)


_LEADS = """
import sys, time
from kazoo.client import KazooClient
from coordkit import Election
from coordkit.errors import LeadershipLost
zk = KazooClient(sys.argv[1], timeout=1.0)
zk.start(20)
try:
    with Election(zk, sys.argv[2], identity="process") as leadership:
        print(int(leadership.token), flush=True)
        while True:
            time.sleep(0.01)
            now = time.monotonic()
            leadership.ensure()
            worked = now
except LeadershipLost as lost:
    print("lost", lost.token, flush=True)
zk.stop()
zk.close()
"""


@pytest.fixture
def process(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> Iterator[Any]:
    """A process that leads, and says by which token."""
    command = [sys.executable, "-c", _LEADS, coordkit_zk_server.hosts, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leading:
        yield leading
        leading.kill()


async def test_a_killed_leader_is_replaced(flavour: Any, process: Any, zk_client: Any, path: str) -> None:
    token = int(process.stdout.readline())
    election = flavour.Election(zk_client(), path, identity="two")
    assert (await flavour.maybe(election.leader())).token == token
    process.kill()
    async with flavour.within(election.lead(timeout=30)) as leadership:
        assert leadership.token > token


async def test_a_stopped_leader_learns_of_its_loss_when_it_wakes(
    flavour: Any, process: Any, zk_client: Any, path: str
) -> None:
    token = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGSTOP)
    async with flavour.within(flavour.Election(zk_client(), path, identity="two").lead(timeout=30)) as leadership:
        assert leadership.token > token
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == f"lost {token}\n"
        assert leadership.ensure()


def test_credentials_refused_at_the_start_stay_refused(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    """kazoo closes the client then: the answer is not to start it."""
    zk = KazooClient(coordkit_zk_server.hosts, timeout=4.0, auth_data=[("no-such-scheme", "x")])
    election = coordkit.Election(zk, path, identity="one")
    try:
        with contextlib.suppress(AuthFailedError, KazooTimeout):  # or it is refused a moment after it has started
            zk.start(10)
        while zk.client_state != KeeperState.CLOSED:
            time.sleep(0.001)
        with pytest.raises(StoreRefused, match="credentials"):
            election.leader()
    finally:
        close_kazoo(zk)


async def test_stop_is_heard_in_an_outage(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """A run that has not led returns None, though there is no connection to leave the line over."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    async with flavour.within(flavour.Election(direct, path, identity="one")):
        election = flavour.Election(zk, path, identity="two")

        async def stand() -> Any:
            return await flavour.maybe(election.run(lambda _: pytest.fail("two leaders")))

        running = flavour.spawn(stand)
        await flavour.until(lambda: len(candidates(direct, path)) == 2)
        proxy.cut()
        await flavour.until(lambda: not zk.connected)
        began = time.monotonic()
        election.stop()
        assert await running.result() is None
        assert time.monotonic() - began < scaled(5)
        session = zk._session_id
        proxy.heal()
        await flavour.until(lambda: len(candidates(direct, path)) == 1, 20)
        assert zk._session_id == session, "it went with its session, which proves nothing"


async def test_verifying_ends_with_the_lease(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Nothing that is answered after the lease has ended is worth waiting for."""
    zk = zk_client(timeout=4.0, hosts=proxy.address)
    lost = None
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            partition(proxy)
            try:
                await flavour.maybe(leadership.verify())
            except (LeadershipLost, StoreUnavailable) as error:
                lost = error
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
    assert lost is None if flavour.is_async and lost is None else isinstance(lost, LeadershipLost)


def test_a_lost_leaders_znode_goes_though_its_event_loop_is_over(zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Else it stands in everybody's way for as long as the client keeps its session."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    session = zk.client_id

    async def main() -> None:
        with pytest.raises(LeadershipLost):
            async with coordkit.aio.Election(zk, path, identity="one"):
                proxy.cut()
                await asyncio.sleep(20)  # cancelled by the loss

    asyncio.run(main())
    assert len(candidates(direct, path)) == 1
    proxy.heal()
    end = time.monotonic() + 20
    while candidates(direct, path) and time.monotonic() < end:
        time.sleep(0.01)
    assert candidates(direct, path) == []
    while not zk.connected:
        time.sleep(0.001)
    assert zk.client_id == session, "it went with its session, which proves nothing"


async def test_a_leadership_lost_for_another_reason_is_cleaned_up_before_the_block_is_left(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """Where there is a connection, its successor need not wait for the background."""
    zk, direct = zk_client(), zk_client()
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            if flavour.is_async:
                # A task that finds the loss out by itself is not cancelled: it has its exception there.
                asyncio.get_running_loop().call_soon(leadership._core.lose, "for the test")
                await flavour.sleep(20)  # cancelled by the loss
            leadership._core.lose("for the test")
    assert candidates(direct, path) == []


def test_a_second_interrupt_does_not_keep_the_place_in_line(zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Ctrl-C twice: the second comes while the first is leaving the line."""
    direct, zk = zk_client(), zk_client(timeout=30.0, hosts=proxy.address)
    election = coordkit.Election(zk, path, identity="two")
    submit, leaving = zk._coordkit_wire.submit, threading.Event()

    def watched(request: Any, deliver: Any) -> Any:
        if isinstance(request, Delete | Sync):
            leaving.set()
        return submit(request, deliver)

    def interrupt_twice() -> None:
        while len(candidates(direct, path)) < 2:
            time.sleep(0.001)
        proxy.drop_requests = True
        os.kill(os.getpid(), signal.SIGINT)
        assert leaving.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    with coordkit.Election(direct, path, identity="one"):
        zk._coordkit_wire.submit = watched
        thread = threading.Thread(target=interrupt_twice)
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            with election:
                pytest.fail("two leaders")
        thread.join()
        session = zk._session_id
        proxy.drop_requests = False
        end = time.monotonic() + 30
        while len(candidates(direct, path)) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(candidates(direct, path)) == 1
        assert zk._session_id == session, "it went with its session, which proves nothing"
