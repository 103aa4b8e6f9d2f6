"""What an election costs, beside kazoo's and tooz's and floors of raw kazoo calls, in the same interleaved run.

    python tests/bench/election.py [--rounds 15] [--only lead hand-over crash herd] [--check [SLACK]]

Printed are medians, and ratios to the floor of the same round. Server and clients share the machine; the floors do so
too. The floors are the least that the protocol can do, by kazoo's own calls, one after the other, over a client that
coordkit never sees: on a client that it uses, kazoo waits by poll, sends together what is asked at once, and tells
answers and watches without a thread in between, so kazoo's own calls are faster there as well.

    lead        uncontended, on a path that exists: until the block is entered. Floor: create, then multi. The parts say
                what it is made of: coordkit also lists the line, along with the creation ("what coordkit asks for");
                less than that is what it saves in kazoo, more is its own work. Two reads are two round trips in which
                the server has nothing to do: kazoo's client itself. On loopback that is most of the floor, so who
                leads more often than that must use fewer round trips, and the protocol has no fewer: one to stand, one
                to take over. Under asyncio each answer is carried to the loop besides: its part is the last row.
    hand-over   from the resigner's call to the successor's entry. Floor: a delete that a watch tells, then a set. The
                row below it has the transactions that coordkit's promises need: who leaves says so in the record, and
                who takes over proves that it is there.
    crash       from SIGKILL of the leader to the successor's entry, in session timeouts. Floor: the watch of a znode of
                the same session. One process holds all three, so they end at the same moment.
    herd        what a hand-over costs the server: requests, and messages that nobody asked for (watches that fire);
                50 contenders over 10 sessions, and 1,000 over 20.

tooz elects by polling its lock, so its lock is shown. It is left out where it is not installed: pip install tooz.
With --check the exit status is 1 if a target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import logging
import multiprocessing
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from kazoo.client import KazooClient
from targets import Targets

import coordkit
import coordkit.aio
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ask

Enter = Callable[[], AbstractContextManager[Any]]
RECORD = b"x" * 150  # about as long as an epoch record
TICK = 0.2  # seconds, of the server that is started here
PUSHES = 2.2  # who leads watches its own znode, and hears of its end; the other push is the wake-up of the next


def connect(hosts: str, timeout: float = 10.0) -> Any:
    client = KazooClient(hosts, timeout=timeout)
    client.start(30)
    return client


# -- the systems: each returns, for one client and one path, what `with` enters


def ours(client: Any, path: str) -> Enter:
    election = coordkit.Election(client, path, identity="bench")
    return election.lead


def kazoo_lock(client: Any, path: str) -> Enter:
    return lambda: client.Lock(path, "bench")


def tooz_lock(client: Any, path: str) -> Enter:
    from tooz import coordination

    hosts = ",".join(f"{host}:{port}" for host, port in client.hosts)
    coordinator = coordination.get_coordinator(f"kazoo://{hosts}?timeout=10", secrets.token_hex(4).encode())
    coordinator.start(start_heart=True)
    lock = coordinator.get_lock(path.strip("/").encode())
    return lambda: lock


SYSTEMS: dict[str, Callable[[Any, str], Enter]] = {"coordkit.Election": ours, "kazoo.Lock (its Election's)": kazoo_lock}
if importlib.util.find_spec("tooz") is not None:
    SYSTEMS["tooz, lock"] = tooz_lock


def entered(enter: Enter) -> float:
    began = time.perf_counter()
    with enter():
        return time.perf_counter() - began


# -- uncontended


def two_round_trips(client: Any, path: str) -> Callable[[], float]:
    client.ensure_path(f"{path}/candidates")
    client.create(f"{path}/epoch")

    def once() -> float:
        began = time.perf_counter()
        node = client.create(f"{path}/candidates/c-", b"bench", ephemeral=True, sequence=True)
        transaction = client.transaction()
        transaction.check(node, -1)
        transaction.set_data(f"{path}/epoch", RECORD)
        transaction.commit()
        spent = time.perf_counter() - began
        client.delete(node)
        return spent

    return once


def same_requests(client: Any, path: str) -> Callable[[], float]:
    """What coordkit asks for, by kazoo's own calls: it must also see whether it is the first in the line."""
    client.ensure_path(f"{path}/candidates")
    client.create(f"{path}/epoch")

    def once() -> float:
        began = time.perf_counter()
        created = client.create_async(f"{path}/candidates/c-", b"bench", ephemeral=True, sequence=True)
        listed = client.get_children_async(f"{path}/candidates", include_data=True)
        listed.get()
        node = created.get()
        transaction = client.transaction()
        transaction.check(node, -1)
        transaction.check(f"{path}/candidates", 0)
        transaction.set_data(f"{path}/epoch", RECORD)
        transaction.commit()
        spent = time.perf_counter() - began
        client.delete(node)
        return spent

    return once


