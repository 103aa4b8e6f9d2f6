"""What happened, written down by those to whom it happened: operations with their call and return on one clock.

Each worker process writes a log of its own, one write per line, so that SIGKILL loses nothing: an operation without a
return has an unknown outcome, an interval that is open to the right. All times are CLOCK_MONOTONIC, which the processes
of one machine share.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

now = time.monotonic


@dataclass(frozen=True)
class Op:
    """One operation: who did what, from when to when, and the facts; ``end`` is infinite where nobody saw it end."""

    actor: str
    what: str
    call: float
    end: float
    facts: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def known(self) -> bool:
        return self.end < math.inf

    def __getattr__(self, fact: str) -> Any:
        """Give a fact by its name; None where it is not known."""
        if fact.startswith("__"):
            raise AttributeError(fact)
        return self.facts.get(fact)


class Recorder:
    """Appends to one log; may be used by many threads at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._ids = count()
        self._open = True
        self._lock = threading.Lock()

    def call(self, actor: str, what: str, **facts: Any) -> int:
        """Write that an operation begins; return its number."""
        number = next(self._ids)
        self._write({"id": number, "actor": actor, "what": what, "call": now(), **facts})
        return number

    def back(self, number: int, **facts: Any) -> None:
        """Write that it ended, and how."""
        self._write({"id": number, "end": now(), **facts})

    def note(self, actor: str, what: str, *, since: float | None = None, **facts: Any) -> None:
        """Write that something was so just now, or was done since then."""
        end = now()
        call = end if since is None else since
        self._write({"id": next(self._ids), "actor": actor, "what": what, "call": call, "end": end, **facts})

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:  # a thread that comes late must not write into what has the number of our file by then
            if self._open:
                os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """End the log; what is noted later is not part of it."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)


def read(paths: Iterable[Path]) -> list[Op]:
    """Return the operations of all logs, by their calls."""
    ops: list[Op] = []
    for path in paths:
        begun: dict[int, dict[str, Any]] = {}
        for line in path.read_bytes().split(b"\n")[:-1]:  # the last one is being written, where there is any
            facts = json.loads(line)
            begun.setdefault(facts["id"], {}).update(facts)
        for facts in begun.values():
            del facts["id"]
            call, end = facts.pop("call"), facts.pop("end", math.inf)
            ops.append(Op(facts.pop("actor"), facts.pop("what"), call, end, facts))
    return sorted(ops, key=lambda op: op.call)
