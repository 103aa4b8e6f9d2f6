"""Scene 2: a holder is stopped past its ttl, the next one takes over, and the first one's late write is refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coordkit import Fence, LeaseLost, Lock, StaleToken

if TYPE_CHECKING:
    from coordkit.demo.story import Stage
    from coordkit.demo.worker import Line

TITLE = "A holder that sleeps too long, and its late write"

TTL = 1.0
_PATIENCE = 20.0


def work(line: Line) -> None:
    """Hold the lock, read; write when told; say what came of it."""
    client = line.redis()
    name, key = line.arguments["lock"], line.arguments["key"]
    lock = Lock(client, name, ttl=line.arguments["ttl"])
    fence = Fence(client, name)
    line.report("ready")
    line.wait()
    lease = lock.acquire(timeout=_PATIENCE)
    fence.claim(token=lease.token)  # on entry, before the first read
    balance = int(client.get(key) or 0)
    line.report("holds", token=int(lease.token), balance=balance)

    line.wait()
    refused = None
    try:
        if line.arguments["fenced"]:
            fence.set(key, balance + line.arguments["amount"], token=lease.token)
        else:
            client.set(key, balance + line.arguments["amount"])
    except StaleToken as error:
        refused = {"token": error.token, "seen": error.seen}
    line.report("wrote", refused=refused)

    line.wait()
    told = lease.lost.wait(_PATIENCE)
    try:
        lease.ensure()
        ensured = True
    except LeaseLost:
        ensured = False
    line.report("lease", lost=told, ensured=ensured, released=lease.release())


def play(stage: Stage, *, fenced: bool = True) -> None:
    """Play it; without the fence (``fenced=False``) the late write goes through and the checks fail."""
    from coordkit.demo.crew import Crew  # a worker, which imports this file too, starts no workers
    from coordkit.demo.servers import client

    url = stage.servers.redis().url
    name = f"{stage.namespace}:late"
    shared = {"url": url, "lock": name, "key": f"{{{name}}}:balance", "ttl": TTL, "fenced": fenced}
    with Crew() as crew, client(url) as redis:
        first = crew.start("scene_2_late_write", "first", amount=1000, **shared)
        second = crew.start("scene_2_late_write", "second", amount=5, **shared)
        crew.hear_all("ready", [first, second])

        stage.say(
            f"A first process takes the lock (ttl {TTL:g} s, renewed while it lives), reads the balance, and is "
            "stopped by SIGSTOP before it writes: a long pause, as a virtual machine or a garbage collector makes it."
        )
        first.tell(do="hold")
        held = crew.hear("holds", of=first)
        first.stop()
        stopped = time.monotonic()
        second.tell(do="hold")
        with stage.waiting("the second process waits for the lock"):
            taken = crew.hear("holds", of=second)
        took = taken.at - stopped
        stage.figure(
            ttl_seconds=TTL,
            first_token=held["token"],
            second_token=taken["token"],
            next_holder_after_seconds=took,
            next_holder_after_ttls=took / TTL,
        )
        stage.say(f"The server let the lease run out, and a second process held the lock {took:.2f} s after the stop.")
        stage.check(
            "token_rises",
            taken["token"] > held["token"],
            f"its token {taken['token']} is greater than the first one's, {held['token']}",
        )
        second.tell(do="write")
        written = crew.hear("wrote", of=second)
        stage.check("second_writes", written["refused"] is None, "the second process writes its balance, 5")

        stage.say("Now the first process wakes up (SIGCONT). It believes that it holds the lock, and writes 1000.")
        first.tell(do="write")  # before it wakes, so that it is the first thing that it does
        first.wake()
        late = crew.hear("wrote", of=first)["refused"]
        stage.check(
            "late_write_refused",
            late is not None and late["seen"] == taken["token"] and late["token"] == held["token"],
            "the late write is refused with StaleToken: the fence has seen the second token"
            if late
            else "the late write must be refused, and was not",
        )
        balance = int(redis.get(shared["key"]) or 0)
        stage.figure(balance=balance, late_write_refused=late is not None)
        stage.check("balance_kept", balance == 5, f"the balance is {balance}: what the second process wrote is kept")

        first.tell(do="look")
        lease = crew.hear("lease", of=first)
        stage.check(
            "first_is_told",
            lease["lost"] and not lease["ensured"] and not lease["released"],
            "the first process is told: lease.lost is set, ensure() raises LeaseLost, release() frees nothing",
        )
