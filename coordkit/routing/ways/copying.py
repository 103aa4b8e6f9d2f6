"""The copies that the writes of a batch must have, and what is said of one that too few replicas have; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from coordkit.errors import TooFewReplicas


class Copying(NamedTuple):
    """The copies that the writes of a batch must have."""

    replicas: int
    within: float
    writes: Sequence[bool]  # which of the commands are some

    def judged(self, shard: str, replies: Sequence[Any], copies: Any) -> list[Any]:
        """Return the replies, with TooFewReplicas in the place of each write that too few replicas have.

        ``copies`` is the answer to WAIT: a number, or an error.
        """
        if isinstance(copies, int) and copies >= self.replicas:
            return list(replies)
        return [
            self._lacking(shard, reply, copies) if is_write and not isinstance(reply, Exception) else reply
            for is_write, reply in zip(self.writes, replies, strict=True)
        ]

    def _lacking(self, shard: str, reply: Any, copies: Any) -> TooFewReplicas:
        known = isinstance(copies, int)
        told = (
            f"{copies} of {self.replicas} replicas had it after {self.within:g} s"
            if known
            else f"how many replicas have it is unknown ({getattr(copies, 'why', copies)})"
        )
        error = TooFewReplicas(
            shard,
            f"written on the primary, but {told}; it stands there, and is lost if the primary is before they have it: "
            "look at the replicas (INFO replication), and do not repeat what must not be done twice",
            replicas=copies if known else None,
            reply=reply,
        )
        error.__cause__ = None if known else copies
        return error
