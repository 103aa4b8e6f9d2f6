"""W5 for a set of quorum servers: all that seating sends, and all that is answered, is lost, cut off or repeated, once.

Afterwards the set must be as one that was seated in calm weather, or be made so by asking again; and the ballots must
go on above all that were given out, although clocks stand still and one server forgot.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import pytest
import redis
from regime.flavours import Flavour, maybe
from regime.line import ANSWER_FAULTS, PIPED, REQUEST_FAULTS, Fault, Line
from regime.scripts import edit, restored

import coordkit
from coordkit import NoQuorum
from coordkit.core import quorum_set
from coordkit.testing.processes import start_redis

PATIENCE = 0.25
TRIES = 3  # a fault hits what it is meant for unless the machine is too busy
AT_ONCE = 6


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(start_redis()) for _ in range(3)]


@pytest.fixture
def databases() -> SimpleQueue[int]:
    """Give a set to each case: one database of the three servers."""
    free: SimpleQueue[int] = SimpleQueue()
    for number in range(AT_ONCE):
        free.put(number)
    return free


class Case:
    """One operation under one fault, over clients of a flavour; others speak to the servers themselves."""

    def __init__(self, flavour: str, operation: str, servers: list[Any], database: int) -> None:
        self.flavour, self.operation = Flavour(flavour), operation
        self.urls = [f"{server.url.rpartition('/')[0]}/{database}" for server in servers]
        self.direct = [redis.Redis.from_url(url) for url in self.urls]
        self.quorum = coordkit.Quorum(self.direct)
        # By the others: it is a server that remembers whose line is bad.
        self.forgetful = 1 if operation == "readmit by the others" else 0
        self.requests = self.answers = 0
        self.tokens: list[int] = []

    def play(self, fault: Fault | None, server: Any) -> list[str]:
        """Return what is wrong; counts what was sent."""
        with Line(server.host, server.port) as line:
            try:
                return self._play(fault, line)
            finally:
                for client in self.direct:
                    client.close()

    def _play(self, fault: Fault | None, line: Line) -> list[str]:
        for client in self.direct:
            client.flushdb()
        if self.operation != "initialise":
            self.quorum.initialise()
            self._hold()
            self.direct[self.forgetful].flushdb()
            self._hold()
        told: list[str] = []
        self.flavour.run([lambda: self._operate(line, fault, told)])
        wrong = [] if fault is None or line.fired else ["these faults did not happen"]
        if told != ["done"]:
            self._again()
        elif not all(client.exists("coordkit:1:quorum:roster") for client in self.direct):
            wrong.append("told that all are seated, and one has no seat")
        self.quorum.initialise()  # does nothing by now, and says so of one that cannot be
        if self.operation == "initialise":
            self._hold()
        for each in (1 - self.forgetful, 2):  # the others forget as well, one by one: what they knew was passed on
            self.direct[each].flushdb()
            self._again()
        for _ in range(2):
            self._hold()
        if self.tokens != sorted(set(self.tokens)):
            wrong.append(f"told {told}, and tokens that do not rise: {self.tokens}")
        return wrong

    async def _operate(self, line: Line, fault: Fault | None, told: list[str]) -> None:
        urls = [f"{line.url.rpartition('/')[0]}/{self.urls[0].rpartition('/')[2]}", *self.urls[1:]]
        clients = [self.flavour.connect(url, PATIENCE) for url in urls]
        quorum = self.flavour.api.Quorum(clients)
        line.arm(fault)
        try:
            back = await maybe(quorum.initialise() if self.operation == "initialise" else quorum.readmit())
            told.append("done" if back or back is None else "nobody answered that forgot")
        except NoQuorum:
            told.append("unknown")
        self.requests, self.answers = len(line.requests), line.answers
        await self.flavour.sleep(0.06 if fault is not None and fault.what == "late" else 0.0)
        for client in clients:
            await self.flavour.close(client)

    def _again(self) -> None:
        if self.operation == "initialise" and not self.tokens:
            self.quorum.initialise()
        else:
            self.quorum.readmit()

    def _hold(self) -> None:
        lock = coordkit.QuorumLock(self.quorum, "job", ttl=30)
        with lock.hold(timeout=10) as lease:
            self.tokens.append(int(lease.token))


def found(flavour: str, operation: str, servers: list[Any], databases: SimpleQueue[int]) -> list[str]:
    def play(fault: Fault | None) -> tuple[list[str], Case]:
        wrong: list[str] = []
        for _ in range(TRIES):
            database = databases.get()
            try:
                case = Case(flavour, operation, servers, database)
                wrong = case.play(fault, servers[0])
            finally:
                databases.put(database)
            if not wrong:
                break
        return wrong, case

    calms = [play(None) for _ in range(2)]  # the first may have to teach the servers a script
    if wrong := [line for each, _ in calms for line in each]:
        return wrong
    requests, answers = (min(getattr(case, what) for _, case in calms) for what in ("requests", "answers"))
    assert requests > 2
    assert answers > 2
    faults = [
        Fault(PIPED.get(each, each), of, number)
        for of, count, kinds in (("request", requests, REQUEST_FAULTS), ("answer", answers, ANSWER_FAULTS))
        for number in range(count)
        for each in kinds
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for fault, (lines, _) in zip(faults, pool.map(play, faults), strict=True):
            wrong += [f"{fault}: {line}" for line in lines]
    missed = [line for line in wrong if line.endswith("did not happen")]
    return wrong if len(missed) > len(faults) / 4 else [line for line in wrong if line not in missed]


@pytest.fixture(autouse=True)
def _clocks_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is they that keep the order."""
    import time

    frozen = time.time()
    monkeypatch.setattr(time, "time", lambda: frozen)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("flavour", "operation"),
    [("asyncio", "initialise"), ("blocking", "readmit"), ("asyncio", "readmit by the others")],
)
def test_what_is_seated_remembers(
    flavour: str, operation: str, servers: list[Any], databases: SimpleQueue[int]
) -> None:
    assert found(flavour, operation, servers, databases) == []


@pytest.mark.timeout(240)
def test_a_wrong_seat_is_found(servers: list[Any], databases: SimpleQueue[int]) -> None:
    """Seated above nothing: it votes again, and remembers nothing."""
    with restored(quorum_set):
        edit(quorum_set, "_SEAT", "math.max(tonumber(ARGV[3]), ", "math.max(0, ")
        assert found("blocking", "readmit", servers, databases) != []
