"""P4: two who both look at their deadlines never believe at once, as long as clocks err by no more than declared."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from regime.history import Op


def beliefs(ops: Iterable[Op]) -> list[tuple[float, float, str]]:
    """Return from when to when each grant of one name was believed, and by whom.

    A belief begins when the grant returns, and lasts as long as its latest look said; giving back, when it is called,
    ends it.
    """
    began: dict[int, tuple[float, str]] = {}
    until: dict[int, float] = {}
    ended: dict[int, float] = {}
    for op in ops:
        if not op.token or (not op.known and op.what != "release"):
            continue
        if op.what == "acquire":
            began[op.token] = (op.end, op.actor)
        if op.until:
            until[op.token] = max(until.get(op.token, 0.0), op.until)
        if op.what == "release":
            ended.setdefault(op.token, op.call)
    return sorted(
        (start, min(until[token], ended.get(token, math.inf)), actor)
        for token, (start, actor) in began.items()
        if token in until
    )


def overlapping_leases(ops: Iterable[Op], *, slack: float = 0.0, at_once: int = 1) -> list[str]:
    """Return each moment of one name at which more than ``at_once`` believed, for longer than ``slack`` seconds."""
    wrong: list[str] = []
    holding: list[tuple[float, str]] = []  # a heap: when a belief ends, and whose
    for start, end, actor in beliefs(ops):
        while holding and holding[0][0] - slack <= start:
            heapq.heappop(holding)
        if start >= end:
            continue
        heapq.heappush(holding, (end, actor))
        if len(holding) > at_once:
            others = ", ".join(f"{who} until {ends:.4f}" for ends, who in sorted(holding) if who != actor)
            wrong.append(f"overlapping_leases: {actor} believes from {start:.4f}, and {others}")
    return wrong
