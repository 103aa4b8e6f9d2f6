"""Scene 1: several processes increment one balance under a lock, and the sum is exact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from coordkit import Fence, Lock

if TYPE_CHECKING:
    from coordkit.demo.crew import Crew, Message, Worker
    from coordkit.demo.story import Stage
    from coordkit.demo.worker import Line

TITLE = "One balance, four processes, and a lock"

WORKERS = 4
DEPOSITS = 500  # of each worker
_SAYS_EACH = 10  # deposits: how often a worker tells how far it is


def work(line: Line) -> None:
    """Deposit as told: under the lock, without it, or in two halves with a pause between them."""
    client = line.redis()
    lock = Lock(client, line.arguments["lock"], ttl=10)
    fence = Fence(client, line.arguments["lock"])
    key, bare_key = line.arguments["key"], line.arguments["bare_key"]
    line.report("ready")
    while True:
        command = line.wait()
        if command["do"] == "locked":
            _deposit_under_the_lock(line, lock, fence, key, command["times"])
        elif command["do"] == "unlocked":
            for _ in range(command["times"]):
                client.set(bare_key, int(client.get(bare_key) or 0) + 1)
            line.report("done")
        elif command["do"] == "read":
            line.report("read", balance=int(client.get(bare_key) or 0))
        elif command["do"] == "write":
            client.set(bare_key, command["balance"])
            line.report("done")


def _deposit_under_the_lock(line: Line, lock: Lock, fence: Fence, key: str, times: int) -> None:
    deposits: list[tuple[int, int]] = []
    longest = 0.0
    for number in range(1, times + 1):
        asked = time.monotonic()
        with lock.hold(timeout=60) as lease:
            longest = max(longest, time.monotonic() - asked)
            # Reading through the fence claims it, so from here on every earlier holder is refused.
            balance = int(fence.get(key, token=lease.token) or 0) + 1
            fence.set(key, balance, token=lease.token)
        deposits.append((balance, int(lease.token)))
        if number % _SAYS_EACH == 0:
            line.report("progress")
    line.report("done", deposits=deposits, longest=longest)


def play(stage: Stage) -> None:
    from coordkit.demo.crew import Crew  # a worker, which imports this file too, starts no workers
    from coordkit.demo.servers import client

    url = stage.servers.redis().url
    lock = f"{stage.namespace}:balance"
    keys = {"key": f"{{{lock}}}:locked", "bare_key": f"{{{lock}}}:unlocked"}
    with Crew() as crew, client(url) as redis:
        team = [crew.start("scene_1_balance", f"clerk-{n}", url=url, lock=lock, **keys) for n in range(1, WORKERS + 1)]
        crew.hear_all("ready", team)
        _with_the_lock(stage, crew, team, redis, keys["key"])
        _without_it(stage, crew, team, redis, keys["bare_key"])


def _with_the_lock(stage: Stage, crew: Crew, team: list[Worker], redis: Any, key: str) -> None:
    total = WORKERS * DEPOSITS
    stage.say(
        f"{WORKERS} processes each add 1 to one balance in Redis, {DEPOSITS} times: read, add, write. "
        "Each holds the lock while it does, and reads and writes through the fence with its token."
    )
    began = time.monotonic()
    for worker in team:
        worker.tell(do="locked", times=DEPOSITS)
    done: list[Message] = []
    with stage.progress("deposits", total) as bar:
        deposits = 0
        while len(done) < WORKERS:
            message = crew.hear("progress", "done", timeout=120)
            if message.kind == "done":
                done.append(message)
            else:
                deposits += _SAYS_EACH
                bar.update(deposits)
    took = done[-1].at - began
    balance = int(redis.get(key) or 0)
    longest = max(message["longest"] for message in done)
    history = sorted(tuple(deposit) for message in done for deposit in message["deposits"])
    tokens = [token for _, token in history]

    stage.figure(
        processes=WORKERS,
        deposits=total,
        balance=balance,
        deposits_per_second=total / took,
        longest_wait_seconds=longest,
    )
    stage.say(
        f"{total} deposits in {took:.2f} s: {total / took:,.0f} per second; the longest wait was {longest:.3f} s."
    )
    stage.check("sum_exact", balance == total, f"the balance is {balance}: {total} deposits, none lost")
    stage.check(
        "tokens_rise",
        [number for number, _ in history] == list(range(1, total + 1)) and sorted(set(tokens)) == tokens,
        "the fencing tokens rise from each deposit to the next, across all processes",
    )


def _without_it(stage: Stage, crew: Crew, team: list[Worker], redis: Any, key: str) -> None:
    one, other, *_ = team
    stage.say("For contrast, without the lock: one process reads, another reads, the one writes, the other writes.")
    redis.set(key, 0)
    reads = []
    for worker in (one, other):
        worker.tell(do="read")
        reads.append(crew.hear("read", of=worker)["balance"])
    for worker, read in zip((one, other), reads, strict=True):
        worker.tell(do="write", balance=read + 1)
        crew.hear("done", of=worker)
    balance = int(redis.get(key) or 0)
    stage.check("unlocked_loses", balance == 1, f"two deposits, and the balance is {balance}: one was lost")

    total = WORKERS * DEPOSITS
    redis.set(key, 0)
    for worker in team:
        worker.tell(do="unlocked", times=DEPOSITS)
    crew.hear_all("done", team)
    lost = total - int(redis.get(key) or 0)
    stage.figure(unlocked_lost=lost, unlocked_deposits=total)
    stage.say(f"Left to run freely, the same {total} deposits without the lock lost {lost} (this one is up to luck).")
