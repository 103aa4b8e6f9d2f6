"""What does a lock on five servers cost?  One acquisition, beside a raw scatter and gather to the five, and peers.

    nice -n -20 python tests/bench/quorum.py [--rounds 15] [--pairs 200] [--check [SLACK]]

Every row of one table comes from the same interleaved run, on five private servers: the client has one core, the
servers share another. ``taskset -c 0`` before it makes all share one core, as the table says: there nothing that the
client computes hides behind the servers' work or behind the waking of a halted core, so the ratios are larger.

There is one floor: ready bytes go out to five bare sockets (under asyncio: five bare protocols and one future), and all
five answers are waited for. The bytes are those that the lock sends, key for key and argument for argument, of a script
that does the least that a lock with tokens needs: SET NX PX, and INCR of one counter. Beside it stands the same scatter
and gather of the very vote that the lock sends, which does more: it is the limit of the algorithm.

What is timed is the acquire alone; the release is made between two of them. Read the ratios: absolute times drift
between runs and machines. With --check the exit status is 1 if a target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import os
import select
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
from targets import Targets

import coordkit
import coordkit.aio
from coordkit._ports import Call, Script
from coordkit._redis_packing import packed
from coordkit.core import quorum
from coordkit.core.quorum_set import KEPT
from coordkit.testing.processes import start_redis_servers

LEAST = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {1, redis.call('INCR', KEYS[2])}
end
return {0, redis.call('GET', KEYS[1])}
"""
FLOOR = Script("floor", LEAST, hashlib.sha1(LEAST.encode(), usedforsecurity=False).hexdigest())
TARGET = 1.5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--pairs", type=int, default=200, help="acquisitions per row and round")
    targets = Targets(arguments)
    options = arguments.parse_args()
    servers = start_redis_servers(5)
    try:
        urls = [server.url for server in servers]
        clients = [redis.Redis.from_url(url) for url in urls]
        coordkit.Quorum(clients).initialise()
        for client in clients:
            for script in (FLOOR, quorum._VOTE, quorum._RELEASE):
                client.script_load(script.source)
            client.close()
        where = pinned([server.pid for server in servers])
        print(f"redis-py {redis.__version__}, {where}; medians of {options.rounds} rounds")
        show("blocking", blocking(urls, options.rounds, options.pairs), targets)
        show("asyncio", asyncio.run(awaited(urls, options.rounds, options.pairs)), targets)
    finally:
        for server in servers:
            server.stop()
    sys.exit(targets.status(options.check))


def pinned(servers: list[int]) -> str:
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return "client and five servers on any core"
    mine, *others = sorted(os.sched_getaffinity(0))
    theirs = others[0] if others else mine
    os.sched_setaffinity(0, {mine})
    for pid in servers:
        os.sched_setaffinity(pid, {theirs})
    return f"client on core {mine}, five servers on core {theirs}"


def raw(script: Script, name: str, client: redis.Redis) -> tuple[bytes, bytes]:
    """Return what a lock sends to each server to vote, with this script, and to give back."""
    vote, ballot = f"coordkit:1:{{{name}}}:vote".encode(), f"coordkit:1:{{{name}}}:ballot".encode()
    roster = client.get("coordkit:1:quorum:roster")
    assert isinstance(roster, bytes)
    attempt, keep = "host-name-1:12345:0123456789abcdef/1", 7 * 24 * 3600 * 1000
    cast = Call(script, (vote, ballot, *KEPT), (attempt, 10_002, roster, str(int(time.time() * 1e6)), keep))
    undo = Call(quorum._RELEASE, (vote, ballot, KEPT[1]), (attempt, 0, keep))
    return packed(cast), packed(undo)


