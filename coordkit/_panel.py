"""What asking several Redis servers at once needs in both flavours: teaching them scripts, and knowing who is down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit import _redis_answers, _redis_packing
from coordkit._ports import Call
from coordkit.errors import CoordError, StoreUnavailable


def pause_after(took: float) -> float:
    """Return the seconds for which a server counts as down that could not be reached, after so many of trying."""
    return min(0.25, max(0.02, took))


def taught(connection: Any, calls: Sequence[Call], known: set[str]) -> bytes:
    """Return the bytes of calls whose scripts the server may not know; ``known`` are those that it does, from now on.

    A server whose answer is never waited for would else never learn: "no such script" comes too late to be mended.
    """
    parts: list[bytes] = []
    for call in calls:
        if call.script.sha in known:
            parts.append(_redis_packing.packed(call))
        else:
            known.add(call.script.sha)
            parts += connection.pack_commands(_redis_packing.evals([call]))
    return b"".join(parts)


def unanswered(error: Exception, name: str, where: str) -> CoordError:
    """Return what an error means that came instead of answers."""
    meant = _redis_answers.translated(error, name, where) or StoreUnavailable(
        name, f"no answer from {where}: {error!r}"
    )
    meant.__cause__ = error
    return meant
