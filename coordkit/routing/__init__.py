"""Which shard owns a key, and redis-py's commands over many shards, while they change.

Each room (a sub-package) has one purpose, and says which others it imports; data flows one way, to which
``tests/unit/test_routing_rooms.py`` holds it. From the bottom up:

`placement`    which shard owns a key: `slots`, and an algorithm to a file: pure
`balance`      which of several equal nodes is asked next: pure
`commands`     which keys a command has, and what is sent where: pure. Begin with `plan` and `router`
`fence`        nobody acts by an old topology: the epoch at a shard, and how a shard is asked for that
`ways`         how one server is spoken to, in both flavours. Begin with `way`
`replicas`     shards of several servers. Begin with `terms` and `readers`; then `way`
`topology`     the list of shards that changes while it is in use
`moving`       how keys get from one shard to another. Begin with `moving`; then `mover`
`resharding`   which slots move, and when: the rebalancer. Begin with `reshard`
`directory`    what a sharded client knows without asking
`pubsub`       publish and subscribe
`client`       `ShardedRedis`, its pipelines, scripts and scans

New data: `rendezvous` for a fixed list of shards, `slot_map` and `SlotMap.rebalance` for a map that is stored. Data
that another router placed: `ketama`, `envoy_ring`, `maglev`, `hrw`, `jump`, `modula`. ``ShardedRedis(placement=...)``
takes any of them.
"""

from __future__ import annotations

from coordkit.routing.balance.health import SetAside
from coordkit.routing.balance.peak_ewma import PeakEwma
from coordkit.routing.balance.pickers import LeastOutstanding, Random, RoundRobin, SmoothWeightedRoundRobin, Sticky
from coordkit.routing.placement.bounded_loads import bounded_loads
from coordkit.routing.placement.envoy_ring import envoy_ring
from coordkit.routing.placement.hashes import HASHES
from coordkit.routing.placement.hrw import hrw
from coordkit.routing.placement.jump import jump, jump_hash
from coordkit.routing.placement.ketama import ketama
from coordkit.routing.placement.maglev import maglev
from coordkit.routing.placement.modula import modula
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.rendezvous import rendezvous
from coordkit.routing.placement.slot_map import SlotMap, slot_map
from coordkit.routing.placement.slots import SLOTS, slot_of
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.topology.parts import Move, Moving, Shard, Stable, Step
from coordkit.routing.topology.topology import Topology

__all__ = [
    "HASHES",
    "SLOTS",
    "LeastOutstanding",
    "Move",
    "Moving",
    "PeakEwma",
    "Placement",
    "Random",
    "ReplicaSet",
    "RoundRobin",
    "SetAside",
    "Shard",
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
