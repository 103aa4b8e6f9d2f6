"""What membership costs: a snapshot, a join that is watched, and a crowd, beside peers and a floor of the same run.

    python tests/bench/group.py [--rounds 3] [--members 50] [--watchers 100] [--crowd 1000]
        [--crowd-watchers 100] [--peer-watchers 10] [--limit 120] [--delay 0.04] [--only crowd] [--check [SLACK]]

    snapshot   all members with their data, in round trips: every client sits behind a proxy that makes one take --delay
               seconds, and the floor is one ``get`` of raw kazoo
    seen       from the return of a join, made without delay, until the last of the watchers has it with its data, in
               round trips: half a one is the push itself
    crowd      from the first of many joins, over 20 sessions, until the last of the watchers has seen them all, as a
               multiple of the floor: the same znodes made by pipelined ``create``, watched by nobody. Its parts are
               shown by rows with no watcher (what joining costs: a transaction and a watch of its own for each member),
               with one for each of ten watching clients (what it costs to tell ten clients of each join, and to read
               it there), and with all of them (what the streams of one client that share its roll cost beyond that).
               Peers read each member once for each watcher, so they have --peer-watchers only; what takes longer than
               --limit seconds is infinite

Printed are medians of the rounds; each round measures all rows. kazoo's own watchers know names only, so its row reads
the data of who is new by ``get``. tooz has no watches, and a snapshot of names that asks for each member's data. It is
left out, and that is said, where it is not installed: pip install tooz. With --check the exit status is 1 if a target
is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import math
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kazoo.client import KazooClient
from targets import Targets

import coordkit
import coordkit.aio
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.proxy import FaultProxy

_numbers = itertools.count()
_run = secrets.token_hex(4)
Row = tuple[str, str, float]

MOST = {"snapshot": 3.0, "seen": 2.0}
"""Round trips. A join is seen by the push, which is half a one, and one more; what is above that is work."""


class Over(Exception):
    """The end of a block whose leaving is not waited for."""


def path() -> str:
    return f"/bench-{_run}-{next(_numbers)}"


@contextmanager
def client(hosts: str) -> Iterator[Any]:
    zk = KazooClient(hosts=hosts, timeout=60.0)
    zk.start(60)
    try:
        yield zk
    finally:
        zk.stop()
        zk.close()


def some(clients: list[Any], count: int) -> list[Any]:
    """Return so many clients, each as often as the others."""
    return list(itertools.islice(itertools.cycle(clients), count))


def took(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


# -- one member after the other, all at once


def snapshots(near: Any, far: Any, hosts: str, members: int) -> Iterator[Row]:
    group = path()
    near.ensure_path(group)
    for i in range(members):
        near.create(f"{group}/m{i}", b"10.0.0.%d:80" % i, ephemeral=True)
    trip = statistics.median(took(lambda: far.get(f"{group}/m0")) for _ in range(5))
    watched = coordkit.Group(far, group)
    assert len(watched.members()) == members
    yield "snapshot", "coordkit", statistics.median(took(watched.members) for _ in range(5)) / trip

    async def awaited() -> float:
        there = coordkit.aio.Group(far, group)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            assert len(await there.members()) == members
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    yield "snapshot", "coordkit.aio", asyncio.run(awaited()) / trip
    theirs = path()
    near.ensure_path(theirs)
    for i in range(members):
        near.create(f"{theirs}/{i:032x}__party__", b"10.0.0.%d:80" % i, ephemeral=True)
    party = far.Party(theirs, "bench")
    assert len(list(party)) == members
    yield "snapshot", "kazoo Party", took(lambda: list(party)) / trip
    if importlib.util.find_spec("tooz") is not None:
        yield "snapshot", "tooz", tooz_snapshot(near, far, hosts, members) / trip


def tooz_snapshot(near: Any, far: Any, hosts: str, members: int) -> float:
    from tooz import coordination

    name = path()[1:].encode()
    there = coordination.get_coordinator(f"zookeeper://{hosts}", b"bench")
    there.start()
    try:
        there.create_group(name).get()
        for i in range(members):
            near.create(f"/tooz/{name.decode()}/m{i}", b"\xa1x", ephemeral=True)  # a text in msgpack
        there._coord, own = far, there._coord  # the same slow client as everybody's
        try:
            names = there.get_members
            return took(lambda: [there.get_member_capabilities(name, each).get() for each in names(name).get()])
        finally:
            there._coord = own
    finally:
        there.stop()


# -- a join that is watched


def seen(near: Any, fars: list[Any], watchers: int, trip: float) -> Iterator[Row]:
    group = path()
    with coordkit.Group(near, group).join("first", data=b"1"):

        async def awaited() -> float:
            streams = [coordkit.aio.Group(zk, group).watch() for zk in some(fars, watchers)]
            for stream in streams:
                assert (await anext(stream)).members == {"first": b"1"}
            async with coordkit.aio.Group(near, group).join("second", data=b"2"):
                began = time.perf_counter()
                for change in await asyncio.gather(*(anext(stream) for stream in streams)):
                    assert change.members["second"] == b"2"
                return time.perf_counter() - began

        yield "seen", "coordkit.aio", asyncio.run(awaited()) / trip

    group = path()
    near.ensure_path(group)
    all_seen, left, mutex = threading.Event(), [watchers], threading.Lock()

    def watch(zk: Any) -> None:
        known: set[str] = set()

        def changed(names: list[str]) -> None:
            for name in set(names) - known:
                known.add(name)
                assert zk.get(f"{group}/{name}")[0] == b"second"
                with mutex:
                    left[0] -= 1
                    if not left[0]:
                        all_seen.set()

        zk.ChildrenWatch(group, changed)

    for zk in some(fars, watchers):
        watch(zk)
    near.Party(group, "second").join()
    began = time.perf_counter()
    assert all_seen.wait(60)
    yield "seen", "kazoo ChildrenWatch + get", (time.perf_counter() - began) / trip


# -- a crowd


def follow_by_kazoo(zk: Any, group: str, size: int, full: threading.Event) -> None:
    """Keep the data of all members, as coordkit's streams do: read who is new."""
    known: dict[str, bytes] = {}

    def changed(names: list[str]) -> None:
        for name in set(names) - known.keys():
            known[name] = zk.get(f"{group}/{name}")[0]
        if len(known) == size:
            full.set()

    zk.ChildrenWatch(group, changed)