def two_reads(client: Any) -> float:
    began = time.perf_counter()
    client.exists("/")
    client.exists("/")
    return time.perf_counter() - began


class Relay:
    """Another thread, to which something is handed and which hands it back: what changing threads costs."""

    def __init__(self) -> None:
        self._there, self._back = threading.Lock(), threading.Lock()
        self._there.acquire()
        self._back.acquire()
        self._hand_back: Callable[[], object] = self._back.release
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._there.acquire()
            self._hand_back()

    def twice(self) -> float:
        began = time.perf_counter()
        for _ in range(2):
            self._there.release()
            self._back.acquire()
        return time.perf_counter() - began

    async def twice_from_a_loop(self) -> float:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        for _ in range(2):
            future = loop.create_future()
            self._hand_back = partial(loop.call_soon_threadsafe, future.set_result, None)
            self._there.release()
            await future
        return time.perf_counter() - began


def lead(hosts: str, title: str, rounds: int, times: int) -> float:
    raw, runs = connect(hosts), {}  # a client that coordkit never sees: it makes kazoo faster
    runs["floor: create, then multi"] = two_round_trips(raw, f"/{secrets.token_hex(4)}")
    clients = [raw]
    for name, make in SYSTEMS.items():
        clients.append(connect(hosts))
        enter = make(clients[-1], f"/{secrets.token_hex(4)}")
        runs[name] = lambda enter=enter: entered(enter)
    runs["part: what coordkit asks for, by raw kazoo"] = same_requests(raw, f"/{secrets.token_hex(4)}")
    runs["part: the floor over coordkit's client"] = two_round_trips(clients[1], f"/{secrets.token_hex(4)}")
    runs["part: two reads by raw kazoo"] = lambda: two_reads(raw)
    runs["part: twice to another thread and back"] = Relay().twice
    ratios = table(f"lead, {title}", runs, rounds, times, warm=times * 3)
    for client in clients:
        client.stop()
        client.close()
    return ratios["coordkit.Election"]


def lead_asyncio(hosts: str, title: str, rounds: int, times: int) -> float:
    """The same under asyncio, where each answer is carried from kazoo's thread to the loop."""
    client, raw = connect(hosts), connect(hosts)

    async def main() -> float:
        election = coordkit.aio.Election(client, f"/{secrets.token_hex(4)}", identity="bench")
        floor = two_round_trips(raw, f"/{secrets.token_hex(4)}")

        async def once() -> float:
            began = time.perf_counter()
            async with election:
                return time.perf_counter() - began

        relay = Relay()
        for _ in range(times * 3):
            await once()
            floor()
        rows: list[tuple[float, float]] = []
        for _ in range(rounds):
            mine = statistics.median([await once() for _ in range(times)])
            least = statistics.median([floor() for _ in range(times)])
            carried = statistics.median([await relay.twice_from_a_loop() for _ in range(times)])
            rows.append((mine / least, carried / least))
        names = f"coordkit.aio.Election, {title}", "part: twice from a loop to a thread and back"
        for name, row in zip(names, zip(*rows, strict=True), strict=True):
            print(f"{name:<44}{'':>10}{statistics.median(row):>10.2f}")
        return statistics.median(mine for mine, _ in rows)

    ratio = asyncio.run(main())
    for each in (client, raw):
        each.stop()
        each.close()
    return ratio