def peer(name: str) -> Any:
    """Return a peer's module, or None, saying so."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: not installed ({error}); pip install {name.replace('redlock', 'redlock-ng')}")
        return None


def blocking(urls: list[str], rounds: int, pairs: int) -> dict[str, list[float]]:
    clients = [redis.Redis.from_url(url) for url in urls]
    lock = coordkit.QuorumLock(coordkit.Quorum(clients), "coordkit", ttl=10)
    bare = [
        socket.create_connection(
            (client.connection_pool.connection_kwargs["host"], client.connection_pool.connection_kwargs["port"])
        )
        for client in clients
    ]
    for one in bare:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    poll = select.poll()
    by_fd = {one.fileno(): one for one in bare}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)

    def scatter(request: bytes) -> None:
        for one in bare:
            one.sendall(request)
        owed = len(bare)
        while owed:
            for fd, _ in poll.poll():
                by_fd[fd].recv(4096)
                owed -= 1

    with redis.Redis.from_url(urls[0]) as first:
        least, undo_least = raw(FLOOR, "floor", first)
        vote, undo_vote = raw(quorum._VOTE, "vote", first)
    leases: list[Any] = []
    steps: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "raw scatter and gather": (lambda: scatter(least), lambda: scatter(undo_least)),
        "the same, of our vote": (lambda: scatter(vote), lambda: scatter(undo_vote)),
        "coordkit.QuorumLock": (lambda: leases.append(lock.acquire()), lambda: leases.pop().release()),
    }
    if (pottery := peer("pottery")) is not None:
        theirs = pottery.Redlock(key="pottery", masters=set(clients), auto_release_time=10)
        steps["pottery.Redlock"] = theirs.acquire, theirs.release
    if (redlock := peer("redlock")) is not None:
        manager, got = redlock.Redlock(urls), []
        steps["redlock-ng"] = (
            lambda: got.append(manager.acquire("redlock", 10_000)),
            lambda: manager.release(got.pop()),
        )
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):  # the first warms up and does not count
        for name, (acquire, release) in steps.items():
            spent = 0.0
            for _ in range(pairs):
                began = time.perf_counter()
                acquire()
                spent += time.perf_counter() - began
                release()
            if round_:
                times[name].append(spent / pairs)
    for one in bare:
        one.close()
    for client in clients:
        client.close()
    return times


class Gathering(asyncio.Protocol):
    """Counts the answers to five transports; each comes in one piece."""

    def __init__(self) -> None:
        self._transports: list[Any] = []
        self._owed = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self, host: str, port: int) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        self._transports.append(transport)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  the floor reads nothing
        self._owed -= 1
        if not self._owed:
            self._done.set_result(None)

    def scatter(self, request: bytes) -> asyncio.Future[None]:
        self._done = asyncio.get_running_loop().create_future()
        self._owed = len(self._transports)
        for transport in self._transports:
            transport.write(request)
        return self._done

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


async def awaited(urls: list[str], rounds: int, pairs: int) -> dict[str, list[float]]:
    clients = [redis.asyncio.Redis.from_url(url) for url in urls]
    lock = coordkit.aio.QuorumLock(coordkit.aio.Quorum(clients), "coordkit", ttl=10)
    gathering = Gathering()
    for client in clients:
        kwargs = client.connection_pool.connection_kwargs
        await gathering.connect(kwargs["host"], kwargs["port"])
    scatter = gathering.scatter

    with redis.Redis.from_url(urls[0]) as first:
        least, undo_least = raw(FLOOR, "floor", first)
        vote, undo_vote = raw(quorum._VOTE, "vote", first)
    leases: list[Any] = []

    async def acquire() -> None:
        leases.append(await lock.acquire())

    async def release() -> None:
        await leases.pop().release()

    steps: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
        "raw scatter and gather": (lambda: scatter(least), lambda: scatter(undo_least)),
        "the same, of our vote": (lambda: scatter(vote), lambda: scatter(undo_vote)),
        "coordkit.aio.QuorumLock": (acquire, release),
    }
    if (pottery := peer("pottery")) is not None:
        theirs = pottery.AIORedlock(key="pottery", masters=set(clients), auto_release_time=10)
        steps["pottery.AIORedlock"] = theirs.acquire, theirs.release
    if (redlock := peer("redlock")) is not None:
        manager, got = redlock.AsyncRedlock(urls), []

        async def take_theirs() -> None:
            got.append(await manager.acquire("redlock", 10_000))

        async def give_theirs() -> None:
            await manager.release(got.pop())

        steps["redlock-ng"] = take_theirs, give_theirs
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, (take, give) in steps.items():
            spent = 0.0
            for _ in range(pairs):
                began = time.perf_counter()
                await take()
                spent += time.perf_counter() - began
                await give()
            if round_:
                times[name].append(spent / pairs)
    gathering.close()
    for client in clients:
        await (getattr(client, "aclose", None) or client.close)()
    return times


def show(flavour: str, times: dict[str, list[float]], targets: Targets) -> None:
    floor, limit, ours, *_ = times.values()

    def ratio(row: list[float], to: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(row, to, strict=True))

    print(f"\n{flavour:<30}{'us/acquire':>12}{'x floor':>9}{'x raw vote':>12}")
    for name, row in times.items():
        print(f"{name:<30}{statistics.median(row) * 1e6:>12.1f}{ratio(row, floor):>9.2f}{ratio(row, limit):>12.2f}")
    targets.at_most(f"{flavour}, x the floor", ratio(ours, floor), TARGET)
    print(f"(and {ratio(ours, limit):.2f} x the raw vote)")


if __name__ == "__main__":
    main()