async def seen_by(clients: list[Any], watching: list[Any], size: int, watchers: int, limit: float) -> float:
    """Return the seconds until so many have joined and so many have seen them all; infinity after ``limit``."""
    there, left = path(), size
    over, complete = asyncio.Event(), asyncio.Event()
    streams = [coordkit.aio.Group(zk, there).watch() for zk in some(watching, watchers)]
    await asyncio.gather(*(anext(stream) for stream in streams))

    async def follow(stream: Any) -> None:
        async for change in stream:
            if len(change.members) == size:
                assert change.members[f"m{size - 1}"] == b"%d" % (size - 1)
                return

    async def member(i: int) -> None:
        nonlocal left
        async with coordkit.aio.Group(clients[i % len(clients)], there).join(f"m{i}", data=b"%d" % i):
            left -= 1
            if not left:
                complete.set()
            await over.wait()
            raise Over  # leaving takes longer than a second where a thousand do: that is not what is measured

    began = time.perf_counter()
    joining = [asyncio.create_task(member(i)) for i in range(size)]
    try:
        await asyncio.wait_for(asyncio.gather(complete.wait(), *(follow(stream) for stream in streams)), limit)
        return time.perf_counter() - began
    except asyncio.TimeoutError:
        return float("inf")
    finally:
        for stream in streams:
            stream.close()
        over.set()
        await asyncio.gather(*joining, return_exceptions=True)


