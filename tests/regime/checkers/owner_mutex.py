"""W1: a mutex that knows its owner. Who was granted it is alone until it gives it back; nothing expires."""

from __future__ import annotations

import math
from collections.abc import Iterable

from regime.checkers.linearizable import BUDGET, Event, why_not
from regime.history import Op


def owner_mutex(ops: Iterable[Op], *, budget: int = BUDGET) -> list[str]:
    """Return what is wrong with acquisitions and releases of one name."""
    events: list[Event] = []
    for op in ops:
        if op.what == "acquire" and op.token:
            events.append(Event("grant", op.call, op.end, op.token))
        elif op.what == "release":
            # What ended in a doubt may have been done at any time since, or never.
            events.append(Event("release", op.call, op.end if op.released else math.inf, op.token))
    wrong = why_not(events, 0, _step, budget=budget)
    return [] if wrong is None else [f"owner_mutex: {wrong}"]


def _step(owner: int, event: Event) -> int | None:
    if event.what == "grant":
        return event.token if owner == 0 else None
    return 0 if owner == event.token else None
