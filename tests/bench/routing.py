"""What routing costs: `python tests/bench/routing.py [--rounds N]`.

GET, SET, a pipeline of 100 and MGET of 100 through ShardedRedis beside redis-py on one server, both flavours; what a
lookup alone costs is in `placement.py`. It starts its own three servers on loopback. All rivals take turns in each
round; a ratio is the median over the rounds of the ratio to redis-py in the same round. Client and servers are pinned
to one core where the system lets them be, because loopback is bimodal across cores; read the ratios, the absolute
values drift with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import redis
import redis.asyncio

from coordkit.routing import client, client_aio
from coordkit.testing.processes import RedisProcess, start_redis_servers

KEYS = [f"user:{i}:name" for i in range(100)]
VALUES = dict.fromkeys(KEYS, "v" * 20)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"redis-py {redis.__version__}")
    servers = start_redis_servers(3)
    try:
        print(f"\nclient and servers: {pinned(servers)}")
        blocking(servers, rounds)
        asyncio.run(aio(servers, rounds))
    finally:
        for server in servers:
            server.stop()


def pinned(servers: list[RedisProcess]) -> str:
    """Pin this process and the servers to one core and say so."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned (this system cannot)"
    core = max(os.sched_getaffinity(0))
    for pid in (0, *(server.pid for server in servers)):
        os.sched_setaffinity(pid, {core})
    return f"pinned to core {core}"


def table(title: str, operations: dict[str, dict[str, list[float]]]) -> None:
    print(f"\n{title:24} {'rival':32} {'us':>8} {'x redis-py':>11}")
    for operation, rivals in operations.items():
        base = rivals["redis-py, one server"]
        for name, times in rivals.items():
            ratio = median(one / other for one, other in zip(times, base, strict=True))
            print(f"{operation:24} {name:32} {median(times):8.1f} {ratio:11.2f}")


def blocking(servers: list[RedisProcess], rounds: int) -> None:
    """Time redis-py on one server and ShardedRedis on one and on three shards."""
    plain = redis.Redis.from_url(servers[0].url)
    rivals: dict[str, Any] = {
        "redis-py, one server": plain,
        "ShardedRedis, one shard": client.ShardedRedis({"a": redis.Redis.from_url(servers[0].url)}),
        "ShardedRedis, three shards": client.ShardedRedis(
            {server.url: redis.Redis.from_url(server.url) for server in servers}
        ),
    }

    def pipeline(one: Any) -> None:
        pipe = one.pipeline(transaction=False)
        for key in KEYS:
            pipe.get(key)
        pipe.execute()

    def each(call: Callable[[Any, str], Any]) -> Callable[[Any], None]:
        def run(one: Any) -> None:
            for key in KEYS:
                call(one, key)

        return run

    operations: dict[str, tuple[Callable[[Any], Any], int]] = {
        "SET": (each(lambda one, key: one.set(key, "v" * 20)), 100),
        "GET": (each(lambda one, key: one.get(key)), 100),
        "pipeline of 100": (pipeline, 1),
        "MGET of 100": (lambda one: one.mget(KEYS), 1),
    }
    times: dict[str, dict[str, list[float]]] = {name: {rival: [] for rival in rivals} for name in operations}
    for one in rivals.values():
        one.mset(VALUES)
    for _ in range(rounds):
        for name, (run, divisor) in operations.items():
            for rival, one in rivals.items():
                repeat = 3 if divisor > 1 else 30
                begin = time.perf_counter()
                for _ in range(repeat):
                    run(one)
                times[name][rival].append((time.perf_counter() - begin) * 1e6 / repeat / divisor)
    for one in rivals.values():
        one.close()
    table("blocking", times)


async def aio(servers: list[RedisProcess], rounds: int) -> None:
    """Do what `blocking` does, under asyncio."""
    rivals: dict[str, Any] = {
        "redis-py, one server": redis.asyncio.Redis.from_url(servers[0].url),
        "ShardedRedis, one shard": client_aio.ShardedRedis({"a": redis.asyncio.Redis.from_url(servers[0].url)}),
        "ShardedRedis, three shards": client_aio.ShardedRedis(
            {server.url: redis.asyncio.Redis.from_url(server.url) for server in servers}
        ),
    }

    async def pipeline(one: Any) -> None:
        pipe = one.pipeline(transaction=False)
        for key in KEYS:
            pipe.get(key)
        await pipe.execute()

    def each(call: Callable[[Any, str], Awaitable[Any]]) -> Callable[[Any], Awaitable[None]]:
        async def run(one: Any) -> None:
            for key in KEYS:
                await call(one, key)

        return run

    operations: dict[str, tuple[Callable[[Any], Awaitable[Any]], int]] = {
        "SET": (each(lambda one, key: one.set(key, "v" * 20)), 100),
        "GET": (each(lambda one, key: one.get(key)), 100),
        "pipeline of 100": (pipeline, 1),
        "MGET of 100": (lambda one: one.mget(KEYS), 1),
    }
    times: dict[str, dict[str, list[float]]] = {name: {rival: [] for rival in rivals} for name in operations}
    for one in rivals.values():
        await one.mset(VALUES)
    for _ in range(rounds):
        for name, (run, divisor) in operations.items():
            for rival, one in rivals.items():
                repeat = 3 if divisor > 1 else 30
                begin = time.perf_counter()
                for _ in range(repeat):
                    await run(one)
                times[name][rival].append((time.perf_counter() - begin) * 1e6 / repeat / divisor)
    for one in rivals.values():
        await one.aclose()
    table("asyncio", times)


if __name__ == "__main__":
    main()
