"""The asyncio facade, whole: what ``coordkit.aio`` gives out by name."""

from coordkit._async.election import Election, Lead, Leadership, Transaction, Views
from coordkit._async.fence import Fence
from coordkit._async.group import Changes, Group, Join, Member
from coordkit._async.hold import Hold, Lease
from coordkit._async.locks import Lock
from coordkit._async.lost import Lost
from coordkit._async.multi import MultiLease, MultiLock
from coordkit._async.quorum import Quorum, QuorumLock
from coordkit._async.roles import Backup, Primary, Roles
from coordkit._async.rwlock import ReadWriteLock
from coordkit._async.semaphore import Semaphore
from coordkit._async.session import Guardian, SessionScope
from coordkit._async.share import Partition, Share
from coordkit.core.changes import Change
from coordkit.core.holder import Holder
from coordkit.core.in_sync import InSyncSet
from coordkit.core.share import Owner
from coordkit.core.token import Token
from coordkit.core.views import View
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
    TransactionFailed,
)
from coordkit.gate import TokenGate
from coordkit.routing import Placement, Random, RoundRobin, SmoothWeightedRoundRobin, rendezvous
from coordkit.routing.client_aio import ShardedPipeline, ShardedRedis

__all__ = [
    "AcquireTimeout",
    "Backup",
    "Change",
    "Changes",
    "CoordError",
    "CrossShardError",
    "Election",
    "Fence",
    "Group",
    "Guardian",
    "Hold",
    "Holder",
    "InSyncSet",
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
    "MultiLease",
    "MultiLock",
    "NoNodes",
    "NoQuorum",
    "NotAcquired",
    "Owner",
    "PartialFailure",
    "Partition",
    "Placement",
    "Primary",
    "Quorum",
    "QuorumLock",
    "Random",
    "ReadWriteLock",
    "Roles",
    "RoundRobin",
    "Semaphore",
    "SessionScope",
    "ShardDown",
    "Share",
    "ShardedPipeline",
    "ShardedRedis",
    "SmoothWeightedRoundRobin",
    "StaleToken",
    "StoreRefused",
    "StoreUnavailable",
    "Token",
    "TokenGate",
    "Transaction",
    "TransactionFailed",
    "View",
    "Views",
    "rendezvous",
]
