"""The blocking facade, whole: what ``coordkit`` gives out by name."""

from coordkit._sync.balance import Balance
from coordkit._sync.clients import RedisClient
from coordkit._sync.disconnect import disconnect
from coordkit._sync.election import Election, Lead, Views
from coordkit._sync.fence import Fence
from coordkit._sync.group import Changes, Group, Join, Member
from coordkit._sync.hold import Hold, Lease
from coordkit._sync.leadership import Leadership, Transaction
from coordkit._sync.locks import Lock
from coordkit._sync.lost import Lost
from coordkit._sync.multi import MultiLease, MultiLock
from coordkit._sync.quorum import Quorum, QuorumLock
from coordkit._sync.reshard import Reshard
from coordkit._sync.roles import Backup, Primary, Roles
from coordkit._sync.rwlock import ReadWriteLock
from coordkit._sync.semaphore import Semaphore
from coordkit._sync.session import Guardian, SessionScope
from coordkit._sync.share import Partition, Share
from coordkit._sync.topology import Topologies, TopologyStore
from coordkit.core.balance import Pick
from coordkit.core.changes import Change
from coordkit.core.data import from_json, to_json
from coordkit.core.holder import Holder
from coordkit.core.in_sync import InSyncSet
from coordkit.core.records import Leader
from coordkit.core.share import Owner
from coordkit.core.token import Token
from coordkit.core.views import View
from coordkit.errors import (
    AcquireTimeout,
    BadTopology,
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
    TooFewReplicas,
    TopologyOutdated,
    TransactionFailed,
)
from coordkit.gate import TokenGate
from coordkit.routing import (
    LeastOutstanding,
    PeakEwma,
    Placement,
    Random,
    ReplicaSet,
    RoundRobin,
    SetAside,
    SmoothWeightedRoundRobin,
    Sticky,
    rendezvous,
)
from coordkit.routing.client.client import ShardedRedis
from coordkit.routing.client.live import LiveShardedRedis
from coordkit.routing.client.pipeline import ShardedPipeline
from coordkit.routing.moving.progress import Progress
from coordkit.routing.topology.parts import Shard
from coordkit.routing.topology.topology import Topology

__all__ = [
    "AcquireTimeout",
    "Backup",
    "BadTopology",
    "Balance",
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
    "LeastOutstanding",
    "LiveShardedRedis",
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
    "PeakEwma",
    "Pick",
    "Placement",
    "Primary",
    "Progress",
    "Quorum",
    "QuorumLock",
    "Random",
    "ReadWriteLock",
    "RedisClient",
    "ReplicaSet",
    "Reshard",
    "Roles",
    "RoundRobin",
    "Semaphore",
    "SessionScope",
    "SetAside",
    "Shard",
    "ShardDown",
    "ShardedPipeline",
    "ShardedRedis",
    "Share",
    "SmoothWeightedRoundRobin",
    "StaleToken",
    "Sticky",
    "StoreRefused",
    "StoreUnavailable",
    "Token",
    "TokenGate",
    "TooFewReplicas",
    "Topologies",
    "Topology",
    "TopologyOutdated",
    "TopologyStore",
    "Transaction",
    "TransactionFailed",
    "View",
    "Views",
    "disconnect",
    "from_json",
    "rendezvous",
    "to_json",
]
