"""`import coordkit` is light: a service pays for redis-py, kazoo and tenacity, and for nothing else."""

from __future__ import annotations

import subprocess
import sys


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(out.stdout.split())


def test_nothing_of_the_test_suites_is_imported() -> None:
    heavy = {"testcontainers", "pytest", "_pytest", "docker", "rich", "coordkit.testing", "coordkit.demo", "hypothesis"}

    assert loaded("import coordkit, coordkit.aio") & heavy == set()


def test_no_thread_and_no_loop_is_started() -> None:
    code = "import coordkit, coordkit.aio, threading; print(threading.active_count())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert out.stdout.strip() == "1"


def test_the_core_knows_only_its_ports() -> None:
    """Ruff refuses the import; this looks at what is really there."""
    names = {"asyncio", "threading", "time", "redis", "kazoo"}
    code = (
        "import coordkit, sys\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('coordkit.core.'):\n"
        "        print(*[n for n in vars(module) if n in sys.argv[1:]], end=' ')\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, check=True, timeout=60
    )

    assert out.stdout.split() == []
