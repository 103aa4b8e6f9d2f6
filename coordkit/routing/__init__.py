"""Which shard owns a key, and which of several nodes is asked next.

Read `slots` (a key's slot), `placement` (a slot's shard), `commands` (a command's keys), `plan` and `router` (what is
sent where): pure, no I/O. Then `client` and `client_aio`: redis-py's commands over many shards; what both share is in
`client_shards`, `client_batch`, `client_pipeline` and `client_errors`. `balance` picks among equals,
`health` sets aside who failed; `shares` shares work out.
"""

from __future__ import annotations

from coordkit.routing.balance import LeastOutstanding, Random, RoundRobin, SmoothWeightedRoundRobin, Sticky
from coordkit.routing.health import SetAside
from coordkit.routing.placement import Placement, rendezvous
from coordkit.routing.slots import SLOTS, slot_of

__all__ = [
    "SLOTS",
    "LeastOutstanding",
    "Placement",
    "Random",
    "RoundRobin",
    "SetAside",
    "SmoothWeightedRoundRobin",
    "Sticky",
    "rendezvous",
    "slot_of",
]
