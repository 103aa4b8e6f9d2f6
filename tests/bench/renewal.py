"""What does it cost to hold ten thousand leases?  CPU time per renewal, beside a plain redis-py pipeline.

    python tests/bench/renewal.py [--leases 10000] [--rounds 5] [--check [SLACK]]

Interleaved: a few seconds in which the leases are renewed by themselves, then the same EVALSHAs in pipelines of
redis-py, of the same size and with the same pauses, so that caches are as cold. CPU time is this process's (user and
system); the server's is not in it. The last line pauses one server for a while and says by how much that delayed the
renewals of a client of another: the longest time between two renewals of one lease, where a third of the ttl is ideal.
With --check the exit status is 1 if a target is missed, by more than a factor of SLACK.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from typing import Any

import redis
import redis.asyncio
from targets import Targets

import coordkit
import coordkit.aio
from coordkit import _redis_packing
from coordkit.core.lease import ROUNDS
from coordkit.testing.processes import start_redis

TTL = 9.0
SECONDS = 3.2  # in which every lease is renewed once, and some twice


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--leases", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=5)
    targets = Targets(arguments)
    options = arguments.parse_args()
    with start_redis() as server:
        print(f"redis-py {redis.__version__}, {options.leases} leases, {options.rounds} rounds")
        ratio = show("blocking", blocking(server.port, options.leases, options.rounds))
        targets.at_most("blocking, x a plain pipeline", ratio, 2)
        ratio = show("asyncio", asyncio.run(awaited(server.port, options.leases, options.rounds)))
        targets.at_most("asyncio, x a plain pipeline", ratio, 2)
    with start_redis() as stalled, start_redis() as other:
        late = delay(stalled, other)
        print(f"\none server stalls: a lease of another client was renewed after {late:.2f} x the ideal")
        targets.at_most("beside a server that stalls, x the ideal", late, 1.5)
    sys.exit(targets.status(options.check))


def renewals(leases: list[Any]) -> list[tuple[Any, ...]]:
    """Return the commands that renew these leases, as redis-py takes them."""
    return [_redis_packing.evalsha(one._core.grantor.renewal(one.holder, TTL)) for one in leases]


def batches(items: list[Any]) -> list[list[Any]]:
    """Return them in pieces of the size that coordkit makes: a lease is renewed after a third of its ttl."""
    size = max(1, len(items) // (ROUNDS // 3))
    return [items[i : i + size] for i in range(0, len(items), size)]


def renewed(server: redis.Redis) -> int:
    return int(server.info("commandstats")["cmdstat_evalsha"]["calls"])


def blocking(port: int, count: int, rounds: int) -> tuple[list[float], list[float]]:
    client, server = redis.Redis(port=port), redis.Redis(port=port)
    leases = [coordkit.Lock(client, f"renewed-{i}", ttl=TTL).acquire() for i in range(count)]
    leases[0].renew()  # the server learns the script
    commands = batches(renewals(leases))
    ours, theirs = [], []
    for round_ in range(rounds + 1):  # the first warms up and does not count
        before, began = renewed(server), time.process_time()
        time.sleep(SECONDS)
        spent = time.process_time() - began
        mine = spent / (renewed(server) - before)
        spent = 0.0
        for batch in commands:
            time.sleep(SECONDS / len(commands))
            began = time.thread_time()  # the leases are renewed meanwhile by another
            pipe = client.pipeline(transaction=False)
            for command in batch:
                pipe.execute_command(*command)
            pipe.execute()
            spent += time.thread_time() - began
        if round_:
            ours.append(mine)
            theirs.append(spent / count)
    assert not any(lease.lost for lease in leases)
    for lease in leases:
        lease.release()
    client.close()
    server.close()
    return ours, theirs


async def awaited(port: int, count: int, rounds: int) -> tuple[list[float], list[float]]:
    client, server = redis.asyncio.Redis(port=port), redis.Redis(port=port)
    leases = [await coordkit.aio.Lock(client, f"renewed-{i}", ttl=TTL).acquire() for i in range(count)]
    await leases[0].renew()
    commands = batches(renewals(leases))
    ours, theirs = [], []
    for round_ in range(rounds + 1):
        before, began = renewed(server), time.process_time()
        await asyncio.sleep(SECONDS)
        spent = time.process_time() - began
        mine = spent / (renewed(server) - before)
        spent = 0.0
        for batch in commands:
            await asyncio.sleep(SECONDS / len(commands))
            began = time.process_time()
            pipe = client.pipeline(transaction=False)
            for command in batch:
                pipe.execute_command(*command)
            await pipe.execute()
            spent += time.process_time() - began
        if round_:
            ours.append(mine)
            theirs.append(spent / count)
    assert not any(lease.lost for lease in leases)
    for lease in leases:
        await lease.release()
    await client.aclose()
    server.close()
    return ours, theirs


def show(flavour: str, times: tuple[list[float], list[float]]) -> float:
    ours, theirs = times
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    cost = statistics.median(ours) * 1e6
    print(f"{flavour:<10}{cost:6.1f} us of CPU per renewal, {ratio:.2f} x a plain pipelined EVALSHA")
    return ratio


def delay(stalled: Any, other: Any, *, ttl: float = 1.5, seconds: float = 4.0) -> float:
    """Return the longest time between two renewals of a lease, in thirds of its ttl, while another server stalls."""
    clients = [redis.Redis(port=server.port) for server in (stalled, other)]
    held = [[coordkit.Lock(client, f"kept-{i}", ttl=ttl).acquire() for i in range(500)] for client in clients]
    os.kill(stalled.pid, signal.SIGSTOP)
    try:
        lease, worst = held[1][250], 0.0
        until, renewed, expires = time.monotonic() + seconds, time.monotonic(), lease._core.expires
        while time.monotonic() < until:
            if lease._core.expires != expires:
                worst = max(worst, time.monotonic() - renewed)
                renewed, expires = time.monotonic(), lease._core.expires
            time.sleep(0.005)
    finally:
        os.kill(stalled.pid, signal.SIGCONT)
    for one in held[1]:
        one.release()
    return worst / (ttl / 3)


if __name__ == "__main__":
    main()
