"""What an election promises, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import CancelledError as KazooCancelled

from coordkit.core import znodes
from coordkit.errors import AcquireTimeout, LeadershipLost, NotAcquired, StoreRefused, StoreUnavailable
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
    return f"/{coordkit_namespace}/service/leader"


def candidates(client: Any, path: str) -> list[str]:
    return client.get_children(f"{path}/candidates") if client.exists(f"{path}/candidates") else []


def raze(client: Any, path: str) -> None:
    """Delete all of an election in one step, so that nobody enters its line meanwhile."""
    transaction = client.transaction()
    for name in candidates(client, path):
        transaction.delete(f"{path}/candidates/{name}")
    for each in (f"{path}/candidates", f"{path}/epoch", path):
        transaction.delete(each)
    assert all(outcome is True for outcome in transaction.commit())


async def test_the_leader_is_shown_with_its_token(flavour: Any, client: Any, path: str) -> None:
    election = flavour.Election(client(), path, identity="billing-7")

    assert await flavour.maybe(election.leader()) is None
    assert await flavour.maybe(election.contenders()) == []
    async with flavour.within(election) as leadership:
        leader = await flavour.maybe(election.leader())
        assert leader == ("billing-7", leadership.token)
        assert leader.token.holder == leadership.token.holder != ""
        assert await flavour.maybe(election.contenders()) == ["billing-7"]
        assert leadership.identity == "billing-7"
        assert leadership.name == path
        assert leadership.ensure() is True
        assert leadership.remaining() > 0
        assert not leadership.lost
        await flavour.maybe(leadership.verify())
    assert await flavour.maybe(election.leader()) is None
    assert await flavour.maybe(election.contenders()) == []
    with pytest.raises(LeadershipLost):
        leadership.ensure()


async def test_contenders_lead_in_the_order_in_which_they_came(flavour: Any, client: Any, path: str) -> None:
    watcher, order = flavour.Election(client(), path, identity="watcher"), []

    async def stand(name: str) -> None:
        async with flavour.within(flavour.Election(client(), path, identity=name)) as leadership:
            order.append((name, leadership.token))

    async def standing() -> list[str]:
        return await flavour.maybe(watcher.contenders())

    async with flavour.within(watcher) as first:
        running = []
        for i, name in enumerate("abc"):
            running.append(flavour.spawn(stand, name))
            await flavour.until(lambda i=i: _has(standing, i + 2))
        assert await standing() == ["watcher", "a", "b", "c"]
        assert order == []
    for each in running:
        await each.result()

    assert [name for name, _ in order] == ["a", "b", "c"]
    tokens = [first.token, *(token for _, token in order)]
    assert tokens == sorted(set(tokens))


async def _has(standing: Callable[[], Any], count: int) -> bool:
    return len(await standing()) == count


async def test_one_election_is_shared_by_many(flavour: Any, client: Any, path: str) -> None:
    """One object, many threads or tasks: one leads at a time, and every token is greater than the one before."""
    election, inside, tokens = flavour.Election(client(), path, identity="shared"), [], []

    async def stand() -> None:
        async with flavour.within(election) as leadership:
            inside.append(leadership)
            assert len(inside) == 1
            tokens.append(leadership.token)
            await flavour.sleep(0.002)
            inside.remove(leadership)

    await flavour.gather(*(stand() for _ in range(8)))

    assert len(tokens) == 8
    assert tokens == sorted(set(tokens))


async def test_asking_once_is_refused_while_another_leads(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    async with flavour.within(flavour.Election(zk, path, identity="one")):
        other = flavour.Election(client(), path, identity="two")
        with pytest.raises(NotAcquired) as refused:
            async with flavour.within(other.lead(timeout=0)):
                pytest.fail("two leaders")
        assert not isinstance(refused.value, AcquireTimeout)
        assert len(candidates(zk, path)) == 1
    async with flavour.within(other.lead(timeout=0)) as leadership:
        assert leadership.ensure()


async def test_a_timeout_ends_the_wait_and_leaves_no_candidate(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    async with flavour.within(flavour.Election(zk, path, identity="one")):
        with pytest.raises(AcquireTimeout) as late:
            async with flavour.within(flavour.Election(client(), path, identity="two").lead(timeout=0.1)):
                pytest.fail("two leaders")
        assert late.value.timeout == 0.1
        assert late.value.name == path
        assert len(candidates(zk, path)) == 1


async def test_two_hundred_polls_leave_no_watches(flavour: Any, client: Any, path: str) -> None:
    """kazoo's Lock leaves 200 watchers on the leader's znode (K9)."""
    zk = client()
    async with flavour.within(flavour.Election(client(), path, identity="one")):
        election = flavour.Election(zk, path, identity="two")
        for _ in range(200):
            with pytest.raises(AcquireTimeout):
                async with flavour.within(election.lead(timeout=0.0005)):
                    pytest.fail("two leaders")
        assert len(candidates(zk, path)) == 1
        assert sum(len(each) for each in list(zk._data_watchers.values())) <= 2
        listeners = len(zk.state_listeners)
    assert listeners <= 1


async def test_a_contender_watches_only_the_one_before_it(flavour: Any, client: Any, path: str) -> None:
    """No herd: of the others' znodes, the third contender watches the second's only."""
    third = client()

    async def stand(zk: Any) -> None:
        async with flavour.within(flavour.Election(zk, path, identity="x")):
            pass

    async with flavour.within(flavour.Election(client(), path, identity="first")):
        running = []
        for count, zk in enumerate((client(), third), 2):
            running.append(flavour.spawn(stand, zk))
            await flavour.until(lambda count=count: len(candidates(third, path)) == count)
        line = [f"{path}/candidates/{name}" for name in znodes.line(candidates(third, path))]
        await flavour.until(
            lambda: {each for each in third._data_watchers if third._data_watchers[each]} == set(line[1:])
        )
    for each in running:
        await each.result()


async def test_the_blocks_own_error_wins_and_the_leader_resigns(flavour: Any, client: Any, path: str) -> None:
    zk = client()
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(flavour.Election(zk, path, identity="one")):
            raise ZeroDivisionError
    assert candidates(zk, path) == []


async def test_tokens_rise_though_the_path_was_deleted(flavour: Any, client: Any, path: str) -> None:
    """Sequence numbers begin anew with a new parent; a token that were one would go back (fact 3 of the notes)."""
    zk, tokens = client(), []
    election = flavour.Election(zk, path, identity="one")
    for _ in range(3):
        async with flavour.within(election) as leadership:
            tokens.append(leadership.token)
            assert candidates(zk, path)[0].endswith("-0000000000")
        zk.delete(path, recursive=True)
    assert tokens == sorted(set(tokens))


async def test_deleting_the_leaders_znode_ends_its_leadership(flavour: Any, client: Any, path: str) -> None:
    """An operator's way to say: please step down. The watch tells it, long before the next proof is due."""
    zk = client()
    with pytest.raises(LeadershipLost) as lost:
        async with flavour.within(flavour.Election(client(timeout=60.0), path, identity="one")) as leadership:
            zk.delete(f"{path}/candidates/{candidates(zk, path)[0]}")
            assert await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert lost.value.token == leadership.token
    assert "deleted" in str(lost.value)


