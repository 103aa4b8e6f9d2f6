"""What it costs to say which shard owns a key: `python tests/bench/placement.py [--rounds N] [--check [SLACK]]`.

One lookup of each placement in nanoseconds, singly and per key of a batch, beside a call that does nothing, and as
ratios to uhashring's ``get_node`` and tooz's ``get_nodes`` where they can be imported; then building, rebalancing and
comparing placements of 10 to 1,000 shards. No server, no network; the clock is the processor's. All rivals take turns
in each round, and a ratio is the median over the rounds of the ratio within the round: read the ratios, the absolute
values drift with the machine. With --check the exit status is 1 if a target is missed, by more than a factor of SLACK,
or could not be measured because uhashring or tooz is missing.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from targets import Targets

from coordkit.routing import (
    Placement,
    bounded_loads,
    envoy_ring,
    hrw,
    jump,
    ketama,
    maglev,
    modula,
    rendezvous,
    slot_map,
    slot_of,
)
from coordkit.routing.commands.router import Router
from coordkit.routing.placement.xxh64 import _fastest as fastest
from coordkit.routing.placement.xxh64 import pure_xxh64

KEYS = [f"user:{i}:name" for i in range(100)]
TIMES = 10
ROUTE, SINGLY, MANY = "route(str), of ShardedRedis", "lookup(str), of rendezvous", "lookup_many(str), per key"
QUICKER = {"uhashring": 5.0, "tooz": 7.0}  # how many times quicker `route` has to be
MAKERS: dict[str, Callable[[list[str]], Placement]] = {
    "rendezvous (the default)": rendezvous,
    "slot_map": slot_map,
    "bounded_loads": bounded_loads,
    "ketama, libketama": lambda names: ketama(names, dialect="libketama"),
    "ketama, twemproxy": lambda names: ketama(names, dialect="twemproxy"),
    "envoy_ring": envoy_ring,
    "maglev, 65537": maglev,
    "hrw, go-redis": hrw,
    "jump, xxh64": jump,
    "modula": modula,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    targets = Targets(parser)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"xxh64: {'in Python' if fastest() is pure_xxh64 else 'of the extra xxhash'}")
    lookups(options.rounds, targets)
    building()
    changing()
    sys.exit(targets.status(options.check))


def lookups(rounds: int, targets: Targets) -> None:
    """Time one lookup of each rival among ten shards."""
    names = [f"redis-{i}" for i in range(10)]
    placements = {kind: make(names) for kind, make in MAKERS.items()}
    default = placements["rendezvous (the default)"]
    wire = [key.encode() for key in KEYS]
    tagged = ["{" + key + "}:x" for key in KEYS]
    singly: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "a call that does nothing": (lambda key: key, list(KEYS)),
        "slot_of(str)": (slot_of, list(KEYS)),
        SINGLY: (default.lookup, list(KEYS)),
        "lookup(bytes)": (default.lookup, wire),
        "lookup(tagged str)": (default.lookup, tagged),
        ROUTE: (Router(default).route, list(KEYS)),
        **{kind: (made.lookup, list(KEYS)) for kind, made in placements.items() if made is not default},
        "owners(str, 2), of rendezvous": (lambda key: default.owners(key, 2), list(KEYS)),
    }
    batches: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        MANY: (default.lookup_many, list(KEYS)),
        "lookup_many(bytes), per key": (default.lookup_many, wire),
        **{f"{kind}, many": (made.lookup_many, list(KEYS)) for kind, made in placements.items() if made is not default},
    }
    rivals, absent = {}, []
    for rival, load in (("uhashring", uhashring), ("tooz", tooz)):
        try:
            rivals[rival] = load(names)
        except ImportError:
            absent.append(rival)
    measured: dict[str, list[float]] = {name: [] for name in (*singly, *batches, *rivals)}
    for _ in range(rounds):
        for name, (lookup, keys) in {**rivals, **singly}.items():
            begin = time.process_time_ns()
            for _ in range(TIMES):
                for key in keys:
                    lookup(key)
            measured[name].append((time.process_time_ns() - begin) / (TIMES * len(keys)))
        for name, (lookup, keys) in batches.items():
            begin = time.process_time_ns()
            for _ in range(TIMES):
                lookup(keys)
            measured[name].append((time.process_time_ns() - begin) / (TIMES * len(keys)))
    heads = "".join(f"{f'{rival} / this':>18}" for rival in rivals)
    print(f"\n{'one lookup among 10 shards':34} {'ns':>6} {'x lookup(str)':>14}{heads}")
    base = measured[SINGLY]
    for name, times in measured.items():
        ratios = "".join(f"{ratio(measured[rival], times):18.1f}" for rival in rivals)
        print(f"{name:34} {median(times):6.0f} {ratio(times, base):14.2f}{ratios}")
    for rival in absent:
        print(f"{rival:34} not installed, not measured")
    for rival, least in QUICKER.items():
        quicker = math.nan if rival in absent else ratio(measured[rival], measured[ROUTE])
        targets.at_least(f"{rival} / {ROUTE}", quicker, least)
    targets.at_most(f"{MANY} / {SINGLY}", ratio(measured[MANY], base), 1.0)


def ratio(times: list[float], base: list[float]) -> float:
    return median(one / other for one, other in zip(times, base, strict=True))


def uhashring(names: list[str]) -> tuple[Callable[[Any], Any], list[Any]]:
    ring = importlib.import_module("uhashring").HashRing(nodes=names)
    return ring.get_node, list(KEYS)


def tooz(names: list[str]) -> tuple[Callable[[Any], Any], list[Any]]:
    ring = importlib.import_module("tooz.hashring").HashRing(names)
    return ring.get_nodes, [key.encode() for key in KEYS]


def building() -> None:
    """Time the building of placements, and say how even they are."""
    print(f"\n{'building':34}" + "".join(f"{f'{n} shards, ms':>18}{'max/mean':>10}" for n in (10, 100, 1000)))
    builders: dict[str, Callable[[list[str]], Placement]] = {
        **MAKERS,
        "rendezvous, weighted": lambda names: rendezvous(names, {name: 1 + i % 3 for i, name in enumerate(names)}),
    }
    for kind, make in builders.items():
        print(f"{kind:34}", end="")
        for count in (10, 100, 1000):
            names = [f"redis-{i}" for i in range(count)]
            taken, made = timed(partial(make, names), 3 if count < 1000 else 1)
            even = "" if "weighted" in kind else f"{max(made.shares().values()) * count:.4f}"
            print(f"{taken:18.1f}{even:>10}", end="", flush=True)
        print()


def changing() -> None:
    """Time the way to one more shard, and say how much moves."""
    print(f"\n{'one more shard':34} {'ms':>8} {'moved':>8} {'ideal':>8} {'needless':>9} {'max/mean':>9}")
    for count in (10, 100, 1000):
        names = [f"redis-{i}" for i in range(count)]
        for kind, start in (("slot_map", slot_map(names)), ("rendezvous", rendezvous(names))):
            for way in ("rebalance", *(["anew"] if kind == "rendezvous" else [])):
                grown = [*names, "new"]
                change = partial(start.rebalance if way == "rebalance" else rendezvous, grown)
                taken, after = timed(change, 3 if count < 1000 else 1)
                moves = start.moves(after)
                needless = sum(len(slots) for (_, target), slots in moves.items() if target != "new") / 16384
                even = max(after.counts().values()) / 16384 * (count + 1)
                print(
                    f"{f'{kind} of {count}, {way}':34} {taken:8.1f} {start.diff(after):8.2%} {1 / (count + 1):8.2%} "
                    f"{needless:9.2%} {even:9.4f}"
                )


def timed(what: Callable[[], Any], times: int) -> tuple[float, Any]:
    taken = []
    for _ in range(times):
        begin = time.process_time()
        made = what()
        taken.append((time.process_time() - begin) * 1e3)
    return median(taken), made


if __name__ == "__main__":
    main()
