"""The terms on which a shard with replicas is read and written, and what its answers mean; no I/O.

What goes where:

- Writes go to the primary, once. With ``min_replicas`` WAIT goes with them, on the same connection in the same round
  trip; so it does with EVAL, EVALSHA and FCALL, and behind the EXEC of a transaction that writes. A client that has to
  be used itself (a bounded pool, say) needs a ``socket_timeout`` that is longer than ``wait_timeout``.
- A read (`reads` says which commands are) goes where ``read_from`` says; sent again to another server if the first does
  not answer, to three at most.
- The part of a pipeline that is for one shard goes to a replica if all of it are reads, else to the primary as a whole,
  so that a read after a write sees it. A split read may go to a replica of each of its shards. Under a live topology
  the whole of a pipeline must be reads for that, those for other shards too (`replicas.fence` says why).
- Transactions, scripts and everything else go to the primary.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import MaxConnectionsError, NoPermissionError, ResponseError

from coordkit.errors import CoordError, ShardDown, StoreRefused, StoreUnavailable
from coordkit.routing.commands.reads import WRITE
from coordkit.routing.replicas.lag import MaxLag
from coordkit.routing.replicas.readers import READ_FROM, Node, ReadFrom
from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.copying import Copying

_UNFIT = ("MASTERDOWN", "BUSY ", "LOADING", "Link with MASTER is down")  # redis-py takes the code off some


class Terms(NamedTuple):
    """How a shard is read and written."""

    read_from: ReadFrom = "primary"
    min_replicas: int = 0
    wait_timeout: float = 1.0

    def copying(self, kinds: Sequence[str]) -> Copying | None:
        """Return the copies that a batch of commands of these kinds must have, if any."""
        if not self.min_replicas or WRITE not in kinds:
            return None
        return Copying(self.min_replicas, self.wait_timeout, [kind == WRITE for kind in kinds])

    def changed(self, read_from: Any, min_replicas: Any, wait_timeout: Any) -> Terms:
        """Return the same with what is not None put in its place; raise ValueError or TypeError, naming it."""
        terms = Terms(
            self.read_from if read_from is None else read_from,
            self.min_replicas if min_replicas is None else min_replicas,
            self.wait_timeout if wait_timeout is None else wait_timeout,
        )
        if terms.read_from not in READ_FROM:
            raise ValueError(f"read_from={read_from!r}; one of {READ_FROM} is allowed")
        if isinstance(terms.min_replicas, bool) or not isinstance(terms.min_replicas, int):
            raise TypeError(f"min_replicas={min_replicas!r}; an int of 0 or more is allowed")
        if terms.min_replicas < 0:
            raise ValueError(f"min_replicas={min_replicas!r}; an int of 0 or more is allowed")
        _check_seconds("wait_timeout", terms.wait_timeout)
        return terms


def lag_allowed(seconds: Any, size: Any) -> MaxLag | None:
    """Return what ``max_lag`` and ``max_lag_bytes`` mean; None if neither is given."""
    if seconds is not None:
        _check_seconds("max_lag", seconds)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise TypeError(f"max_lag_bytes={size!r}; an int of 0 or more is allowed")
    if size is not None and size < 0:
        raise ValueError(f"max_lag_bytes={size!r}; an int of 0 or more is allowed")
    if seconds is None and size is None:
        return None
    return MaxLag(math.inf if seconds is None else seconds, math.inf if size is None else size)


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}; a number of seconds above 0 is allowed")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}; a finite number of seconds above 0 is allowed")


def unbroken() -> Breaker:
    """Return the breaker of a replica: it never opens, because who fails is set aside by the readers."""
    return Breaker(failure_threshold=sys.maxsize)


def is_unfit(error: object) -> bool:
    """Whether an error says that this server cannot serve the read, and another may."""
    if isinstance(error, StoreRefused):
        return not isinstance(error.__cause__, NoPermissionError)  # the user's rights are the same elsewhere
    if isinstance(error, StoreUnavailable):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(_UNFIT)


def is_its_fault(error: object) -> bool:
    """Whether it is the server's, and not that of our own bounded pool."""
    return not isinstance(getattr(error, "__cause__", None), MaxConnectionsError)


def first_unfit(replies: Sequence[Any]) -> Any:
    """Return the first reply that sends a batch of reads elsewhere; None if there is none."""
    return next((reply for reply in replies if is_unfit(reply)), None)


def nobody_answered(shard: str, errors: Sequence[tuple[Node, Any]]) -> CoordError:
    """Return the error for a read that all who were asked did not answer."""
    said = "; ".join(f"{node}: {getattr(error, 'why', error)}" for node, error in errors)
    why = f"{len(errors)} of its servers were asked to read, one after the other, and none answered ({said})"
    last = errors[-1][1]
    meant: CoordError
    if all(isinstance(error, ShardDown) for _, error in errors):
        meant = ShardDown(shard, f"this shard cannot be reached: {why}", shard=shard)
    elif isinstance(last, StoreRefused):
        meant = StoreRefused(shard, why)
    else:
        meant = StoreUnavailable(shard, why)
    meant.__cause__ = getattr(last, "__cause__", None) or last
    return meant
