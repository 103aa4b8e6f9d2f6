"""How long is there no leader when one goes?  By the way it goes, as a share of the session timeout, beside kazoo.

    python tests/bench/failover.py [--timeout 4] [--rounds 5] [--check [SLACK]]

One process leads, another waits in line; the first ends in one of the ways below, and the clock runs from there until
the second leads. Each round starts a new process for each row. kazoo's leader and successor use its own Lock, which its
Election is made of. The session timeout is what a crash costs without more: 100 % of it at most, plus one tick.
With --check the exit status is 1 if a target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import kazoo.version
from kazoo.client import KazooClient
from targets import Targets

import coordkit
from coordkit.testing.processes import start_zookeeper

HANG = 1.0
LIMIT = 0.03  # of the session timeout
TICK = 0.2  # seconds, of the server that is started here

LEADS = """
import asyncio, contextlib, sys, time
from kazoo.client import KazooClient
kind, around, hosts, path, timeout = sys.argv[1:6]
zk = KazooClient(hosts, timeout=float(timeout))
zk.start(20)

def says():
    print("leads", flush=True)

if kind == "kazoo":
    lock = zk.Lock(path)
    lock.acquire()
    says()
    if sys.stdin.readline() == "leave\\n":
        lock.release()
        says()
        sys.stdin.readline()
elif kind == "blocking":
    from coordkit import Election, Guardian, SessionScope
    scope = {"guardian": lambda: Guardian(zk, hang=HANG), "scope": lambda: SessionScope(zk)}
    with scope.get(around, contextlib.nullcontext)():
        block = Election(zk, path, identity="first").lead()
        block.__enter__()
        says()
        if sys.stdin.readline() == "leave\\n":
            block.__exit__(None, None, None)
            says()
            sys.stdin.readline()
else:
    from coordkit.aio import Election, Guardian, SessionScope
    scope = {"guardian": lambda: Guardian(zk, hang=HANG), "scope": lambda: SessionScope(zk)}
    async def main():
        async with scope.get(around, contextlib.nullcontext)():
            block = Election(zk, path, identity="first").lead()
            await block.__aenter__()
            says()
            line = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(0, lambda: line.done() or line.set_result(sys.stdin.readline()))
            if await line == "leave\\n":
                await block.__aexit__(None, None, None)
                says()
                asyncio.get_running_loop().remove_reader(0)
                sys.stdin.readline()
    asyncio.run(main())
""".replace("HANG", str(HANG))


class Row(NamedTuple):
    """One way to go: what is around the leader, and what is done to it (a signal, or a line that it is told)."""

    way: str
    kind: str
    around: str
    done: signal.Signals | str


def rows() -> list[Row]:
    of_both = [
        ("leaves its block", "", "leave\n"),
        ("the interpreter ends", "", "\n"),
        ("SIGTERM in a SessionScope", "scope", signal.SIGTERM),
        ("SIGKILL, with a Guardian", "guardian", signal.SIGKILL),
        (f"hangs (SIGSTOP), Guardian(hang={HANG:g})", "guardian", signal.SIGSTOP),
        ("SIGKILL, without a Guardian", "", signal.SIGKILL),
    ]
    ours = [Row(way, kind, around, done) for way, around, done in of_both for kind in ("blocking", "asyncio")]
    theirs = [
        Row("releases its lock", "kazoo", "", "leave\n"),
        Row("the interpreter ends", "kazoo", "", "\n"),
        Row("SIGTERM", "kazoo", "", signal.SIGTERM),
        Row("SIGKILL", "kazoo", "", signal.SIGKILL),
    ]
    return ours + theirs


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--timeout", type=float, default=4.0)
    arguments.add_argument("--rounds", type=int, default=5)
    targets = Targets(arguments)
    options = arguments.parse_args()
    with start_zookeeper() as ensemble:
        zk = KazooClient(ensemble.hosts, timeout=options.timeout)
        zk.start(20)
        print(
            f"kazoo {kazoo.version.__version__}, session timeout {options.timeout:g} s, {options.rounds} rounds: "
            "median and worst, in percent of the session timeout"
        )
        for row in rows():
            shares = [
                100 * gap(zk, ensemble.hosts, row, options.timeout) / options.timeout for _ in range(options.rounds)
            ]
            print(f"{row.kind:<9} {row.way:<36} {statistics.median(shares):7.2f} %  {max(shares):7.2f} %", flush=True)
            if row.kind != "kazoo" and row.done is signal.SIGKILL:
                most = LIMIT if row.around == "guardian" else 1 + TICK / options.timeout
                targets.at_most(f"{row.kind}, {row.way}: session timeouts", statistics.median(shares) / 100, most)
        zk.stop()
        zk.close()
    sys.exit(targets.status(options.check))


def gap(zk: Any, hosts: str, row: Row, timeout: float) -> float:
    """Return the seconds between one leader's end and the next one's beginning."""
    path = f"/failover/{os.urandom(8).hex()}"
    environment = {**os.environ, "PYTHONPATH": str(Path(coordkit.__file__).parents[1])}
    command = [sys.executable, "-c", LEADS, row.kind, row.around, hosts, path, str(timeout)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
        env=environment,
    ) as leading:
        try:
            assert leading.stdin is not None  # for the type checker
            assert leading.stdout is not None
            assert leading.stdout.readline() == "leads\n"
            led: list[float] = []
            successor = threading.Thread(target=lead, args=(zk, row.kind, path, led))
            successor.start()
            place = path if row.kind == "kazoo" else f"{path}/candidates"
            while len(zk.get_children(place)) < 2:
                time.sleep(0.01)
            time.sleep(0.2)  # the one in line has seen who is before it, and watches
            began = time.monotonic()
            if isinstance(row.done, str):
                leading.stdin.write(row.done)
            else:
                leading.send_signal(row.done)
            successor.join()
            return led[0] - began
        finally:
            leading.kill()


def lead(zk: Any, kind: str, path: str, led: list[float]) -> None:
    if kind == "kazoo":
        with zk.Lock(path):
            led.append(time.monotonic())
    else:
        with coordkit.Election(zk, path, identity="second"):
            led.append(time.monotonic())


if __name__ == "__main__":
    main()
