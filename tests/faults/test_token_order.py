"""The token rises in the order of the terms: in more than 2,000 of them, whatever ended them.

Several contenders lead in turn. Whoever leads claims its token first, and only then does to itself, to its session, or
to the election what is to be survived; so the order of the claims is the order of the terms. Beside the token stand
the two values that others use for it, to show that this test can see what they do wrong: the number of the znode's name
falls when the parent was deleted, and the zxid by which the znode was made falls when the order is not that of arrival.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from zoo_snapshot import set_child_version

from coordkit.core import znodes
from coordkit.errors import LeadershipLost, NoNodes, NotAcquired, StoreRefused, StoreUnavailable
from coordkit.testing import processes
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled

TERMS = 550  # in each flavour and order
CONTENDERS = 4


class Claim(NamedTuple):
    """What one term had for a token, and what others would have had."""

    token: int
    czxid: int
    number: int


def inversions(values: list[int]) -> int:
    return sum(later <= earlier for earlier, later in pairwise(values))


class Field:
    """One election, its contenders, and what they claimed."""

    def __init__(
        self, flavour: Any, hosts: str, path: str, terms: int, ways: Sequence[str], priorities: int = 1
    ) -> None:
        self.flavour = flavour
        self.hosts = hosts
        self.path = path
        self.terms = terms
        self.ways = list(ways)
        self.priorities = priorities
        self.claims: list[Claim] = []
        self.ends: Counter[str] = Counter()
        self.direct = start_kazoo(hosts, 10.0)
        self._chance = random.Random(0)
        flavour.on_exit(lambda: close_kazoo(self.direct))

    async def contend(self, number: int) -> None:
        """Lead again and again, until there were enough terms."""
        chance = random.Random(number)
        client = start_kazoo(self.hosts, 2.0)
        try:
            while len(self.claims) < self.terms:
                end = chance.choices(self.ways, [ENDS[way][0] for way in self.ways])[0]
                timeout = chance.uniform(0, 0.01) if chance.random() < 0.1 else scaled(30)
                priority = chance.randrange(self.priorities)
                election = self.flavour.Election(client, self.path, identity=f"c{number}", priority=priority)
                try:
                    async with self.flavour.within(election.lead(timeout=timeout)) as leadership:
                        self._claim(leadership)
                        await ENDS[end][1](self, client, leadership)
                        self.ends[end] += 1
                except NotAcquired:
                    self.ends["gave up"] += 1
                except (LeadershipLost, StoreUnavailable):
                    self.ends["lost"] += 1
                if client.client_state == "CLOSED":
                    close_kazoo(client)
                    client = start_kazoo(self.hosts, 2.0)
        finally:
            close_kazoo(client)

    def _claim(self, leadership: Any) -> None:
        record, stat = self.direct.get(f"{self.path}/epoch")
        name = json.loads(record)["candidate"]
        there = self.direct.exists(f"{self.path}/candidates/{name}")
        assert stat.mzxid == leadership.token, "nobody else has led since"
        self.claims.append(Claim(int(leadership.token), there.czxid, znodes.sequence_of(name) or 0))

    # -- how a term ends

    async def resign(self, _client: Any, _leadership: Any) -> None:
        """By leaving the block."""

    async def close(self, client: Any, _leadership: Any) -> None:
        client.stop()

    async def expire(self, client: Any, _leadership: Any) -> None:
        kill_session(client)

    async def transfer(self, _client: Any, leadership: Any) -> None:
        with contextlib.suppress(NoNodes):  # or it is ourselves, or gone at the moment
            await self.flavour.maybe(leadership.transfer_to(f"c{self._chance.randrange(CONTENDERS)}"))

    async def evict(self, _client: Any, _leadership: Any) -> None:
        await self.flavour.maybe(self.flavour.Election(self.direct, self.path, identity="operator").evict("a test"))

    async def delete_the_znode(self, _client: Any, _leadership: Any) -> None:
        self.direct.delete(f"{self.path}/candidates/{self._own()}")

    async def delete_the_parent(self, _client: Any, _leadership: Any) -> None:
        """With everybody in it; every third time with the epoch record."""
        parent = f"{self.path}/candidates"
        with_epoch = self._chance.random() < 0.3
        while True:
            transaction = self.direct.transaction()
            for name in self.direct.get_children(parent):
                transaction.delete(f"{parent}/{name}")
            transaction.delete(parent)
            if with_epoch:
                transaction.delete(f"{self.path}/epoch")
            if not any(isinstance(each, Exception) for each in transaction.commit()):
                return

    async def make_the_name_again(self, _client: Any, _leadership: Any) -> None:
        """As Curator's PersistentNode does: somebody else's znode has the leader's name for a while."""
        node = f"{self.path}/candidates/{self._own()}"
        transaction = self.direct.transaction()
        transaction.delete(node)
        transaction.create(node, b'{"v": 1, "identity": "again"}', ephemeral=True)
        transaction.commit()
        self.direct.delete(node)

    def _own(self) -> str:
        return str(json.loads(self.direct.get(f"{self.path}/epoch")[0])["candidate"])


