"""What waiting costs one process: a thousand asyncio tasks stand in line for one lock, beside BLPOP and a peer.

    python tests/bench/tasks.py [--tasks 1000] [--rounds 3] [--limit 10] [--check [SLACK]]

One holds it until all the others wait; then it is given back, and each has one turn without doing anything in it. The
floor passes one element on by BLPOP and RPUSH: no lock, no token, no order promised, and a connection for each task.
Rounds are interleaved; printed are medians, and ratios to BLPOP in the same round. What is not served after --limit
seconds is given up, and counted as not served.

    in turn        share of the tasks that came right after the one that stood before them
    connections    the most that the server had from this process while all waited, its own one for counting left out

With --check the exit status is 1 if coordkit.aio.Lock misses a target, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import redis
import redis.asyncio
from targets import Targets

import coordkit.aio
from coordkit.testing.processes import start_redis

Turn = Callable[[], AbstractAsyncContextManager[Any]]
NAME = "bench-tasks"
CONNECTIONS = 34  # 32 that ask, one that listens, one of the client's own


class Line(NamedTuple):
    """What became of a line."""

    seconds: float  # for each that was served
    served: int
    in_turn: float
    connections: int


def ours(client: Any) -> Turn:
    return coordkit.aio.Lock(client, NAME, ttl=60).hold


def peers(client: Any) -> Turn:
    return lambda: client.lock(NAME, timeout=60)


def blpop(client: Any) -> Turn:
    @contextlib.asynccontextmanager
    async def element() -> AsyncIterator[None]:
        await client.blpop([NAME])
        yield
        await client.rpush(NAME, b"it")

    return element


ROWS = {"BLPOP, redis.asyncio": blpop, "coordkit.aio.Lock": ours, "redis.asyncio.lock.Lock": peers}


async def stand(make: Callable[[Any], Turn], url: str, watcher: Any, tasks: int, limit: float) -> Line:
    """Have so many stand in line; return what became of them."""
    client = redis.asyncio.Redis.from_url(url, max_connections=2 * tasks, socket_timeout=None, client_name=NAME)
    turn, order, most = make(client), [], 0
    asked = itertools.count()

    async def work(number: int) -> None:
        next(asked)
        async with turn():
            order.append(number)

    async def first() -> None:
        if make is blpop:
            await client.rpush(NAME, b"it")
        async with turn():
            entered.set()
            await free.wait()

    entered, free = asyncio.Event(), asyncio.Event()
    holding = asyncio.create_task(first())
    await entered.wait()
    waiting = []
    for number in range(tasks):
        waiting.append(asyncio.create_task(work(number)))
        if number % 50 == 49:
            await asyncio.sleep(0.02)  # so that they come in this order, and all at once would wait for connections
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        await asyncio.sleep(0.1)
        most = max(most, sum(one["name"] == NAME for one in await asyncio.to_thread(watcher.client_list)))
    began = time.perf_counter()
    free.set()
    await holding
    await asyncio.wait(waiting, timeout=limit)
    took = time.perf_counter() - began
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    served = order[:]
    in_turn = sum(b == a + 1 for a, b in itertools.pairwise([-1, *served])) / tasks
    await (getattr(client, "aclose", None) or client.close)()
    return Line(took / max(len(served), 1), len(served), in_turn, most)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tasks", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--limit", type=float, default=10.0, help="seconds for each row of each round")
    targets = Targets(arguments)
    options = arguments.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192) if most > 0 else 8192, most))

    lines: dict[str, list[Line]] = {name: [] for name in ROWS}
    with start_redis() as server, redis.Redis.from_url(server.url) as watcher:
        for _ in range(options.rounds):
            for name, make in ROWS.items():
                watcher.delete(NAME)
                lines[name].append(asyncio.run(stand(make, server.url, watcher, options.tasks, options.limit)))

    print(f"redis-py {redis.__version__}; {options.tasks} tasks, {options.rounds} rounds")
    print(f"{'':26}{'us/grant':>10}{'x BLPOP':>9}{'served':>8}{'in turn':>9}{'connections':>13}")
    floor = lines["BLPOP, redis.asyncio"]
    for name, found in lines.items():
        us = statistics.median(one.seconds for one in found) * 1e6
        ratio = statistics.median(one.seconds / base.seconds for one, base in zip(found, floor, strict=True))
        served, in_turn = min(one.served for one in found), min(one.in_turn for one in found)
        print(f"{name:26}{us:10.0f}{ratio:9.2f}{served:8}{in_turn:9.3f}{max(one.connections for one in found):13}")
    mine = lines["coordkit.aio.Lock"]
    targets.at_least("share served in turn", min(one.in_turn for one in mine), 1.0)
    targets.at_most("connections", max(one.connections for one in mine), CONNECTIONS)
    sys.exit(targets.status(options.check))


if __name__ == "__main__":
    main()