async def test_a_loss_is_told_at_the_end_of_the_block_at_the_latest(flavour: Any, client: Any, path: str) -> None:
    zk, reached = client(), []
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            kill_session(zk)
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            else:
                assert leadership.lost.wait(10)
            reached.append(leadership)
    assert bool(reached) is not flavour.is_async


async def test_after_its_session_the_same_election_leads_again(flavour: Any, client: Any, path: str) -> None:
    """kazoo's Lock believes to hold it, and cannot be acquired again (K2)."""
    zk = client()
    election, tokens = flavour.Election(zk, path, identity="one"), []
    for _ in range(2):
        with pytest.raises(LeadershipLost):
            async with flavour.within(election.lead(timeout=20)) as leadership:
                tokens.append(leadership.token)
                kill_session(zk)
                await flavour.maybe(leadership.lost.wait(10))
                leadership.ensure()
    async with flavour.within(election.lead(timeout=20)) as leadership:
        assert [leadership.token] > tokens[-1:] > tokens[:1]
    assert candidates(zk, path) == []


async def test_a_session_that_ends_in_line_is_replaced(flavour: Any, client: Any, path: str) -> None:
    """The contender comes back by itself, with a new znode of its new session."""
    zk, waiting = client(), client()

    async def stand() -> int:
        async with flavour.within(flavour.Election(waiting, path, identity="two").lead(timeout=30)) as leadership:
            return int(leadership.token)

    async with flavour.within(flavour.Election(zk, path, identity="one")) as first:
        running = flavour.spawn(stand)
        await flavour.until(lambda: len(candidates(zk, path)) == 2)
        before = set(candidates(zk, path))
        kill_session(waiting)
        await flavour.until(lambda: len(candidates(zk, path)) == 2 and set(candidates(zk, path)) != before)
    assert await running.result() > first.token


async def test_deleting_everything_below_the_path_is_survived(flavour: Any, client: Any, path: str) -> None:
    zk = client()

    async def stand() -> int:
        async with flavour.within(flavour.Election(client(), path, identity="two").lead(timeout=30)) as leadership:
            return int(leadership.token)

    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            running = flavour.spawn(stand)
            await flavour.until(lambda: len(candidates(zk, path)) == 2)
            raze(zk, path)
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert await running.result() > leadership.token


