"""The shards of one sharded client: names, plain clients, and what both flavours say and check about them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from coordkit.routing.balance.health import Picker
from coordkit.routing.balance.peak_ewma import PeakEwma
from coordkit.routing.commands.plan import Explanation, Plan
from coordkit.routing.commands.router import Router
from coordkit.routing.directory.checks import check_clients, check_placement, named_kind, terms_of
from coordkit.routing.directory.modules import Modules
from coordkit.routing.directory.refusals import Refusals
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.rendezvous import rendezvous
from coordkit.routing.replicas.readers import ReadFrom, check_balance
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.replicas.servers import Servers, primary_of, servers_of
from coordkit.routing.replicas.terms import Terms, lag_allowed
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.breaker import Breaker, State

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

C = TypeVar("C")


class Directory(Refusals, Modules, Generic[C]):
    """What a sharded client knows without asking: which shard, which slot, which plain client."""

    _client_type: ClassVar[type[Any]]
    _other_types: ClassVar[tuple[type[Any], ...]]
    _ways_of: ClassVar[Any]  # a function of the flavour: from name, client and breaker to the way to a shard
    _topology: Topology | None = None  # that it was made for, in a client whose topology is live
    _epoch = 0  # by which it routes
    _replicated: ClassVar[Any]  # a function of the flavour: the way to a shard with replicas

    def __init__(
        self,
        shards: Mapping[str, C | ReplicaSet[C]],
        *,
        weights: Mapping[str, float] | None = None,
        placement: Placement | None = None,
        failure_threshold: int = 5,
        reset_timeout: float = 1.0,
        read_from: ReadFrom = "primary",
        balance: Callable[[], Picker] = PeakEwma,
        max_lag: float | None = None,
        max_lag_bytes: int | None = None,
        min_replicas: int = 0,
        wait_timeout: float = 1.0,
    ) -> None:
        if not isinstance(shards, Mapping):
            raise TypeError(f"shards={shards!r}; a mapping of names to {named_kind(self._client_type)} is allowed")
        if placement is None:
            placement = rendezvous(shards, weights)
        else:
            check_placement(placement, shards, weights)
        check_clients(servers_of(shards), self._client_type, self._other_types)
        primaries = {name: primary_of(shards[name]) for name in sorted(placement.shards)}
        self._shards: Mapping[str, C] = MappingProxyType(primaries)
        breakers = {
            name: Breaker(failure_threshold=failure_threshold, reset_timeout=reset_timeout) for name in self._shards
        }
        anyone: Any = next(iter(self._shards.values()))
        self._encoder = anyone.get_encoder()
        self._router = Router(placement, self._encoder.encode, self._encoder.encoding, self._encoder.encoding_errors)
        primary_ways = {name: self._ways_of(name, client, breakers[name]) for name, client in primaries.items()}
        self._servers = Servers(shards, primary_ways, self._ways_of, self._replicated, self._router.kind_of)
        self._servers.read_by(check_balance(balance), lag_allowed(max_lag, max_lag_bytes))
        self._options = Terms().changed(read_from, min_replicas, wait_timeout)
        self._servers.check(self._options)
        self._ways: dict[str, Any] = self._servers.ways(self._options, self._router.kind_of)
        self._at_primaries = self._ways  # the same, but for reads: where replicas may not be asked
        self._on_other_terms: dict[Terms, Self] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__}({', '.join(self._shards)})>"

    @property
    def topology(self) -> Topology | None:
        """Return the topology that is followed, as `ShardedRedis.from_topology` does; None if there is none."""
        return self._topology

    @property
    def epoch(self) -> int:
        """Return the epoch of the topology; 0 if there is none."""
        return self._epoch

    @property
    def placement(self) -> Placement:
        """Return what says which shard owns a key."""
        return self._router.placement

    def router(self) -> Router:
        """Return what decides where a command goes now; a placement that is swapped brings another."""
        return self._router

    def shards(self) -> Mapping[str, C]:
        """Return the plain client of each shard by name, read-only, in the order of the names."""
        return self._shards

    def breakers(self) -> dict[str, State]:
        """Return the state of each shard's breaker: "closed", "open" (its commands fail at once) or "half-open"."""
        return {name: way.breaker.state for name, way in self._ways.items()}

    def slot(self, key: Any) -> int:
        """Return the slot (0 to 16383) of ``key`` as it goes on the wire: that of Redis Cluster and of a `SlotMap`."""
        return self._router.slot(key)

    def shard_for(self, key: Any) -> str:
        """Return the name of the shard that owns ``key``."""
        return self._router.route(key)

    def owners(self, key: Any, n: int = 1) -> list[str]:
        """Return ``n`` distinct shards in order of preference, the owner of ``key`` first; ValueError for another n.

        A cache may keep copies on so many shards, and read the next where one is down::

            for shard in shards.owners(key, 2):
                shards.on(shard).set(key, value, ex=60)
        """
        return self._router.placement.owners(self._router.placed(self._router.bytes_of(key)), n)

    def client_for(self, key: Any) -> C:
        """Return the plain client of the shard that owns ``key``; what is sent through it is not routed."""
        return self._shards[self._router.route(key)]

    def store_client(self, key: Any) -> Any:
        """Return the client over which coordkit's locks speak about ``key``: chosen here, anew for each request.

        That of a shard: over connections of its own. This sharded client itself: through `execute_command`.
        """
        return self.client_for(key)

    def on(self, shard: str) -> C:
        """Return the plain client of the shard with this name; ValueError if there is none."""
        try:
            return self._shards[shard]
        except KeyError:
            raise ValueError(f"shard={shard!r}; one of {list(self._shards)!r} is allowed") from None

    def replicas(self, shard: str) -> dict[str, str]:
        """Return the replicas of a shard by address, each with why it is not read from at present; empty if it is.

        ValueError if there is no shard with this name. What Sentinel knows is known after the first read.
        """
        self.on(shard)
        return self._servers.replicas(shard)

    def with_options(
        self, *, read_from: ReadFrom | None = None, min_replicas: int | None = None, wait_timeout: float | None = None
    ) -> Self:
        """Return the same client with other options, as ``with_options(read_from="replica").get("k")``.

        What is not given stays as it is. The two share connections and what is known of the replicas, and closing one
        closes both. Raises ValueError and TypeError as the constructor does.
        """
        terms = self._options.changed(read_from, min_replicas, wait_timeout)
        self._servers.check(terms)
        return self._on(terms)

    def _on(self, terms: Terms) -> Self:
        other = copy.copy(self)
        other._options = terms  # noqa: SLF001  it is one of us
        other._ways = other._at_primaries = self._servers.ways(terms, self._router.kind_of)  # noqa: SLF001  see above
        if self._topology is not None and terms.read_from != "primary":
            other._at_primaries = self._servers.ways(terms._replace(read_from="primary"), self._router.kind_of)  # noqa: SLF001  see above
        return other

    def _kept_on(self, terms: Terms) -> Self:
        """Return the same on these terms; made once, because a live client asks for it at each operation."""
        if terms == self._options:
            return self
        other = self._on_other_terms.get(terms)
        if other is None:
            other = self._on(terms)
            other._on_other_terms = {}  # noqa: SLF001  see above; so that neither keeps itself alive
            self._on_other_terms[terms] = other
        return other

    def explain(self, *command: Any) -> Explanation:
        """Say where a command would go and why, as ``explain("MGET", "a", "b")``; nothing is sent."""
        return self._router.explain(command)

    def get_encoder(self) -> Any:
        """Return the encoder of the clients, as redis.Redis does."""
        return self._encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return what the clients have in common of their connections' options, for redis-py's own methods."""
        return {name: getattr(self._encoder, name) for name in ("encoding", "encoding_errors", "decode_responses")}

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Have the replies to a command parsed by ``callback``, on every shard's client, its replicas' as well."""
        for client in self._servers.clients():
            client.set_response_callback(command, callback)

    def _pieces(self) -> list[Any]:
        """Return what is closed when a shard is no more: clients, and the ways to them."""
        return self._servers.all()

    def _terms(self) -> tuple[Any, ...]:
        """Return what all clients agree on: encoding, encoding_errors, decode_responses, protocol."""
        return terms_of(next(iter(self._shards.values())))

    def _everywhere(self, command: tuple[Any, ...], options: Mapping[str, Any]) -> Plan:
        if not command:
            raise ValueError("command=(); a command's name and its arguments are allowed, as on_all('TIME')")
        return self._router.plan_everywhere(command, options)
