"""What stands around an event of a history, for whoever must explain what a checker found there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from regime.history import Op

if TYPE_CHECKING:
    from regime.checkers.linearizable import Event

MOST = 40
"""Lines: who reads a verdict in CI's log has nothing else, and wants what came just before and after."""

_SAID = ("name", "holder", "shared")  # not of use: one name's operations, and its token says whose it is


def around(ops: Iterable[Op], event: Event, seconds: float) -> list[str]:
    """Return a line for each operation about as late as ``event`` that says anything of who holds: the nearest ones.

    Their times count from the event's call. Refusals say little, nor does a look that says what the one before it said;
    what was never answered is of interest for as long as it may have been under way.
    """
    start, end = event.call - 2 * seconds, min(event.end, event.call + MOST * seconds) + seconds
    seen: set[tuple[str, Any, Any]] = set()
    near: list[tuple[float, Op]] = []
    for op in sorted(ops, key=lambda op: op.call):
        if op.refused or op.call > end or (op.end if op.known else op.call + 4 * seconds) < start:
            continue
        if op.what == "look":
            if (said := (op.actor, op.token, round(op.until or 0.0, 2))) in seen:
                continue
            seen.add(said)
        near.append((max(op.call - event.end, event.call - op.end, 0.0), op))
    kept = sorted((op for _, op in sorted(near, key=lambda one: one[0])[:MOST]), key=lambda op: op.call)
    left = [f"    and {len(near) - len(kept)} more"] * (len(near) > len(kept))
    return [f"  around it, in seconds since {event.call:.4f}:", *(f"    {_line(op, event.call)}" for op in kept), *left]


def _line(op: Op, moment: float) -> str:
    facts = {fact: value for fact, value in op.facts.items() if fact not in _SAID and value is not None}
    if "until" in facts:
        facts["until"] = f"{op.until - moment:.4f}" if op.until else "now"
    said = ", ".join(f"{fact} {value}" for fact, value in facts.items())
    return f"{op.actor:8} {op.what:8} [{op.call - moment:8.4f}, {op.end - moment:8.4f}] {said}".rstrip()
