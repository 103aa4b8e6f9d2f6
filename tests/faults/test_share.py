"""Shares of work in bad weather: processes that hang, die and come, lost answers, partitions."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from coordkit.errors import StoreUnavailable
from coordkit.testing.faults import Faults
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, wait_until

KEYS = [f"p{i}" for i in range(8)]


@pytest.fixture
def proxy(coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_zk_server)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/workers"


class Processes:
    """Workers as processes of their own, and what the resource wrote down of them."""

    def __init__(self, flavour: str, hosts: str, url: str, path: str) -> None:
        self._arguments = [flavour, hosts, url, path]
        self._redis, self._path = Redis.from_url(url), path
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.hung: set[str] = set()  # whose late accesses may come, to be refused

    def start(self, who: str) -> None:
        script = Path(__file__).with_name("share_worker.py")
        arguments = [sys.executable, str(script), *self._arguments, who, ",".join(KEYS), "1.5"]
        self.running[who] = subprocess.Popen(arguments, env=dict(os.environ))

    def signal(self, who: str, number: int) -> None:
        if number == signal.SIGSTOP:
            self.hung.add(who)
        self.running[who].send_signal(number)

    def log(self) -> list[tuple[str, int, str, str, bool]]:
        entries: Any = self._redis.lrange(self._path, 0, -1)
        split = [entry.decode().split() for entry in entries]
        return [(key, int(token), who, what, ok == "yes") for key, token, who, what, ok in split]

    def owners(self) -> dict[str, str]:
        """Return who began last on each partition."""
        return {key: who for key, _, who, what, _ in self.log() if what == "begin"}

    def even(self, *who: str) -> bool:
        counts = Counter(self.owners().values())
        return set(counts) == set(who) and max(counts.values()) - min(counts.values()) <= 1

    def close(self) -> None:
        for each in self.running.values():
            each.kill()
            each.wait(10)
        self._redis.close()


def check(log: list[tuple[str, int, str, str, bool]], hung: set[str]) -> int:
    """See that no two owners acted at once, but where one had hung and was refused; return how often that was."""
    present: dict[str, tuple[int, str]] = {}
    refused = 0
    for key, token, who, what, accepted in log:
        high, owner = present.get(key, (0, ""))
        if what == "begin" and token > high:
            assert accepted
            present[key] = token, who
        elif token == high:
            assert (accepted, who) == (True, owner)
        else:
            assert not accepted, f"{who} acted on {key} with {token}, when {owner} had it with {high}"
            assert who in hung, f"{who} did not hang, and was still at work on {key} when {owner} began"
            refused += 1
    return refused


@pytest.fixture(params=["blocking", "asyncio"])
def workers(
    request: pytest.FixtureRequest, coordkit_zk_server: ZooKeeperEnsemble, coordkit_redis_server: Any, path: str
) -> Iterator[Processes]:
    processes = Processes(request.param, coordkit_zk_server.hosts, coordkit_redis_server.url, path)
    yield processes
    processes.close()


def test_workers_that_hang_die_leave_and_come(workers: Processes) -> None:
    for who in ("a", "b", "c"):
        workers.start(who)
    assert wait_until(lambda: workers.even("a", "b", "c"), 30)
    workers.signal("a", signal.SIGSTOP)
    assert wait_until(lambda: workers.even("b", "c"), 30)
    workers.signal("a", signal.SIGCONT)
    assert wait_until(lambda: workers.even("a", "b", "c"), 30)
    workers.signal("c", signal.SIGKILL)
    workers.start("d")
    workers.start("e")
    assert wait_until(lambda: workers.even("a", "b", "d", "e"), 30)
    workers.signal("a", signal.SIGTERM)
    assert workers.running["a"].wait(20) == 0
    assert wait_until(lambda: workers.even("b", "d", "e"), 30)
    for who in ("b", "d", "e"):
        workers.signal(who, signal.SIGTERM)
        assert workers.running[who].wait(20) == 0
    check(workers.log(), workers.hung)


def test_the_checker_finds_what_is_wrong() -> None:
    right = [("p", 1, "a", "begin", True), ("p", 1, "a", "end", True), ("p", 2, "b", "begin", True)]
    assert check(right, set()) == 0
    late = ("p", 1, "a", "act", False)
    assert check([*right, late], {"a"}) == 1
    with pytest.raises(AssertionError, match="did not hang"):
        check([*right, late], set())
    with pytest.raises(AssertionError, match="acted on p with 1"):
        check([*right, ("p", 1, "a", "act", True)], {"a"})
    with pytest.raises(AssertionError):
        check([*right, ("p", 2, "a", "act", True)], set())


class Working:
    """A share that is run at the side, and its log."""

    def __init__(self, flavour: Any, zk: Any, path: str, who: str, log: list[tuple[str, str, int]]) -> None:
        self.share = flavour.Group(zk, path).share(who, ["p", "q"])
        self.running = flavour.spawn(self._run, flavour, who, log)

    async def _run(self, flavour: Any, who: str, log: list[tuple[str, str, int]]) -> None:
        def serve(partition: Any) -> None:
            log.append((f"{who} begins", partition.key, partition.token))
            partition.ending.wait()
            log.append((f"{who} ends", partition.key, partition.token))

        async def serve_async(partition: Any) -> None:
            log.append((f"{who} begins", partition.key, partition.token))
            try:
                await asyncio.sleep(3600)
            finally:
                log.append((f"{who} ends", partition.key, partition.token))

        await flavour.maybe(self.share.run(serve_async if flavour.is_async else serve))

    async def stop(self) -> None:
        self.share.stop()
        await self.running.result()


async def test_who_is_cut_off_ends_before_the_next_begins(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str
) -> None:
    """By its own clock, without a word from anybody; and it works again when it is back."""
    log: list[tuple[str, str, int]] = []
    cut = Working(flavour, zk_client(timeout=3.0, hosts=proxy.address), path, "cut", log)
    await flavour.until(lambda: len(log) == 2)
    other = Working(flavour, zk_client(), path, "other", log)
    await flavour.until(lambda: len(log) == 4)
    assert [each[0] for each in log] == ["cut begins", "cut begins", "cut ends", "other begins"]
    proxy.drop_requests = proxy.drop_replies = True
    await flavour.until(lambda: len(log) == 6, 20)
    assert [each[0] for each in log[4:]] == ["cut ends", "other begins"]
    assert log[5][2] > log[4][2]
    proxy.drop_requests = proxy.drop_replies = False
    await flavour.until(lambda: len(log) == 8, 20)
    assert [each[0] for each in log[6:]] == ["other ends", "cut begins"]
    await cut.stop()
    await other.stop()


async def test_a_short_outage_ends_nothing(flavour: Any, zk_client: Any, proxy: FaultProxy, path: str) -> None:
    log: list[tuple[str, str, int]] = []
    zk = zk_client(timeout=20.0, hosts=proxy.address)
    one = Working(flavour, zk, path, "one", log)
    await flavour.until(lambda: len(log) == 2)
    proxy.cut()
    await flavour.until(lambda: not zk.connected)
    await flavour.sleep(0.5)
    proxy.heal()
    await flavour.until(lambda: zk.connected)
    two = Working(flavour, zk_client(), path, "two", log)
    await flavour.until(lambda: len(log) == 4)
    assert [each[0] for each in log] == ["one begins", "one begins", "one ends", "two begins"]
    await one.stop()
    await two.stop()


@pytest.mark.parametrize("lose", ["a claim's request", "a claim's answer", "a giving back", "its answer"])
async def test_one_lost_message_costs_nothing(
    flavour: Any, zk_client: Any, proxy: FaultProxy, path: str, lose: str
) -> None:
    """The claim is made, or given back, all the same, and while the session lives."""
    log: list[tuple[str, str, int]] = []
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    session = zk.client_id
    node = f"{path}/%claims/p".encode()
    if lose == "a claim's request":
        proxy.drop_request_matching(node)
    elif lose == "a claim's answer":
        proxy.drop_reply_matching(node)
    one = Working(flavour, zk, path, "one", log)
    await flavour.until(lambda: len(log) == 2, 20)
    if lose == "a giving back":
        proxy.drop_request_matching(struct.pack(">ii", 2, len(node)) + node)
    two = Working(flavour, direct, path, "two", log)
    await flavour.until(lambda: len(log) == 4, 20)
    proxy.drop_replies = lose == "its answer"
    one.share.stop()
    if lose == "its answer":
        await flavour.until(lambda: len(direct.get_children(f"{path}/%claims")) == 1, 20)
        proxy.drop_replies = False
        proxy.reset_all()
    await flavour.until(lambda: sum(each[0] == "two begins" for each in log) == 2, 20)
    await one.running.result()
    await two.stop()
    assert direct.get_children(f"{path}/%claims") == []
    assert zk._session_id == session[0]
    tokens = [token for what, key, token in log if key == "p" and what.endswith("begins")]
    assert tokens == sorted(set(tokens))


@pytest.mark.timeout(150)  # a server that restarts on a busy machine
async def test_a_restarted_server_finds_the_claims(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    log: list[tuple[str, str, int]] = []
    zk = zk_client(timeout=20.0)
    one = Working(flavour, zk, path, "one", log)
    await flavour.until(lambda: len(log) == 2)
    coordkit_faults.restart(coordkit_zk_server)
    await flavour.until(lambda: zk.connected, 40)

    async def at_work() -> bool:
        """Return whether what the servers know is what we do; a restart that took long has cost the claims."""
        try:
            owners = await flavour.maybe(one.share.owners())
        except StoreUnavailable:
            return False
        held = one.share.held()
        return len(held) == 2 and {key: each.token for key, each in held.items()} == {
            key: owner.token for key, owner in owners.items()
        }

    await flavour.until(at_work, 40)
    assert all(each.ensure() for each in one.share.held().values())
    await one.stop()
    for key in ("p", "q"):
        mine = [(what, token) for what, each, token in log if each == key]
        assert [what for what, _ in mine] == ["one begins", "one ends"] * (len(mine) // 2)
        assert [token for _, token in mine] == sorted(token for _, token in mine)
