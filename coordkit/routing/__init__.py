"""Which shard owns a key, and which of several nodes is asked next.

Read `slots` (a key's slot), `placement` (a slot's shard), `commands` (a command's keys), `plan` and `router` (what is
sent where): pure, no I/O. Then `client` and `client_aio`: redis-py's commands over many shards; what both share is in
`client_shards`, `client_batch`, `client_pipeline` and `client_errors`. `balance` picks among equals.
"""

from __future__ import annotations

from coordkit.routing.balance import Random, RoundRobin, SmoothWeightedRoundRobin
from coordkit.routing.placement import Placement, rendezvous
from coordkit.routing.slots import SLOTS, slot_of

__all__ = ["SLOTS", "Placement", "Random", "RoundRobin", "SmoothWeightedRoundRobin", "rendezvous", "slot_of"]
