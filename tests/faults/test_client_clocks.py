"""Clients whose wall clocks are wrong by an hour: who waits, who holds, which token is higher is the servers' affair.

rueidislock sends ends of leases by the client's clock, Redisson keeps those of its fair lock's waiters and of its
expirable permits by it: there, who is behind holds nothing, and who is ahead pushes the others aside.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from held import SERVERS, made, tokens, waiters
from regime import clock_shim

import coordkit
from coordkit.testing.backends import Settings
from coordkit.testing.processes import start_redis_servers

PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import coordkit, redis
from held import made, tokens

kind, name = sys.argv[2:4]
print(time.time(), flush=True)
lease = made(coordkit, [redis.Redis.from_url(url) for url in sys.argv[4:]], kind, name, 60.0).acquire()
print(*tokens(lease), flush=True)
sys.stdin.readline()
lease.ensure()
print(lease.release(), flush=True)
"""
HOUR = 3600.0


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Any]]:
    """Give three servers that are a quorum; the first of them serves all other kinds."""
    servers = start_redis_servers(3)
    with ExitStack() as stack:
        coordkit.Quorum([stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]).initialise()
    yield list(servers)
    for server in servers:
        server.stop()


@pytest.fixture
def shim(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if missing := clock_shim.missing():
        required = Settings.read(request.config.getoption, os.environ, request.config.getini).require
        (pytest.fail if required else pytest.skip)(missing)
    return clock_shim.build(tmp_path)


@pytest.fixture
def off_by(shim: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Give a way to start a process whose clock is wrong; it acquires, says its tokens, and gives back when asked."""
    with ExitStack() as stack:

        def start(seconds: float, *words: str) -> subprocess.Popen[str]:
            settings = tmp_path / f"clock{seconds}"
            settings.write_text(f"1.0 {round(seconds * 1e6)}\n")
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), *words],
                env={**os.environ, "LD_PRELOAD": str(shim), "COORDKIT_CLOCK": str(settings)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert abs(float(said(process)) - time.time() - seconds) < HOUR / 2, (
                "its clock is right, which proves nothing"
            )
            return process

        yield start


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def give_back(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


@pytest.mark.parametrize("kind", ["lock", "write", "permit", "several", "quorum"])
def test_they_wait_and_hold_like_all_others(
    kind: str, servers: list[Any], off_by: Callable[..., Any], coordkit_namespace: str
) -> None:
    servers = servers[: SERVERS.get(kind, 1)]
    urls = [server.url for server in servers]
    with ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis.from_url(url)) for url in urls]
        mine = made(coordkit, clients, kind, coordkit_namespace, 60)
        held = mine.acquire(timeout=10)
        given, line = [tokens(held)], []
        for number, seconds in enumerate((HOUR, -HOUR), 1):
            if kind in SERVERS:
                break  # who wants a quorum polls, in no order
            line.append(off_by(seconds, kind, coordkit_namespace, *urls))
            while waiters(servers, coordkit_namespace) < number:
                time.sleep(0.01)
        held.ensure()
        assert held.release() is True
        for number, seconds in enumerate((HOUR, -HOUR)):
            process = line[number] if line else off_by(seconds, kind, coordkit_namespace, *urls)
            given.append([int(token) for token in said(process).split()])
            assert mine.try_acquire() is None
            assert give_back(process) == "True"
        after = mine.acquire(timeout=20)
        given.append(tokens(after))
        assert after.release() is True
    for before, later in itertools.pairwise(given):
        assert all(a < b for a, b in zip(before, later, strict=True)), given