async def test_run_returns_what_the_function_returns(flavour: Any, client: Any, path: str) -> None:
    election = flavour.Election(client(), path, identity="one")

    async def serve(leadership: Any) -> Any:
        return leadership.token, await flavour.maybe(election.leader())

    token, leader = await flavour.maybe(election.run(_fit(flavour, serve)))

    assert leader == ("one", token)
    assert await flavour.maybe(election.leader()) is None


def _fit(flavour: Any, serve: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return ``serve`` as its flavour wants it: a function that blocks, or one that is awaited."""
    if flavour.is_async:
        return serve

    def blocking(leadership: Any) -> Any:
        try:
            serve(leadership).send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it suspended")

    return blocking


async def test_run_leads_again_after_a_loss(flavour: Any, client: Any, path: str) -> None:
    zk, tokens = client(), []
    election = flavour.Election(zk, path, identity="one")

    async def serve(leadership: Any) -> str:
        tokens.append(leadership.token)
        if len(tokens) < 3:
            kill_session(zk)
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
        return "served"

    assert await flavour.maybe(election.run(_fit(flavour, serve))) == "served"
    assert len(tokens) == 3
    assert tokens == sorted(tokens)


async def test_run_once_raises_the_loss(flavour: Any, client: Any, path: str) -> None:
    """kazoo's Election.run returns None, as if all had gone well (fact 1 of the notes)."""
    zk = client()

    async def serve(leadership: Any) -> None:
        kill_session(zk)
        await flavour.maybe(leadership.lost.wait(10))

    with pytest.raises(LeadershipLost):
        await flavour.maybe(flavour.Election(zk, path, identity="one").run(_fit(flavour, serve), again=False))


@pytest.mark.parametrize("error", [ValueError, KazooCancelled, StoreUnavailable, TimeoutError])
async def test_run_raises_what_the_function_raises(
    flavour: Any, client: Any, path: str, error: type[Exception]
) -> None:
    """Also kazoo's CancelledError, which kazoo's Election swallows (K5), and an outage of another store."""
    zk = client()

    async def serve(leadership: Any) -> None:
        raise error("elsewhere", "its own") if error is StoreUnavailable else error("its own")

    with pytest.raises(error, match="its own"):
        await flavour.maybe(flavour.Election(zk, path, identity="one").run(_fit(flavour, serve)))
    assert candidates(zk, path) == []


async def test_stop_ends_a_run_in_line_and_not_the_next_one(flavour: Any, client: Any, path: str) -> None:
    """After kazoo's ``cancel`` the next run returns without having led (K4)."""
    zk = client()
    election = flavour.Election(client(), path, identity="two")

    async def serve(leadership: Any) -> str:
        return "served"

    async def stand() -> Any:
        return await flavour.maybe(election.run(_fit(flavour, serve)))

    async with flavour.within(flavour.Election(zk, path, identity="one")):
        running = flavour.spawn(stand)
        await flavour.until(lambda: len(candidates(zk, path)) == 2)
        election.stop()
        assert await running.result() is None
        assert len(candidates(zk, path)) == 1
    election.stop()
    assert await stand() == "served"


async def test_a_client_may_be_started_after_the_election_was_made(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, path: str
) -> None:
    zk = KazooClient(hosts=coordkit_zk_server.hosts, timeout=4.0)
    election = flavour.Election(zk, path, identity="early")
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await flavour.maybe(election.leader())
    with pytest.raises(StoreUnavailable, match=r"start\(\)") as unavailable:
        async with flavour.within(election):
            pytest.fail("it leads without a session")
    assert unavailable.value.__cause__ is not None
    try:
        zk.start_async()
        async with flavour.within(election) as leadership:
            assert leadership.ensure()
    finally:
        close_kazoo(zk)
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        await flavour.maybe(election.contenders())


async def test_it_works_inside_a_chroot(flavour: Any, coordkit_zk: Any) -> None:
    election = flavour.Election(coordkit_zk, "/leader", identity="one")
    async with flavour.within(election):
        assert coordkit_zk.exists("/leader/epoch")
        assert (await flavour.maybe(election.leader())).identity == "one"
        with pytest.raises(AcquireTimeout):
            async with flavour.within(election.lead(timeout=0.05)):
                pytest.fail("two leaders")
        assert len(candidates(coordkit_zk, "/leader")) == 1


async def test_a_missing_chroot_is_said(flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    zk = KazooClient(hosts=f"{coordkit_zk_server.hosts}{path}/none", timeout=4.0)
    zk.start_async().wait(10)
    try:
        with pytest.raises(StoreRefused, match="chroot"):
            async with flavour.within(flavour.Election(zk, "/leader", identity="one").lead(timeout=5)):
                pytest.fail("it leads nowhere")
    finally:
        close_kazoo(zk)


async def test_the_negotiated_session_timeout_counts(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, client: Any, path: str
) -> None:
    """kazoo shows what was asked for (kazoo#769); the lease must rest on what the servers keep."""
    early = KazooClient(hosts=coordkit_zk_server.hosts, timeout=0.05)
    election = flavour.Election(early, path, identity="early")
    early.start(20)
    try:
        late = client(timeout=0.05)
        flavour.Election(late, path, identity="late")  # looks into a connection that is open already
        granted = [each._coordkit_wire.session_timeout() for each in (early, late)]
        assert granted[0] == granted[1] > 0.05
        async with flavour.within(election) as leadership:
            assert 0 < leadership.remaining() <= granted[0] * 2 / 3
    finally:
        close_kazoo(early)


async def test_a_leadership_is_proven_as_long_as_it_lasts(flavour: Any, client: Any, path: str) -> None:
    """It outlives many times what one answered write proves."""
    zk = client(timeout=0.6)
    async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
        proven = zk._coordkit_wire.session_timeout() * 2 / 3
        lowest = proven
        for _ in range(30):
            await flavour.sleep(proven / 10)
            leadership.ensure()
            lowest = min(lowest, leadership.remaining())
        assert lowest > 0


async def test_what_may_not_be_written_is_refused(flavour: Any, client: Any, path: str) -> None:
    from kazoo.security import READ_ACL_UNSAFE

    zk = client()
    zk.ensure_path(path.rpartition("/")[0])
    zk.create(path, acl=READ_ACL_UNSAFE)
    with pytest.raises(StoreRefused, match="NoAuthError") as refused:
        async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=5)):
            pytest.fail("it leads without the right to")
    assert refused.value.__cause__ is not None
    assert refused.value.name == path


