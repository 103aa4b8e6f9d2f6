"""What does a lock on five servers cost?  One acquisition, beside a raw scatter and gather to the five, and peers.

    python tests/bench/quorum.py [--rounds 15] [--pairs 200]

Every row of one table comes from the same interleaved run, on five private servers that share one core with the client:
what is compared is work, not how soon a halted core wakes. A floor sends ready bytes to five bare sockets and waits for
all five answers: of a script that does SET NX PX, of a mere PING, and of the very vote that the lock sends, which is
the limit of the algorithm. What is timed is the acquire alone; the release is made between two of them. Read the
ratios: absolute times drift between runs and machines.
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
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit._ports import Call
from coordkit._redis import packed
from coordkit.core import quorum
from coordkit.core.quorum_set import KEPT
from coordkit.testing.processes import start_redis_servers

SCRIPT = b"return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
COMMAND = [
    b"EVALSHA",
    hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode(),
    b"1",
    b"floor",
    b"me",
    b"10000",
]
REQUEST = b"*%d\r\n" % len(COMMAND) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in COMMAND)
PING = b"*1\r\n$4\r\nPING\r\n"
TARGET = 1.5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--pairs", type=int, default=200, help="acquisitions per row and round")
    options = arguments.parse_args()
    servers = start_redis_servers(5)
    try:
        urls = [server.url for server in servers]
        clients = [redis.Redis.from_url(url) for url in urls]
        coordkit.Quorum(clients).initialise()
        for client in clients:
            client.script_load(SCRIPT)
            for script in (quorum._VOTE, quorum._RELEASE):
                client.script_load(script.source)
            client.set("floor", "so that the answer is one line in any case")
            client.close()
        where = pinned([server.pid for server in servers])
        print(f"redis-py {redis.__version__}, five servers, {where}; medians of {options.rounds} rounds")
        show("blocking", blocking(urls, options.rounds, options.pairs))
        show("asyncio", asyncio.run(awaited(urls, options.rounds, options.pairs)))
    finally:
        for server in servers:
            server.stop()


def pinned(servers: list[int]) -> str:
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return "client and servers on any core"
    core = min(os.sched_getaffinity(0))
    for pid in (0, *servers):
        os.sched_setaffinity(pid, {core})
    return f"client and servers on core {core}"


def vote_and_release(client: redis.Redis) -> tuple[bytes, bytes]:
    """Return what a lock sends to each server, ready to be sent."""
    vote, ballot = b"coordkit:1:{floor}:vote", b"coordkit:1:{floor}:ballot"
    roster = client.get("coordkit:1:quorum:roster")
    assert isinstance(roster, bytes)
    cast = Call(quorum._VOTE, (vote, ballot, *KEPT), ("floor/1", 10_002, roster, 1, 10**9))
    undo = Call(quorum._RELEASE, (vote, ballot, KEPT[1]), ("floor/1", 0, 10**9))
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
        vote, undo = vote_and_release(first)
    leases: list[Any] = []
    steps: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "raw scatter and gather": (lambda: scatter(REQUEST), lambda: None),
        "the same, of a PING": (lambda: scatter(PING), lambda: None),
        "the same, of the vote itself": (lambda: scatter(vote), lambda: scatter(undo)),
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


async def awaited(urls: list[str], rounds: int, pairs: int) -> dict[str, list[float]]:
    clients = [redis.asyncio.Redis.from_url(url) for url in urls]
    lock = coordkit.aio.QuorumLock(coordkit.aio.Quorum(clients), "coordkit", ttl=10)
    bare = []
    for client in clients:
        kwargs = client.connection_pool.connection_kwargs
        bare.append(await asyncio.open_connection(kwargs["host"], kwargs["port"]))

    async def one(reader: asyncio.StreamReader) -> bytes:
        return await reader.readline()

    async def scatter(request: bytes) -> None:
        for _, writer in bare:
            writer.write(request)
        await asyncio.gather(*(one(reader) for reader, _ in bare))

    with redis.Redis.from_url(urls[0]) as first:
        vote, undo = vote_and_release(first)
    leases: list[Any] = []

    async def acquire() -> None:
        leases.append(await lock.acquire())

    async def release() -> None:
        await leases.pop().release()

    async def nothing() -> None: ...

    steps: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = {
        "raw scatter and gather": (lambda: scatter(REQUEST), nothing),
        "the same, of a PING": (lambda: scatter(PING), nothing),
        "the same, of the vote itself": (lambda: scatter(vote), lambda: scatter(undo)),
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
    for _, writer in bare:
        writer.close()
        await writer.wait_closed()
    for client in clients:
        await (getattr(client, "aclose", None) or client.close)()
    return times


def show(flavour: str, times: dict[str, list[float]]) -> None:
    floor, _, limit, ours, *_ = times.values()
    print(f"\n{flavour:<30}{'us/acquire':>12}{'x floor':>9}{'x ours':>9}")
    for name, row in times.items():
        to_floor = statistics.median(a / b for a, b in zip(row, floor, strict=True))
        to_ours = statistics.median(a / b for a, b in zip(row, ours, strict=True))
        print(f"{name:<30}{statistics.median(row) * 1e6:>12.1f}{to_floor:>9.2f}{to_ours:>9.2f}")
    to_limit = statistics.median(a / b for a, b in zip(ours, limit, strict=True))
    ratio = statistics.median(a / b for a, b in zip(ours, floor, strict=True))
    verdict = "met" if min(ratio, to_limit) <= TARGET else "NOT MET"
    print(f"target: at most {TARGET} x: {ratio:.2f} x a raw script, {to_limit:.2f} x the raw vote: {verdict}")


if __name__ == "__main__":
    main()
