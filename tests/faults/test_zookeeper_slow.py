"""Ensembles that are slow, and servers that take less than they are given: groups, shares and elections on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit.core.oversize import LARGE
from coordkit.core.session import GRACE
from coordkit.errors import StoreRefused
from coordkit.testing import processes
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import Faults
from coordkit.testing.servers import ZooKeeperEnsemble

LIMIT = 100_000


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


async def test_what_takes_longer_than_a_moment_is_done(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """A round trip takes longer than GRACE, and a session lasts for many of them."""
    direct, proxy = zk_client(), coordkit_faults.proxy(coordkit_zk_server)
    async with flavour.within(flavour.Election(direct, f"{path}/election", identity="one")):
        pass
    direct.ensure_path(f"{path}/group")
    far = zk_client(timeout=20.0, hosts=proxy.address)
    group = flavour.Group(far, f"{path}/group")
    proxy.latency = 0.6 * GRACE

    async def be_a_member() -> None:
        async with flavour.within(group.join("a", data=b"1")) as member:
            await flavour.maybe(member.update(b"2"))
            stream = group.watch()
            async for change in flavour.each(stream):
                assert change.members == {"a": b"2"}
                break
            stream.close()

    async def lead() -> None:
        async with flavour.within(flavour.Election(far, f"{path}/election", identity="one")) as leadership:
            await flavour.maybe(leadership.verify())

    await flavour.gather(be_a_member(), lead())
    proxy.latency = 0.0
    assert direct.get_children(f"{path}/group") == []
    assert direct.get_children(f"{path}/election/candidates") == []


@pytest.fixture(scope="module")
def narrow() -> Iterator[str]:
    """A ZooKeeper that hangs up on requests of more than LIMIT bytes."""
    why = processes.missing("zookeeper")
    if why is not None:
        pytest.skip(f"the limit can be set on a local process only: {why}")
    with processes.start_zookeeper(java=[f"-Djute.maxbuffer={LIMIT}"]) as ensemble:
        yield ensemble.hosts


@pytest.fixture
def narrow_client(narrow: str) -> Iterator[Callable[[], Any]]:
    made: list[Any] = []

    def make() -> Any:
        made.append(start_kazoo(narrow, 4.0))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


async def test_an_update_that_the_servers_hang_up_on_is_refused_and_given_up(
    flavour: Any, narrow_client: Any, path: str
) -> None:
    zk, links = narrow_client(), []
    group = flavour.Group(zk, path)
    async with flavour.within(group.join("a", data=b"small")) as member:
        zk.add_listener(links.append)
        with pytest.raises(StoreRefused, match=r"jute\.maxbuffer"):
            await flavour.maybe(member.update(bytes(LIMIT)))
        await flavour.until(lambda: zk.connected)
        lost = len(links)
        assert member.data == b"small"
        await flavour.maybe(member.update(b"smaller"))
        assert await flavour.maybe(group.members()) == {"a": b"smaller"}
        await flavour.maybe(member.update(bytes(LIMIT - 1000)))
        assert len((await flavour.maybe(group.members()))["a"]) == LIMIT - 1000 > LARGE
        assert links.count("SUSPENDED") == 3, "and no more"
        assert len(links) == lost
        assert member.ensure()


async def test_a_join_that_the_servers_hang_up_on_is_refused(flavour: Any, narrow_client: Any, path: str) -> None:
    zk, links = narrow_client(), []
    zk.add_listener(links.append)
    with pytest.raises(StoreRefused, match=r"jute\.maxbuffer"):
        async with flavour.within(flavour.Group(zk, path).join("a", data=bytes(LIMIT))):
            pytest.fail("a member that cannot be")
    assert links.count("SUSPENDED") == 3


async def test_a_member_that_cannot_be_made_anew_is_lost(flavour: Any, narrow_client: Any, path: str) -> None:
    """Its znode is made by a longer request in a new session: it is told, and its client has peace."""
    zk = narrow_client()
    told: list[Any] = []

    async def be_a_member() -> None:
        async with flavour.within(flavour.Group(zk, path).join("a", data=bytes(LIMIT - 200))) as member:
            told.append(member)
            await flavour.until(lambda: member.lost, 30)

    running = flavour.spawn(be_a_member)
    await flavour.until(lambda: told)
    began = time.monotonic()
    zk.delete(f"{path}/a")
    await flavour.until(lambda: told[0].lost, 30)
    assert "jute.maxbuffer" in str(told[0]._core.loss())
    await flavour.until(lambda: zk.connected)
    assert time.monotonic() - began < 30
    with pytest.raises(Exception, match=r"jute\.maxbuffer"):
        await running.result()
