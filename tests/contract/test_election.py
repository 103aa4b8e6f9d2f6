"""What an election promises, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NotReadOnlyCallError,
    QuotaExceededError,
    RequestTimeoutError,
    SessionExpiredError,
    SessionMovedError,
    ThrottledOpError,
)
from kazoo.exceptions import CancelledError as KazooCancelled
from kazoo.protocol.connection import _SESSION_EXPIRED, ConnectionHandler
from zk_lines import meddle, record

import coordkit.aio
from coordkit._ports_zookeeper import Check, Create, GetChildren, GetData, Link, Multi
from coordkit.core import records, znodes
from coordkit.core.session import PROVEN
from coordkit.errors import AcquireTimeout, CoordError, LeadershipLost, NotAcquired, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import Faults, kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/leader"


def candidates(client: Any, path: str) -> list[str]:
    client.sync(path)  # its server may be late
    return client.get_children(f"{path}/candidates") if client.exists(f"{path}/candidates") else []


def raze(client: Any, path: str) -> None:
    """Delete all of an election in one step, so that nobody enters its line meanwhile."""
    transaction = client.transaction()
    for name in candidates(client, path):
        transaction.delete(f"{path}/candidates/{name}")
    for each in (f"{path}/candidates", f"{path}/epoch", path):
        transaction.delete(each)
    assert all(outcome is True for outcome in transaction.commit())


async def test_the_leader_is_shown_with_its_token(flavour: Any, zk_client: Any, path: str) -> None:
    election = flavour.Election(zk_client(), path, identity="billing-7")

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


async def test_contenders_lead_in_the_order_in_which_they_came(flavour: Any, zk_client: Any, path: str) -> None:
    watcher, order = flavour.Election(zk_client(), path, identity="watcher"), []

    async def stand(name: str) -> None:
        async with flavour.within(flavour.Election(zk_client(), path, identity=name)) as leadership:
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


async def test_one_election_is_shared_by_many(flavour: Any, zk_client: Any, path: str) -> None:
    """One object, many threads or tasks: one leads at a time, and every token is greater than the one before."""
    election, inside, tokens = flavour.Election(zk_client(), path, identity="shared"), [], []

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


async def test_asking_once_is_refused_while_another_leads(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    async with flavour.within(flavour.Election(zk, path, identity="one")):
        other = flavour.Election(zk_client(), path, identity="two")
        with pytest.raises(NotAcquired) as refused:
            async with flavour.within(other.lead(timeout=0)):
                pytest.fail("two leaders")
        assert not isinstance(refused.value, AcquireTimeout)
        assert len(candidates(zk, path)) == 1
    async with flavour.within(other.lead(timeout=0)) as leadership:
        assert leadership.ensure()


async def test_a_timeout_ends_the_wait_and_leaves_no_candidate(flavour: Any, zk_client: Any, path: str) -> None:
    """It never enters the block: kazoo's ``__enter__`` ignores that nothing was acquired (K23)."""
    zk = zk_client()
    async with flavour.within(flavour.Election(zk, path, identity="one")):
        with pytest.raises(AcquireTimeout) as late:
            async with flavour.within(flavour.Election(zk_client(), path, identity="two").lead(timeout=0.1)):
                pytest.fail("two leaders")
        assert late.value.timeout == 0.1
        assert late.value.name == path
        assert len(candidates(zk, path)) == 1


