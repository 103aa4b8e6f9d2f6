"""What a read from replicas costs: `python tests/bench/replicas.py [--rounds N] [--realtime] [--check [SLACK]]`.

One shard, a primary with two replicas, is read from at all three through each picker, beside redis-py's GET at one
server and the same bytes over a bare socket; under a live topology as well, where each read from a replica carries two
looks at how far that replica is. All rivals take turns in each round; a ratio is the median over the rounds of the
ratio to redis-py in the same round. CPU is that of this process. The last columns say how the reads were shared out
among primary and replicas, by the servers' own counts. In the table "32 tasks" as many tasks read at once.
It starts its own servers on loopback, all pinned to one core with the client: what three servers could do that one
cannot is not to be seen here. With --check the exit status is 1 if a GET of one caller, through any picker, costs
this process more CPU than redis-py's, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from statistics import median
from typing import Any, NamedTuple

import redis
import redis.asyncio
from routing import Floor, pinned
from targets import Targets

import coordkit
from coordkit import aio
from coordkit.routing import (
    LeastOutstanding,
    PeakEwma,
    Random,
    ReplicaSet,
    RoundRobin,
    Shard,
    SmoothWeightedRoundRobin,
    Topology,
)
from coordkit.routing.fence.fence import local_key
from coordkit.testing.deployments import tell
from coordkit.testing.replicated import ReplicatedRedis, start_replicated

KEYS = [f"user:{i}:name" for i in range(100)]
TIMES = 3  # through all keys, in one measurement
PICKERS = (Random, RoundRobin, SmoothWeightedRoundRobin, LeastOutstanding, PeakEwma)
PLAIN = "redis-py, one server"
NAME = "bench"


class Cost(NamedTuple):
    """Of one read, in seconds."""

    wall: float
    cpu: float


Costs = dict[str, list[Cost]]
Spread = dict[str, list[int]]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--realtime", action="store_true", help="give client and servers a real-time priority")
    targets = Targets(parser)
    options = parser.parse_args()
    rounds, realtime = options.rounds, options.realtime
    with start_replicated(2) as servers:
        with redis.Redis.from_url(servers.primary.url) as primary:
            primary.mset(dict.fromkeys(KEYS, "v" * 20))
            primary.set(local_key(NAME, "epoch"), 1)
        servers.wait_in_sync()
        print(f"redis-py {redis.__version__}; client and servers: {pinned([*servers.nodes], realtime=realtime)}")
        for title, measured in (
            ("blocking", blocking(servers, rounds)),
            ("asyncio", asyncio.run(tasks(servers, rounds, 1))),
        ):
            dearer = table(title, *measured)
            for name in ("primary only", *(picker.__name__ for picker in PICKERS)):
                targets.at_most(f"{title}, GET, {name}, CPU x redis-py", dearer[name], 1.0)
        table("32 tasks", *asyncio.run(tasks(servers, rounds, 32)))
    sys.exit(targets.status(options.check))


def table(title: str, costs: Costs, spread: Spread) -> dict[str, float]:
    """Print what reads cost; return the ratios of CPU to redis-py."""
    print(f"\n{title:12} {'':26} {'us':>7} {'x redis-py':>11} {'CPU us':>7} {'x redis-py':>11}  primary, replicas")
    base, dearer = costs[PLAIN], {}
    for name, mine in costs.items():
        wall, cpu = (
            median(getattr(one, what) / getattr(other, what) for one, other in zip(mine, base, strict=True))
            for what in ("wall", "cpu")
        )
        times = [median(each.wall for each in mine) * 1e6, median(each.cpu for each in mine) * 1e6]
        shares = [f"{100 * count / max(1, sum(spread[name])):3.0f} %" for count in spread[name]]
        print(f"{'':12} {name:26} {times[0]:7.1f} {wall:11.2f} {times[1]:7.1f} {cpu:11.2f}  {' '.join(shares)}")
        dearer[name] = cpu
    return dearer


def given(module: Any, servers: ReplicatedRedis) -> Any:
    replicas = [module.Redis.from_url(each.url) for each in servers.replicas]
    return ReplicaSet(module.Redis.from_url(servers.primary.url), replicas)


def topology(servers: ReplicatedRedis) -> Topology:
    return Topology.first(NAME, {"a": Shard(servers.primary.url, tuple(each.url for each in servers.replicas))})


def blocking(servers: ReplicatedRedis, rounds: int) -> tuple[Costs, Spread]:
    """Measure redis-py, the floor, and ShardedRedis by each picker."""
    rivals: dict[str, Any] = {
        PLAIN: redis.Redis.from_url(servers.primary.url),
        "bare socket": Floor([servers.primary]),
        "primary only": coordkit.ShardedRedis({"a": given(redis, servers)}),
    }
    for picker in PICKERS:
        rivals[picker.__name__] = coordkit.ShardedRedis(
            {"a": given(redis, servers)}, read_from="nearest", balance=picker
        )
    for read_from in ("primary", "nearest"):
        rivals[f"topology, {read_from}"] = coordkit.ShardedRedis.from_topology(
            topology(servers), lambda _, url: redis.Redis.from_url(url), read_from=read_from
        )

    def measured(one: Any) -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(TIMES):
            for key in KEYS:
                one.get(key)
        count = TIMES * len(KEYS)
        return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)

    costs: Costs = {name: [] for name in rivals}
    spread: Spread = {name: [0, 0, 0] for name in rivals}
    for one in rivals.values():
        measured(one)  # connects
    for _ in range(rounds):
        for name, one in rivals.items():
            before = reads(servers)
            costs[name].append(measured(one))
            count(spread[name], servers, before)
    for one in rivals.values():
        one.close()
    return costs, spread


async def tasks(servers: ReplicatedRedis, rounds: int, width: int) -> tuple[Costs, Spread]:
    """Measure redis.asyncio and aio.ShardedRedis by each picker, with so many tasks at once."""
    rivals: dict[str, Any] = {
        PLAIN: redis.asyncio.Redis.from_url(servers.primary.url),
        "primary only": aio.ShardedRedis({"a": given(redis.asyncio, servers)}),
    }
    for picker in PICKERS:
        rivals[picker.__name__] = aio.ShardedRedis(
            {"a": given(redis.asyncio, servers)}, read_from="nearest", balance=picker
        )
    for read_from in ("primary", "nearest"):
        rivals[f"topology, {read_from}"] = await aio.ShardedRedis.from_topology(
            topology(servers), lambda _, url: redis.asyncio.Redis.from_url(url), read_from=read_from
        )

    async def measured(one: Any) -> Cost:
        async def some(keys: list[str]) -> None:
            for _ in range(TIMES):
                for key in keys:
                    await one.get(key)

        wall, cpu = time.perf_counter(), time.process_time()
        if width == 1:
            await some(KEYS)
        else:
            await asyncio.gather(*(some(KEYS[at::width]) for at in range(width)))
        count = TIMES * len(KEYS)
        return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)

    costs: Costs = {name: [] for name in rivals}
    spread: Spread = {name: [0, 0, 0] for name in rivals}
    for one in rivals.values():
        await measured(one)
    for _ in range(rounds):
        for name, one in rivals.items():
            before = reads(servers)
            costs[name].append(await measured(one))
            count(spread[name], servers, before)
    for one in rivals.values():
        await (getattr(one, "aclose", None) or one.close)()
    return costs, spread


def reads(servers: ReplicatedRedis) -> list[int]:
    """Return how many GETs each server was sent so far."""
    found = []
    for node in (servers.primary, *servers.replicas):
        lines = [each for each in tell(node, "INFO", "commandstats").splitlines() if each.startswith("cmdstat_get:")]
        found.append(sum(int(each.partition("calls=")[2].partition(",")[0]) for each in lines))
    return found


def count(spread: list[int], servers: ReplicatedRedis, before: list[int]) -> None:
    for place, (now, then) in enumerate(zip(reads(servers), before, strict=True)):
        spread[place] += now - then


if __name__ == "__main__":
    main()
