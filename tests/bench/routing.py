"""What routing costs: `python tests/bench/routing.py [--rounds N] [--realtime] [--check [SLACK]]`.

GET, SET, a pipeline of 100 and MGET of 100 through ShardedRedis beside redis-py on one server, both flavours, and the
floor: the same bytes over bare sockets to the three servers, all sent before any is read, each reply parsed by hiredis.
What a lookup alone costs is in `placement.py`. It starts its own three servers on loopback. All rivals take turns in
each round; a ratio is the median over the rounds of the ratio to redis-py in the same round. Client and servers are
pinned to one core where the system lets them be, because loopback is bimodal across cores; read the ratios, the
absolute values drift with the machine. With --check the exit status is 1 if a target is missed, by more than a factor
of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import hiredis
import redis
import redis.asyncio
from targets import Targets

from coordkit.routing import rendezvous
from coordkit.routing.client import client, client_aio
from coordkit.testing.processes import RedisProcess, start_redis_servers

KEYS = [f"user:{i}:name" for i in range(100)]
VALUES = dict.fromkeys(KEYS, "v" * 20)
PLAIN, ONE, THREE = "redis-py, one server", "ShardedRedis, one shard", "ShardedRedis, three shards"
TARGETS = {  # of the ratios to redis-py: by operation, and over how many shards
    "SET": {ONE: 1.0, THREE: 1.0},
    "GET": {ONE: 1.0, THREE: 1.0},
    "pipeline of 100": {THREE: 0.9},
    "MGET of 100": {THREE: 2.4},
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--realtime", action="store_true", help="give client and servers a real-time priority")
    targets = Targets(parser)
    options = parser.parse_args()
    print(f"redis-py {redis.__version__}")
    servers = start_redis_servers(3)
    try:
        print(f"\nclient and servers: {pinned(servers, realtime=options.realtime)}")
        table("blocking", blocking(servers, options.rounds), targets)
        table("asyncio", asyncio.run(aio(servers, options.rounds)), targets)
    finally:
        for server in servers:
            server.stop()
    sys.exit(targets.status(options.check))


def pinned(servers: list[RedisProcess], *, realtime: bool = False) -> str:
    """Pin this process and the servers to one core and say so."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned (this system cannot)"
    core = max(os.sched_getaffinity(0))
    for pid in (0, *(server.pid for server in servers)):
        os.sched_setaffinity(pid, {core})
        if realtime:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(5))
    return f"pinned to core {core}{', real-time' if realtime else ''}"


class Floor:
    """What no client can go below: bytes that were packed before, over one socket to each server."""

    def __init__(self, servers: list[RedisProcess]) -> None:
        placement = rendezvous([server.url for server in servers])
        self._sockets = {server.url: socket.create_connection((server.host, server.port)) for server in servers}
        self._readers = {server.url: hiredis.Reader() for server in servers}
        for one in self._sockets.values():
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shard = {key: placement.lookup(key) for key in KEYS}
        self._gets = {key: hiredis.pack_command(("GET", key)) for key in KEYS}
        self._sets = {key: hiredis.pack_command(("SET", key, "v" * 20)) for key in KEYS}
        mine = {server.url: [key for key in KEYS if self._shard[key] == server.url] for server in servers}
        self._mgets = {url: (hiredis.pack_command(("MGET", *keys)), 1) for url, keys in mine.items()}
        self._pipelines = {url: (b"".join(self._gets[key] for key in keys), len(keys)) for url, keys in mine.items()}

    def get(self, key: str) -> Any:
        return self._ask({self._shard[key]: (self._gets[key], 1)})

    def set(self, key: str, _: str) -> Any:
        return self._ask({self._shard[key]: (self._sets[key], 1)})

    def mget(self, _: list[str]) -> Any:
        return self._ask(self._mgets)

    def pipelined(self) -> Any:
        return self._ask(self._pipelines)

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()

    def _ask(self, what: dict[str, tuple[bytes, int]]) -> list[Any]:
        for url, (data, _) in what.items():
            self._sockets[url].sendall(data)
        replies = []
        for url, (_, count) in what.items():
            reader = self._readers[url]
            for _ in range(count):
                while (reply := reader.gets()) is False:
                    reader.feed(self._sockets[url].recv(65536))
                replies.append(reply)
        return replies


Times = dict[str, dict[str, list[float]]]
"""In microseconds, by operation and rival: one for each round."""


def table(title: str, operations: Times, targets: Targets) -> None:
    print(f"\n{title:24} {'rival':32} {'us':>8} {'x redis-py':>11}")
    ratios = {}
    for operation, rivals in operations.items():
        for name, times in rivals.items():
            ratio = median(one / other for one, other in zip(times, rivals[PLAIN], strict=True))
            print(f"{operation:24} {name:32} {median(times):8.1f} {ratio:11.2f}")
            ratios[operation, name] = ratio
    for operation, wanted in TARGETS.items():
        for name, most in wanted.items():
            targets.at_most(f"{title}, {operation}, {name}, x redis-py", ratios[operation, name], most)


def blocking(servers: list[RedisProcess], rounds: int) -> Times:
    """Time redis-py on one server and ShardedRedis on one and on three shards."""
    plain = redis.Redis.from_url(servers[0].url)
    rivals: dict[str, Any] = {
        PLAIN: plain,
        ONE: client.ShardedRedis({"a": redis.Redis.from_url(servers[0].url)}),
        THREE: client.ShardedRedis({server.url: redis.Redis.from_url(server.url) for server in servers}),
        "bare sockets, three servers": Floor(servers),
    }

    def pipeline(one: Any) -> None:
        if isinstance(one, Floor):
            one.pipelined()
            return
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
    times: Times = {name: {rival: [] for rival in rivals} for name in operations}
    for one in rivals.values():
        if not isinstance(one, Floor):
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
    return times


async def aio(servers: list[RedisProcess], rounds: int) -> Times:
    """Do what `blocking` does, under asyncio."""
    rivals: dict[str, Any] = {
        PLAIN: redis.asyncio.Redis.from_url(servers[0].url),
        ONE: client_aio.ShardedRedis({"a": redis.asyncio.Redis.from_url(servers[0].url)}),
        THREE: client_aio.ShardedRedis({server.url: redis.asyncio.Redis.from_url(server.url) for server in servers}),
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
    times: Times = {name: {rival: [] for rival in rivals} for name in operations}
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
    return times


if __name__ == "__main__":
    main()
