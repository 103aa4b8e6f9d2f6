"""What a scene tells and proves: its sentences, its measured figures, its checks.

A scene is a module with a ``TITLE``, a function ``play(stage)`` for the demo's side and, if it has worker processes, a
function ``work(line)`` for theirs. A check is a promise of coordkit, held against what was observed: it may not depend
on luck or on the speed of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordkit.demo.output import Output, Progress
from coordkit.demo.servers import ServersMissing
from coordkit.testing.servers import ServerFailed

if TYPE_CHECKING:
    from coordkit.demo.servers import Servers


@dataclass
class Record:
    """One scene as the machine reads it."""

    number: int
    name: str
    title: str
    checks: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the scene came to its end, checked something, and every check held."""
        return self.error is None and bool(self.checks) and all(self.checks.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "name": self.name,
            "title": self.title,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "checks": self.checks,
            "figures": self.figures,
            "error": self.error,
        }


class Stage:
    """What a scene is given: the servers, the namespace in which it writes, and a voice."""

    def __init__(self, servers: Servers, record: Record, output: Output) -> None:
        self.servers = servers
        self.namespace = servers.namespace
        self._record = record
        self._output = output

    def say(self, text: str) -> None:
        """Tell what is about to happen, or what was seen."""
        self._output.paragraph(text)

    def check(self, name: str, held: bool, text: str) -> None:
        """Record whether a promise held, and say so; one that does not hold fails the demo."""
        self._record.checks[name] = self._record.checks.get(name, True) and bool(held)
        self._output.check(bool(held), text)

    def figure(self, **figures: Any) -> None:
        """Record measured figures; seconds and ratios are rounded to a tenth of a per mille."""
        for name, value in figures.items():
            self._record.figures[name] = round(value, 4) if isinstance(value, float) else value

    def progress(self, text: str, total: int) -> Progress:
        """Return a block that shows how far something of ``total`` steps is."""
        return self._output.progress(text, total)

    def waiting(self, text: str) -> Progress:
        """Return a block during which something of unknown length is awaited."""
        return self._output.progress(text, None)


def tell(stage: Stage, record: Record, output: Output, play: Callable[[Stage], None]) -> None:
    """Play one scene; an error ends the scene, not the story, and fails the demo.

    Raise what says that a server cannot be had: that is no promise of coordkit that was broken.
    """
    output.heading(f"{record.number}. {record.title}")
    began = time.monotonic()
    try:
        play(stage)
    except (ServersMissing, ServerFailed) as lacks:
        record.error = str(lacks)
        raise
    except Exception as error:  # noqa: BLE001 - whatever a scene dies of is told, and the next one is played
        record.error = f"{type(error).__name__}: {error}"
        output.check(False, f"the scene could not be played to its end: {record.error}")
    finally:
        record.seconds = time.monotonic() - began
