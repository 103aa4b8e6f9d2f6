"""One server as a child process: started, paused, killed, started again, and never left behind.

Promised: the child is gone when this process is gone, even by SIGKILL, on Linux (``prctl`` with PR_SET_PDEATHSIG).
macOS has no such call: there a child survives a parent that was killed with SIGKILL, but not one that exits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from coordkit.testing.servers import ServerFailed, scaled, wait_until

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

T = TypeVar("T")

chance = random.SystemRandom()  # the other one may be seeded by a test, and then all processes choose the same
_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

# The child asks for its own death and becomes the server. A `preexec_fn` would run Python between fork and exec, which
# may deadlock in a program with threads; this starts a small interpreter instead, for about 20 ms.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class LocalProcess(ABC):
    """A server as a child process with a directory of its own; its output goes to the file ``log`` there.

    A subclass sets ``command`` and says what it is to be ``ready``.
    """

    owned = True
    host = "127.0.0.1"
    command: Sequence[str] = ()

    def __init__(self, kind: str, port: int) -> None:
        self.port = port
        self.name = f"{kind} on port {port}"
        self.directory = Path(tempfile.mkdtemp(prefix="coordkit-"))
        self._child: subprocess.Popen[bytes] | None = None
        self._paused = False
        _alive.add(self)

    @abstractmethod
    def ready(self) -> bool:
        """Ask the server, once and briefly, whether it serves."""

    @property
    def pid(self) -> int:
        """The process id; raise ServerFailed when it is down."""
        if self._child is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._child.pid

    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        if self.running():
            return
        if not self.directory.exists():
            raise ServerFailed(f"{self.name} was stopped for good")
        self._child = _on_lasting_thread(lambda: _spawn(self.command, self.directory))
        self._paused = False

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_ready(scaled(30.0))

    def wait_ready(self, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            if not wait_until(lambda: self.ready() or not self.running(), max(0.0, deadline - time.monotonic())):
                raise ServerFailed(f"{self.name} did not serve within {timeout:g} s\n{self.log_tail()}")
            if self.running():
                return
            # A client that reconnects without end can be given our port as its own for a moment (loopback connects a
            # socket to itself), so one failure to bind is not the end.
            if self._child is None or "ddress already in use" not in self.log_tail() or time.monotonic() >= deadline:
                status = "was not started" if self._child is None else f"ended with status {self._child.returncode}"
                raise ServerFailed(f"{self.name} {status}\n{self.log_tail()}")
            (self.directory / "log").unlink(missing_ok=True)
            self.start()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of its output and the command, for an error message."""
        with contextlib.suppress(OSError):
            text = (self.directory / "log").read_text(errors="replace").splitlines()[-lines:]
            return "\n".join([f"$ {' '.join(self.command)}", *text])
        return "(no log)"

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True
        if hasattr(os, "waitid"):  # macOS only since Python 3.13; there the signal is simply taken as sent
            wait_until(lambda: os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG) is not None, 1.0, 0.001)

    def resume(self) -> None:
        if self._paused and self.running():
            os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._paused = False

    def stop(self) -> None:
        self.kill()
        self._child = None
        _alive.discard(self)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port}>"


def free_ports(count: int) -> list[int]:
    """Return that many different free ports, below those that this machine gives to clients.

    One of those might be some client's a moment later, when the server wants it.
    """
    found: list[int] = []
    while len(found) < count:
        port = chance.randrange(10_000, _first_of_clients())
        if port not in found and is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Return whether a server could listen at this port now."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # at all addresses, as a container's port is
        except OSError:
            return False
        return True


def _first_of_clients() -> int:
    try:
        first = int(_CLIENTS.read_text().split()[0])
    except OSError:
        first = 49_152  # as IANA has it
    return first if first > 12_000 else 65_536


def start_all(processes: Sequence[LocalProcess], timeout: float) -> None:
    """Start processes side by side and wait for all; when one fails, stop all and raise ServerFailed."""
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_ready(scaled(timeout))
    except BaseException:
        for process in processes:
            process.stop()
        raise


def _spawn(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    argv = list(command)
    if sys.platform == "linux" and sys.executable:
        argv = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]
    with (directory / "log").open("ab") as log:
        # A session of its own: Ctrl-C in the terminal goes to us, and we end the servers in order.
        return subprocess.Popen(
            argv,
            cwd=directory,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    # A JVM or a loader flag meant for the caller (an agent, a preloaded shim) does not belong in the server.
    return {name: value for name, value in ours.items() if name not in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")}


def _on_lasting_thread(work: Callable[[], T]) -> T:
    """Run ``work`` on a thread that lives as long as the process: the kernel's death signal follows the thread."""
    if threading.current_thread() is threading.main_thread():
        return work()
    return _spawner.run(work)


class _Spawner:
    """A daemon thread that starts children for threads that may end before them; made on first need, per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self, work: Callable[[], T]) -> T:
        outcome: Future[T] = Future()

        def step() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
                outcome.set_exception(error)

        with self._lock:
            if self._pid != os.getpid():  # after a fork the thread is not there
                self._pid, self._queue = os.getpid(), SimpleQueue()
                queue = self._queue
                threading.Thread(target=lambda: _serve(queue), name="coordkit-spawner", daemon=True).start()
            self._queue.put(step)
        return outcome.result()


def _serve(queue: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        queue.get()()


_spawner = _Spawner()
_alive: weakref.WeakSet[LocalProcess] = weakref.WeakSet()
_owner = os.getpid()


@atexit.register
def _stop_all() -> None:
    if os.getpid() == _owner:  # a forked child must not end its parent's servers
        for process in list(_alive):
            process.stop()