def crowd(clients: list[Any], watching: list[Any], raw: list[Any], options: argparse.Namespace) -> Iterator[Row]:
    size, limit, group = options.crowd, options.limit, path()
    joining, following = raw[:20], raw[20:]
    raw[0].ensure_path(group)

    def create() -> None:
        made = [joining[i % 20].create_async(f"{group}/m{i}", b"%d" % i, ephemeral=True) for i in range(size)]
        for each in made:
            each.get(timeout=limit)

    floor = took(create)
    for i in range(size):
        joining[i % 20].delete_async(f"{group}/m{i}")
    for watchers in (0, len(watching), options.crowd_watchers):
        passed = asyncio.run(seen_by(clients, watching, size, watchers, limit))
        yield "crowd", f"coordkit.aio, {watchers} watchers", passed / floor

    there, full = path(), [threading.Event() for _ in range(options.peer_watchers)]
    raw[0].ensure_path(there)
    for zk, event in zip(some(following, options.peer_watchers), full, strict=True):
        follow_by_kazoo(zk, there, size, event)
    parties = [joining[i % 20].Party(there, f"m{i}") for i in range(size)]

    def join(first: int) -> None:
        for party in parties[first::20]:
            party.join()

    began = time.perf_counter()
    threads = [threading.Thread(target=join, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    seen_all = all(event.wait(max(0.0, began + limit - time.perf_counter())) for event in full)
    passed = time.perf_counter() - began if seen_all else float("inf")
    yield "crowd", f"kazoo Party, {options.peer_watchers} watch + get", passed / floor
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--watchers", type=int, default=100)
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--crowd-watchers", type=int, default=100)
    parser.add_argument("--peer-watchers", type=int, default=10)
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--only", nargs="+", default=["one by one", "crowd"])
    parser.add_argument("--delay", type=float, default=0.04)
    targets = Targets(parser)
    options = parser.parse_args()
    rows: dict[tuple[str, str], list[float]] = {}
    with start_zookeeper() as ensemble, ExitStack() as stack:
        node = ensemble.nodes[0]
        proxy = stack.enter_context(FaultProxy(node.host, node.port))
        clients = [stack.enter_context(client(ensemble.hosts)) for _ in range(20)]
        fars = [stack.enter_context(client(proxy.address)) for _ in range(10)]
        watching = [stack.enter_context(client(ensemble.hosts)) for _ in range(10)]
        # Clients that coordkit never sees, for the floor and for peers: it makes the kazoo that it uses faster.
        raw = [stack.enter_context(client(ensemble.hosts)) for _ in range(30)]
        for _ in range(options.rounds):
            measured: list[Row] = []
            if "one by one" in options.only:
                proxy.latency = options.delay / 2
                trip = statistics.median(took(lambda: fars[0].exists("/")) for _ in range(5))
                measured += snapshots(clients[0], fars[0], ensemble.hosts, options.members)
                measured += seen(clients[0], fars, options.watchers, trip)
                proxy.latency = 0.0
            if "crowd" in options.only:
                measured += crowd(clients, watching, raw, options)
            for what, who, ratio in measured:
                rows.setdefault((what, who), []).append(ratio)
    unit = {"snapshot": "round trips", "seen": "round trips", "crowd": "times the floor"}
    for (what, who), ratios in rows.items():
        print(f"{what:9} {who:28} {statistics.median(ratios):7.2f} {unit[what]}")
    for (what, who), ratios in rows.items():
        if not who.startswith("coordkit"):
            continue
        if what in MOST:
            targets.at_most(f"{what}, {who}: round trips", statistics.median(ratios), MOST[what])
        else:
            targets.at_least(f"rounds in which all saw a {what}, {who}", sum(map(math.isfinite, ratios)), len(ratios))
    if importlib.util.find_spec("tooz") is None:
        print("tooz is not installed: left out")
    sys.exit(targets.status(options.check))


if __name__ == "__main__":
    main()
