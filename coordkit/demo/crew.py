"""The worker processes of a scene, seen from the demo: started, spoken to, stopped, killed, and never left behind.

A worker is a separate Python process (see ``worker``); both sides speak JSON, one object per line. Every wait for one
is bounded. When the demo ends, however it ends, its workers end: their standard input closes, and on Linux the kernel
kills them with their parent, which reaches also one that was stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import coordkit

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

PATIENCE = 30.0  # seconds for any one answer of a worker; all of them take far less


class WorkerFailed(RuntimeError):
    """A worker ended or fell silent; the message ends with what it wrote to its standard error."""


@dataclass(frozen=True)
class Message:
    """What a worker said: its ``kind``, its facts, and when it was heard (``time.monotonic``)."""

    worker: Worker
    kind: str
    facts: dict[str, Any]
    at: float

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]


class Worker:
    """One worker process; made by ``Crew.start``."""

    def __init__(self, role: str, name: str, arguments: dict[str, Any], inbox: queue.Queue[Message]) -> None:
        self.name = name
        self._log = Path(tempfile.gettempdir()) / f"{role}-{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coordkit.demo.worker", role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=tempfile.gettempdir(),  # -m looks there first for every import: not where the user stands
                env={**os.environ, "PYTHONPATH": _import_path(), "COORDKIT_DEMO_PARENT": str(os.getpid())},
                start_new_session=True,  # Ctrl-C is for the demo, which ends its workers
            )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        self._hears = threading.Thread(target=self._listen, args=(self._process.stdout, inbox), daemon=True)
        self._hears.start()
        self.tell(**arguments)  # not on the command line, where others would read the password of a URL

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, **message: Any) -> None:
        """Send it a command; raise WorkerFailed if it is gone."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self.failed("does not listen") from error

    def stop(self) -> None:
        """Stop it where it stands (SIGSTOP), as a long pause of a virtual machine would."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it run on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); do nothing when it has ended."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._hears.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet goes nowhere
                if pipe is not None:
                    pipe.close()

    def failed(self, what: str) -> WorkerFailed:
        """Return the error that says what a worker did not do, and what it wrote last."""
        status = self._process.poll()
        ended = "" if status is None else f" (it ended with status {status})"
        log = self._log.read_text(errors="replace").strip().splitlines()[-12:]
        return WorkerFailed("\n".join([f"worker {self.name} {what}{ended}", *log]))

    def _listen(self, pipe: IO[bytes], inbox: queue.Queue[Message]) -> None:
        for line in pipe:
            with contextlib.suppress(ValueError):  # half a line, of one that was killed while it wrote
                facts = json.loads(line)
                inbox.put(Message(self, facts.pop("kind"), facts, time.monotonic()))
        inbox.put(Message(self, "end", {}, time.monotonic()))


class Crew:
    """The workers of one scene; at the end of the block all are killed."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._inbox: queue.Queue[Message] = queue.Queue()
        self._aside: list[Message] = []

    def start(self, role: str, name: str, **arguments: Any) -> Worker:
        """Start a worker in a role: the name of the scene's module."""
        worker = Worker(role, name, arguments, self._inbox)
        self._workers.append(worker)
        return worker

    def hear(self, *kinds: str, of: Worker | None = None, timeout: float = PATIENCE) -> Message:
        """Wait for the next message of one of these kinds (of one worker); others are kept for later.

        Raise WorkerFailed when a worker from whom it may come ends, or none comes within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        for message in self._aside:
            if message.kind in kinds and of in (None, message.worker):
                self._aside.remove(message)
                return message
        while True:
            try:
                message = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                one = of or self._workers[0]
                raise one.failed(f"did not say {' or '.join(kinds)!r} within {timeout:g} s") from None
            if message.kind in kinds and of in (None, message.worker):
                return message
            if message.kind == "end" and of in (None, message.worker):
                raise message.worker.failed(f"ended before it said {' or '.join(kinds)!r}")
            self._aside.append(message)

    def hear_all(self, kind: str, workers: list[Worker]) -> list[Message]:
        """Wait until each of these workers has said ``kind``; return the messages in the workers' order."""
        return [self.hear(kind, of=worker) for worker in workers]

    def dismiss(self, worker: Worker) -> None:
        """End a worker for good and forget what it said: its end is no surprise any more."""
        worker.close()
        self._workers.remove(worker)
        rest = []
        while not self._inbox.empty():
            rest.append(self._inbox.get_nowait())
        self._aside = [message for message in [*self._aside, *rest] if message.worker is not worker]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()


def _import_path() -> str:
    # A clone that is not installed, run by PYTHONPATH=. or from its root, shall find itself in its workers too.
    package = str(Path(coordkit.__file__).resolve().parent.parent)
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
