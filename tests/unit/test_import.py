"""`import coordkit` is light: a service pays for redis-py, kazoo and tenacity, and for nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(out.stdout.split())


def test_nothing_of_the_test_suites_is_imported() -> None:
    heavy = {"testcontainers", "pytest", "_pytest", "docker", "rich", "coordkit.testing", "coordkit.demo", "hypothesis"}

    assert loaded("from coordkit import *; from coordkit.aio import *") & heavy == set()


def test_importing_it_imports_nothing_yet() -> None:
    """Our pytest plugin lives in this package: looking for fixtures must not cost anybody redis-py and kazoo."""
    light = loaded("import coordkit, coordkit.aio, coordkit.testing.plugin")

    assert light & {"redis", "kazoo", "tenacity", "testcontainers", "docker"} == set()


@pytest.mark.parametrize("module", ["coordkit", "coordkit.aio"])
def test_a_name_that_does_not_exist(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Redlock'"):
        _ = importlib.import_module(module).Redlock


def test_no_thread_and_no_loop_is_started() -> None:
    code = "from coordkit import *; from coordkit.aio import *; import threading; print(threading.active_count())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert out.stdout.strip() == "1"


def test_the_core_knows_only_its_ports() -> None:
    """Ruff refuses the import; this looks at what is really there."""
    names = {"asyncio", "threading", "time", "redis", "kazoo"}
    code = (
        "import coordkit._sync, coordkit._async, sys\n"
        "print(sum(name.startswith('coordkit.core.') for name in sys.modules) > 10, end=' ')\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('coordkit.core.'):\n"
        "        print(*[n for n in vars(module) if n in sys.argv[1:]], end=' ')\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, check=True, timeout=60
    )

    assert out.stdout.split() == ["True"]
