"""A lock that excludes redis-py's own ``redis.lock.Lock`` of the same name, so that a fleet can move one by one.

The lock is the key that redis-py uses, the bare name, taken as redis-py takes it (``SET NX PX``) and freed by deleting
it. Nothing is handed on, and whoever waits asks again: else those that poll would never get their turn.

What that costs: no order among those who wait, and tokens that rise among coordkit's holders only; between two of them
redis-py's may have held without one.
"""

from __future__ import annotations

import re

from coordkit._ports import Confirm, Inbox, Store
from coordkit.core.keeper import Keeper
from coordkit.core.lock import Mutex

_TAG = re.compile(r"[^{]*\{(?P<tag>[^}]+)\}")  # what a Cluster takes the slot of a key from, if it is there


class RedisPyMutex(Mutex):
    """The questions of a lock that is shared with redis-py's; its queue is always empty."""

    def __init__(self, store: Store, keeper: Keeper, name: str, copies: Confirm | None = None) -> None:
        super().__init__(store, keeper, name, copies)
        tagged = _TAG.match(name)
        # A name with '}' and without a tag has no other keys on its slot: on a Cluster it is refused, CrossShardError.
        slot = f"coordkit:1:{{{tagged['tag'] if tagged else name}}}:redis-py"
        self.key = name
        self._keys = (name.encode(), *(f"{slot}:{part}:{name}".encode() for part in ("token", "queue")))
        self._broken = f"{slot}:broken:{name}:"
        self.inbox = _nothing_is_told


def _nothing_is_told() -> Inbox | None:
    return None
