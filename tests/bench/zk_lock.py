"""What does a lock on ZooKeeper cost?  Uncontended, and handed over, beside kazoo's Lock and raw round trips.

    python tests/bench/zk_lock.py [--rounds 15] [--pairs 60] [--latency 0.0]

Every row of one table comes from the same interleaved run, on one private server. The floors are the least that the
protocol can do over the same client, kazoo's own calls: for a pair, a creation and a listing sent at once, then a
delete; for a hand-over, a delete that a watch tells, then one write. ``--latency`` adds seconds in each direction, so
that round trips are what counts. Read the ratios: absolute times drift by a factor of two between runs and machines.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from kazoo.client import KazooClient

import coordkit.aio.zk
import coordkit.zk
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.proxy import FaultProxy

FLOOR = "raw kazoo calls"
Times = dict[str, list[float]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--pairs", type=int, default=60, help="acquisitions per row and round")
    arguments.add_argument("--latency", type=float, default=0.0, help="seconds, in each direction")
    options = arguments.parse_args()
    with start_zookeeper(tick_time=2000) as ensemble, FaultProxy(ensemble.nodes[0].host, ensemble.nodes[0].port) as far:
        far.latency = options.latency
        hosts = far.address if options.latency else ensemble.hosts
        one, two = (KazooClient(hosts, timeout=20.0) for _ in range(2))
        for client in (one, two):
            client.start(30)
        one.ensure_path("/raw")
        print(f"{options.latency * 1000:.0f} ms added in each direction; medians of {options.rounds} rounds")
        show("a pair, blocking", pairs(one, options.rounds, options.pairs))
        show("a pair, asyncio", asyncio.run(awaited(one, options.rounds, options.pairs)))
        show("a hand-over, blocking", hand_overs(one, two, options.rounds))
        for client in (one, two):
            client.stop()
            client.close()


def raw_pair(client: Any) -> None:
    made = client.create_async("/raw/x-", b"", ephemeral=True, sequence=True, include_data=True)
    client.get_children_async("/raw").get()
    client.delete(made.get()[0])


def block(make: Callable[[], Any]) -> Callable[[], None]:
    def held() -> None:
        with make():
            pass

    return held


def pairs(client: Any, rounds: int, count: int) -> Times:
    lock, both = coordkit.zk.Lock(client, "/ours"), coordkit.zk.ReadWriteLock(client, "/ours")
    semaphore, theirs = coordkit.zk.Semaphore(client, "/ours", permits=2), client.Lock("/theirs")
    return interleaved(
        {
            FLOOR: lambda: raw_pair(client),
            "kazoo Lock": block(lambda: theirs),
            "kazoo Lock, new each time": block(lambda: client.Lock("/theirs")),
            "coordkit.zk.Lock": block(lambda: lock),
            "coordkit.zk, a reader": block(lambda: both.read),
            "coordkit.zk, a writer": block(lambda: both.write),
            "coordkit.zk.Semaphore": block(lambda: semaphore),
        },
        rounds,
        count,
    )


def interleaved(steps: dict[str, Callable[[], None]], rounds: int, count: int) -> Times:
    times: Times = {name: [] for name in steps}
    for round_ in range(rounds + 1):  # the first warms up and does not count
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(count):
                step()
            if round_:
                times[name].append((time.perf_counter() - began) / count)
    return times


async def awaited(client: Any, rounds: int, count: int) -> Times:
    lock, both = coordkit.aio.zk.Lock(client, "/ours"), coordkit.aio.zk.ReadWriteLock(client, "/ours")
    theirs = client.Lock("/theirs")

    async def floor() -> None:
        raw_pair(client)

    async def kazoo() -> None:
        with theirs:
            pass

    async def ours() -> None:
        async with lock:
            pass

    async def reader() -> None:
        async with both.read:
            pass

    steps: dict[str, Callable[[], Awaitable[None]]] = {
        FLOOR: floor,
        "kazoo Lock, blocking": kazoo,
        "coordkit.aio.zk.Lock": ours,
        "coordkit.aio.zk, a reader": reader,
    }
    times: Times = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(count):
                await step()
            if round_:
                times[name].append((time.perf_counter() - began) / count)
    return times


def hand_overs(one: Any, two: Any, rounds: int) -> Times:
    """Time from the call that gives back to the return of the call that waited, at another client."""
    ours = coordkit.zk.Lock(one, "/hand"), coordkit.zk.Lock(two, "/hand")
    theirs = one.Lock("/kazoo"), two.Lock("/kazoo")
    times: Times = {FLOOR: [], "kazoo Lock": [], "coordkit.zk.Lock": []}
    one.ensure_path("/raw/write")
    for round_ in range(rounds * 3 + 1):
        floor = raw_hand_over(one, two)
        theirs[0].acquire()
        kazoo = handed_over(one, "/kazoo", theirs[0].release, theirs[1].acquire)
        theirs[1].release()
        lease, later = ours[0].acquire(), []
        mine = handed_over(one, "/hand/lock", lease.release, lambda later=later: later.append(ours[1].acquire()))
        later[0].release()
        if round_:
            for name, seconds in zip(times, (floor, kazoo, mine), strict=True):
                times[name].append(seconds)
    return times


def handed_over(client: Any, line: str, give_back: Callable[[], Any], wait: Callable[[], Any]) -> float:
    got: list[float] = []

    def waiting() -> None:
        wait()
        got.append(time.perf_counter())

    thread = threading.Thread(target=waiting)
    thread.start()
    while len(client.get_children(line)) < 2:
        time.sleep(0.001)
    asked = time.perf_counter()
    client.get_children(line)
    time.sleep(5 * (time.perf_counter() - asked) + 0.01)  # it has seen the line and set its watch
    began = time.perf_counter()
    give_back()
    thread.join()
    return got[0] - began


def raw_hand_over(one: Any, two: Any) -> float:
    left = threading.Event()
    node = one.create("/raw/held", ephemeral=True)
    two.get(node, watch=lambda _: left.set())
    got: list[float] = []

    def waiting() -> None:
        left.wait()
        two.set("/raw/write", b"")
        got.append(time.perf_counter())

    thread = threading.Thread(target=waiting)
    thread.start()
    time.sleep(0.02)
    began = time.perf_counter()
    one.delete(node)
    thread.join()
    return got[0] - began


def show(what: str, times: Times) -> None:
    floor, theirs, *_ = times.values()
    print(f"\n{what:<28}{'ms':>9}{'x raw':>9}{'x kazoo':>9}")
    for name, row in times.items():
        to_floor = statistics.median(a / b for a, b in zip(row, floor, strict=True))
        to_theirs = statistics.median(a / b for a, b in zip(row, theirs, strict=True))
        print(f"{name:<28}{statistics.median(row) * 1e3:>9.2f}{to_floor:>9.2f}{to_theirs:>9.2f}")


if __name__ == "__main__":
    main()
