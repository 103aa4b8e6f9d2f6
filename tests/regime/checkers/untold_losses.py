"""P5: who believed to the end of a lease is told of its loss soon after, whether or not the server answers."""

from __future__ import annotations

from collections.abc import Iterable

from regime.history import Op


def untold_losses(ops: Iterable[Op]) -> list[str]:
    """Return the leases whose holders had nothing left, waited to be told, and were not."""
    waited = (op for op in ops if op.what == "over" and op.known)
    return [f"untold_losses: {op.actor} was not told of the loss of {op.token}" for op in waited if not op.told]
