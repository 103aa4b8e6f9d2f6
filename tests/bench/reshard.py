"""What does resharding cost those who use the shards meanwhile, and how fast is it?

    python tests/bench/reshard.py [--rounds 5] [--keys 30000] [--size 100] [--check [SLACK]]

One client does GET and SET on random keys of three shards through a live topology, without a pause. In each round it is
timed while nothing moves, while `coordkit reshard` moves keys at its default limits, and while it moves them as fast as
it can; the slots of one shard go to another one and back, by weight. A ratio is the median over the rounds of the ratio
to the quiet part of the same round; "unknown" are the operations whose connection the fence dropped while they were on
their way, at most one for each shard of each batch. Mover, client, servers and ZooKeeper share this machine's cores:
read the ratios. With --check the exit status is 1 if the target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any, NamedTuple

import redis
from kazoo.client import KazooClient
from targets import Targets

from coordkit import Reshard, ShardedRedis, StoreUnavailable, TopologyStore
from coordkit.routing import Topology
from coordkit.testing.processes import start_redis, start_zookeeper

NAMES = ("a", "b", "c")
WEIGHTS = (4, 1)
LIMITS: dict[str, list[str]] = {
    "at the default limits": [],
    "without a limit": ["--keys-per-second", "0", "--bytes-per-second", "0"],
}
QUIET = 1.5  # seconds of the part of a round in which nothing moves


class Part(NamedTuple):
    """One part of a round: what each operation took (us), and how long keys were moving."""

    took: list[float]
    moving: float = 0.0
    keys: int = 0
    unknown: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of a value")
    targets = Targets(parser)
    options = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack, options.keys, options.size)
        print(f"redis-py {redis.__version__}, {os.cpu_count()} cores, {options.keys} keys of {options.size} bytes")
        rounds = [bench.round() for _ in range(options.rounds)]
    ratios = table(rounds, options.size)
    targets.at_most("p50 while keys move at the default limits, x quiet", ratios["at the default limits"], 1.5)
    sys.exit(targets.status(options.check))


class Bench:
    """Shards, their topology, and one client that is timed."""

    def __init__(self, stack: ExitStack, keys: int, size: int) -> None:
        servers = {name: stack.enter_context(start_redis()) for name in NAMES}
        zookeeper = stack.enter_context(start_zookeeper())
        self._hosts = zookeeper.hosts
        zk = KazooClient(self._hosts)
        zk.start(20)
        stack.callback(zk.close)
        stack.callback(zk.stop)
        self._store = TopologyStore(zk, "/bench")
        self._store.create(Topology.first("bench", {name: server.url for name, server in servers.items()}))
        with (
            self._store.rebalancer("bench").lead(timeout=10) as leadership,
            Reshard(self._store, leadership, connect) as reshard,
        ):
            reshard.initialise()
        self._shards = stack.enter_context(ShardedRedis.from_topology(self._store, connect))
        self._keys = [f"user:{number}" for number in range(keys)]
        self._value = os.urandom(size)
        for at in range(0, keys, 1000):
            self._shards.mset(dict.fromkeys(self._keys[at : at + 1000], self._value))
        self._chance = random.Random(1)
        self._changes = 0
        self._unknown = 0

    def round(self) -> dict[str, Part]:
        """Time each part of one round."""
        parts = {"quiet": self._quiet()}
        for limits, words in LIMITS.items():
            parts[limits] = self._moving(words)
        return parts

    def _quiet(self) -> Part:
        took: list[float] = []
        ends = time.perf_counter() + QUIET
        while time.perf_counter() < ends:
            took.append(self._once())
        return Part(took)

    def _moving(self, words: list[str]) -> Part:
        """Give shard a another weight, and time what is done while slots are moving."""
        weight = WEIGHTS[self._changes % 2]
        self._changes += 1
        before = self._store.read().owners.table
        command = [sys.executable, "-m", "coordkit.cli", "reshard", "reweight", "a", str(weight), *words]
        command += ["--zookeeper", self._hosts, "--path", "/bench", "--json"]
        took: list[float] = []
        self._unknown = 0
        moving, last = 0.0, time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as mover:
            while mover.poll() is None:
                for _ in range(20):  # poll() is a system call
                    moves = bool(self._shards.topology.moves)  # type: ignore[union-attr]  # it has one
                    one, present = self._once(), time.perf_counter()
                    if moves:
                        took.append(one)
                        moving += present - last
                    last = present
        if mover.returncode:
            raise SystemExit(f"the mover ended with {mover.returncode}")
        after = self._store.read().owners
        keys = sum(before[self._shards.slot(key)] != after.table[self._shards.slot(key)] for key in self._keys)
        return Part(took, moving, keys, self._unknown)

    def _once(self) -> float:
        key = self._chance.choice(self._keys)
        began = time.perf_counter()
        try:
            if self._chance.random() < 0.5:
                self._shards.get(key)
            else:
                self._shards.set(key, self._value)
        except StoreUnavailable:  # dropped by the fence while it was on its way
            self._unknown += 1
        return (time.perf_counter() - began) * 1e6


def connect(_name: str, address: str) -> Any:
    return redis.Redis.from_url(address, socket_timeout=30)


def table(rounds: list[dict[str, Part]], size: int) -> dict[str, float]:
    """Print it; return, for each part of a round, the ratio of its p50; nan where nothing moved."""
    ratios: dict[str, float] = {}
    titles = ("p50 us", "x quiet", "p99 us", "x quiet", "keys/s", "MB/s", "unknown")
    print(f"\n{'':24} " + " ".join(f"{title:>8}" for title in titles))
    for name in rounds[0]:
        parts = [one[name] for one in rounds]
        quiet = [one["quiet"] for one in rounds]
        p50, p99 = [median(part.took) for part in parts], [quantiles(part.took, n=100)[98] for part in parts]
        x50 = median(one / median(other.took) for one, other in zip(p50, quiet, strict=True))
        x99 = median(one / quantiles(other.took, n=100)[98] for one, other in zip(p99, quiet, strict=True))
        line = f"{name:24} {median(p50):8.1f} {x50:8.2f} {median(p99):8.1f} {x99:8.2f}"
        if name != "quiet":
            rate = median(part.keys / part.moving for part in parts)
            line += f" {rate:8.0f} {rate * size / 1e6:8.2f} {sum(part.unknown for part in parts):8d}"
        print(line)
        ratios[name] = x50 if name == "quiet" or all(part.keys for part in parts) else math.nan
    return ratios


if __name__ == "__main__":
    main()
