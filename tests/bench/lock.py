"""What does an uncontended lock cost?  Acquire + release, beside redis-py's own Lock and two bare round trips.

    python tests/bench/lock.py [--rounds 15] [--pairs 300] [--check [SLACK]]

Every row of one table comes from the same interleaved run, on one private server. The client and the server share one
core, so that a round trip does not wait for a halted core to wake. "Our scripts, bare socket" sends the very bytes of
our lock and does nothing else: no client can be quicker. Read the ratios: absolute times drift by a factor of two
between runs and machines. With --check the exit status is 1 if a target is missed, by more than a factor of SLACK.

Where the time goes, blocking, as shares of redis-py's own Lock (redis-py 8.1 with hiredis, one core): two bare round
trips 0.24; our two scripts over a bare socket 0.32 (5 commands in the one, 3 in the other); packing, the connection,
reading, what the replies mean, the errors and the ports 0.07; the lease with its timer 0.05; `with` 0.03. All of that
is Python that runs with cold caches, because the server runs on the same core between any two lines of it: the same
lines take a third of that in a loop without a server. So what counts is how much code is touched: how many functions
are called and objects made, and what the C beneath does, such as formatting, exceptions, arguments given by name.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
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
from coordkit import _redis_packing
from coordkit._ports import Call
from coordkit.core import lock
from coordkit.testing.processes import start_redis

LIMIT = "our scripts, bare socket"
PING = b"*1\r\n$4\r\nPING\r\n"
Step = Callable[[], Any]
AwaitedStep = Callable[[], Awaitable[Any]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--pairs", type=int, default=300, help="acquisitions per row and round")
    targets = Targets(arguments)
    options = arguments.parse_args()
    with start_redis() as server:
        print(f"redis-py {redis.__version__}, {pinned(server.pid)}; medians of {options.rounds} rounds")
        ratio = show("blocking", blocking(server.port, options.rounds, options.pairs))
        targets.at_most("coordkit.Lock, x redis-py", ratio, 0.5)
        ratio = show("asyncio", asyncio.run(awaited(server.port, options.rounds, options.pairs)))
        targets.at_most("coordkit.aio.Lock, x redis-py", ratio, 0.65)
    sys.exit(targets.status(options.check))


def pinned(server: int) -> str:
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return "client and server on any core"
    core = min(os.sched_getaffinity(0))
    for pid in (0, server):
        os.sched_setaffinity(pid, {core})
    return f"client and server on core {core}"


def blocking(port: int, rounds: int, pairs: int) -> dict[str, list[float]]:
    client = redis.Redis(port=port)
    mine = coordkit.Lock(client, "coordkit", ttl=10)
    theirs = client.lock("redis-py", timeout=10)
    with socket.create_connection(("127.0.0.1", port)) as bare:
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def two_pings() -> None:
            for _ in range(2):
                bare.sendall(PING)
                bare.recv(64)

        def ours() -> None:
            with mine:
                pass

        def redis_py() -> None:
            with theirs:
                pass

        ours()  # the server knows the scripts from here on
        acquire, release = as_bytes(mine.key)

        def limit() -> None:
            bare.sendall(acquire)
            bare.recv(64)
            bare.sendall(release)
            bare.recv(64)

        steps: dict[str, Step] = {
            "two bare round trips": two_pings,
            "redis.lock.Lock": redis_py,
            LIMIT: limit,
            "coordkit.Lock": ours,
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(rounds + 1):  # the first warms up and does not count
            for name, step in steps.items():
                began = time.perf_counter()
                for _ in range(pairs):
                    step()
                if round_:
                    times[name].append((time.perf_counter() - began) / pairs)
    client.close()
    return times


def as_bytes(key: str) -> tuple[bytes, bytes]:
    """Return what a lock sends to be acquired and given back, as bytes: no client can be quicker than these two."""
    keys = [key.removesuffix("lock").encode() + part for part in (b"lock", b"token", b"queue")]
    acquire = Call(lock._ACQUIRE, keys, ("bench", 10_000, 60_000))
    return _redis_packing.packed(acquire), _redis_packing.packed(Call(lock._RELEASE, keys, ("bench", 60_000)))


async def awaited(port: int, rounds: int, pairs: int) -> dict[str, list[float]]:
    client = redis.asyncio.Redis(port=port)
    mine = coordkit.aio.Lock(client, "coordkit", ttl=10)
    theirs = client.lock("redis-py", timeout=10)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def two_pings() -> None:
        for _ in range(2):
            writer.write(PING)
            await reader.readline()

    async def ours() -> None:
        async with mine:
            pass

    async def redis_py() -> None:
        async with theirs:
            pass

    steps: dict[str, AwaitedStep] = {
        "two bare round trips": two_pings,
        "redis.asyncio.lock.Lock": redis_py,
        "coordkit.aio.Lock": ours,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(pairs):
                await step()
            if round_:
                times[name].append((time.perf_counter() - began) / pairs)
    writer.close()
    await writer.wait_closed()
    await client.aclose()
    return times


def show(flavour: str, times: dict[str, list[float]]) -> float:
    """Print a table; return our own ratio to redis-py, which is its last."""
    to_theirs = math.nan
    floor, theirs, *_ = times.values()
    print(f"\n{flavour:<26}{'us/pair':>9}{'x floor':>9}{'x redis-py':>12}")
    for name, row in times.items():
        to_floor = statistics.median(a / b for a, b in zip(row, floor, strict=True))
        to_theirs = statistics.median(a / b for a, b in zip(row, theirs, strict=True))
        print(f"{name:<26}{statistics.median(row) * 1e6:>9.1f}{to_floor:>9.2f}{to_theirs:>12.2f}")
    return to_theirs


if __name__ == "__main__":
    main()
