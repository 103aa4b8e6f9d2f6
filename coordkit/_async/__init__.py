"""The asyncio facade, whole: what ``coordkit.aio`` gives out by name."""

from coordkit._async.balance import Balance
from coordkit._async.clients import RedisClient
from coordkit._async.disconnect import disconnect
from coordkit._async.election import Election, Lead, Views
from coordkit._async.fence import Fence
from coordkit._async.group import Changes, Group, Join, Member
from coordkit._async.hold import Hold, Lease
from coordkit._async.leadership import Leadership, Transaction
from coordkit._async.locks import Lock
from coordkit._async.lost import Lost
from coordkit._async.multi import MultiLease, MultiLock
from coordkit._async.quorum import Quorum, QuorumLock
from coordkit._async.reshard import Reshard
from coordkit._async.roles import Backup, Primary, Roles
from coordkit._async.rwlock import ReadWriteLock
from coordkit._async.semaphore import Semaphore
from coordkit._async.session import Guardian, SessionScope
from coordkit._async.share import Partition, Share
from coordkit._async.topology import Topologies, TopologyStore
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
from coordkit.routing.client.client_aio import ShardedRedis
from coordkit.routing.client.live_aio import LiveShardedRedis
from coordkit.routing.client.pipeline_aio import ShardedPipeline
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
