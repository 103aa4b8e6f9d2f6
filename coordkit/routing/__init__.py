"""Which shard owns a key, and which of several nodes is asked next.

Read `slots` (a key's slot), `placement`, `placements/` and `key_router` (a key's shard), `commands` (a command's keys),
`plan` and `router` (what is sent where): pure, no I/O. Then `client` and `client_aio`: redis-py's commands over many
shards, with their `client_pipeline`, `client_script` and `client_exchange`; what both flavours share is in
`client_shards`, `client_moment`, `client_queue`, `client_batch`, `client_questions` and `client_errors`. Each shard is
reached by a `way` (`way_aio`), or by a `way_pool` where the client itself must be used; `replies` is what redis-py
makes of replies. A way's connections are `way_connections`', and a batch over one is a `way_sending`. A `replica_set`
is reached by `replicated` (`replicated_aio`), on the terms of `replication`: `reads` are told from writes, `readers`
says who is asked, `lag` who is too far behind, and `probes` look at them meanwhile, by `replicated_questions`; a batch
of reads is a `replicated_reading`. What a replica may answer while slots move is `replica_fence`'s.
Commands without a key: `keyless`, `scanning`. Pub/sub: `client_subscriptions`, `client_pubsub`, `client_pubsub_lines`.
WATCH: `client_held`. `balance` and `peak_ewma` pick among equals, `health` sets aside who failed; `shares` shares work
out. `topology` (with `topology_parts`, `topology_form`) is a list of shards that changes while it is in use. While
slots move: `fence`, `first_touch`, `moving` (between `move_source` and `move_target`), `mover`, `reshard`.

New data: `rendezvous` for a fixed list of shards, `slot_map` and `SlotMap.rebalance` for a map that is stored. Data
that another router placed: `ketama`, `envoy_ring`, `maglev`, `hrw`, `jump`, `modula`. ``ShardedRedis(placement=...)``
takes any of them.
"""

from __future__ import annotations

from coordkit.routing.balance import LeastOutstanding, Random, RoundRobin, SmoothWeightedRoundRobin, Sticky
from coordkit.routing.health import SetAside
from coordkit.routing.peak_ewma import PeakEwma
from coordkit.routing.placement import Placement
from coordkit.routing.placements.bounded_loads import bounded_loads
from coordkit.routing.placements.envoy_ring import envoy_ring
from coordkit.routing.placements.hashes import HASHES
from coordkit.routing.placements.hrw import hrw
from coordkit.routing.placements.jump import jump, jump_hash
from coordkit.routing.placements.ketama import ketama
from coordkit.routing.placements.maglev import maglev
from coordkit.routing.placements.modula import modula
from coordkit.routing.placements.rendezvous import rendezvous
from coordkit.routing.placements.slot_map import SlotMap, slot_map
from coordkit.routing.replica_set import ReplicaSet
from coordkit.routing.slots import SLOTS, slot_of
from coordkit.routing.topology import Topology
from coordkit.routing.topology_parts import Move, Moving, Shard, Stable, Step

__all__ = [
    "HASHES",
    "SLOTS",
    "LeastOutstanding",
    "Move",
    "Moving",
    "PeakEwma",
    "Placement",
    "Random",
    "RoundRobin",
    "SetAside",
    "Shard",
    "ReplicaSet",
    "SlotMap",
    "SmoothWeightedRoundRobin",
    "Stable",
    "Step",
    "Sticky",
    "Topology",
    "bounded_loads",
    "envoy_ring",
    "hrw",
    "jump",
    "jump_hash",
    "ketama",
    "maglev",
    "modula",
    "rendezvous",
    "slot_map",
    "slot_of",
]
