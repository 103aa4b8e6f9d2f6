"""What a replica may answer under a live topology: old values, but none that a move has falsified.

A replica lags, and nobody drops the connections to it when slots change owners. So it might say "not there" of a key
that has moved away, or that has come and is not there yet. The shard's own keys tell, because they come to a replica in
the same stream as everything else:

- the *epoch* is raised before a move takes anything away. A replica that is asked for it after a read, and knows no
  later one than the client, had nothing taken away by a move that the client does not know;
- *settled* is the number of the last move that is over, written behind all that this move brought (`settle`). A
  replica that knows it before a read had all of it.

Both are asked around each read, in the same round trip: no connection need be greeted, and none dropped. A replica
that is not as far as it must be is treated as one that failed: the read goes elsewhere. Keys of slots that are moving
are not read from replicas at all.

A later epoch may come out after other parts of the batch were sent, and the batch is then planned anew as a whole. So
the reads of a batch go to replicas only if all of it are reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coordkit.errors import CoordError, StoreRefused
from coordkit.routing.fence.fence import local_key
from coordkit.routing.replicas.terms import is_unfit
from coordkit.routing.ways.batch import Batch, Command
from coordkit.routing.ways.errors import Outdated


class ReplicaFence:
    """Looks, around reads, at how far a replica of one shard is.

    ``floor`` says, each time, the number of the last move of this shard that is complete; 0 if there was none.
    """

    def __init__(self, topology: str, shard: str, floor: Callable[[], int]) -> None:
        self._topology = topology
        self._shard = shard
        self._floor = floor
        self._packed: tuple[bytes, bytes] | None = None
        # Not GET: a callback that the user has set for that would be given our replies as well.
        self._before: Command = (("GETRANGE", local_key(topology, "settled"), 0, -1), {})
        self._after: Command = (("GETRANGE", local_key(topology, "epoch"), 0, -1), {})

    def around(self, batch: Batch) -> Batch:
        """Return the batch with the two looks around it."""
        return [self._before, *batch, self._after]

    def packed(self, pack: Callable[[Sequence[tuple[Any, ...]]], bytes]) -> tuple[bytes, bytes]:
        """Return the two looks as they go on the wire."""
        if self._packed is None:
            self._packed = pack([self._before[0]]), pack([self._after[0]])
        return self._packed

    def within(self, replies: Sequence[Any], decided: int) -> list[Any]:
        """Return the replies to the batch itself, if they may be used by who routed it by epoch ``decided``.

        Raise Outdated if the replica knows a later epoch, and what `is_unfit` knows if another server must be asked.
        """
        settled, *answers, epoch = replies
        seen = self._number(epoch, "epoch")
        if seen > decided:
            raise Outdated(self._shard, seen, decided)
        if not seen:
            raise self._refused(f"it knows no epoch of topology {self._topology!r}")
        if self._number(settled, "settled") < (floor := self._floor()):
            raise self._refused(
                f"it has not all that was moved by epoch {floor} of topology {self._topology!r}; if that stays so, "
                f"`coordkit reshard repair {self._shard}` tells its primary again"
            )
        return answers

    def _number(self, reply: Any, what: str) -> int:
        if isinstance(reply, Exception):
            if is_unfit(reply):
                raise reply
            raise self._refused(f"it does not say what it has ({reply})") from reply
        try:
            return int(reply or 0)
        except (TypeError, ValueError):
            raise self._refused(f"its {what} is no number: {reply!r}") from None

    def _refused(self, why: str) -> CoordError:
        return StoreRefused(self._shard, f"this replica is not read from: {why}")
