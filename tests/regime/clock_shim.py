"""A Redis server whose wall clock runs at another rate: the shim in ``clock_shim.c``, built when a test needs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordkit.testing._process import free_ports, start_all
from coordkit.testing.processes import RedisProcess


def missing() -> str | None:
    """Return None where the shim can be built and preloaded; else what is missing, and how to get it."""
    if sys.platform != "linux":
        return "the clock shim is for Linux (LD_PRELOAD)"
    if shutil.which("cc") is None:
        return "no C compiler for the clock shim (apt-get install gcc libc6-dev)"
    return None


def build(directory: Path) -> Path:
    """Compile the shim; return the library."""
    library = directory / "clock_shim.so"
    source = Path(__file__).with_suffix(".c")
    command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if made.returncode:
        raise RuntimeError(f"the clock shim does not compile:\n{made.stderr}")
    return library


@contextmanager
def redis_at(rate: float, directory: Path, *, offset: float = 0.0) -> Iterator[RedisProcess]:
    """Give a Redis server whose wall clock runs ``rate`` times as fast, from ``offset`` seconds ahead of ours."""
    settings = directory / "clock"
    settings.write_text(f"{rate} {round(offset * 1e6)}\n")
    [port] = free_ports(1)
    server = RedisProcess(port)
    server.command = ["env", f"LD_PRELOAD={build(directory)}", f"COORDKIT_CLOCK={settings}", *server.command]
    start_all([server], 30.0)
    with server:
        yield server
