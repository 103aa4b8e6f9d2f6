"""Every call ends in bounded time, whatever the connection does; kazoo waits for as long as it is away (K6 to K8)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import drive
from zookeeper_verbs import GO_ON, everything, verbs, verbs_of_everything

from coordkit.core.session import GRACE
from coordkit.errors import CoordError, LeadershipLost, LeaseLost, NotAcquired, StoreUnavailable
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
    found = {name: call for name, call in verbs_of_everything(flavour, zk, path).items() if name not in GO_ON}
    assert len(found) >= 39
    cut(proxy)
    assert zk.connected
    await flavour.gather(*(ends_in_time(flavour, name, call, also=(NotAcquired,)) for name, call in found.items()))
    await flavour.until(lambda: not zk.connected, 20)
    await flavour.gather(*(ends_in_time(flavour, name, call) for name, call in found.items()))
    proxy.heal()


@pytest.mark.parametrize("asked", [False, True], ids=["left", "asked first"])
async def test_what_is_held_can_be_left_in_a_partition(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, asked: bool
) -> None:
    """All blocks at once, by leaving them, or by what each of their verbs makes of it."""
    zk = zk_client(timeout=TIMEOUT, hosts=proxy.address)
    things = everything(flavour, zk, path)
    blocks = {name: things[name] for name in ("Election", "Lock", "ReadWriteLock.read", "Semaphore", "DoubleBarrier")}
    blocks |= {"Writer": flavour.zk.ReadWriteLock(zk, f"{path}/other").write, "Member": things["Group"].join("one")}
    entered: list[str] = []
    began: list[float] = []

    async def hold(name: str, block: Any) -> None:
        try:
            async with flavour.within(block) as held:
                entered.append(name)
                await flavour.until(lambda: began, 60)
                for verb, call in verbs(flavour, held, name).items() if asked else ():
                    since = time.monotonic()
                    with contextlib.suppress(CoordError):
                        await flavour.maybe(call())
                    assert time.monotonic() - since < scaled(BOUND), verb
        except (LeadershipLost, LeaseLost, StoreUnavailable):
            pass
        else:
            assert asked, f"{name}: given back to nobody"
        assert time.monotonic() - began[0] < scaled(BOUND * (4 if asked else 1)), name

    async def cut_once_all_hold() -> None:
        await flavour.until(lambda: len(entered) == len(blocks), 60)
        cut(proxy)
        began.append(time.monotonic())

    await flavour.gather(cut_once_all_hold(), *(hold(name, block) for name, block in blocks.items()))
    proxy.heal()


async def test_the_session_can_be_left_in_a_partition(flavour: Any, zk_client: Any, proxy: FaultProxy) -> None:
    zk = zk_client(timeout=TIMEOUT, hosts=proxy.address)
    cut(proxy)
    began = time.monotonic()
    async with flavour.within(flavour.Guardian(zk)), flavour.within(flavour.SessionScope(zk)):
        pass
    assert time.monotonic() - began < scaled(BOUND)
    proxy.heal()
    await flavour.until(zk._connection.connection_closed.is_set, 30)


@pytest.mark.parametrize("kind", ["Roles", "Share"])
async def test_what_goes_on_can_be_stopped_in_a_partition(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, kind: str
) -> None:
    """Once while it works, whose work ends when it is told of the loss; once before it could begin."""
    zk = zk_client(timeout=TIMEOUT, hosts=proxy.address)
    serving: list[Any] = []

    async def serve(given: Any) -> None:
        serving.append(given)
        await flavour.maybe((given.lost if kind == "Roles" else given.ending).wait())

    def served(given: Any) -> Any:
        return serve(given) if flavour.is_async else drive(serve(given))

    work = serve if flavour.is_async else served
    roles = flavour.Roles(zk, f"{path}/roles", identity="one", on_primary=work)
    share = flavour.Group(zk, f"{path}/group").share("one", ["a", "b"])
    thing = roles if kind == "Roles" else share

    async def run() -> None:
        with contextlib.suppress(CoordError):
            await flavour.maybe(roles.run() if kind == "Roles" else share.run(work))

    running = flavour.spawn(run)
    await flavour.until(lambda: serving, 20)
    cut(proxy)
    for _ in range(2):
        thing.stop()
        began = time.monotonic()
        await running.result(2 * BOUND)
        assert time.monotonic() - began < scaled(2 * BOUND)
        running = flavour.spawn(run)
        await flavour.sleep(0.1)
    thing.stop()
    await running.result(2 * BOUND)
    proxy.heal()


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
        await flavour.until(lambda: watches(coordkit_zk_server, zk) == [])
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
        await flavour.until(lambda: watches(coordkit_zk_server, zk) == [])
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
