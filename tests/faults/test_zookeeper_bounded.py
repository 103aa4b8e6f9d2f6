"""Every call ends in bounded time, whatever the connection does; kazoo waits for as long as it is away (K6 to K8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from zookeeper_verbs import verbs

from coordkit.core.session import GRACE
from coordkit.errors import LeadershipLost, NotAcquired, StoreUnavailable
from coordkit.testing.faults import Faults
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, ask, scaled

TIMEOUT = 2.0
BOUND = TIMEOUT + 2 * GRACE
"""One session timeout, and what a call may take to ask once and to give back."""


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


def cut(proxy: FaultProxy) -> None:
    """Let nothing through, and say nothing."""
    proxy.drop_requests = proxy.drop_replies = True


async def ends_in_time(flavour: Any, name: str, call: Callable[[], Any], *, also: tuple[type, ...] = ()) -> None:
    began = time.monotonic()
    try:
        await flavour.maybe(call())
    except (StoreUnavailable, *also):
        pass
    else:
        pytest.fail(f"{name}: answered by nobody")
    assert time.monotonic() - began < scaled(BOUND), name


async def test_every_verb_ends_in_a_partition(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    """Once asked while the client believes that it is connected, once while it knows that it is not."""
    zk = zk_client(timeout=TIMEOUT, hosts=proxy.address)
    things = (flavour.Election(zk, path, identity="one"), flavour.Group(zk, f"{path}/group"))
    found = {name: call for thing in things for name, call in verbs(flavour, thing).items()}
    assert len(found) >= 8
    cut(proxy)
    assert zk.connected
    await flavour.gather(*(ends_in_time(flavour, name, call, also=(NotAcquired,)) for name, call in found.items()))
    await flavour.until(lambda: not zk.connected, 20)
    await flavour.gather(*(ends_in_time(flavour, name, call) for name, call in found.items()))
    proxy.heal()


async def test_what_is_held_can_be_left_in_a_partition(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    zk = zk_client(timeout=TIMEOUT, hosts=proxy.address)
    began = 0.0
    with pytest.raises((LeadershipLost, StoreUnavailable)):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            cut(proxy)
            began = time.monotonic()
            await ends_in_time(flavour, "verify", leadership.verify, also=(LeadershipLost,))
    assert time.monotonic() - began < scaled(2 * BOUND)
    proxy.heal()
    await flavour.until(lambda: zk.connected, 20)
    with pytest.raises(StoreUnavailable):
        async with flavour.within(flavour.Group(zk, f"{path}/group").join("one")) as member:
            cut(proxy)
            await ends_in_time(flavour, "update", lambda: member.update(b"2"))
            began = time.monotonic()
    assert time.monotonic() - began < scaled(BOUND)
    began = time.monotonic()
    async with flavour.within(flavour.Guardian(zk)), flavour.within(flavour.SessionScope(zk)):
        pass
    assert time.monotonic() - began < scaled(BOUND)
    proxy.heal()
    await flavour.until(zk._connection.connection_closed.is_set, 30)


# -- watches


def watches(ensemble: ZooKeeperEnsemble, zk: Any) -> list[str]:
    """Return what the server watches for a client."""
    node, mine = ensemble.nodes[0], f"{zk._session_id:#x}"
    found: dict[str, list[str]] = {}
    session = ""
    for line in ask(node.host, node.port, b"wchc").decode().splitlines():
        if line.startswith("\t"):
            found[session].append(line.strip())
        elif line:
            session = line
            found[session] = []
    return found.get(mine, [])


async def test_polling_leaves_no_watch(
    flavour: Any, zk_client: Any, path: str, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """kazoo leaves 200 callables in the client, and a watch at the server (K9)."""
    zk, other = zk_client(), zk_client()
    async with flavour.within(flavour.Election(other, path, identity="one")):
        seen = set()
        for _ in range(200):
            with pytest.raises(NotAcquired):
                async with flavour.within(flavour.Election(zk, path, identity="two").lead(timeout=0.002)):
                    pytest.fail("two leaders")
            seen |= set(watches(coordkit_zk_server, zk)) if len(seen) < 1 else set()
        assert seen, "there was never anything to remove"
        await flavour.until(lambda: watches(coordkit_zk_server, zk) == [], scaled(10))
        assert (dict(zk._data_watchers), dict(zk._child_watchers)) == ({}, {})
        assert len(watches(coordkit_zk_server, other)) == 1  # who leads still watches its own znode


async def test_reading_a_stream_leaves_no_watch(
    flavour: Any, zk_client: Any, path: str, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    zk, other = zk_client(), zk_client()
    async with flavour.within(flavour.Group(other, path).join("one")):
        for _ in range(20):
            changes = flavour.Group(zk, path).watch()
            async for change in flavour.each(changes):
                assert change.joined == {"one"}
                break
            assert watches(coordkit_zk_server, zk)
            changes.close()
        await flavour.until(lambda: watches(coordkit_zk_server, zk) == [], scaled(10))
        assert watches(coordkit_zk_server, other)


async def test_a_watch_of_the_programs_own_is_left_alone(
    flavour: Any, zk_client: Any, path: str, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """The server knows one watch per znode and connection, whoever wants it."""
    zk, other, rung = zk_client(), zk_client(), []
    async with flavour.within(flavour.Election(other, path, identity="one")):
        node = f"{path}/candidates/{other.get_children(f'{path}/candidates')[0]}"
        zk.get(node, watch=rung.append)
        with pytest.raises(NotAcquired):
            async with flavour.within(flavour.Election(zk, path, identity="two").lead(timeout=0.01)):
                pytest.fail("two leaders")
        await flavour.sleep(1.3)
        assert watches(coordkit_zk_server, zk) == [node]
    await flavour.until(lambda: rung)