def table(title: str, runs: dict[str, Callable[[], float]], rounds: int, times: int, warm: int = 0) -> dict[str, float]:
    """Print the medians, and return the ratios to the floor by name."""
    for run in runs.values():
        for _ in range(warm):
            run()
    rows: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rows[name].append(statistics.median(run() for _ in range(times)))
    floor = next(iter(rows.values()))
    print(f"\n{title:<44}{'us':>10}{'x floor':>10}")
    ratios: dict[str, float] = {}
    for name, row in rows.items():
        ratios[name] = statistics.median(one / least for one, least in zip(row, floor, strict=True))
        print(f"{name:<44}{statistics.median(row) * 1e6:>10.0f}{ratios[name]:>10.2f}")
    return ratios


# -- hand-over

FLOOR = "floor: delete, watch, then set"
SAME = "the same in transactions, with a record"


def transact(client: Any, *steps: tuple[Any, ...]) -> None:
    transaction = client.transaction()
    for name, *arguments in steps:
        getattr(transaction, name)(*arguments)
    transaction.commit()


def waiter(pipe: Any, hosts: str, paths: dict[str, str]) -> None:
    """In a process of its own, as a successor is: wait in line when told, and say when it was entered."""
    client, *clients = [connect(hosts) for _ in paths]  # one that coordkit never sees, and one for each system
    systems = [name for name in paths if name in SYSTEMS]
    enters = {name: SYSTEMS[name](own, paths[name]) for name, own in zip(systems, clients, strict=False)}
    while name := pipe.recv():
        if name in (FLOOR, SAME):
            gone, path = threading.Event(), paths[name]
            client.get(f"{path}/watched", watch=lambda _, gone=gone: gone.set())
            pipe.send("waits")
            gone.wait()
            if name == FLOOR:
                client.set(path, RECORD)
            else:
                transact(client, ("check", "/", -1), ("check", path, -1), ("set_data", path, RECORD))
            pipe.send(time.monotonic())
        else:
            pipe.send("waits")
            with enters[name]():
                at = time.monotonic()
            pipe.send(at)
    for each in (client, *clients):
        each.stop()
        each.close()


def hand_over(hosts: str, title: str, rounds: int, times: int) -> float:
    one, direct, *clients = [connect(hosts) for _ in range(2 + len(SYSTEMS))]
    paths = {name: f"/{secrets.token_hex(4)}" for name in (FLOOR, SAME, *SYSTEMS)}
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    other = context.Process(target=waiter, args=(theirs, hosts, paths))
    other.start()
    for name in (FLOOR, SAME):
        direct.ensure_path(paths[name])

    @contextmanager
    def watched(name: str) -> Iterator[None]:
        node = f"{paths[name]}/watched"
        one.create(node, ephemeral=True)
        yield
        if name == FLOOR:
            one.delete(node)
        else:
            transact(one, ("delete", node), ("set_data", paths[name], RECORD))

    def handed_over(name: str, enter: Enter, line: str) -> float:
        with enter():
            pipe.send(name)
            pipe.recv()
            while line and len(direct.get_children(line)) < 2:
                time.sleep(0.001)
            time.sleep(0.15)  # it has set its watch
            began = time.monotonic()
        at: float = pipe.recv()
        return at - began

    lines = {"coordkit.Election": "/candidates", "kazoo.Lock (its Election's)": ""}
    runs: dict[str, Callable[[], float]] = {
        name: partial(handed_over, name, partial(watched, name), "") for name in (FLOOR, SAME)
    }
    for (name, make), own in zip(SYSTEMS.items(), clients, strict=True):
        enter = make(own, paths[name])
        line = paths[name] + lines[name] if name in lines else ""
        entered(enter)
        runs[name] = lambda name=name, enter=enter, line=line: handed_over(name, enter, line)
    ratios = table(f"hand-over, {title}", runs, rounds, times, warm=3)
    pipe.send("")
    other.join()
    for client in (one, direct, *clients):
        client.stop()
        client.close()
    return ratios["coordkit.Election"]


# -- crash


