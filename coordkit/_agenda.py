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

    __slots__ = ("action", "agenda")

    def __init__(self, agenda: Agenda, action: Callable[[], None]) -> None:
        self.agenda = agenda
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self.agenda.cancelled += 1  # a lost count under a race only delays a sweep


class Agenda:
    """Actions by the time at which they are due; whoever uses it from several threads guards it."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Entry]] = []
        self.cancelled = 0
        self._order = count()

    def add(self, when: float, action: Callable[[], None]) -> Entry:
        """Add an action; return its entry, by which it can be cancelled."""
        if self.cancelled > 64 and self.cancelled * 2 > len(self.heap):
            self.heap = [item for item in self.heap if item[2].action is not None]
            heapq.heapify(self.heap)
            self.cancelled = 0
        entry = Entry(self, action)
        heapq.heappush(self.heap, (when, next(self._order), entry))
        return entry

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
