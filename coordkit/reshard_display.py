"""How ``coordkit reshard`` shows its progress: a bar on a terminal where rich is installed, else lines, or JSON."""

from __future__ import annotations

import json
import sys
import time  # noqa: TID251  to tell a person something every few seconds
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from coordkit.routing.moving.progress import Progress

_EVERY = 5.0  # seconds between two lines while nothing but numbers changes
_OFTEN = 1.0  # the same for JSON, which programs read


class Display(Protocol):
    """Shows progress; called at each step."""

    def show(self, progress: Progress) -> None: ...
    def close(self) -> None: ...


class Lines:
    """A line whenever the phase changes, and every few seconds."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._every = _OFTEN if as_json else _EVERY
        self._last: tuple[str, str, str] | None = None
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        state = progress.phase, progress.source, progress.target
        if state == self._last and time.monotonic() < self._next:
            return
        self._last, self._next = state, time.monotonic() + self._every
        text = json.dumps(progress.as_dict()) if self._as_json else progress.line()
        print(text, file=sys.stdout if self._as_json else sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: each line was written."""


class Bar:
    """A bar, by rich."""

    def __init__(self) -> None:
        parts: Any = import_module("rich.progress")
        console: Any = import_module("rich.console").Console(stderr=True)
        self._bar = parts.Progress(
            parts.BarColumn(), parts.TextColumn("{task.description}", markup=False), console=console
        )
        self._task = self._bar.add_task("", total=1.0)
        self._bar.start()

    def show(self, progress: Progress) -> None:
        self._bar.update(self._task, completed=progress.share, description=progress.line())

    def close(self) -> None:
        self._bar.stop()


def display(*, as_json: bool) -> Display:
    """Return what suits the terminal, or the lack of one."""
    if not as_json and sys.stderr.isatty() and find_spec("rich") is not None:
        return Bar()
    return Lines(as_json=as_json)
