"""A Redis Cluster: three primaries that share the 16384 slots, each with a replica.

with start_cluster() as servers:
    client = redis.RedisCluster.from_url(servers.url)
    servers.move_slot(slot_of("key"), to=servers.primaries()[0])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from coordkit.routing.placement.slots import SLOTS, slot_of
from coordkit.testing.deployments import Deployment, LocalSite, Member, Silent, Site, launched, tell
from coordkit.testing.replicated import data_words
from coordkit.testing.servers import RedisServer, ServerFailed, scaled

__all__ = ["ClusterRedis", "start_cluster"]


@dataclass(frozen=True)
class _Seen:
    """One server as another one sees it."""

    id: str
    port: int
    flags: frozenset[str]
    follows: str
    linked: bool
    slots: tuple[tuple[int, int], ...]


class ClusterRedis(Deployment):
    """The servers of a Redis Cluster; ``nodes`` are all of them, primaries and replicas."""

    def __init__(self, nodes: Sequence[Member], site: Site) -> None:
        super().__init__(nodes, site)
        self._replicas: dict[int, frozenset[int]] = {}  # of each primary when it was last looked at, all by port

    @property
    def url(self) -> str:
        """What ``redis.RedisCluster.from_url`` takes; the first server, so ``startup_nodes`` is better under faults."""
        return self.nodes[0].url

    @property
    def startup_nodes(self) -> list[tuple[str, int]]:
        """The host and port of every server."""
        return [(node.host, node.port) for node in self.nodes]

    def primaries(self) -> tuple[Member, ...]:
        """Return the servers that have slots."""
        return tuple(self.at(each.port) for each in self._view() if each.slots)

    def primary_for(self, key: str | bytes) -> Member:
        """Return the server that has the slot of ``key``."""
        return self._owner(slot_of(key))

    def replica_of(self, primary: RedisServer) -> Member:
        """Return a replica of ``primary``; raise LookupError when it has none."""
        view = self._view()
        mine = next(each.id for each in view if each.port == primary.port)
        for each in view:
            if each.follows == mine and "fail" not in each.flags:
                return self.at(each.port)
        raise LookupError(f"{self}: {primary.host}:{primary.port} has no replica")

    def failover(self, primary: RedisServer, timeout: float = 30.0) -> Member:
        """Let the replica of ``primary`` take over although nothing is broken; return it once all agree."""
        replica = self.replica_of(primary)
        self._look_at_replicas()

        def refused() -> str:
            tell(replica, "CLUSTER", "FAILOVER")
            return ""

        self.until(refused, timeout)
        return self.wait_promoted(primary, timeout)

    def wait_promoted(self, old: RedisServer, timeout: float = 30.0) -> Member:
        """Wait until ``old`` has no slots and its replica has them, as all that answer see it; return that replica.

        Call it after ``old`` was killed or paused.
        """
        self._look_at_replicas()
        replicas = self._replicas.get(old.port, frozenset())
        found: list[Member] = []

        def look() -> str:
            views = self._views()
            if len(views) * 2 <= len(self.nodes):
                return "most servers are silent"
            for view in views:
                new = [each for each in view if each.port in replicas and each.slots]
                if not new or any(each.port == old.port and each.slots for each in view):
                    return f"not all see another in the place of port {old.port}"
                found[:] = [self.at(new[0].port)]
            return ""

        self.until(look, scaled(timeout))
        return found[0]

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys to the primary ``to`` while clients go on; return once all servers know."""
        with self.moving(slot, to):
            pass

    @contextlib.contextmanager
    def moving(self, slot: int, to: RedisServer) -> Iterator[None]:
        """Move a slot as ``move_slot`` does; the block runs when its keys are over, and its owner is still the old one.

        In that state a request to the old owner is answered ``ASK``, and one of several keys, of which some do not
        exist, ``TRYAGAIN``.
        """
        source, target = self._owner(slot), self.at(to.port)
        if source is target:
            raise ValueError(f"to: {to} has slot {slot} already")
        tell(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))
        try:
            while keys := tell(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
                tell(source, "MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys, timeout=10.0)
            yield
        finally:
            # The new owner first, so that nobody is ever sent in a circle; the others need not wait for gossip.
            rest = [node for node in self.primaries() if node is not target and node is not source]
            for node in (target, source, *rest):
                tell(node, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))
        self.until(lambda: "" if self._agreed() else f"not all know where slot {slot} is", scaled(30.0))

    def trouble(self) -> str:
        for node in self.nodes:
            view = self._view_of(node)
            if len(view) != len(self.nodes):
                return f"{node.host}:{node.port} knows {len(view)} of {len(self.nodes)} servers"
            if bad := [e.port for e in view if not e.linked or e.flags & {"fail", "fail?", "handshake", "noaddr"}]:
                return f"{node.host}:{node.port} has no good link to ports {bad}"
            if "cluster_state:ok" not in tell(node, "CLUSTER", "INFO"):
                return f"{node.host}:{node.port} says that the cluster's state is not ok"
            role = tell(node, "ROLE")
            if role[0] == "slave" and role[3] != "connected":
                return f"{node.host}:{node.port} is not connected to its primary"
        if not self._agreed():
            return "not all agree who has which slots"
        self._look_at_replicas()
        return ""

    # -- what the servers say of each other

    def _look_at_replicas(self) -> None:
        view = self._view()
        for each in view:
            if each.slots:
                self._replicas[each.port] = frozenset(other.port for other in view if other.follows == each.id)

    def _agreed(self) -> bool:
        said = {frozenset((e.id, e.follows, e.slots) for e in self._view_of(node)) for node in self.nodes}
        return len(said) == 1 and sum(last - first + 1 for e in self._view() for first, last in e.slots) == SLOTS

    def _owner(self, slot: int) -> Member:
        for each in self._view():
            if any(first <= slot <= last for first, last in each.slots):
                return self.at(each.port)
        raise ServerFailed(f"{self}: nobody has slot {slot}")

    def _id(self, node: Member) -> str:
        return str(tell(node, "CLUSTER", "MYID"))

    def _views(self) -> list[list[_Seen]]:
        views = []
        for node in self.nodes:
            with contextlib.suppress(Silent):
                views.append(self._view_of(node, 0.5))
        return views

    def _view(self) -> list[_Seen]:
        for node in self.nodes:
            with contextlib.suppress(Silent):
                return self._view_of(node, 0.5)
        raise ServerFailed(f"{self}: no server answers")

    @staticmethod
    def _view_of(node: Member, timeout: float = 2.0) -> list[_Seen]:
        return [_seen(line.split()) for line in tell(node, "CLUSTER", "NODES", timeout=timeout).splitlines()]


def start_cluster(
    primaries: int = 3,
    replicas: int = 1,
    *,
    site: Site | None = None,
    node_timeout: float = 2.0,
    args: Sequence[str] = (),
) -> ClusterRedis:
    """Start a Redis Cluster and wait until all its servers agree that its state is ok.

    Each primary has so many ``replicas``; one of them takes over when its primary was silent for about
    ``node_timeout`` seconds. ``args`` are further command line arguments of each server. Raise ServerFailed.
    """
    if primaries < 3 or replicas < 0:
        raise ValueError(f"primaries, replicas: {primaries!r}, {replicas!r} are not 3 or more, and 0 or more")
    site = site or LocalSite()
    words = [*data_words(site), "--cluster-enabled", "yes", "--cluster-announce-ip", site.host]
    words += ["--cluster-node-timeout", str(round(node_timeout * 1000)), "--cluster-replica-validity-factor", "0"]
    nodes = [site.member(port, [*words, *args]) for port in site.open(primaries * (1 + replicas), bus=True)]

    def join(cluster: ClusterRedis) -> None:
        first, *others = cluster.nodes
        for number, node in enumerate(cluster.nodes):
            tell(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < primaries:
                share = range(number * SLOTS // primaries, (number + 1) * SLOTS // primaries)
                tell(node, "CLUSTER", "ADDSLOTS", *share)
        for node in others:
            tell(first, "CLUSTER", "MEET", node.host, node.port)
        for number, node in enumerate(cluster.nodes[primaries:]):
            owner = tell(cluster.nodes[number % primaries], "CLUSTER", "MYID")
            cluster.until(partial(_replicate, node, owner), scaled(30.0))

    return launched(ClusterRedis(nodes, site), join)


def _replicate(node: Member, owner: str) -> str:
    tell(node, "CLUSTER", "REPLICATE", owner)  # refused until the two have heard of each other
    return ""


def _seen(words: Sequence[str]) -> _Seen:
    node, address, flags, follows, _ping, _pong, _epoch, link, *slots = words
    ranges = [each.partition("-") for each in slots if not each.startswith("[")]  # in brackets: one on its way
    return _Seen(
        id=node,
        port=int(address.partition("@")[0].rpartition(":")[2]),
        flags=frozenset(flags.split(",")) - {"myself"},
        follows="" if follows == "-" else follows,
        linked=link == "connected",
        slots=tuple((int(first), int(last or first)) for first, _, last in ranges),
    )