async def test_two_hundred_polls_leave_no_watches(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Lock leaves 200 watchers on the leader's znode (K9)."""
    zk = zk_client()
    async with flavour.within(flavour.Election(zk_client(), path, identity="one")):
        election = flavour.Election(zk, path, identity="two")
        for _ in range(200):
            with pytest.raises(AcquireTimeout):
                async with flavour.within(election.lead(timeout=0.0005)):
                    pytest.fail("two leaders")
        assert len(candidates(zk, path)) == 1
        assert sum(len(each) for each in list(zk._data_watchers.values())) <= 2
        listeners = len(zk.state_listeners)
    assert listeners <= 1


async def test_a_contender_watches_only_the_one_before_it(flavour: Any, zk_client: Any, path: str) -> None:
    """No herd: of the others' znodes, the third contender watches the second's only."""
    third = zk_client()

    async def stand(zk: Any) -> None:
        async with flavour.within(flavour.Election(zk, path, identity="x")):
            pass

    async with flavour.within(flavour.Election(zk_client(), path, identity="first")):
        running = []
        for count, zk in enumerate((zk_client(), third), 2):
            running.append(flavour.spawn(stand, zk))
            await flavour.until(lambda count=count: len(candidates(third, path)) == count)
        line = [f"{path}/candidates/{name}" for name in znodes.line(candidates(third, path))]
        await flavour.until(
            lambda: {each for each in third._data_watchers if third._data_watchers[each]} == set(line[1:])
        )
    for each in running:
        await each.result()


async def test_a_hand_over_lists_nothing_anew(flavour: Any, zk_client: Any, path: str) -> None:
    """Who watched the head of the line is next, whatever came in behind it: it takes over by one burst."""
    second, asked = zk_client(), []

    async def stand() -> None:
        async with flavour.within(flavour.Election(second, path, identity="second")):
            pass

    async with flavour.within(flavour.Election(zk_client(), path, identity="first")):
        running = flavour.spawn(stand)
        await flavour.until(lambda: any(second._data_watchers.values()))
        await flavour.until(lambda: not (second._pending or second._queue))
        wire = second._coordkit_wire
        submit = wire.submit

        def recorded(request: Any, deliver: Any) -> Any:
            asked.append(request)
            return submit(request, deliver)

        wire.submit = recorded
    await running.result()
    assert [each for each in asked if isinstance(each, GetChildren)] == []
    writes = [each for each in asked if isinstance(each, Multi)]
    assert len(writes) == 2, "one takes over, one resigns"
    assert asked.index(writes[1]) <= 3, "our own znode is looked at along with it, and that is all"


async def test_a_leader_costs_one_write_for_each_third_of_its_lease(flavour: Any, zk_client: Any, path: str) -> None:
    """Three lead over one session: each is proven by one check, however often it is asked whether it leads."""
    zk, asked = zk_client(timeout=2.0), []
    elections = [flavour.Election(zk, f"{path}{i}", identity="one") for i in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        leading = [await stack.enter_async_context(flavour.within(each)) for each in elections]
        began, ends, renewed = time.monotonic(), [0.0] * 3, [0] * 3
        record(zk, asked)
        while min(renewed) < 8:
            for i, leadership in enumerate(leading):
                assert leadership.ensure()
                if leadership._core.expires > ends[i]:
                    ends[i], renewed[i] = leadership._core.expires, renewed[i] + 1
            await flavour.sleep(0.001)
        writes, passed = [each for each in asked if not isinstance(each, GetData)], time.monotonic() - began
    proofs = [Multi((Check(each._core.place.node),)) for each in leading]
    assert [each for each in writes if each not in proofs] == []
    most = passed / (leading[0]._core.ttl / 3)  # fewer where the machine is busy
    for proof in proofs:
        assert 3 <= writes.count(proof) <= 1.3 * most + 2, "they are rounded, to be sent together"


async def test_the_blocks_own_error_wins_and_the_leader_resigns(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    with pytest.raises(ZeroDivisionError):
        async with flavour.within(flavour.Election(zk, path, identity="one")):
            raise ZeroDivisionError
    assert candidates(zk, path) == []


async def test_tokens_rise_though_the_path_was_deleted(flavour: Any, zk_client: Any, path: str) -> None:
    """Sequence numbers begin anew with a new parent; a token that were one would go back (fact 3 of the notes)."""
    zk, tokens = zk_client(), []
    election = flavour.Election(zk, path, identity="one")
    for _ in range(3):
        async with flavour.within(election) as leadership:
            tokens.append(leadership.token)
            assert candidates(zk, path)[0].endswith("-0000000000")
        zk.delete(path, recursive=True)
    assert tokens == sorted(set(tokens))


async def test_deleting_the_leaders_znode_ends_its_leadership(flavour: Any, zk_client: Any, path: str) -> None:
    """An operator's way to say: please step down. The watch tells it, long before the next proof is due."""
    zk = zk_client()
    with pytest.raises(LeadershipLost) as lost:
        async with flavour.within(flavour.Election(zk_client(timeout=60.0), path, identity="one")) as leadership:
            zk.delete(f"{path}/candidates/{candidates(zk, path)[0]}")
            assert await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert lost.value.token == leadership.token
    assert "deleted" in str(lost.value)


async def test_a_znode_that_goes_within_a_proof_is_not_proven(flavour: Any, zk_client: Any, path: str) -> None:
    """Checked, deleted, and then not watched, for there was nothing to watch: seen once, in CI."""
    zk, other = zk_client(timeout=60.0), zk_client()

    def deleted_before(request: GetData, send: Any) -> Any:
        time.sleep(0.2)  # the check, which was sent before, is answered meanwhile
        other.delete(request.path)
        return send()

    with pytest.raises(LeadershipLost, match="deleted"):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            meddle(zk, GetData, deleted_before)
            with contextlib.suppress(LeadershipLost):
                await flavour.maybe(leadership.verify())
            assert await flavour.maybe(leadership.lost.wait(5))  # the next proof is due in 13 s
            leadership.ensure()


async def test_a_loss_is_told_at_the_end_of_the_block_at_the_latest(flavour: Any, zk_client: Any, path: str) -> None:
    zk, reached = zk_client(), []
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            kill_session(zk)
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            else:
                assert leadership.lost.wait(10)
            reached.append(leadership)
    assert bool(reached) is not flavour.is_async


async def test_a_session_that_is_over_on_a_connection_that_stands(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node took the client back while its session was being closed elsewhere: each request was refused, for ever."""
    zk = zk_client()
    over, read = zk.client_id[0], ConnectionHandler._read_header

    def reading(self: Any, timeout: float) -> Any:
        header, buffer, offset = read(self, timeout)
        dead = header.xid > 0 and self.client is zk and zk.client_id[0] == over
        return header._replace(err=SessionExpiredError.code) if dead else header, buffer, offset

    monkeypatch.setattr(ConnectionHandler, "_read_header", reading)
    async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=10)) as leadership:
        assert leadership.ensure()
        assert zk.client_id[0] != over


async def test_a_node_that_drops_a_request(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose client had moved to another left one request out: kazoo's thread died of the answer to the next."""
    zk = zk_client()
    session, read, dropped = zk.client_id, ConnectionHandler._read_header, []

    def reading(self: Any, timeout: float) -> Any:
        answer = read(self, timeout)
        if self.client is zk and len(self.client._pending) > 1 and answer[0].xid > 0 and not dropped:
            dropped.append(answer[0].xid)
            answer = read(self, timeout)
        return answer

    monkeypatch.setattr(ConnectionHandler, "_read_header", reading)
    async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=10)) as leadership:
        assert leadership.ensure()
        assert dropped, "two requests at once stand in the line's first round trip"
        assert zk.client_id == session, "it connected again, in the same session"


async def test_after_its_session_the_same_election_leads_again(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Lock believes to hold it, and cannot be acquired again (K2)."""
    zk = zk_client()
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


async def test_a_session_that_ends_in_line_is_replaced(
    flavour: Any, zk_client: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The contender comes back by itself, with a new znode of its new session, and says so in the log (K3)."""
    caplog.set_level(logging.INFO, "coordkit")
    zk, waiting = zk_client(), zk_client()

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
    assert any("two is in line again, at its end" in each.message for each in caplog.records)


async def test_deleting_everything_below_the_path_is_survived(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()

    async def stand() -> int:
        async with flavour.within(flavour.Election(zk_client(), path, identity="two").lead(timeout=30)) as leadership:
            return int(leadership.token)

    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            running = flavour.spawn(stand)
            await flavour.until(lambda: len(candidates(zk, path)) == 2)
            raze(zk, path)
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert await running.result() > leadership.token


async def test_run_returns_what_the_function_returns(flavour: Any, zk_client: Any, path: str) -> None:
    election = flavour.Election(zk_client(), path, identity="one")

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


async def test_run_leads_again_after_a_loss(flavour: Any, zk_client: Any, path: str) -> None:
    zk, tokens = zk_client(), []
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


async def test_run_leads_again_where_a_write_shows_the_loss(flavour: Any, zk_client: Any, path: str) -> None:
    """What was cut off in the middle of a write fails by that write: agents of a pair that was paused ended by it."""
    zk, terms = zk_client(), []
    election = flavour.Election(zk, path, identity="one")

    def unanswered(_: Any, __: Any) -> Any:
        result = zk.handler.async_result()

        def fail() -> None:
            kill_session(zk)
            while not terms[0].lost.is_set():
                time.sleep(0.001)
            result.set_exception(ConnectionLoss())

        threading.Thread(target=fail).start()
        return result

    async def serve(leadership: Any) -> str:
        terms.append(leadership)
        if len(terms) == 1:
            meddle(zk, Multi, unanswered)
            async with flavour.within(leadership.transaction()) as write:
                write.check(path)
        return "served"

    assert await flavour.maybe(election.run(_fit(flavour, serve))) == "served"
    assert len(terms) == 2


_PASSING = [ThrottledOpError, SessionMovedError, NotReadOnlyCallError, RequestTimeoutError, QuotaExceededError]


@pytest.mark.parametrize("answer", _PASSING, ids=lambda each: each.__name__)
@pytest.mark.parametrize("nth", [1, 2], ids=["standing", "taking over"])
async def test_run_rides_over_an_answer_that_passes(
    flavour: Any, zk_client: Any, path: str, answer: Any, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server says that is busy, cut off from the others, or as full as its quota allows."""
    zk = zk_client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass  # what it stands on is there
    refused = _answer_with(monkeypatch, zk, answer, lambda request: isinstance(request, Create | Multi), nth)

    async def serve(leadership: Any) -> Any:
        return leadership.token

    token = await flavour.maybe(election.run(_fit(flavour, serve)))
    assert refused == [answer]
    assert token > 0
    assert candidates(zk, path) == []


@pytest.mark.parametrize("answer", [NoAuthError, InvalidACLError], ids=lambda each: each.__name__)
async def test_run_ends_with_a_refusal_that_lasts(
    flavour: Any, zk_client: Any, path: str, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No right to stand, or to write the epoch: asked again, the servers would say no again."""
    zk = zk_client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass
    _answer_with(monkeypatch, zk, answer, lambda request: isinstance(request, Multi), 1)
    with pytest.raises(StoreRefused) as refused:
        await flavour.maybe(election.run(_fit(flavour, _nobody)))
    assert isinstance(refused.value.__cause__, answer)
    await flavour.until(lambda: candidates(zk, path) == [])


async def test_run_once_raises_a_quota_that_is_used_up(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zk = zk_client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass
    _answer_with(monkeypatch, zk, QuotaExceededError, lambda request: isinstance(request, Multi), 1)
    with pytest.raises(StoreRefused, match="quota"):
        await flavour.maybe(election.run(_fit(flavour, _nobody), again=False))


async def _nobody(leadership: Any) -> None:
    raise AssertionError(f"it leads: {leadership}")


def _answer_with(
    monkeypatch: pytest.MonkeyPatch, zk: Any, error: Any, which: Callable[[Any], bool], nth: int
) -> list[Any]:
    """Have the ``nth`` request of one kind answered with an error, once, though the server has done it."""
    wire, said, seen = zk._coordkit_wire, [], [0]
    answer = wire.answer

    def answering(name: str, request: Any, result: Any, within: float) -> Any:
        seen[0] += which(request)
        if which(request) and seen[0] == nth and result.ready():
            said.append(error)
            result = SimpleNamespace(ready=lambda: True, exception=error(), value=None)
        return answer(name, request, result, within)

    monkeypatch.setattr(wire, "answer", answering)
    return said


async def test_run_once_raises_the_loss(flavour: Any, zk_client: Any, path: str) -> None:
    """kazoo's Election.run returns None, as if all had gone well (fact 1 of the notes)."""
    zk = zk_client()

    async def serve(leadership: Any) -> None:
        kill_session(zk)
        await flavour.maybe(leadership.lost.wait(10))

    with pytest.raises(LeadershipLost):
        await flavour.maybe(flavour.Election(zk, path, identity="one").run(_fit(flavour, serve), again=False))


@pytest.mark.parametrize("error", [ValueError, KazooCancelled, StoreUnavailable, TimeoutError])
async def test_run_raises_what_the_function_raises(
    flavour: Any, zk_client: Any, path: str, error: type[Exception]
) -> None:
    """Also kazoo's CancelledError, which kazoo's Election swallows (K5), and an outage of another store."""
    zk = zk_client()

    async def serve(leadership: Any) -> None:
        raise error("elsewhere", "its own") if error is StoreUnavailable else error("its own")

    with pytest.raises(error, match="its own"):
        await flavour.maybe(flavour.Election(zk, path, identity="one").run(_fit(flavour, serve)))
    assert candidates(zk, path) == []


async def test_stop_ends_a_run_in_line_and_not_the_next_one(flavour: Any, zk_client: Any, path: str) -> None:
    """After kazoo's ``cancel``, while it leads or at any other time, the next run returns without having led (K4)."""
    zk, stops = zk_client(), [True]
    election = flavour.Election(zk_client(), path, identity="two")

    async def serve(leadership: Any) -> str:
        if not stops:
            election.stop()
            stops.append(True)
            leadership.ensure()
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
    stops.clear()
    assert await stand() == "served", "what leads is not interrupted"
    assert stops
    assert await stand() == "served"


async def test_a_client_may_be_started_after_the_election_was_made(
    flavour: Any, zk_servers: ZooKeeperEnsemble, path: str
) -> None:
    zk = KazooClient(hosts=zk_servers.hosts, timeout=4.0)
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


async def test_a_missing_chroot_is_said(flavour: Any, zk_servers: ZooKeeperEnsemble, path: str) -> None:
    zk = KazooClient(hosts=f"{zk_servers.hosts}{path}/none", timeout=4.0)
    zk.start_async().wait(10)
    try:
        with pytest.raises(StoreRefused, match="chroot"):
            async with flavour.within(flavour.Election(zk, "/leader", identity="one").lead(timeout=5)):
                pytest.fail("it leads nowhere")
    finally:
        close_kazoo(zk)


async def test_the_negotiated_session_timeout_counts(
    flavour: Any, zk_servers: ZooKeeperEnsemble, zk_client: Any, path: str
) -> None:
    """kazoo shows what was asked for (kazoo#769, K22); the lease must rest on what the servers keep."""
    early = KazooClient(hosts=zk_servers.hosts, timeout=100.0)
    election = flavour.Election(early, path, identity="early")
    early.start(20)
    try:
        late = zk_client(timeout=100.0)
        flavour.Election(late, path, identity="late")  # looks into a connection that is open already
        granted = [each._coordkit_wire.session_timeout() for each in (early, late)]
        assert granted[0] == granted[1] < 100.0
        async with flavour.within(election) as leadership:
            assert 0 < leadership.remaining() <= granted[0] * 2 / 3
    finally:
        close_kazoo(early)


async def test_a_leadership_is_proven_as_long_as_it_lasts(flavour: Any, zk_client: Any, path: str) -> None:
    """It outlives many times what one answered write proves."""
    zk = zk_client(timeout=0.6)
    async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
        proven = zk._coordkit_wire.session_timeout() * 2 / 3
        lowest = proven
        for _ in range(30):
            await flavour.sleep(proven / 10)
            leadership.ensure()
            lowest = min(lowest, leadership.remaining())
        assert lowest > 0


async def test_what_may_not_be_written_is_refused(flavour: Any, zk_client: Any, path: str) -> None:
    from kazoo.security import READ_ACL_UNSAFE

    zk = zk_client()
    zk.ensure_path(path.rpartition("/")[0])
    zk.create(path, acl=READ_ACL_UNSAFE)
    with pytest.raises(StoreRefused, match="NoAuthError") as refused:
        async with flavour.within(flavour.Election(zk, path, identity="one").lead(timeout=5)):
            pytest.fail("it leads without the right to")
    assert refused.value.__cause__ is not None
    assert refused.value.name == path


async def test_leading_takes_two_round_trips_and_resigning_one(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, zk_servers: ZooKeeperEnsemble
) -> None:
    """kazoo's Lock takes three to five (fact 10 of the notes)."""
    far = zk_client(timeout=20.0, hosts=coordkit_faults.proxy(zk_servers.nodes[0]).address)
    election, sent = flavour.Election(far, path, identity="one"), [0]
    submit = far._coordkit_wire.submit
    async with flavour.within(election):
        pass  # makes the path

    def counted(request: Any, deliver: Any) -> Any:
        # A round trip is a request that was sent when nothing else was under way.
        sent[0] += not (far._pending or far._queue)
        return submit(request, deliver)

    far._coordkit_wire.submit = counted
    coordkit_faults._proxies[-1].latency = 0.03
    async with flavour.within(election):
        assert sent[0] == 2
    assert sent[0] == 3


async def test_who_is_to_be_told_of_the_loss_does_not_have_the_leadership(
    flavour: Any, zk_client: Any, path: str, request: pytest.FixtureRequest
) -> None:
    """What a signal handler interrupted just before the block is given back when nobody has it, without a collector."""
    election = flavour.Election(zk_client(), path, identity="one", on_lost=lambda _: None)
    gc.disable()
    request.addfinalizer(gc.enable)
    leadership = await flavour.maybe(election._led(20))
    known = leadership._core.pulse
    assert known() is leadership._core
    del leadership
    assert known() is None


def test_an_interrupted_contender_is_gone(zk_client: Any, path: str) -> None:
    """Ctrl-C while it waits in line."""
    from coordkit import Election

    zk = zk_client()
    with Election(zk, path, identity="one"):
        interrupt = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt), Election(zk_client(), path, identity="two"):
            pytest.fail("two leaders")
        interrupt.join()
        assert len(candidates(zk, path)) == 1


async def test_used_up_numbers_are_refused_before_they_repeat(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 2**31 ZooKeeper's counter sticks, and three kazoo locks are held at once (K28)."""
    zk = zk_client()
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
def test_use_after_a_fork_is_refused(zk_servers: ZooKeeperEnsemble, path: str) -> None:
    """kazoo hangs there (K26)."""
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, zk_servers.hosts, path]
    said = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)

    assert said.stdout == "CoordError fork,LeadershipLost fork,CoordError fork", said.stderr
    assert said.returncode == 0, said.stderr


async def test_taking_over_fails_if_our_znode_went_meanwhile(flavour: Any, zk_client: Any, path: str) -> None:
    """Between the look at the line and the transaction: nothing is announced, and no token is spent."""
    zk, direct = zk_client(), zk_client()
    election = flavour.Election(zk, path, identity="one")

    def without(_: Any, send: Callable[[], Any]) -> Any:
        direct.delete(f"{path}/candidates/{candidates(direct, path)[0]}")
        return send()

    meddle(zk, Multi, without)
    async with flavour.within(election) as leadership:
        direct.sync(path)
        data, stat = direct.get(f"{path}/epoch")
        assert stat.version == 1
        assert stat.mzxid == leadership.token
        assert candidates(direct, path) == [records.unpack_record(data).candidate]


async def test_a_take_over_that_is_carried_out_late_changes_no_token(flavour: Any, zk_client: Any, path: str) -> None:
    """A server that was cut off hands on what was asked first, after what was asked next has been answered."""
    zk, direct, given_up = zk_client(), zk_client(), []

    def unanswered(request: Any, _: Any) -> Any:
        given_up.append(request)
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    election = flavour.Election(zk, path, identity="one")
    meddle(zk, Multi, unanswered, times=2)
    async with flavour.within(election) as leadership:
        assert len(given_up) == 2
        for request in given_up:
            late = direct.transaction()
            for step in request.steps:
                if isinstance(step, Check):
                    late.check(step.path, step.version)
                else:
                    late.set_data(step.path, step.data, step.version)
            assert any(isinstance(each, BadVersionError) for each in late.commit())
        assert (await flavour.maybe(election.leader())).token == leadership.token
    async with flavour.within(election) as again:
        assert again.token > leadership.token


async def test_a_take_over_that_was_asked_twice_costs_those_who_come_later_nothing(
    flavour: Any, zk_client: Any, path: str
) -> None:
    """It raises the mark of the line, so whoever came to it later looked at the line twice, as long as it stood."""
    zk, later, asked = zk_client(), zk_client(), []
    election, other = flavour.Election(zk, path, identity="one"), flavour.Election(later, path, identity="two")

    def unanswered(_: Any, __: Any) -> Any:
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    meddle(zk, Multi, unanswered)
    async with flavour.within(election):
        assert zk.exists(f"{path}/candidates").version == 1
        later.sync(path)
        record(later, asked)
        with pytest.raises(NotAcquired):
            async with flavour.within(other.lead(timeout=0)):
                pytest.fail("two leaders")
        assert [type(each) for each in asked if isinstance(each, GetChildren | GetData)] == [GetChildren]
    later.sync(path)
    del asked[:]
    async with flavour.within(other):
        reads = [each for each in asked if isinstance(each, GetChildren | GetData)]
    assert [type(each) for each in reads if each.path in (f"{path}/candidates", f"{path}/epoch")] == [GetChildren]


async def test_a_znode_of_an_earlier_session_is_not_adopted(flavour: Any, zk_client: Any, path: str) -> None:
    """The answer to its creation was lost, and the session with it: it will go, and would take the term with it."""
    zk, direct = zk_client(timeout=2.0), zk_client()
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass  # what it stands on is there
    direct.sync(path)
    before = direct.get(f"{path}/epoch")[1].version

    def lost(_: Any, send: Callable[[], Any]) -> Any:
        assert send().wait(10)
        session = zk.client_id
        zk._call(_SESSION_EXPIRED, None)
        while not zk.connected or zk.client_id in (None, session):
            time.sleep(0.001)
        result = zk.handler.async_result()
        result.set_exception(ConnectionLoss())
        return result

    meddle(zk, Create, lost)
    async with flavour.within(election) as leadership:
        assert {direct.exists(f"{path}/candidates/{each}").ephemeralOwner for each in candidates(direct, path)} == {
            zk.client_id[0]
        }
        stat = direct.get(f"{path}/epoch")[1]
        assert stat.version == before + 1
        assert stat.mzxid == leadership.token


async def test_a_leadership_ends_in_time_though_the_connection_stands(flavour: Any, zk_client: Any, path: str) -> None:
    """A server that is cut off from the quorum goes on answering pings: the lease ends all the same."""
    zk = zk_client(timeout=2.0)
    session = zk.client_id
    with pytest.raises(LeadershipLost, match="ttl ran out"):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            meddle(zk, Multi, lambda _, __: zk.handler.async_result(), times=100)
            await flavour.until(lambda: leadership.remaining() == 0.0)
            assert zk.connected
            assert zk.client_id == session
            if flavour.is_async:
                await flavour.sleep(20)  # cancelled by the loss
            assert leadership.lost.wait(10)


@pytest.mark.parametrize("what", ["link", "session"])
async def test_ensure_looks_at_the_connection_itself(flavour: Any, zk_client: Any, path: str, what: str) -> None:
    """It does not rely on having been told."""
    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(zk_client(), path, identity="one")) as leadership:
            ensemble = leadership._core.candidate.session.ensemble
            truth = getattr(ensemble, what)
            setattr(ensemble, what, lambda: Link.CONNECTING if what == "link" else truth() + 1)
            try:
                leadership.ensure()
            finally:
                setattr(ensemble, what, truth)


async def test_a_slow_ensemble_has_leaders_too(flavour: Any, zk_client: Any, path: str) -> None:
    """An answer that leaves any time to lead is taken; asking again would bring no better one."""
    zk = zk_client(timeout=2.0)
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass

    def slow(_: Any, send: Callable[[], Any]) -> Any:
        time.sleep(0.6 * zk._coordkit_wire.session_timeout() * PROVEN)
        return send()

    meddle(zk, Multi, slow)
    before = zk.get(f"{path}/epoch")[1].version
    async with flavour.within(election.lead(timeout=20)) as leadership:
        assert leadership.token == zk.get(f"{path}/epoch")[1].mzxid
        assert zk.get(f"{path}/epoch")[1].version == before + 1


async def test_an_ensemble_too_slow_to_prove_anything_is_unavailable(flavour: Any, zk_client: Any, path: str) -> None:
    zk, asked = zk_client(timeout=2.0), []
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(election):
        pass

    def slow(_: Any, send: Callable[[], Any]) -> Any:
        asked.append(None)
        time.sleep(1.1 * zk._coordkit_wire.session_timeout() * PROVEN)
        return send()

    meddle(zk, Multi, slow, times=2)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(election.lead(timeout=1)):
            pytest.fail("a term without a proof")
    assert len(asked) == 1
    await flavour.until(lambda: candidates(zk, path) == [])


async def test_stop_keeps_nothing_of_the_terms_that_are_over(flavour: Any, zk_client: Any, path: str) -> None:
    election, kept = flavour.Election(zk_client(), path, identity="one"), []

    def once(leadership: Any) -> None:
        (attempt,) = election._core._attempts
        kept.append(len(attempt.stop._listeners))
        if len(kept) < 3:
            raise LeadershipLost(path, "for the test", token=leadership.token)

    async def serve(leadership: Any) -> None:
        once(leadership)

    await flavour.maybe(election.run(serve if flavour.is_async else once))
    assert kept == [0, 0, 0]


def test_event_loops_leave_neither_listeners_nor_watches(zk_client: Any, path: str) -> None:
    """One listener and one watch per znode for each client, however many loops have come and gone."""
    zk = zk_client()
    with coordkit.Election(zk_client(), path, identity="one"):
        election = coordkit.aio.Election(zk, path, identity="two")

        async def poll() -> None:
            with pytest.raises(AcquireTimeout):
                async with election.lead(timeout=0.02):
                    pytest.fail("two leaders")

        for _ in range(10):
            asyncio.run(poll())
        assert len(zk.state_listeners) == 1
        assert len(zk._coordkit_wire._listeners) == 0
        assert zk._coordkit_wire.bells._waiting == {}
        assert sum(len(each) for each in zk._data_watchers.values()) <= 2


def test_a_call_that_could_never_be_answered_is_refused(zk_client: Any, path: str) -> None:
    """In kazoo's own threads, which are what brings the answers: it would hang there (K17, K27)."""
    zk = zk_client()
    election, said = coordkit.Election(zk, path, identity="one"), []

    def ask(*_: Any) -> None:
        try:
            election.leader()
        except CoordError as error:
            said.append((type(error), str(error)))

    zk.ensure_path(path)
    zk.get(path, watch=ask)
    zk.set(path, b"changed")
    zk.add_listener(ask)
    kill_session(zk)
    while len(said) < 3:
        time.sleep(0.001)
    assert {kind for kind, _ in said} == {CoordError}
    assert all("kazoo's own" in text for _, text in said)


def test_a_coroutine_function_is_not_served_by_a_blocking_run(zk_client: Any, path: str) -> None:
    async def serve(_: Any) -> None:
        pytest.fail("never awaited, so never run")

    with pytest.raises(TypeError, match="coroutine function"):
        coordkit.Election(zk_client(), path, identity="one").run(serve)


async def test_a_znode_deleted_as_the_block_ends_was_not_given_back(flavour: Any, zk_client: Any, path: str) -> None:
    zk, direct = zk_client(), zk_client()

    def without(_: Any, send: Callable[[], Any]) -> Any:
        direct.delete(f"{path}/candidates/{candidates(direct, path)[0]}")
        return send()

    with pytest.raises(LeadershipLost) as lost:
        async with flavour.within(flavour.Election(zk, path, identity="one")):
            meddle(zk, Multi, without)
    assert "it was gone" in str(lost.value)
