"""The servers of all shards of one client, and the ways to them on given terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordkit.routing.balance.health import Picker
from coordkit.routing.replicas.fence import ReplicaFence
from coordkit.routing.replicas.lag import MaxLag
from coordkit.routing.replicas.readers import Node, Readers
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.replicas.sentinels import Followed, address_of
from coordkit.routing.replicas.terms import Terms, unbroken
from coordkit.routing.ways.breaker import Breaker


def primary_of(given: Any) -> Any:
    """Return the client of a shard's primary."""
    return given.primary if isinstance(given, ReplicaSet) else given


def clients_of(given: Any) -> list[Any]:
    """Return the clients of a shard."""
    return [given.primary, *given.replicas] if isinstance(given, ReplicaSet) else [given]


def servers_of(shards: Mapping[str, Any]) -> dict[str, Any]:
    """Return all clients, each by what it was given as."""
    clients = {}
    for name, given in shards.items():
        if not isinstance(given, ReplicaSet):
            clients[f"shards[{name!r}]"] = given
            continue
        clients[f"shards[{name!r}].primary"] = given.primary
        clients.update({f"shards[{name!r}].replicas[{i}]": client for i, client in enumerate(given.replicas)})
    return clients


class Servers:
    """What is spoken to: the primary of each shard, and its replicas where it has any.

    A shard that is only its primary is spoken to by that one's way, with nothing in between; so is each shard where
    reads go to the primary and no copies are waited for.
    """

    def __init__(
        self,
        shards: Mapping[str, Any],
        primaries: Mapping[str, Any],
        way_of: Callable[[str, Any, Breaker], Any],
        replicated: Callable[..., Any],
        kind_of: Callable[[Sequence[Any]], str],
    ) -> None:
        self._shards = shards
        self.primaries = dict(primaries)
        self._way_of = way_of
        self._replicated = replicated
        self._kind_of = kind_of
        self.made: dict[str, Any] = {}
        self._fence_of: Callable[[str], ReplicaFence | None] = without_fence

    def given(self, name: str) -> Any:
        """Return what a shard was given as."""
        return self._shards[name]

    def read_by(self, balance: Callable[[], Picker], max_lag: MaxLag | None) -> None:
        """Say by what replicas are picked, and how far they may lag."""
        self._balance, self._max_lag = balance, max_lag
        self._make_all()

    def take_over(
        self, primaries: Mapping[str, Any], before: Servers | None, fence_of: Callable[[str], ReplicaFence | None]
    ) -> None:
        """Use these ways to the primaries, and what was made ``before`` for shards that are given as they were then.

        ``fence_of`` gives what the replicas of a shard are asked under a live topology.
        """
        self.primaries, self._fence_of = dict(primaries), fence_of
        self.made = {}
        if before is not None:
            shards = self._shards
            self.made = {name: made for name, made in before.made.items() if shards.get(name) is before.given(name)}
        self._make_all()

    def _make_all(self) -> None:
        for name, given in self._shards.items():
            if isinstance(given, ReplicaSet) and given.has_replicas and name not in self.made:
                self.made[name] = self._make(name, given)

    def check(self, terms: Terms) -> None:
        """Raise ValueError for reads from replicas that a shard has not."""
        for name, given in self._shards.items():
            if terms.read_from == "replica" and not (isinstance(given, ReplicaSet) and given.has_replicas):
                raise ValueError(
                    f"read_from='replica', and shards[{name!r}] has no replicas: give it a ReplicaSet with some"
                )

    def ways(self, terms: Terms, kind_of: Callable[[Sequence[Any]], str]) -> dict[str, Any]:
        """Return the way to each shard on these terms; ``kind_of`` is that of the router that plans what goes there."""
        return {name: self._way(name, terms, kind_of) for name in self.primaries}

    def _way(self, name: str, terms: Terms, kind_of: Callable[[Sequence[Any]], str]) -> Any:
        given = self._shards[name]
        has_replicas = isinstance(given, ReplicaSet) and given.has_replicas
        needs_none = terms.read_from == "primary" or (terms.read_from != "replica" and not has_replicas)
        if not terms.min_replicas and needs_none:
            return self.primaries[name]
        if name not in self.made:
            self.made[name] = self._make(name, ReplicaSet(primary_of(given)))
        return self.made[name].on(terms, kind_of)

    def _make(self, name: str, given: ReplicaSet[Any]) -> Any:
        primary = Node(address_of(given.primary), given.primary, self.primaries[name], is_primary=True)
        replicas: list[Node] = []
        for client, weight in zip(given.replicas, given.weights, strict=True):
            address = address_of(client, among=[node.address for node in replicas])
            replicas.append(
                Node(address, client, self._way_of(f"{name} at {address}", client, unbroken()), weight=weight)
            )
        readers = Readers(name, primary, replicas, self._balance, max_lag=self._max_lag)
        followed = Followed(given.primary) if given.followed else None
        return self._replicated(readers, followed, self._kind_of, self._fence_of(name))

    def clients(self) -> list[Any]:
        """Return the clients of all primaries and replicas."""
        return list(servers_of(self._shards).values())

    def replicas(self, name: str) -> dict[str, str]:
        """Return the replicas of a shard by address, with why each is not read from."""
        return self.made[name].readers.told() if name in self.made else {}

    def all(self) -> list[Any]:
        """Return what is to be closed, the clients first."""
        return [*self.clients(), *self.primaries.values(), *self.made.values()]


def without_fence(_shard: str) -> None:
    """Nothing is asked of replicas without a live topology."""
