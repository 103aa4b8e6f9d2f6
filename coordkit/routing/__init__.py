"""Which shard owns a key, and which of several nodes is asked next.

Read `slots` (a key's slot), `placement` (a slot's shard), `commands` and `plan` (a command's keys, and what is sent
where): pure, no I/O. Then `client` and `aio`: redis-py's commands over many shards. `balance` picks among equals.
"""

from __future__ import annotations

from coordkit.routing.balance import Random, RoundRobin, SmoothWeightedRoundRobin
from coordkit.routing.placement import Placement, rendezvous
from coordkit.routing.slots import SLOTS, slot_of

__all__ = ["SLOTS", "Placement", "Random", "RoundRobin", "SmoothWeightedRoundRobin", "rendezvous", "slot_of"]
