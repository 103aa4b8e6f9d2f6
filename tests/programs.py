"""Programs that a test runs beside itself: written once, run in both flavours, spoken to by lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordkit.testing.servers import scaled, wait_until

PRELUDE = """
import json, os, signal, sys, threading, time
from conftest import Flavour
from kazoo.client import KazooClient

flavour, hosts, path, timeout = Flavour(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
zk = KazooClient(hosts, timeout=timeout, randomize_hosts=False, connection_retry=retry, **json.loads(sys.argv[5]))
zk.start(20)

def say(*what):
    print(*what, flush=True)

def heard():
    return sys.stdin.readline().strip()

"""


class Program:
    """A program in a process of its own."""

    def __init__(self, text: str, *args: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(text), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status, errors = self.ended()
            pytest.fail(f"the program ended with status {status}:\n{errors}")
        return line.strip()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = 20.0) -> tuple[int, str]:
        """Wait for its end; return its status and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=scaled(timeout))
        return self.process.returncode, errors

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its own children, too
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def program(flavour: Any, coordkit_zk_server: Any, coordkit_namespace: str) -> Iterator[Callable[..., Program]]:
    """Give a way to run programs in the flavour of the test, each with a session of its own."""
    made: list[Program] = []

    def make(text: str, *, hosts: str = "", timeout: float = 20.0, options: Any = None) -> Program:
        path, options = f"/{coordkit_namespace}/x", json.dumps(options or {})
        made.append(Program(text, flavour.name, hosts or coordkit_zk_server.hosts, path, str(timeout), options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def alive(pid: int) -> bool:
    """Return whether a process runs: one that ended and was not waited for does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between the opening and the reading
        return False


def gone(pid: int, timeout: float = 10.0) -> bool:
    """Wait for a process to end; return whether it did."""
    return wait_until(lambda: not alive(pid), scaled(timeout))