def holds_all(pipe: Any, hosts: str, timeout: float, path: str) -> None:
    client = connect(hosts, timeout)
    client.create(f"{path}/raw", ephemeral=True, makepath=True)
    with coordkit.Election(client, f"{path}/ours", identity="crash"), client.Lock(f"{path}/kazoo"):
        pipe.send("holds")
        pipe.recv()


def crash(hosts: str, rounds: int, timeout: float = 2.0) -> float:
    """Return how many seconds after the servers' own expiry another led."""
    context = multiprocessing.get_context("spawn")
    clients = [connect(hosts) for _ in range(3)]
    rows: dict[str, list[float]] = {"floor: the watch": [], "coordkit.Election": [], "kazoo.Lock": []}
    for _ in range(rounds):
        path = f"/{secrets.token_hex(4)}"
        pipe, theirs = context.Pipe()
        leader = context.Process(target=holds_all, args=(theirs, hosts, timeout, path))
        leader.start()
        pipe.recv()
        seen: dict[str, float] = {}

        def lead_ours(path: str = path, seen: dict[str, float] = seen) -> None:
            with coordkit.Election(clients[1], f"{path}/ours", identity="next"):
                seen["coordkit.Election"] = time.perf_counter()

        def lead_kazoo(path: str = path, seen: dict[str, float] = seen) -> None:
            with clients[2].Lock(f"{path}/kazoo"):
                seen["kazoo.Lock"] = time.perf_counter()

        gone = threading.Event()

        def watch(_: Any, seen: dict[str, float] = seen, gone: threading.Event = gone) -> None:
            seen["floor: the watch"] = time.perf_counter()
            gone.set()

        threads = [threading.Thread(target=work) for work in (lead_ours, lead_kazoo)]
        for thread in threads:
            thread.start()
        clients[0].get(f"{path}/raw", watch=watch)
        time.sleep(0.3 + 0.1 * secrets.randbelow(8))  # at any moment between two of its pings
        began = time.perf_counter()
        leader.kill()
        for thread in threads:
            thread.join()
        gone.wait()
        leader.join()
        for name, at in seen.items():
            rows[name].append(at - began)
    print(f"\n{f'after a crash, session timeout {timeout} s':<44}{'timeouts':>10}{'after it':>10}")
    late: dict[str, float] = {}
    for name, row in rows.items():
        late[name] = statistics.median(one - least for one, least in zip(row, rows["floor: the watch"], strict=True))
        print(f"{name:<44}{statistics.median(row) / timeout:>10.2f}{late[name] * 1e3:>7.1f} ms")
    for client in clients:
        client.stop()
        client.close()
    return late["coordkit.Election"]


# -- the herd


@contextmanager
def counted(server: Any) -> Iterator[list[float]]:
    """Count what the server received and what it sent beyond answers, in the block; pings are in both."""

    def packets() -> tuple[int, int]:
        told = dict(
            line.split("\t") for line in ask(server.host, server.port, b"mntr").decode().splitlines() if "\t" in line
        )
        return int(told["zk_packets_received"]), int(told["zk_packets_sent"])

    counts: list[float] = []
    received, sent = packets()
    yield counts
    received_after, sent_after = packets()
    counts += [received_after - received, (sent_after - sent) - (received_after - received)]


def herd_ours(server: Any, clients: list[Any], contenders: int) -> tuple[float, float, float]:
    """Have all stand, then each lead once, in turn; count from the moment in which all stand."""

    async def main() -> tuple[float, float, float]:
        path, order, tokens = f"/{secrets.token_hex(4)}", [], []
        elections = [coordkit.aio.Election(each, path, identity="x") for each in clients]
        gate = coordkit.aio.Election(clients[0], path, identity="gate")

        async def contend(number: int) -> None:
            async with elections[number % len(clients)] as leadership:
                order.append(number)
                tokens.append(int(leadership.token))

        async with gate:
            tasks = []
            for number in range(contenders):
                tasks.append(asyncio.create_task(contend(number)))
                if number % 50 == 49:
                    while (await gate_count(gate)) < number + 2:  # noqa: ASYNC110  a server's state is polled
                        await asyncio.sleep(0.02)
            while (await gate_count(gate)) < contenders + 1:  # noqa: ASYNC110  a server's state is polled
                await asyncio.sleep(0.02)
            await asyncio.sleep(1.0)
            began, counts = time.perf_counter(), counted(server)
            counter = counts.__enter__()
        await asyncio.gather(*tasks)
        counts.__exit__(None, None, None)
        spent = time.perf_counter() - began
        assert tokens == sorted(set(tokens))
        assert len(order) == contenders
        return counter[0] / contenders, counter[1] / contenders, spent / contenders

    async def gate_count(gate: Any) -> int:
        names = await asyncio.to_thread(clients[0].get_children, f"{gate.path}/candidates")
        return len(names)

    return asyncio.run(main())


