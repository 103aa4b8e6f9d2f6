"""What a contended lock costs: N processes loop acquire, hold 1 ms, release, beside peers and a floor of the same run.

    python tests/bench/contended.py [--waiters 2 8 32] [--rounds 5] [--seconds 1.5] [--only coordkit] [--check [SLACK]]

The floor passes one element from process to process by BLPOP, over raw sockets and through redis-py: no lock, no token,
no crash safety. "Our scripts, raw sockets" sends and hears what coordkit.Lock does, and nothing else: by this protocol
no client can be quicker. Server on one core, all clients on the other. One round runs every row for some seconds, after
each process has had one turn; printed are medians of the rounds, and ratios to BLPOP through redis-py in the same
round.

    hand-off   from the call of release by one process to the return of acquire in another
    Jain       fairness of grants per process: 1 is perfectly fair
    wait       the longest wait, as a multiple of the queue's own ideal: number of processes x time per grant
    requests   what clients sent per grant (reads of the server's; each of these clients sends one at a time)

With --check the exit status is 1 if coordkit.Lock misses a target, by more than a factor of SLACK.

Peers that are not installed are left out, and named: pip install python-redis-lock pottery tooz sherlock.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import redis
from targets import Targets

import coordkit
from coordkit import _redis_packing
from coordkit._ports import Call
from coordkit.core import lock
from coordkit.testing.processes import start_redis, start_zookeeper

HOLD = 0.001
REST = 0.4  # seconds in which all who wait at the end have their last turn
FLOOR = "BLPOP, redis-py"
OURS = "coordkit.Lock"
LIMIT = "our scripts, raw sockets"
Enter = Callable[[], AbstractContextManager[Any]]


class Turn(NamedTuple):
    """One grant, on the clock that all processes share."""

    who: int
    asked: float
    granted: float
    released: float


class Row(NamedTuple):
    """What one system did in one round."""

    handoff: float
    rate: float
    jain: float
    wait: float
    requests: float


# -- the systems: each returns, in a process of its own, what `with` enters


def blpop_raw(port: int, name: str) -> Enter:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = name.encode()
    pop = b"*3\r\n$5\r\nBLPOP\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(key), key)
    push = b"*3\r\n$5\r\nRPUSH\r\n$%d\r\n%b\r\n$1\r\nx\r\n" % (len(key), key)

    @contextmanager
    def held() -> Any:
        sock.sendall(pop)
        sock.recv(256)
        yield
        sock.sendall(push)
        sock.recv(64)

    return held


def blpop(port: int, name: str) -> Enter:
    client = redis.Redis(port=port, socket_timeout=None)

    @contextmanager
    def held() -> Any:
        client.blpop([name], 0)
        yield
        client.rpush(name, "x")

    return held


def our_scripts(port: int, name: str) -> Enter:
    """Send and hear what coordkit.Lock does, and nothing else: by this protocol no client can be quicker."""
    with redis.Redis(port=port) as client:
        client.script_load(lock._ACQUIRE.source)
        client.script_load(lock._RELEASE.source)
    ask, ear = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    for sock in (ask, ear):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel, turns = f"bench:{secrets.token_hex(8)}", itertools.count()
    ear.sendall(b"SUBSCRIBE %b\r\n" % channel.encode())
    ear.recv(256)
    keys = [f"{{{name}}}:{part}".encode() for part in ("lock", "token", "queue")]

    @contextmanager
    def held() -> Any:
        holder = f"{channel}:{next(turns)}"
        entry = f"x 60000 PUBLISH {holder} {channel}"
        ask.sendall(_redis_packing.packed(Call(lock._ACQUIRE, keys, (holder, 10_000, 60_000, entry, ""))))
        if not ask.recv(512).startswith(b"*2\r\n:1"):
            while b" grant " not in ear.recv(512):
                pass  # the next, but not yet
        yield
        ask.sendall(_redis_packing.PING + _redis_packing.packed(Call(lock._RELEASE, keys, (holder, 60_000, ""))))
        said = ask.recv(512)
        while said.count(b"\r\n") < (4 if b"*" in said else 2):
            said += ask.recv(512)

    return held


def ours(port: int, name: str) -> Enter:
    return coordkit.Lock(redis.Redis(port=port), name, ttl=10).hold


def redis_py(port: int, name: str, **options: Any) -> Enter:
    theirs = redis.Redis(port=port).lock(name, timeout=10, **options)
    return lambda: theirs


def redis_py_1ms(port: int, name: str) -> Enter:
    return redis_py(port, name, sleep=0.001)


def python_redis_lock(port: int, name: str) -> Enter:
    import redis_lock

    client = redis.Redis(port=port, socket_timeout=None)
    return lambda: redis_lock.Lock(client, name, expire=10)


def pottery(port: int, name: str) -> Enter:
    from pottery import Redlock

    client = redis.Redis(port=port)
    return lambda: Redlock(key=name, masters={client}, auto_release_time=10)


def tooz(port: int, name: str) -> Enter:
    from tooz import coordination

    coordinator = coordination.get_coordinator(f"redis://127.0.0.1:{port}", secrets.token_hex(4).encode())
    coordinator.start()
    theirs = coordinator.get_lock(name.encode())
    return lambda: theirs


def kazoo(_port: int, name: str) -> Enter:
    from kazoo.client import KazooClient

    client = KazooClient(os.environ["BENCH_ZOOKEEPER"])
    client.start()
    return lambda: client.Lock(f"/{name}")


def sherlock(port: int, name: str) -> Enter:
    import sherlock as peer

    client = redis.Redis(port=port)
    return lambda: peer.RedisLock(name, client=client, expire=10, timeout=60)


SYSTEMS: dict[str, tuple[Callable[[int, str], Enter], str]] = {
    "BLPOP, raw sockets": (blpop_raw, ""),
    "BLPOP, redis-py": (blpop, ""),
    LIMIT: (our_scripts, ""),
    OURS: (ours, ""),
    "redis.lock.Lock": (redis_py, ""),
    "redis.lock.Lock, poll 1 ms": (redis_py_1ms, ""),
    "python-redis-lock": (python_redis_lock, "redis_lock"),
    "pottery": (pottery, "pottery"),
    "tooz (redis)": (tooz, "tooz"),
    "sherlock": (sherlock, "sherlock"),
    "kazoo (ZooKeeper)": (kazoo, ""),
}


def work(held: Enter, who: int, start: float, end: float) -> list[Turn]:
    turns = []
    time.sleep(max(0.0, start - time.monotonic()))
    while (asked := time.monotonic()) < end:
        with held():
            granted = time.monotonic()
            time.sleep(HOLD)
            released = time.monotonic()
        turns.append(Turn(who, asked, granted, released))
    return turns


def child(pipe: Any, make: Callable[[int, str], Enter], port: int, name: str, who: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    held = make(port, name)
    with held():  # connections are made by the first turn
        time.sleep(HOLD)
    pipe.send("ready")
    start, end = pipe.recv()
    turns = work(held, who, start, end)
    time.sleep(max(0.0, end + REST - time.monotonic()))  # to report and to end would keep those waiting who wait yet
    pipe.send(turns)
    pipe.close()


def run_round(make: Callable[[int, str], Enter], server: Any, waiters: int, seconds: float) -> Row:
    name, context = f"bench-{secrets.token_hex(4)}", multiprocessing.get_context("fork")
    with redis.Redis(port=server.port) as client:
        if make in (blpop, blpop_raw):
            client.rpush(name, "x")
        children, pipes = [], []
        for who in range(waiters):
            ours_, theirs = context.Pipe()
            children.append(context.Process(target=child, args=(theirs, make, server.port, name, who), daemon=True))
            children[-1].start()
            pipes.append(ours_)
            theirs.close()
        for pipe in pipes:
            pipe.recv()
        before = requests(client)
        start = time.monotonic() + 0.05
        for pipe in pipes:
            pipe.send((start, start + seconds))
        turns = sorted((turn for pipe in pipes for turn in pipe.recv()), key=lambda turn: turn.granted)
        for one in children:
            one.join()
        sent = requests(client) - before
        client.delete(name)
    return summary(turns, waiters, start, start + seconds, sent)


def requests(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_reads_processed"])  # commands that scripts run inside are none


def summary(turns: list[Turn], waiters: int, start: float, end: float, sent: int) -> Row:
    pairs = itertools.pairwise(turns)
    handoffs = [after.granted - turn.released for turn, after in pairs if after.who != turn.who]
    counted = [turn for turn in turns if start < turn.granted < end]
    shares = [sum(turn.who == who for turn in counted) for who in range(waiters)]
    per_grant = (end - start) / max(1, len(counted))
    return Row(
        statistics.median(handoffs) if handoffs else float("nan"),
        len(handoffs) / (end - start),
        sum(shares) ** 2 / max(1, waiters * sum(share * share for share in shares)),
        max(turn.granted - turn.asked for turn in turns) / (waiters * per_grant),
        sent / len(turns),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--waiters", type=int, nargs="+", default=[2, 8, 32])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=1.5)
    arguments.add_argument("--only", default="", help="beside the floors, only systems whose name contains this")
    targets = Targets(arguments)
    options = arguments.parse_args()
    missing = [name for name, (_, module) in SYSTEMS.items() if module and importlib.util.find_spec(module) is None]
    systems = {
        name: make
        for name, (make, _) in SYSTEMS.items()
        if name not in missing and (options.only in name or "BLPOP" in name or name == LIMIT)
    }
    with start_redis() as server, start_zookeeper() as ensemble:
        os.environ["BENCH_ZOOKEEPER"] = ensemble.hosts
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
        print(f"redis-py {redis.__version__}; {options.rounds} rounds of {options.seconds} s; not installed: {missing}")
        sent: list[float] = []
        for waiters in sorted(options.waiters):
            rows: dict[str, list[Row]] = {name: [] for name in systems}
            for _ in range(options.rounds):
                for name, make in systems.items():
                    rows[name].append(run_round(make, server, waiters, options.seconds))
            show(waiters, rows)
            if OURS in rows:
                sent.append(judge(waiters, rows, targets))
        if len(sent) > 1:
            targets.at_most("requests per grant, most waiters x fewest", sent[-1] / sent[0], 1.2)
    sys.exit(targets.status(options.check))


def judge(waiters: int, rows: dict[str, list[Row]], targets: Targets) -> float:
    """Print the targets; return the requests per grant."""
    ours = rows[OURS]
    pairs = list(zip(ours, rows[FLOOR], strict=True))
    hand_off = statistics.median(one.handoff / floor.handoff for one, floor in pairs)
    rate = statistics.median(one.rate / floor.rate for one, floor in pairs)
    targets.at_most(f"{waiters} processes, hand-off x BLPOP", hand_off, 1.5)
    targets.at_least(f"{waiters} processes, rate x BLPOP", rate, 0.9)
    targets.at_least(f"{waiters} processes, Jain", statistics.median(one.jain for one in ours), 0.99)
    targets.at_most(f"{waiters} processes, longest wait", statistics.median(one.wait for one in ours), 2)
    sent = statistics.median(one.requests for one in ours)
    targets.at_most(f"{waiters} processes, requests", sent, 4)
    return sent


def show(waiters: int, rows: dict[str, list[Row]]) -> None:
    heads = ("us", 9), ("hand-off x", 12), ("rate x", 9), ("Jain", 8), ("wait", 7), ("requests", 10)
    print(f"\n{f'{waiters} processes':<28}" + "".join(f"{head:>{width}}" for head, width in heads))
    for name, row in rows.items():
        pairs = list(zip(row, rows[FLOOR], strict=True))
        print(
            f"{name:<28}{statistics.median(one.handoff for one in row) * 1e6:>9.0f}"
            f"{statistics.median(one.handoff / floor.handoff for one, floor in pairs):>12.2f}"
            f"{statistics.median(one.rate / floor.rate for one, floor in pairs):>9.2f}"
            f"{statistics.median(one.jain for one in row):>8.3f}"
            f"{statistics.median(one.wait for one in row):>7.1f}"
            f"{statistics.median(one.requests for one in row):>10.1f}"
        )


if __name__ == "__main__":
    main()
