"""What a client feels while its shards are resharded, and how fast keys move.

    python tests/bench/reshard.py [--rounds N] [--keys N] [--rate KEYS_PER_SECOND]

One process of `coordkit reshard` adds a third shard and drains it again, in turns; this process reads and writes
random keys all the while, one at a time. Three Redis servers and a ZooKeeper are started for it. Printed are the
latencies of a command while keys move, over those of the pauses in between, in one run; what failed, which is what was
on its way when the fence dropped the connections; and the throughput of the mover, with its limit and without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

import redis
from kazoo.client import KazooClient

from coordkit import CoordError, Reshard, ShardedRedis, Topology, TopologyStore
from coordkit.testing.processes import start_redis, start_zookeeper

PAUSE = 2.0  # seconds of undisturbed commands between two moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=5000, help="the mover's limit, keys per second")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        urls = {name: stack.enter_context(start_redis()).url for name in "abc"}
        hosts = stack.enter_context(start_zookeeper()).hosts
        zk = KazooClient(hosts)
        zk.start()
        stack.callback(zk.close)
        stack.callback(zk.stop)
        measure(zk, hosts, urls, chosen)


def measure(zk: KazooClient, hosts: str, urls: dict[str, str], chosen: argparse.Namespace) -> None:
    store = TopologyStore(zk, "/users")
    store.create(Topology.first("users", {name: urls[name] for name in "ab"}))

    def connect(_: str, address: str) -> redis.Redis:
        return redis.Redis.from_url(address, socket_timeout=10)

    with store.rebalancer("bench") as leadership, Reshard(store, leadership, connect) as reshard:
        reshard.initialise()
    shards = ShardedRedis.from_topology(store, connect)
    keys = [f"k{i}" for i in range(chosen.keys)]
    for at in range(0, len(keys), 500):
        shards.mset(dict.fromkeys(keys[at : at + 500], "x" * 100))
    normal: list[float] = []
    moving: list[float] = []
    failed = moved = 0
    rates: dict[float, list[float]] = {chosen.rate: [], 0: []}
    steps = [("add", f"c={urls['c']}"), ("drain", "c")]
    for number in range(2 * chosen.rounds):
        until = time.monotonic() + PAUSE
        while time.monotonic() < until:
            failed += one(shards, keys, normal)
        words = [*steps[number % 2], "--zookeeper", hosts, "--path", "/users", "--json", "--bytes-per-second", "0"]
        words += ["--keys-per-second", str(chosen.rate)]
        mover = started(words)
        while mover.poll() is None:
            failed += one(shards, keys, moving)
        done = finished(mover)
        moved += done["keys"]
        rates[chosen.rate].append(done["keys_per_second"])
    for number in range(2):  # as fast as it goes, with nobody else there
        words = [*steps[number], "--zookeeper", hosts, "--path", "/users", "--json", "--keys-per-second", "0"]
        rates[0].append(finished(started([*words, "--bytes-per-second", "0"]))["keys_per_second"])
    shards.close()
    print(f"{len(normal):,} commands in the pauses, {len(moving):,} while {moved:,} keys moved; {failed} failed")
    for share in (0.5, 0.9, 0.99):
        a, b = (sorted(each)[int(len(each) * share)] for each in (normal, moving))
        print(f"p{share * 100:.0f}: {a * 1e6:.0f} us in the pauses, {b * 1e6:.0f} us while moving: {b / a:.2f} times")
    for rate, measured in rates.items():
        limit = f"limit {rate:,.0f} keys/s" if rate else "no limit, nobody else there"
        print(f"mover, {limit}: {statistics.median(measured):,.0f} keys/s (median of {len(measured)})")


def one(shards: ShardedRedis, keys: list[str], took: list[float]) -> int:
    """Do one command; return whether it failed."""
    key = random.choice(keys)
    began = time.perf_counter()
    try:
        if random.random() < 0.5:
            shards.get(key)
        else:
            shards.set(key, "y" * 100)
    except CoordError:
        return 1
    took.append(time.perf_counter() - began)
    return 0


def started(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "coordkit.cli", "reshard", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def finished(mover: subprocess.Popen[str]) -> dict[str, float]:
    said, _ = mover.communicate(timeout=600)
    if mover.returncode:
        raise SystemExit(f"the mover ended with {mover.returncode}: {said[-500:]}")
    last: dict[str, float] = json.loads(said.splitlines()[-1])
    return last


if __name__ == "__main__":
    main()
