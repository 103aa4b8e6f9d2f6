"""A later leader has the greater token, and nobody writes beside it: through everything that disturbs an election."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.exceptions import NoNodeError, NotEmptyError

from coordkit.core import znodes
from coordkit.errors import CoordError, LeadershipLost, NoNodes, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.faults import kill_session
from coordkit.testing.processes import start_zookeeper

TERMS = 1000  # in each flavour
SESSIONS = 3


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/leader"


class Churn:
    """Contenders that lead again and again, and write under their token, while everything is disturbed."""

    def __init__(self, flavour: Any, clients: list[Any], operator: Any, path: str) -> None:
        self.flavour = flavour
        self.clients = clients
        self.operator = operator
        self.path = path
        self.resource = f"{path.rpartition('/')[0]}/resource"
        self.dice = random.Random(20)
        self.terms = 0
        self.refused = 0
        self.done = False
        self.wrong: list[str] = []
        operator.create(self.resource, b"0", makepath=True)

    async def contend(self, number: int) -> None:
        while not self.done:
            client = self.clients[number % len(self.clients)]
            election = self.flavour.Election(
                client, self.path, identity=f"c{number}", priority=self.dice.choice([0, 0, 1, 2])
            )
            try:
                async with self.flavour.within(election.lead(timeout=20)) as leadership:
                    await self.serve(leadership)
            except (LeadershipLost, StoreUnavailable):
                self.refused += 1
            except CoordError as error:  # a step of the transaction that was refused: somebody else led as well
                self.wrong.append(repr(error))
                self.done = True

    async def serve(self, leadership: Any) -> None:
        """Read, and write what comes after it, in one transaction that only a leader's can be."""
        maybe = self.flavour.maybe
        self.operator.sync(self.resource)
        seen, stat = self.operator.get(self.resource)
        if int(seen) >= leadership.token and leadership._core.held:
            await maybe(leadership.verify())  # raises for a ghost, which may have an old token
            self.wrong.append(f"{leadership.token} leads after {seen!r}")
            self.done = True
        async with self.flavour.within(leadership.transaction()) as transaction:
            transaction.set(self.resource, str(int(leadership.token)).encode(), version=stat.version)
        self.terms += 1
        if self.terms >= TERMS:
            self.done = True
        elif self.terms % 7 == 0:
            with contextlib.suppress(NoNodes):  # it does not stand just now
                await maybe(leadership.transfer_to(f"c{self.dice.randrange(2 * SESSIONS)}"))

    async def disturb(self) -> None:
        before = 0
        while not self.done:
            await self.flavour.sleep(0.002)
            if self.terms - before < 20:
                continue
            before = self.terms
            what = self.dice.choice(["expire", "evict", "evict", "raze", "delete candidates"])
            if what == "expire":
                client = self.dice.choice(self.clients)
                if client.client_id is not None:
                    kill_session(client)
            elif what == "evict":
                operator = self.flavour.Election(self.operator, self.path, identity="operator")
                await self.flavour.maybe(operator.evict(force=self.dice.random() < 0.5))
            else:
                self.delete([self.path] if what == "raze" else [f"{self.path}/candidates"])

    def delete(self, paths: list[str]) -> None:
        for each in paths:
            with contextlib.suppress(NotEmptyError, NoNodeError):  # somebody came in meanwhile: half of it is deleted
                self.operator.delete(each, recursive=True)


async def test_no_token_goes_back_and_nobody_leads_beside_another(flavour: Any, zk_client: Any, path: str) -> None:
    """Priorities, transfers, expiry, evictions, parents that are deleted, sequence numbers that begin anew."""
    churn = Churn(flavour, [zk_client(timeout=10.0) for _ in range(SESSIONS)], zk_client(), path)
    running = [flavour.spawn(churn.contend, number) for number in range(2 * SESSIONS)]
    running.append(flavour.spawn(churn.disturb))
    await flavour.until(lambda: churn.done, 120)
    for each in running:
        await each.result(60)
    assert churn.wrong == []
    assert churn.terms >= TERMS
    assert churn.refused > 0, "nothing was disturbed"


# -- numbers near their end


def snapshot(directory: Path, parent: str, created: int) -> None:
    """Write a snapshot of a ZooKeeper in which so many znodes were created below ``parent``."""

    def text(value: str) -> bytes:
        return struct.pack(">i", len(value)) + value.encode()

    def node(path: str, count: int = 0) -> bytes:
        stat = struct.pack(">qqqqiiiqq", 1, 1, 0, 0, 0, count, 0, 0, 1)
        return text(path) + struct.pack(">i", 0) + struct.pack(">q", -1) + stat

    body = b"ZKSN" + struct.pack(">iq", 2, -1)  # magic, version, database
    body += struct.pack(">i", 0)  # sessions
    body += struct.pack(">i", 0)  # ACLs beyond the open one
    body += node("") + node("/zookeeper") + node("/zookeeper/quota")
    for above in znodes.ancestors(parent)[:-1]:
        body += node(above)
    body += node(f"{parent.rpartition('/')[0]}/epoch") + node(parent, created)
    body += text("/")
    sealed = body + struct.pack(">q", zlib.adler32(body)) + text("/")
    (directory / "version-2").mkdir()
    (directory / "version-2" / "snapshot.100").write_bytes(sealed)


@pytest.fixture
def worn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A client of a ZooKeeper whose election at /leader has had ``request.param`` contenders."""
    snapshot(tmp_path, "/leader/candidates", request.param)
    with start_zookeeper(settings=[f"dataDir={tmp_path}"]) as server:
        client = start_kazoo(server.hosts, 4.0)
        yield client
        close_kazoo(client)


@pytest.mark.parametrize("worn", [znodes.LAST_SEQUENCE - 2, 2**31 - 3], indirect=True)
async def test_numbers_that_are_used_up_make_no_second_leader(flavour: Any, worn: Any) -> None:
    """At 2**31 ZooKeeper's counter sticks: three kazoo locks were held at once (K28, kazoo#730)."""
    election, tokens = flavour.Election(worn, "/leader", identity="one"), []
    for _ in range(4):
        try:
            async with flavour.within(election.lead(timeout=5)) as leadership:
                tokens.append(leadership.token)
        except StoreRefused as refused:
            assert "used up" in str(refused)  # noqa: PT017  some terms come before it
            break
    else:
        pytest.fail("the numbers never end")
    await flavour.until(lambda: worn.get_children("/leader/candidates") == [])
    worn.delete("/leader/candidates")
    async with flavour.within(election.lead(timeout=5)) as leadership:
        assert worn.get_children("/leader/candidates")[0].endswith("-0000000000")
        tokens.append(leadership.token)
    assert tokens == sorted(set(tokens))
