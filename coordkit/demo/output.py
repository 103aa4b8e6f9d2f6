"""How the story is shown: plain lines anywhere, colours and progress bars on a terminal that has ``rich``.

Plain lines hold no escape codes, are ASCII, and break at 80 columns or at the terminal's width.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs


SECONDS_BETWEEN_LINES = 0.5  # of plain progress


class Progress(Protocol):
    """A block that shows how far its work is."""

    def update(self, done: int) -> None:
        """Show that so many steps are done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Output(Protocol):
    """Where the story goes."""

    stream: TextIO

    def heading(self, text: str) -> None: ...
    def paragraph(self, text: str) -> None: ...
    def check(self, held: bool, text: str) -> None: ...
    def progress(self, text: str, total: int | None) -> Progress: ...


def output_for(stream: TextIO) -> Output:
    """Return the nicest output that this stream can show."""
    if stream.isatty() and os.environ.get("TERM") != "dumb" and importlib.util.find_spec("rich") is not None:
        return Terminal(stream)
    return Plain(stream)


class Plain:
    """Lines of text, each written out at once."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._width = min(80, shutil.get_terminal_size((80, 24)).columns) if stream.isatty() else 80

    def heading(self, text: str) -> None:
        self._write("")
        self._wrapped(text, "", "   ")

    def paragraph(self, text: str) -> None:
        self._wrapped(text, "   ", "   ")

    def check(self, held: bool, text: str) -> None:
        self._wrapped(text, "   ok      " if held else "   FAILED  ", "           ")

    def progress(self, text: str, total: int | None) -> Progress:
        return _Lines(self, text, total)

    def _wrapped(self, text: str, first: str, rest: str) -> None:
        for line in text.splitlines():
            parts = textwrap.wrap(
                line, self._width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
            )
            for part in parts or [""]:
                self._write(part)
            first = rest

    def _write(self, line: str) -> None:
        # A log that is not UTF-8 shall not end the demo; what servers say in an error may be anything.
        self.stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        self.stream.flush()


class _Lines:
    """Says now and then how far it is: a log wants few lines, and a reader wants to see that it goes on."""

    def __init__(self, plain: Plain, text: str, total: int | None) -> None:
        self._plain = plain
        self._text = text
        self._total = total
        self._said = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self._plain.paragraph(f"... {done:,} of {self._total:,} {self._text}")

    def __enter__(self) -> Self:
        if self._total is None:
            self._plain.paragraph(f"... {self._text}")
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Terminal:
    """The same in colour, with a bar that moves, by ``rich``."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # an extra; imported where it is used

        self.stream = stream
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
        self._width = min(80, self._console.width)

    def heading(self, text: str) -> None:
        self._console.print()
        self._console.print(text, style="bold", width=self._width)

    def paragraph(self, text: str) -> None:
        self._padded(text, "", "")

    def check(self, held: bool, text: str) -> None:
        self._padded(text, "ok" if held else "FAILED", "green" if held else "bold red")

    def progress(self, text: str, total: int | None) -> Progress:
        return _Bar(self._console, text, total)

    def _padded(self, text: str, mark: str, style: str) -> None:
        from rich.table import Table
        from rich.text import Text

        grid: Any = Table.grid(padding=(0, 2, 0, 0))
        if mark:
            grid.add_row(" ", Text(mark, style=style), Text(text))
        else:
            grid.add_row(" ", Text(text))
        self._console.print(grid, width=self._width)


class _Bar:
    """A bar, or a spinner where the length is not known; it is wiped when the block ends."""

    def __init__(self, console: Any, text: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        known: list[Any] = [] if total is None else [BarColumn(bar_width=28), MofNCompleteColumn()]
        columns = [TextColumn(" "), SpinnerColumn(), *known, TextColumn("{task.description}", markup=False)]
        self._rich = RichProgress(*columns, console=console, transient=True)
        self._task = self._rich.add_task(text, total=total)

    def update(self, done: int) -> None:
        self._rich.update(self._task, completed=done)

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._rich.stop()
