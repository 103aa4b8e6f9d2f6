"""The ghost leader: its server is cut off from the quorum, and goes on answering pings and reads (notes, fact 2)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import coordkit
from coordkit.core import records
from coordkit.errors import LeadershipLost, StaleToken, StoreUnavailable
from coordkit.testing._process import free_ports, start_all
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.processes import ZooKeeperProcess
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ask, scaled, wait_until, zookeeper_mode

TIMEOUT = 3.0
SETTINGS = ["syncLimit=60"]  # in ticks of 200 ms: how long a follower serves without its leader


class Island(NamedTuple):
    """Three nodes; the third reaches the others through proxies only."""

    mainland: ZooKeeperProcess
    island: ZooKeeperProcess
    bridges: list[FaultProxy]

    def cut(self) -> None:
        for each in self.bridges:
            each.drop_requests = each.drop_replies = True

    def heal(self) -> None:
        for each in self.bridges:
            each.drop_requests = each.drop_replies = False
        assert wait_until(lambda: zookeeper_mode(self.island.host, self.island.port) == "follower", scaled(40))


@pytest.fixture(scope="module")
def sea() -> Iterator[Island]:
    flat = free_ports(9)
    ports = [flat[i : i + 3] for i in (0, 3, 6)]
    with contextlib.ExitStack() as stack:
        bridges = [stack.enter_context(FaultProxy("127.0.0.1", port)) for each in ports[:2] for port in each[1:]]
        ways = [int(bridge.address.rpartition(":")[2]) for bridge in bridges]
        seen_by_third = [[ports[0][0], *ways[:2]], [ports[1][0], *ways[2:]], ports[2]]
        nodes = [ZooKeeperProcess(n, ports, tick_time=200, settings=SETTINGS) for n in (1, 2)]
        island = ZooKeeperProcess(3, seen_by_third, tick_time=200, settings=SETTINGS)
        stack.callback(lambda: [each.stop() for each in (*nodes, island)])
        start_all(nodes, 60.0)  # one of them leads, because the third comes later
        start_all([island], 60.0)
        assert wait_until(lambda: zookeeper_mode(island.host, island.port) == "follower", scaled(60))
        yield Island(nodes[0], island, bridges)


class Clients(NamedTuple):
    """Two on the island, of which the second only looks on; and the successor's."""

    ghost: Any
    idle: Any
    other: Any


@pytest.fixture
def clients(sea: Island) -> Iterator[Clients]:
    made = [start_kazoo(f"{node.host}:{node.port}", TIMEOUT) for node in (sea.island, sea.island, sea.mainland)]
    try:
        yield Clients(*made)
    finally:
        sea.heal()
        for each in made:
            close_kazoo(each)


@pytest.mark.parametrize("policy", ["strict", "session"])
async def test_the_ghost_is_told_before_its_successor_leads(
    flavour: Any, sea: Island, clients: Clients, coordkit_namespace: str, policy: Any
) -> None:
    """A connection there stands, so no recipe that trusts it ends: a leader was seen to go on beside the new one."""
    ghost, idle, other = clients
    path, session, told = f"/{coordkit_namespace}/leader", idle.client_id, []
    successor = flavour.Election(other, path, identity="successor")

    async def succeed() -> tuple[float, int, str]:
        async with flavour.within(successor.lead(timeout=60)) as leadership:
            led = time.monotonic()
            stands = idle.connected and idle.client_id == session
            seen = records.unpack_record(idle.get(f"{path}/epoch")[0]) if stands else None
            return led, int(leadership.token), "" if seen is None else seen.identity

    with pytest.raises(LeadershipLost):
        async with flavour.within(flavour.Election(ghost, path, identity="ghost", policy=policy)) as leadership:
            running = flavour.spawn(succeed)
            await flavour.until(lambda: len(other.get_children(f"{path}/candidates")) == 2)
            sea.cut()
            try:
                if flavour.is_async:
                    await flavour.sleep(60)
                assert leadership.lost.wait(60)
            finally:
                told.append(time.monotonic())
    led, token, shown = await running.result(60)
    assert shown == "ghost", "nobody would have been a ghost: the connections there had ended"
    assert told[0] < led
    assert token > leadership.token


async def test_a_ghost_that_is_not_told_is_refused_by_its_token(
    flavour: Any, sea: Island, clients: Clients, coordkit_namespace: str
) -> None:
    """Where its clock does not run, say: whatever compares tokens refuses it, and ZooKeeper does not carry it out."""
    ghost, idle, other = clients
    path, gate = f"/{coordkit_namespace}/leader", coordkit.TokenGate()
    with contextlib.suppress(LeadershipLost, StoreUnavailable):
        async with flavour.within(flavour.Election(ghost, path, identity="ghost")) as leadership:
            core = leadership._core
            core.ensure, core.lose = lambda: True, lambda _: None
            gate.check("resource", leadership.token)
            sea.cut()
            async with flavour.within(flavour.Election(other, path, identity="successor").lead(timeout=60)) as second:
                assert idle.connected, "nobody would have been a ghost: the connections there had ended"
                gate.check("resource", second.token)
                with pytest.raises(StaleToken):
                    gate.check("resource", leadership.token)
                core.remaining = lambda: 0.0  # the transaction waits for its grace only
                with pytest.raises((StoreUnavailable, LeadershipLost)):
                    async with flavour.within(leadership.transaction()) as transaction:
                        transaction.create(f"{path}/late")
                del core.remaining
                sea.heal()
                other.sync(path)
                assert not other.exists(f"{path}/late")
                assert second.ensure()
            del core.ensure, core.lose
    assert ask(sea.island.host, sea.island.port, b"ruok") == b"imok"
