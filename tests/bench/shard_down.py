"""What a sick shard costs the others: `python tests/bench/shard_down.py [--rounds N] [--realtime] [--check [SLACK]]`.

Three services take turns in each round, each over three shards: all well, one dead (its port is closed), one stalled
(SIGSTOP). Each asks the two well shards as fast as it can, while something beside it asks the third every millisecond.
What is shown is the latency of the well shards: the median over the rounds, and that of the ratios in each round. The
time until the breaker opens is measured as well: who asks the sick shard waits, and nobody else. With --check the exit
status is 1 if a target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import threading
import time
from contextlib import suppress
from statistics import median, quantiles
from typing import Any

import redis
import redis.asyncio
from routing import pinned
from targets import Targets

from coordkit.errors import StoreUnavailable
from coordkit.routing import rendezvous
from coordkit.routing.client import client, client_aio
from coordkit.testing.processes import start_redis_servers

NAMES = ("a", "b", "c")
PLACEMENT = rendezvous(NAMES)
KEYS = [f"user:{i}:name" for i in range(300)]
WELL = [key for key in KEYS if PLACEMENT.lookup(key) != "b"]
SICK = next(key for key in KEYS if PLACEMENT.lookup(key) == "b")
BOUNDS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
TIMES = 2000
P99 = 1.1  # times that of all well, at most


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--realtime", action="store_true", help="give client and servers a real-time priority")
    targets = Targets(parser)
    options = parser.parse_args()
    servers = start_redis_servers(4)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        closed_url = f"redis://127.0.0.1:{closed.getsockname()[1]}"
        one, well, other, stalled = servers
        urls = {
            state: {"a": one.url, "b": third, "c": other.url}
            for state, third in (("all well", well.url), ("one dead", closed_url), ("one stalled", stalled.url))
        }
        try:
            print(f"client and servers: {pinned(servers, realtime=options.realtime)}")
            stalled.pause()
            table("blocking", blocking(urls, options.rounds), targets)
            table("asyncio", asyncio.run(aio(urls, options.rounds)), targets)
        finally:
            stalled.resume()
            for server in servers:
                server.stop()
    sys.exit(targets.status(options.check))


def table(title: str, rounds: list[dict[str, list[float]]], targets: Targets) -> None:
    print(f"\n{title:12} {'p50 us':>8} {'x well':>7} {'p99 us':>8} {'x well':>7}")
    slower = {}
    for state in rounds[0]:
        cells = []
        for percent in (50, 99):
            here = [percentile(each[state], percent) for each in rounds]
            base = [percentile(each["all well"], percent) for each in rounds]
            ratio = median(one / other for one, other in zip(here, base, strict=True))
            cells.append(f"{median(here) * 1e6:8.1f} {ratio:7.2f}")
            slower[state, percent] = ratio
        print(f"{state:12} {' '.join(cells)}")
    for state in ("one dead", "one stalled"):
        targets.at_most(f"{title}, {state}, p99 x all well", slower[state, 99], P99)


def percentile(times: list[float], percent: int) -> float:
    return quantiles(times, n=100)[percent - 1]


def blocking(urls: dict[str, dict[str, str]], rounds: int) -> list[dict[str, list[float]]]:
    """Return the times of each round by state, with a thread that asks the third shard."""
    services: dict[str, Any] = {
        state: client.ShardedRedis({name: redis.Redis.from_url(url, **BOUNDS) for name, url in shards.items()})
        for state, shards in urls.items()
    }
    over = threading.Event()

    def beside(one: Any) -> None:
        while not over.wait(0.001):
            with suppress(StoreUnavailable):
                one.get(SICK)

    def times(one: Any) -> list[float]:
        over.clear()
        asking = threading.Thread(target=beside, args=(one,))
        asking.start()
        found = []
        for i in range(TIMES):
            begin = time.perf_counter()
            one.get(WELL[i % len(WELL)])
            found.append(time.perf_counter() - begin)
        over.set()
        asking.join()
        return found

    measured = [{state: times(one) for state, one in services.items()} for _ in range(rounds)]
    for one in services.values():
        one.close()
    return measured


async def aio(urls: dict[str, dict[str, str]], rounds: int) -> list[dict[str, list[float]]]:
    """Do what `blocking` does, under asyncio."""
    services: dict[str, Any] = {
        state: client_aio.ShardedRedis(
            {name: redis.asyncio.Redis.from_url(url, **BOUNDS) for name, url in shards.items()}
        )
        for state, shards in urls.items()
    }

    async def beside(one: Any) -> None:
        while True:
            await asyncio.sleep(0.001)
            with suppress(StoreUnavailable):
                await one.get(SICK)

    async def times(one: Any) -> list[float]:
        asking = asyncio.create_task(beside(one))
        found = []
        for i in range(TIMES):
            begin = time.perf_counter()
            await one.get(WELL[i % len(WELL)])
            found.append(time.perf_counter() - begin)
        asking.cancel()
        await asyncio.wait({asking})
        return found

    measured = [{state: await times(one) for state, one in services.items()} for _ in range(rounds)]
    for one in services.values():
        await one.aclose()
    return measured


if __name__ == "__main__":
    main()
