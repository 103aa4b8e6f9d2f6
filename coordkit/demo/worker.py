"""A worker process of the demo: ``python -m coordkit.demo.worker ROLE``; see ``crew`` for the side that starts it.

The role is the module of a scene, whose function ``work`` is run. It is given a ``Line``: what it was told, and how to
answer. A worker ends when its work is done, and at once when the demo does.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
from typing import Any

import redis


class Line:
    """A worker's end of the conversation."""

    def __init__(self) -> None:
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.arguments = self.wait()

    def report(self, kind: str, **facts: Any) -> None:
        """Tell the demo something."""
        sys.stdout.write(json.dumps({"kind": kind, **facts}) + "\n")
        sys.stdout.flush()

    def wait(self) -> dict[str, Any]:
        """Wait for the next command; there is no limit, because the worker ends when the demo does."""
        return self._commands.get()

    def redis(self) -> redis.Redis:
        """Return a client for the server at the argument ``url``, whose replies are str."""
        return redis.Redis.from_url(
            self.arguments["url"], decode_responses=True, socket_timeout=10, socket_connect_timeout=10
        )

    def _listen(self) -> None:
        # Unbuffered: a daemon thread inside a buffered read would hold its lock when the interpreter ends.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                self._commands.put(json.loads(line))
        os._exit(0)  # the demo is gone; whatever the worker holds ends with its ttl


def main(role: str) -> None:
    """Work in a role until it is done."""
    _end_with_parent(int(os.environ["COORDKIT_DEMO_PARENT"]))
    importlib.import_module(f"coordkit.demo.{role}").work(Line())


def _end_with_parent(parent: int) -> None:
    # A worker that was stopped (SIGSTOP) does not see its input close; Linux can kill it with its parent.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