ENDS: dict[str, tuple[float, Callable[[Field, Any, Any], Awaitable[None]]]] = {
    "resign": (80, Field.resign),
    "close": (3, Field.close),
    "expire": (3, Field.expire),
    "delete the znode": (5, Field.delete_the_znode),
    "delete the parent": (5, Field.delete_the_parent),
    "make the name again": (4, Field.make_the_name_again),
    "evict": (3, Field.evict),
    "transfer": (10, Field.transfer),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("order", ["arrival", "priority"])
async def test_tokens_rise_in_the_order_of_the_terms(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, coordkit_namespace: str, order: str
) -> None:
    ways = [end for end in ENDS if end != "transfer" or order == "priority"]
    priorities = 3 if order == "priority" else 1
    path = f"/{coordkit_namespace}/leader"
    field = Field(flavour, coordkit_zk_server.hosts, path, TERMS, ways, priorities)
    running = [flavour.spawn(field.contend, number) for number in range(CONTENDERS)]
    for each in running:
        await each.result(200)

    assert len(field.claims) >= TERMS
    assert min(field.ends[end] for end in ways) > 0, field.ends
    assert inversions([claim.token for claim in field.claims]) == 0
    assert inversions([claim.number for claim in field.claims]) > 0, "the parent was deleted, so numbers began anew"
    assert (inversions([claim.czxid for claim in field.claims]) > 0) is (order == "priority")


@pytest.fixture
def nearly_used_up() -> Iterator[Callable[[str], tuple[str, int]]]:
    """Give a server on which few numbers are left to ``/few``, and those of ``/stuck`` are about to stick."""
    why = processes.missing("zookeeper")
    if why is not None:
        pytest.skip(f"its snapshot can be changed on a local process only: {why}")
    with processes.start_zookeeper() as ensemble:
        [node] = ensemble.nodes
        assert isinstance(node, processes.ZooKeeperProcess)
        # A digest of the tree would have to be changed as well.
        node.command = [node.command[0], "-Dzookeeper.digest.enabled=false", *node.command[1:]]

        def make(name: str) -> tuple[str, int]:
            client = start_kazoo(ensemble.hosts, 10.0)
            client.ensure_path(f"/{name}/candidates")
            client.create(f"/{name}/epoch")
            close_kazoo(client)
            node.restart()  # it takes a snapshot when it starts
            node.kill()
            snapshot = max((node.directory / "version-2").glob("snapshot.*"), key=lambda path: path.stat().st_mtime_ns)
            version = znodes.LAST_SEQUENCE - 60 if name == "few" else 2**31 - 4
            set_child_version(snapshot, f"/{name}/candidates", version)
            node.start()
            node.wait_ready()
            return ensemble.hosts, max(0, znodes.LAST_SEQUENCE - version)

        yield make


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["few", "stuck"])
async def test_tokens_rise_where_the_numbers_are_used_up(flavour: Any, nearly_used_up: Any, name: str) -> None:
    """Nobody leads with a number that may be another's as well; once the parent was deleted, tokens rise from there.

    In kazoo three hold a lock at once then (kazoo#606, kazoo#730).
    """
    hosts, left = nearly_used_up(name)
    field = Field(flavour, hosts, f"/{name}", 10_000, ["resign", "expire", "make the name again"], 1)

    async def contend(number: int) -> bool:
        try:
            await field.contend(number)
        except StoreRefused as refused:
            return "used up" in str(refused)
        return False

    running = [flavour.spawn(contend, number) for number in range(CONTENDERS)]
    assert all([await each.result(60) for each in running])
    before = len(field.claims)
    assert left - 2 * CONTENDERS < before + field.ends["gave up"] <= left
    field.direct.delete(f"/{name}/candidates", recursive=True)
    field.terms = before + 30
    again = [flavour.spawn(contend, number) for number in range(CONTENDERS)]
    assert not any([await each.result(60) for each in again])

    assert len(field.claims) >= before + 30
    assert inversions([claim.token for claim in field.claims]) == 0
    assert inversions([claim.number for claim in field.claims]) == (before > 0)
