"""``coordkit lock``, as a person types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

import coordkit
from coordkit.testing import expire

PYTHON = sys.executable


@pytest.fixture
def name(coordkit_namespace: str) -> str:
    return f"{coordkit_namespace}:job"


@pytest.fixture
def command(coordkit_redis_server: Any, name: str) -> Any:
    """Give what makes a command line of ours."""

    def words(action: str, *rest: str) -> list[str]:
        return [PYTHON, "-m", "coordkit.cli", "lock", action, name, "--redis", coordkit_redis_server.url, *rest]

    return words


def run(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)
    return done.returncode, done.stdout, done.stderr


def test_status_and_break(command: Any, coordkit_redis: Any, name: str) -> None:
    assert run(command("status")) == (0, f"{name}: free\n", "")
    lock = coordkit.Lock(coordkit_redis, name, ttl=30, label="by hand")
    lease = lock.acquire()
    status, said, _ = run(command("status"))
    assert status == 0
    assert said.startswith(f"{name}: held by {lease.holder}, 'by hand', since 20")
    assert f" UTC, token {lease.token}, " in said
    assert said.endswith(" s left unless renewed\n")
    assert run(command("break", "--holder", "somebody"))[0] == 3
    assert lease.ensure()
    status, said, _ = run(command("break", "--holder", lease.holder))
    assert status == 0
    assert int(said) > lease.token
    assert lease.release() is False


def test_a_command_runs_under_the_lock(command: Any, coordkit_redis: Any, name: str) -> None:
    program = "import os, sys; print(os.environ['COORDKIT_TOKEN'], *sys.argv[1:]); sys.exit(7)"
    status, said, _ = run(command("run", "--ttl", "5", "--", PYTHON, "-c", program, "--", "--ttl", "x"))
    token, *rest = said.split()

    assert status == 7
    assert rest == ["--", "--ttl", "x"]
    with coordkit.Lock(coordkit_redis, name, ttl=5).hold(timeout=0) as lease:
        assert lease.token > int(token)
        status, _, said = run(command("run", "--ttl", "5", "--timeout", "0", "--", PYTHON, "-c", ""))
        assert (status, "held by" in said) == (75, True)
    status = run(command("run", "--ttl", "5", "--", PYTHON, "-c", "import os, signal; os.kill(os.getpid(), 9)"))[0]
    assert status == 128 + signal.SIGKILL
    assert run(command("run", "--ttl", "5", "--", "/no/such/command"))[0] == 127
    assert run(command("run", "--ttl", "0", "--", PYTHON))[0] == 2
    assert run(command("run", "--ttl", "5"))[0] == 2
    assert not coordkit_redis.exists(f"coordkit:1:{{{name}}}:lock")


STUBBORN = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(0)))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)"
)


@pytest.mark.parametrize("lost", [True, False])
def test_a_command_is_ended(command: Any, coordkit_redis: Any, name: str, lost: bool) -> None:
    """When the lock is lost, and when we are told to end."""
    words = command("run", "--ttl", "0.5", "--", PYTHON, "-c", STUBBORN)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        if lost:
            expire(coordkit.Lock(coordkit_redis, name, ttl=1))
        else:
            os.kill(running.pid, signal.SIGTERM)
        assert running.stdout.readline() == "told\n"
        assert running.wait(20) == (76 if lost else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_the_command_starts_is_for_the_command(
    coordkit_redis_server: Any, coordkit_redis: Any, name: str, number: int
) -> None:
    """Else we end without it, and it goes on without the lock."""
    program = (
        "import os, subprocess, sys\n"
        "from coordkit.cli import main\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        super().__init__(*arguments, **options)\n"
        "subprocess.Popen = Popen\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["lock", "run", name, "--redis", coordkit_redis_server.url, "--ttl", "60", "--", "sleep", "60"]

    assert run([PYTHON, "-c", program, *words])[0] == 128 + number
    assert not coordkit_redis.exists(f"coordkit:1:{{{name}}}:lock")


def test_a_signal_that_is_ignored_is_ignored_by_the_command(command: Any) -> None:
    """``nohup coordkit lock run ...``, and what a shell runs in the background."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getppid(), signal.SIGHUP); print(1)"
    words = command("run", "--ttl", "5", "--", PYTHON, "-c", program)
    assert run(["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *words]) == (0, "1\n", "")


def test_without_a_server(name: str) -> None:
    status, _, said = run([PYTHON, "-m", "coordkit.cli", "lock", "status", name, "--redis", "redis://127.0.0.1:1"])

    assert status == 3
    assert "no answer from Redis" in said
