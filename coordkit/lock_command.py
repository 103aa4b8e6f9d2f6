"""``coordkit lock``: look at a lock, break it, or run a command while holding it."""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import threading  # noqa: TID251  a program of the blocking flavour
import time  # noqa: TID251  to write a server's time for a person
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordkit import Holder, Lease, Lock

UNAVAILABLE, HELD, LOST = 3, 75, 76  # exit statuses; 75 is sysexits.h's "try again later"

_GRACE = 5.0  # seconds between SIGTERM and SIGKILL

_RUN = """\
Run a command while a lock is held, with its token in COORDKIT_TOKEN. If the
lock is lost, the command gets SIGTERM, and SIGKILL five seconds later. Not
promised: that the command ends in time, or at all if this process is killed.
Let what it writes to compare the token.
"""
_STATUS = """\
exit status: the command's own (128 + n if signal n ended it); 75 if another
held the lock until --timeout, 76 if it was lost, 3 if Redis did not answer or
said no, 127 if there is no such command.
"""


def add(commands: Any) -> None:
    """Add ``lock`` and what belongs to it to a command line."""
    lock = commands.add_parser("lock", help="look at a lock, break it, or run a command while holding it")
    actions = lock.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="say who holds it and who waits")
    broken = actions.add_parser("break", help="evict the holder, and print the token that fences it off")
    broken.add_argument("--holder", metavar="ID", help="only if this one holds it, as status prints it")
    run = actions.add_parser(
        "run",
        help="run a command while holding it: coordkit lock run NAME --ttl 10 -- COMMAND ...",
        usage="coordkit lock run NAME --ttl SECONDS [--timeout SECONDS] [--redis URL] -- COMMAND ...",
        description=_RUN,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--ttl", type=float, required=True, metavar="SECONDS", help="how long others wait after a crash")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="how long to wait for the lock; 0 asks once")
    for parser in (status, broken, run):
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--redis", default="redis://localhost:6379/0", metavar="URL", help="default: %(default)s")
        parser.add_argument(
            "--compatible-with", choices=["redis-py"], help="the lock is one that redis-py's Lock takes, too"
        )


def main(chosen: argparse.Namespace, command: Sequence[str]) -> int:
    """Do what was chosen; ``command`` is what followed ``--``. Return the exit status."""
    from redis import Redis  # noqa: TID251  this is a program, which has to make a client

    from coordkit import CoordError, LeaseLost, Lock, NotAcquired

    if (chosen.action == "run") != bool(command):
        return _said("put a command behind --, for run only", 2)
    with Redis.from_url(chosen.redis) as client:
        try:
            ttl = getattr(chosen, "ttl", 10.0)
            lock = Lock(client, chosen.name, ttl=ttl, compatible_with=chosen.compatible_with, label="coordkit lock")
            return _do(lock, chosen, command)
        except ValueError as error:
            return _said(error, 2)
        except CoordError as error:
            known = {NotAcquired: HELD, LeaseLost: LOST}
            return _said(error, next((known[kind] for kind in known if isinstance(error, kind)), UNAVAILABLE))


def _do(lock: Lock, chosen: argparse.Namespace, command: Sequence[str]) -> int:
    if chosen.action == "run":
        return _run(lock, chosen.timeout, command)
    if chosen.action == "break":
        print(lock.break_lease(chosen.holder))
    else:
        _status(lock)
    return 0


def _said(what: object, status: int) -> int:
    print(f"coordkit: {what}", file=sys.stderr)
    return status


def _status(lock: Lock) -> None:
    holder, left, waiters = lock.holder(), lock.remaining(), lock.waiters()
    if holder is None:
        print(f"{lock.name}: free")
    else:
        end = "without expiry" if left == math.inf else f"{left or 0:.1f} s left unless renewed"
        print(f"{lock.name}: held by {_who(holder)}, {end}")
    for place, waiter in enumerate(waiters, 1):
        print(f"  {place}. {_who(waiter)}")


def _who(holder: Holder) -> str:
    parts = [holder.id]
    if holder.label:
        parts.append(repr(holder.label))
    if holder.since is not None:
        parts.append(time.strftime("since %Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.since)))
    if holder.token is not None:
        parts.append(f"token {holder.token}")
    return ", ".join(parts)


def _run(lock: Lock, timeout: float | None, command: Sequence[str]) -> int:
    with lock.hold(timeout) as lease:
        environment = {**os.environ, "COORDKIT_TOKEN": str(lease.token)}
        child: subprocess.Popen[bytes] | None = None
        early: list[int] = []  # what came before there was anybody to tell: it must not end us alone

        def forward(number: int, _frame: FrameType | None) -> None:
            if child is None:
                early.append(number)
            elif number != signal.SIGINT:  # the terminal sent that to the command as well
                child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup: the command ignores it, too
                signal.signal(number, forward)
        try:
            child = subprocess.Popen(command, env=environment)  # noqa: S603  running what the user typed is its purpose
        except OSError as error:
            return _said(error, 127 if isinstance(error, FileNotFoundError) else 126)
        for each in early:
            child.send_signal(each)
        threading.Thread(target=_end_when_lost, args=(lease, child), daemon=True).start()
        status = child.wait()
    return status if status >= 0 else 128 - status


def _end_when_lost(lease: Lease, child: subprocess.Popen[bytes]) -> None:
    lease.lost.wait()
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