def herd_kazoo(server: Any, clients: list[Any], contenders: int) -> tuple[float, float, float]:
    path, order = f"/{secrets.token_hex(4)}", []

    def contend(number: int) -> None:
        with clients[number % len(clients)].Lock(path, "x"):
            order.append(number)

    gate = clients[0].Lock(path, "gate")
    with gate:
        threads = [threading.Thread(target=contend, args=(number,)) for number in range(contenders)]
        for thread in threads:
            thread.start()
        while len(clients[0].get_children(path)) < contenders + 1:
            time.sleep(0.02)
        time.sleep(1.0)
        began, counts = time.perf_counter(), counted(server)
        counter = counts.__enter__()
    for thread in threads:
        thread.join()
    counts.__exit__(None, None, None)
    spent = time.perf_counter() - began
    assert len(order) == contenders
    return counter[0] / contenders, counter[1] / contenders, spent / contenders


def herd(server: Any, hosts: str, targets: Targets) -> None:
    print(f"\n{'per hand-over':<44}{'requests':>10}{'pushes':>10}{'ms':>8}")
    for contenders, sessions in ((50, 10), (1000, 20)):
        clients = [connect(hosts) for _ in range(sessions)]
        systems = {"coordkit.aio.Election": herd_ours, **({"kazoo.Lock": herd_kazoo} if contenders <= 100 else {})}
        for name, run in systems.items():
            requests, pushes, spent = run(server, clients, contenders)
            title = f"{name}, {contenders} over {sessions} sessions"
            print(f"{title:<44}{requests:>10.2f}{pushes:>10.2f}{spent * 1e3:>8.2f}")
            if run is herd_ours:
                targets.at_most(f"pushes per hand-over, {contenders} contenders", pushes, PUSHES)
        for client in clients:
            client.stop()
            client.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--only", nargs="+", default=["lead", "hand-over", "crash", "herd"])
    targets = Targets(arguments)
    options = arguments.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if len(SYSTEMS) < 3:
        print("not installed: tooz")
    with start_zookeeper() as ensemble:
        server = ensemble.nodes[0]
        with FaultProxy(server.host, server.port) as proxy:
            proxy.latency = 0.02
            ways = [(ensemble.hosts, "loopback", 40), (proxy.address, "round trip 40 ms", 2)]
            for (hosts, title, times), part in itertools.product(ways, options.only):
                rounds = options.rounds if "loopback" in title else max(1, options.rounds // 3)
                if part == "lead":
                    ratio = lead(hosts, title, rounds, times)
                    targets.at_most(f"lead, {title}, x two round trips", ratio, 1.2)
                    ratio = lead_asyncio(hosts, title, rounds, times)
                    if "loopback" not in title:  # there it is the loop's and kazoo's threads, see above
                        targets.at_most(f"lead, asyncio, {title}, x two round trips", ratio, 1.2)
                elif part == "hand-over":
                    ratio = hand_over(hosts, title, rounds, max(1, times // 10))
                    targets.at_most(f"hand-over, {title}, x a push and a write", ratio, 1.3)
        if "crash" in options.only:
            late = crash(ensemble.hosts, max(3, options.rounds // 2))
            targets.at_most("seconds after the servers ended the session of a crashed leader", late, TICK)
        if "herd" in options.only:
            herd(server, ensemble.hosts, targets)
    sys.exit(targets.status(options.check))


if __name__ == "__main__":
    main()
