"""What is due when: the heap of timers behind both runtimes.

Deadlines stand on a clock that runs on while the machine is suspended, and the waits of threads and event loops stand
on one that does not. So whoever waits for an agenda looks at it again every ``LOOK`` seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

LOOK = 1.0
"""Seconds after which a waiter looks again at the clock: how late a timer may be after a suspend."""


class Entry:
    """One action; cancelling it leaves an empty shell that is skipped or swept out later."""

    __slots__ = ("action", "agenda", "when")  # set by who makes it, sooner than by an __init__

    agenda: Agenda
    when: float
    action: Callable[[], None] | None

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            if self.agenda.unsorted.pop(self, None) is None:
                self.agenda.cancelled += 1  # a lost count under a race only delays a sweep


class Agenda:
    """Actions by the time at which they are due; whoever uses it from several threads guards it."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Entry]] = []
        self.unsorted: dict[Entry, Entry] = {}
        self.cancelled = 0
        self._order = count()

    def sort(self) -> None:
        """Put what is ``unsorted`` where it belongs.

        What is put there is not looked at before that, and most of it is cancelled by then. Neither putting it there
        nor cancelling it needs a guard.
        """
        self._sweep()
        for entry in list(self.unsorted):
            if self.unsorted.pop(entry, None) is not None and entry.action is not None:
                self._push(entry)

    def add(self, when: float, action: Callable[[], None]) -> Entry:
        """Add an action; return its entry, by which it can be cancelled."""
        self._sweep()
        entry = Entry()
        entry.agenda, entry.when, entry.action = self, when, action
        self._push(entry)
        return entry

    def _sweep(self) -> None:
        if self.cancelled > 64 and self.cancelled * 2 > len(self.heap):
            self.heap = [item for item in self.heap if item[2].action is not None]
            heapq.heapify(self.heap)
            self.cancelled = 0

    def _push(self, entry: Entry) -> None:
        heapq.heappush(self.heap, (entry.when, next(self._order), entry))

    def is_next(self, entry: Entry) -> bool:
        return self.heap[0][2] is entry

    def next_due(self) -> float:
        """Return when the first is due; infinity if there is none."""
        while self.heap and self.heap[0][2].action is None:  # nobody need wake for what was cancelled
            heapq.heappop(self.heap)
            self.cancelled = max(0, self.cancelled - 1)
        return self.heap[0][0] if self.heap else math.inf

    def take(self, now: float) -> Callable[[], None] | None:
        """Remove and return the first action that is due by ``now``."""
        while self.heap and self.heap[0][0] <= now:
            entry = heapq.heappop(self.heap)[2]
            action, entry.action = entry.action, None
            if action is not None:
                return action
            self.cancelled = max(0, self.cancelled - 1)
        return None
