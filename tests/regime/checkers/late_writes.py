"""Deadline discipline: nobody began a write when its own lease had ended by its own clock."""

from __future__ import annotations

from collections.abc import Iterable

from regime.history import Op


def late_writes(ops: Iterable[Op]) -> list[str]:
    """Return the writes that were begun with nothing left of the lease."""
    writes = (op for op in ops if op.what == "write")
    return [f"late_writes: {op.actor} wrote {op.write} with nothing left" for op in writes if op.left <= 0]
