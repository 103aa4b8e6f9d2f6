"""Is there an order in which all of this could have happened? The search of Wing, Gong and Lowe, with a budget.

A history is linearizable if each operation can be given one moment between its call and its return so that, one after
the other, they are what the model allows. The search tries those operations first that must have begun before any other
ended, and remembers the states it has been in (Lowe, "Testing for linearizability", 2017). The problem is exponential
in the worst case: a search that runs out of its budget proves nothing, and counts as a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

BUDGET = 200_000
"""Steps of the model, and a hundred more for each operation: a few seconds for some hundred operations."""


@dataclass(frozen=True)
class Event:
    """One operation of the model, which happened at some moment between ``call`` and ``end``."""

    what: str
    call: float
    end: float
    token: int = 0
    until: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} {self.token or ''} [{self.call:.4f}, {self.end:.4f}]"


@dataclass(frozen=True)
class Stuck:
    """Why there is no order, and the event around which to look for the reason."""

    why: str
    at: Event

    def __str__(self) -> str:
        return self.why


State = TypeVar("State", bound=Hashable)
Step = Callable[[State, Event], State | None]


def why_not(events: Sequence[Event], start: State, step: Step[State], *, budget: int | None = None) -> Stuck | None:
    """Return None if ``events`` can be put in order, else how far the search came, or that its budget was spent.

    The operation that it names is the first that no attempt could place with all those before it; the state is of the
    attempt that did so with the most of the others, but that may have begun to go wrong long before.

    ``step`` gives the state after an event, or None where the model does not allow it there.
    """
    events = sorted(events, key=lambda event: (event.call, event.end))
    steps = BUDGET + 100 * len(events) if budget is None else budget
    seen: set[tuple[int, int, State]] = set()
    # A place in the search: all before `low` are done, and of those after it the ones whose bit is set; how many are
    # done; the state; where to go on among the candidates.
    stack: list[tuple[int, int, int, State, int]] = [(0, 0, 0, start, 0)]
    best, stuck = (-1, -1), start
    while stack:
        low, done, count, state, index = stack.pop()
        if count == len(events):
            return None
        if (low, count) > best:
            best, stuck = (low, count), state
        candidates = _candidates(events, low, done)
        while index < len(candidates):
            position = candidates[index]
            index += 1
            steps -= 1
            if steps < 0:
                why = f"the search ran out of its budget, {best[1]} of {len(events)} operations in order"
                return Stuck(why, events[best[0]])
            after = step(state, events[position])
            if after is None:
                continue
            place = (*_with(low, done, position), after)
            if place in seen:
                continue
            seen.add(place)
            stack.append((low, done, count, state, index))
            stack.append((place[0], place[1], count + 1, after, 0))
            break
    nowhere = events[best[0]]
    why = f"no order is possible after {best[1]} of {len(events)} operations: {nowhere} fits nowhere; the furthest "
    return Stuck(f"{why}state is {stuck}", nowhere)


def _candidates(events: Sequence[Event], low: int, done: int) -> list[int]:
    """Return what may come next, the likeliest first: whatever was called before the first of the others returned."""
    found: list[int] = []
    first_end = math.inf
    for position in range(low, len(events)):
        event = events[position]
        if event.call > first_end:
            break
        if not done >> (position - low) & 1:
            found.append(position)
            first_end = min(first_end, event.end)
    # Who returned first was probably first: with that guess the search hardly ever turns back on a good history.
    return sorted((p for p in found if events[p].call <= first_end), key=lambda p: events[p].end)


def _with(low: int, done: int, position: int) -> tuple[int, int]:
    done |= 1 << (position - low)
    while done & 1:
        done >>= 1
        low += 1
    return low, done