async def test_leading_takes_two_round_trips_and_resigning_one(
    flavour: Any, client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """kazoo's Lock takes three to five (fact 10 of the notes)."""
    far = client(timeout=20.0, hosts=coordkit_faults.proxy(coordkit_zk_server).address)
    election, sent, call = flavour.Election(far, path, identity="one"), [0], far._call
    async with flavour.within(election):
        pass  # makes the path

    def counted(request: Any, result: Any) -> Any:
        # A round trip is a request that was sent when nothing else was under way.
        sent[0] += not (far._pending or far._queue)
        return call(request, result)

    far._call = counted
    coordkit_faults._proxies[-1].latency = 0.03
    async with flavour.within(election):
        assert sent[0] == 2
    assert sent[0] == 3


def test_an_interrupted_contender_is_gone(client: Any, path: str) -> None:
    """Ctrl-C while it waits in line."""
    from coordkit import Election

    zk = client()
    with Election(zk, path, identity="one"):
        interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt), Election(client(), path, identity="two"):
            pytest.fail("two leaders")
        interrupt.join()
        assert len(candidates(zk, path)) == 1


async def test_used_up_numbers_are_refused_before_they_repeat(
    flavour: Any, client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 2**31 ZooKeeper's counter sticks, and three kazoo locks are held at once (K28)."""
    zk = client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        monkeypatch.setattr(znodes, "LAST_SEQUENCE", 1)
        with pytest.raises(StoreRefused, match="used up"):
            async with flavour.within(election.lead(timeout=1)):
                pytest.fail("two leaders")
        assert len(candidates(zk, path)) == 1


_FORKS = """
import os, sys
from kazoo.client import KazooClient
from coordkit import Election
from coordkit.errors import CoordError, LeadershipLost
zk = KazooClient(sys.argv[1], timeout=4.0)
zk.start(20)
election = Election(zk, sys.argv[2], identity="one")
with election as leadership:
    child = os.fork()
    if child == 0:
        said = []
        for use in (election.leader, leadership.ensure, lambda: election.lead(timeout=1).__enter__()):
            try:
                use()
            except CoordError as error:
                said.append(type(error).__name__ + " fork" * ("fork" in str(error)))
        os.write(1, ",".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert leadership.ensure()
zk.stop()
zk.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_use_after_a_fork_is_refused(coordkit_zk_server: ZooKeeperEnsemble, path: str) -> None:
    """kazoo hangs there (K26)."""
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, coordkit_zk_server.hosts, path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)

    assert said.stdout == "CoordError fork,LeadershipLost fork,CoordError fork", said.stderr
    assert said.returncode == 0, said.stderr
