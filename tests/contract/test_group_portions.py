"""Large groups and large shares: much is asked for in portions, and nothing half read is shown or acted upon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordkit import _kazoo_trees
from coordkit._ports_zookeeper import Check, Create, GetData, Multi
from coordkit.core import portions, session
from coordkit.core.session import Session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled

MANY = 35
PORTION = 8


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/members"


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST", "_LEAST", "_MOST"):
        monkeypatch.setattr(portions, name, PORTION)


class Asked:
    """What a client asks for, by what was asked at once: the next is asked when all of it was answered, or given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bursts: list[list[Any]] = []
        ask = Session.ask

        async def asking(session: Session, name: str, requests: Any, *args: Any) -> Any:
            self.bursts.append(list(requests))
            return await ask(session, name, requests, *args)

        monkeypatch.setattr(Session, "ask", asking)

    def requests(self) -> list[Any]:
        return [each for burst in self.bursts for each in burst]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    # What is merely late on a busy machine is not asked for again.
    monkeypatch.setattr(session, "GRACE", scaled(20.0))
    return Asked(monkeypatch)


def fill(zk: Any, path: str) -> dict[str, bytes]:
    zk.ensure_path(path)
    there = {f"m{i}": b"%d" % i for i in range(MANY)}
    for made in [zk.create_async(f"{path}/{each}", data, ephemeral=True) for each, data in there.items()]:
        made.get(timeout=20)
    return there


@pytest.mark.usefixtures("small_portions")
@pytest.mark.parametrize("trees", [True, False], ids=["recursive", "one by one"])
async def test_a_state_is_shown_once_all_of_it_was_read(
    flavour: Any, zk_client: Any, path: str, trees: bool, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kazoo_trees.Trees, "supported", trees)
    zk, other = zk_client(timeout=20.0), zk_client(timeout=20.0)
    there = fill(other, path)
    zk.sync("/")
    group = flavour.Group(zk, path)
    assert await flavour.maybe(group.members()) == there
    stream = flavour.each(group.watch())
    first = await anext(stream)
    assert (first.members, first.joined) == (there, there.keys())
    reads = [each.path for each in asked.requests() if isinstance(each, GetData)]
    assert sorted(reads) == sorted(2 * [f"{path}/{each}" for each in there]), "each is read once by each of the two"
    assert max(sum(isinstance(each, GetData) for each in burst) for burst in asked.bursts) <= PORTION
    other.delete(f"{path}/m3")
    change = await anext(stream)
    assert (change.left, len(change.members)) == ({"m3"}, MANY - 1)


@pytest.mark.usefixtures("small_portions")
async def test_partitions_are_claimed_proven_and_given_back_in_portions(
    flavour: Any, zk_client: Any, path: str, asked: Asked
) -> None:
    """Names of a thousand bytes: one transaction that proves all of them would be larger than a server may take."""
    zk = zk_client(timeout=4.0)
    share = flavour.Group(zk, path).share("one", [f"p{i:03}" + "x" * 1000 for i in range(150)])
    lost = [0]

    async def serve_async(partition: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            lost[0] += bool(partition.lost)

    def serve(partition: Any) -> None:
        partition.ending.wait()
        lost[0] += bool(partition.lost)

    running = flavour.spawn(lambda: flavour.maybe(share.run(serve_async if flavour.is_async else serve)))
    await flavour.until(lambda: len(share.held()) == 150, 60)

    def proofs() -> list[int]:
        multis = [each for each in asked.requests() if isinstance(each, Multi)]
        found = [each for each in multis if all(isinstance(step, Check) for step in each.steps)]
        return [sum(len(step.path) for step in each.steps) for each in found]

    before = len(proofs())
    await flavour.until(lambda: len(proofs()) >= before + 6, 30)  # at least one proof of all since it holds all
    assert max(proofs()) < 100_000
    claims = [sum(isinstance(each, Multi) and isinstance(each.steps[-1], Create) for each in b) for b in asked.bursts]
    assert max(claims) <= PORTION // 2, "each is a creation and a look"
    assert len(share.held()) == 150
    share.stop()
    await running.result()
    assert lost == [0]
    assert await flavour.maybe(share.owners()) == {}
