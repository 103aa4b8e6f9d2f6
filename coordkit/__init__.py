"""Coordination for Python services, on Redis and ZooKeeper: locks, elections, membership, sharded routing.

This is the blocking API; ``coordkit.aio`` has the same names for asyncio. Clients are passed in, never made.

What is promised: every grant carries a fencing token that rises; losing is loud; nothing leaks; both flavours are the
same library. What no lock service can promise: that two processes never *believe* they hold at once. A process may be
paused between looking and writing; only the resource can refuse the late writer, by comparing tokens (``Fence``).
"""

from coordkit._sync.locks import Fence, Hold, Lease, Lock
from coordkit._sync.lost import Lost
from coordkit._sync.zookeeper import Changes, Election, Group, Join, Lead, Leadership, Member
from coordkit.core.changes import Change
from coordkit.core.token import Token
from coordkit.core.znodes import Leader
from coordkit.errors import (
    AcquireTimeout,
    CoordError,
    CrossShardError,
    LeadershipLost,
    LeaseLost,
    NoNodes,
    NoQuorum,
    NotAcquired,
    PartialFailure,
    ShardDown,
    StaleToken,
    StoreRefused,
    StoreUnavailable,
)
from coordkit.routing import Placement, Random, RoundRobin, SmoothWeightedRoundRobin, rendezvous
from coordkit.routing.client import ShardedPipeline, ShardedRedis

__version__ = "0.1.0"

__all__ = [
    "AcquireTimeout",
    "Change",
    "Changes",
    "CoordError",
    "CrossShardError",
    "Election",
    "Fence",
    "Group",
    "Hold",
    "Join",
    "Lead",
    "Leader",
    "Leadership",
    "LeadershipLost",
    "Lease",
    "LeaseLost",
    "Lock",
    "Lost",
    "Member",
    "NoNodes",
    "NoQuorum",
    "NotAcquired",
    "PartialFailure",
    "Placement",
    "Random",
    "RoundRobin",
    "ShardDown",
    "ShardedPipeline",
    "ShardedRedis",
    "SmoothWeightedRoundRobin",
    "StaleToken",
    "StoreRefused",
    "StoreUnavailable",
    "Token",
    "rendezvous",
]
