"""A guardian on three nodes: it ends the session though the node that the process was at is gone, hung or cut off."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from guarded import LEADS, SOON, TIMEOUT, a_node, hurt, mend, succeeds, three_nodes
from programs import alive, gone
from regime.wired import Wired

from coordkit.errors import LeadershipLost
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.servers import scaled

JOINS = """
async def main():
    async with flavour.within(flavour.Guardian(zk, hang=5.0)) as guardian:
        async with flavour.within(flavour.Group(zk, path).join("process")):
            say(guardian.pid)
            session, node = zk.client_id[0], zk._coordkit_wire.near
            await flavour.until(lambda: zk._coordkit_wire.near != node and zk.connected, 60)
            say(zk.client_id[0] == session)
            await flavour.sleep(60)

flavour.run(main())
"""


@pytest.fixture(scope="module")
def three() -> Iterator[Wired]:
    with three_nodes() as three:
        yield three


@pytest.fixture
def wired(three: Wired) -> Iterator[Wired]:
    """Give the ensemble, well before and after."""
    three.ready()
    yield three
    mend(three)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("flavour", "mode", "how", "end"),
    [
        ("blocking", "follower", "killed", signal.SIGKILL),
        ("asyncio", "follower", "paused", signal.SIGKILL),
        ("blocking", "follower", "cut off", signal.SIGKILL),
        ("asyncio", "follower", "cut off", signal.SIGSTOP),
        ("blocking", "leader", "killed", signal.SIGSTOP),
        ("asyncio", "leader", "cut off", signal.SIGKILL),
    ],
    indirect=["flavour"],
)
async def test_a_leader_and_its_node_fail_at_once(
    flavour: Any, wired: Wired, program: Any, path: str, mode: str, how: str, end: int
) -> None:
    """The companion asks one node after the other, and does not wait for the one that says nothing."""
    node, hosts, others = a_node(wired, mode)
    hang = 2.0 if end == signal.SIGSTOP else 60.0
    leading = program(LEADS.replace("HANG", str(hang)), hosts=hosts, timeout=TIMEOUT)
    companion = int(leading.line())
    leading.kill(signal.SIGSTOP)  # so that it does not hear of its node, and leave by itself
    hurt(wired, node, how)
    leading.kill(end)
    await succeeds(flavour, start_kazoo(others, 10.0), path)
    assert gone(companion, 30)
    if end == signal.SIGSTOP:
        leading.kill(signal.SIGCONT)
        assert "LeadershipLost" in leading.ended(60)[1]


@pytest.mark.timeout(180)
async def test_it_follows_the_session_to_another_node(flavour: Any, wired: Wired, program: Any, path: str) -> None:
    """And knows where it is: the node that it was at first is gone for good."""
    node, hosts, others = a_node(wired, "follower")
    member = program(JOINS, hosts=hosts, timeout=TIMEOUT)
    companion = int(member.line())
    hurt(wired, node, "killed")
    assert member.line() == "True", "the session is another, which proves nothing"
    zk = start_kazoo(others, 10.0)
    try:
        assert zk.get_children(path) == ["process"]
        assert alive(companion)
        member.kill()
        await flavour.until(lambda: zk.get_children(path) == [], SOON)
    finally:
        close_kazoo(zk)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
async def test_a_guardian_that_fails_while_its_node_is_cut_off(
    flavour: Any, wired: Wired, path: str, number: int
) -> None:
    """What is led ends, though nobody can be told; and another is there before one can lead again."""
    node, hosts, _ = a_node(wired, "follower")
    zk = start_kazoo(hosts.partition(",")[0], TIMEOUT)
    try:
        election = flavour.Election(zk, path, identity="one")
        async with flavour.within(flavour.Guardian(zk, hang=1.0)) as guardian:
            first = guardian.pid
            with pytest.raises(LeadershipLost, match="guardian"):
                async with flavour.within(election) as leadership:
                    hurt(wired, node, "cut off")
                    os.kill(guardian.pid, number)
                    assert await flavour.maybe(leadership.lost.wait(scaled(10)))
                    leadership.ensure()
            assert gone(first)
            wired.cables.heal()
            async with flavour.within(election.lead(timeout=scaled(60))) as again:
                assert again.ensure()
                assert guardian.pid != first
                assert alive(guardian.pid)
    finally:
        close_kazoo(zk)
