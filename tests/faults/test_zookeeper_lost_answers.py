"""Every request that we send, lost once on its way there, and once on its way back: the decision table, enumerated.

A story is told once undisturbed, to count its requests; then once for each of them, which is lost. It must end as it
should or by the error for it, with one session to the end, and leave nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from zookeeper_relay import Loss, Relay

from coordkit._ports_zookeeper import Multi
from coordkit._run import run
from coordkit.core import records
from coordkit.errors import AcquireTimeout, LeadershipLost, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def relay(coordkit_zk_server: ZooKeeperEnsemble) -> Iterator[Relay]:
    node = coordkit_zk_server.nodes[0]
    relay = Relay(node.host, node.port)
    yield relay
    relay.close()


@pytest.fixture
def zk(relay: Relay) -> Iterator[Any]:
    """Give a client that comes back quickly, with a session that outlives every story."""
    retry = {"max_tries": -1, "delay": 0.01, "max_delay": 0.1}
    zk = KazooClient(relay.address, timeout=60.0, connection_retry=retry)
    zk.start(scaled(20))
    yield zk
    close_kazoo(zk)


def candidates(direct: Any, path: str) -> list[str]:
    return direct.get_children(f"{path}/candidates") if direct.exists(f"{path}/candidates") else []


class Stage:
    """What a story needs, and what must be true of it."""

    def __init__(self, flavour: Any, zk: Any, direct: Any, path: str) -> None:
        self.flavour = flavour
        self.zk = zk
        self.direct = direct
        self.path = path

    async def leads(self, leadership: Any) -> None:
        """Look, as the quorum sees it, at who leads: it is one, and by this token."""
        stands = [f"{self.path}/candidates/{name}" for name in candidates(self.direct, self.path)]
        mine = [each for each in stands if self.direct.get(each)[1].ephemeralOwner == self.zk._session_id]
        assert len(mine) == 1
        assert self.direct.get(f"{self.path}/epoch")[1].mzxid == leadership.token


async def a_term(stage: Stage) -> None:
    flavour = stage.flavour
    election = flavour.Election(stage.zk, stage.path, identity="one")
    with contextlib.suppress(LeadershipLost, StoreUnavailable):  # of a connection that is lost while it leads
        async with flavour.within(election.lead(timeout=scaled(20))) as leadership:
            await stage.leads(leadership)
            await flavour.maybe(leadership.verify())
            leadership.ensure()


async def a_succession(stage: Stage) -> None:
    flavour = stage.flavour
    first = flavour.Election(stage.direct, stage.path, identity="first")
    second = flavour.Election(stage.zk, stage.path, identity="second")

    async def succeed() -> bool:
        with contextlib.suppress(LeadershipLost, StoreUnavailable):
            async with flavour.within(second.lead(timeout=scaled(20))) as leadership:
                await stage.leads(leadership)
        return True

    async with flavour.within(first):
        running = flavour.spawn(succeed)
        await flavour.until(lambda: len(candidates(stage.direct, stage.path)) == 2, 20)
        await flavour.sleep(0.05)  # so that it mostly waits, and watches, when the first leaves
    assert await running.result()


async def a_wait_in_vain(stage: Stage) -> None:
    flavour = stage.flavour
    async with flavour.within(flavour.Election(stage.direct, stage.path, identity="first")) as first:
        with pytest.raises((AcquireTimeout, StoreUnavailable)):
            async with flavour.within(flavour.Election(stage.zk, stage.path, identity="two").lead(timeout=0.3)):
                pytest.fail("two leaders")
        await flavour.until(lambda: len(candidates(stage.direct, stage.path)) == 1, 20)
        first.ensure()


async def a_membership(stage: Stage) -> None:
    flavour, node = stage.flavour, f"{stage.path}/one"
    group = flavour.Group(stage.zk, stage.path)
    with contextlib.suppress(StoreUnavailable):  # of leaving: it goes on in the background
        async with flavour.within(group.join("one", data=b"1")) as member:
            assert stage.direct.get(node)[0] == b"1"
            assert stage.direct.get(node)[1].czxid == member.token
            with contextlib.suppress(StoreUnavailable):  # goes on, too
                await flavour.maybe(member.update(b"2"))
            await flavour.until(lambda: stage.direct.get(node)[0] == b"2", 20)
            assert member.ensure()
    await flavour.until(lambda: not stage.direct.exists(node), 20)


async def a_look_round(stage: Stage) -> None:
    """Reading is asked again until it is answered."""
    flavour = stage.flavour
    there = flavour.Election(stage.direct, stage.path, identity="first")
    async with (
        flavour.within(there) as leadership,
        flavour.within(flavour.Group(stage.direct, f"{stage.path}/members").join("one", data=b"1")),
    ):
        election = flavour.Election(stage.zk, stage.path, identity="two")
        assert (await flavour.maybe(election.leader())).token == leadership.token
        assert await flavour.maybe(election.contenders()) == ["first"]
        assert await flavour.maybe(flavour.Group(stage.zk, f"{stage.path}/members").members()) == {"one": b"1"}


async def a_transfer(stage: Stage) -> None:
    """Whoever was to lead does, or the line goes on: never two at once, and never nobody for long."""
    flavour = stage.flavour
    first = flavour.Election(stage.zk, stage.path, identity="first")
    second = flavour.Election(stage.direct, stage.path, identity="second")

    async def succeed() -> bool:
        async with flavour.within(second.lead(timeout=scaled(20))) as leadership:
            leadership.ensure()
        return True

    running = None
    with contextlib.suppress(LeadershipLost, StoreUnavailable):
        async with flavour.within(first.lead(timeout=scaled(20))) as leadership:
            running = flavour.spawn(succeed)
            await flavour.until(lambda: len(candidates(stage.direct, stage.path)) == 2, 20)
            await flavour.maybe(leadership.transfer_to("second"))
    assert running is None or await running.result()


async def a_primary(stage: Stage) -> None:
    """It leads until its work is done, in as many terms as that takes; the in-sync set is written once for all."""
    flavour = stage.flavour

    async def work(primary: Any) -> str:
        while True:
            with contextlib.suppress(StoreUnavailable):  # it says nothing of whether it was written
                await flavour.maybe(primary.set_in_sync(["one", "two"]))
                return "done"

    lead = work if flavour.is_async else lambda primary: run(work(primary))
    roles = flavour.Roles(stage.zk, stage.path, identity="one", on_primary=lead)
    assert await flavour.maybe(roles.run()) == "done"
    others = flavour.Roles(stage.direct, stage.path, identity="two", on_primary=lead)
    assert (await flavour.maybe(others.in_sync())).identities == {"one", "two"}


STORIES = [a_term, a_succession, a_transfer, a_primary, a_wait_in_vain, a_membership, a_look_round]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("loss", ["request", "reply"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_nothing_that_is_lost_leaves_anything_behind(
    flavour: Any, zk: Any, zk_client: Any, relay: Relay, coordkit_namespace: str, story: Any, loss: Loss
) -> None:
    direct, session = zk_client(timeout=60.0), zk.client_id
    number, lost = 0, []
    while True:
        path = f"/{coordkit_namespace}/{story.__name__}-{number}"
        relay.arm(number, loss)
        try:
            await story(Stage(flavour, zk, direct, path))
            await flavour.until(lambda: candidates(direct, path) == [], 20)  # noqa: B023  it waits for it here
            await flavour.until(lambda: zk.connected, 20)
        except BaseException as error:
            raise AssertionError(f"with {loss} {number} lost, of {relay.seen}") from error
        assert zk.client_id == session, "it went with its session, which proves nothing"
        if number and not relay.fired():
            break
        if number:
            lost.append(relay.seen[number - 1])
        number += 1
    print(f"{story.__name__}: {loss} lost: {', '.join(lost)}")  # for a person who wonders
    assert len(lost) >= 3


async def test_a_creation_that_is_made_late_stands_in_nobodys_way(
    flavour: Any, zk: Any, zk_client: Any, relay: Relay, coordkit_namespace: str
) -> None:
    """A server that was cut off may carry out what was sent to it long after another had said that it is not there."""
    direct, path = zk_client(timeout=60.0), f"/{coordkit_namespace}/late"
    async with flavour.within(flavour.Election(direct, path, identity="first")):
        pass  # what the election stands on is there
    relay.arm(1, "request")
    election = flavour.Election(zk, path, identity="second")

    async with flavour.within(election.lead(timeout=scaled(20))) as leadership:
        asked = re.search(rb"/[^\0]+/candidates/[0-9a-f]{32}-", relay.lost)
        assert asked is not None, relay.seen
        late = zk.create(asked.group().decode(), b"", ephemeral=True, sequence=True)  # of its session, as it would be
        await flavour.until(lambda: not direct.exists(late), 20)
        leadership.ensure()
        assert len(candidates(direct, path)) == 1


async def test_a_claim_that_is_made_late_is_not_waited_for(
    flavour: Any, zk: Any, zk_client: Any, relay: Relay, coordkit_namespace: str
) -> None:
    """Else a member waits for a partition that it has itself, and does not know of."""
    direct, path = zk_client(timeout=60.0), f"/{coordkit_namespace}/late"
    node = f"{path}/%claims/p0"
    direct.ensure_path(f"{path}/%claims")
    share, claims, begun = flavour.Group(zk, path).share("one", ["p0"]), [], []
    submit = zk._coordkit_wire.submit

    def submitting(request: Any, deliver: Any) -> Any:
        if isinstance(request, Multi) and request.steps[-1].path == node:
            claims.append(request.steps[-1].data)
            if len(claims) == 1:
                relay.arm(1, "request")
            elif len(claims) == 2:
                zk.create_async(node, claims[0], ephemeral=True)  # just before it is claimed again
        return submit(request, deliver)

    zk._coordkit_wire.submit = submitting

    def serve(partition: Any) -> None:
        begun.append(int(partition.token))
        partition.ending.wait()

    async def serve_async(partition: Any) -> None:
        begun.append(int(partition.token))
        await asyncio.sleep(3600)  # cancelled at the end

    async def work() -> None:
        await flavour.maybe(share.run(serve_async if flavour.is_async else serve))

    running = flavour.spawn(work)
    await flavour.until(lambda: begun, 20)
    assert len(claims) >= 3, "the second found what was made late"
    data, stat = direct.get(node)
    assert (stat.czxid, data) == (begun[0], claims[-1])
    await flavour.sleep(1.2)  # who is in doubt looks again, and leaves it alone
    assert direct.get(node)[1].czxid == begun[0]
    share.stop()
    await running.result()
    assert direct.get_children(f"{path}/%claims") == []


async def test_a_member_that_is_made_anew_late_leaves_no_mark(
    flavour: Any, zk: Any, zk_client: Any, relay: Relay, coordkit_namespace: str
) -> None:
    """In its new session; the znode went, and the mark beside it stayed for as long as the session did."""
    direct, path, asked = zk_client(timeout=60.0), f"/{coordkit_namespace}/late", []
    group = flavour.Group(zk, path)
    submit = zk._coordkit_wire.submit

    def submitting(request: Any, deliver: Any) -> Any:
        if isinstance(request, Multi) and request.steps[0].path == f"{path}/one%":
            if not asked:
                relay.arm(1, "request")
            asked.append(request)
            if len(asked) > 1:  # the first alone may be made, and that late
                result = zk.handler.async_result()
                result.set_exception(ConnectionLoss())
                return result
        return submit(request, deliver)

    with contextlib.suppress(StoreUnavailable):
        async with flavour.within(group.join("one", data=b"1")) as member:
            zk._coordkit_wire.submit = submitting
            kill_session(zk)
            await flavour.until(lambda: len(asked) > 1, 20)
            assert b"/late/one%" in relay.lost, relay.seen
            token = member.token
    zk._coordkit_wire.submit = submit
    late = zk.transaction()
    late.create(f"{path}/one%", records.mark_data(int(token)), ephemeral=True)
    late.create(f"{path}/one", b"1", ephemeral=True)
    assert not any(isinstance(each, Exception) for each in late.commit())
    await flavour.until(lambda: direct.get_children(path) == [], 20)


async def test_a_member_that_is_made_late_does_not_haunt_its_group(
    flavour: Any, zk: Any, zk_client: Any, relay: Relay, coordkit_namespace: str
) -> None:
    direct, path = zk_client(timeout=60.0), f"/{coordkit_namespace}/late"
    direct.ensure_path(path)
    group = flavour.Group(zk, path)
    relay.arm(1, "request")
    async with flavour.within(group.join("one")):
        assert b"/late/one" in relay.lost, relay.seen

    zk.create(f"{path}/one", b"", ephemeral=True)
    await flavour.until(lambda: not direct.exists(f"{path}/one"), 20)

    zk.create(f"{path}/one", b"", ephemeral=True)
    async with flavour.within(group.join("one")) as member:  # replaces it, and stays
        token = member.token
        relay.arm(1, "request")
        zk.exists_async(path)  # lost, and the connection with it: who is in doubt looks again
        await flavour.until(lambda: "list" in relay.seen, 20)
        await flavour.sleep(0.3)
        member.ensure()
        assert direct.get(f"{path}/one")[1].czxid == token
