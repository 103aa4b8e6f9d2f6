"""W1: a mutex that knows its owner. Who was granted it is alone until it gives it back; nothing expires."""

from __future__ import annotations

from collections.abc import Iterable

from regime.checkers.linearizable import Event, why_not
from regime.history import Op


def owner_mutex(ops: Iterable[Op], *, budget: int | None = None) -> list[str]:
    """Return what is wrong with acquisitions and releases of one name."""
    events: list[Event] = []
    doubts: dict[int, float] = {}  # releases of unknown outcome: done at any time since their call, or never
    for op in ops:
        if op.what == "acquire" and op.token:
            events.append(Event("grant", op.call, op.end, op.token))
        elif op.what == "release" and op.released:
            events.append(Event("release", op.call, op.end, op.token))
        elif op.what == "release":
            doubts[op.token] = op.call

    def step(owner: int, event: Event) -> int | None:
        if event.what == "grant":
            return event.token if owner == 0 or doubts.get(owner, event.end) < event.end else None
        return 0 if owner == event.token else None

    wrong = why_not(events, 0, step, budget=budget)
    return [] if wrong is None else [f"owner_mutex: {wrong}"]
