"""P3, second half: what was acknowledged is still there at the end.

Each write names the write it is based on, so the last one's ancestors are all that survived.
"""

from __future__ import annotations

from collections.abc import Iterable

from regime.history import Op
from regime.resource import Entry


def lost_updates(ops: Iterable[Op], log: Iterable[Entry], final: str | None) -> list[str]:
    """Return the acknowledged writes that are no ancestors of the resource's ``final`` write."""
    parents = {entry.write: entry.parent for entry in log if entry.what == "set"}
    kept: set[str] = set()
    while final and final not in kept:
        kept.add(final)
        final = parents.get(final)
    acknowledged = [op for op in ops if op.what == "write" and op.written]
    return [f"lost_updates: {op.write} of {op.actor} was acknowledged" for op in acknowledged if op.write not in kept]
