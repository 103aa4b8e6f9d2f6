"""What both flavours of a live sharded client have in common: its clients, and what it says without asking."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from coordkit.core import checks
from coordkit.errors import StoreUnavailable
from coordkit.routing.commands.plan import Explanation
from coordkit.routing.commands.router import Router
from coordkit.routing.directory.shards import Directory
from coordkit.routing.fence.fence import Greeting
from coordkit.routing.placement.placement import Placement
from coordkit.routing.replicas.fence import ReplicaFence
from coordkit.routing.replicas.readers import ReadFrom
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.replicas.terms import Terms
from coordkit.routing.topology.live import Live
from coordkit.routing.topology.parts import Shard
from coordkit.routing.topology.topology import Topology

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

C = TypeVar("C")

_LEAST = 0.1  # seconds between two looks


def checked_source(connect: Any, poll: Any, patience: Any) -> None:
    """Raise ValueError or TypeError, naming the argument, for what cannot be followed or connected with."""
    checks.check_callable("connect", connect)
    if checks.check_delay("poll", poll) < _LEAST:
        raise ValueError(f"poll must be at least {_LEAST} seconds, got {poll!r}")
    checks.check_delay("patience", patience)


def connected(topology: Topology, before: Directory[C] | None, connect: Callable[[str, str], Any]) -> dict[str, Any]:
    """Return a client or a ReplicaSet for each shard: that of before where its addresses are the same.

    Where some are, their clients stay. A `ReplicaSet` that ``connect`` returns for the primary is taken as it is, for
    as long as all addresses stay; so is a Sentinel's master, whose replicas Sentinel knows.
    """
    given: dict[str, Any] = {}
    for name, shard in topology.shards.items():
        known = None if before is None or before.topology is None else before.topology.shards.get(name)
        if before is None or known is None:
            given[name] = _connected(name, shard, {}, connect)
        elif (known.primary, known.replicas) == (shard.primary, shard.replicas):
            given[name] = before._servers.given(name)  # noqa: SLF001  they are one
        else:
            had = before._servers.given(name)  # noqa: SLF001  see above
            clients = had.named if isinstance(had, ReplicaSet) else {known.primary: had}
            given[name] = _connected(name, shard, clients, connect)
    return given


def check_still_there(live: Live[Any], moment: Any, watched: Mapping[Any, str]) -> None:
    """Raise StoreUnavailable if a key that was watched in a moment is served by another shard now.

    The fence drops the connection, and the WATCH with it; where it could not, a change at the new owner, or that a key
    came to be there, would else not be noticed.
    """
    now = live.now
    if now is moment:
        return
    for key, shard in watched.items():
        if (other := now.shard_for(key)) != shard:
            why = f"{key!r} is watched there, and is served by {other!r} now; nothing was sent: reset(), watch anew"
            raise StoreUnavailable(shard, why)


def _connected(name: str, shard: Shard, clients: Mapping[str, Any], connect: Callable[[str, str], Any]) -> Any:
    primary = clients[shard.primary] if shard.primary in clients else connect(name, shard.primary)
    others = [address for address in dict.fromkeys(shard.replicas) if address != shard.primary]
    if not others or isinstance(primary, ReplicaSet):
        return primary
    if hasattr(getattr(primary, "connection_pool", None), "sentinel_manager"):
        return primary
    replicas = [clients[address] if address in clients else connect(name, address) for address in others]
    made = ReplicaSet(primary, replicas)
    made.named = dict(zip([shard.primary, *others], [primary, *replicas], strict=True))
    return made


def greeting(live: Live[Any], topology: str, shard: str) -> Greeting:
    """Return what new connections to a shard ask, and by what is adopted then, whether it may be used."""
    return Greeting(topology, shard, _floor(live, shard))


def replica_fence(live: Live[Any], topology: str, shard: str) -> ReplicaFence:
    """Return what replicas of a shard are asked, and by what is adopted then, whether they may be read from."""
    return ReplicaFence(topology, shard, _floor(live, shard))


def _floor(live: Live[Any], shard: str) -> Callable[[], int]:
    def floor() -> int:
        known = live.topology.shards.get(shard)
        return known.fenced if known is not None else 0

    return floor


class LiveDirectory(Directory[C]):
    """What a live client knows without asking: each answer is of one moment."""

    _live: Live[Any]
    _options = Terms()
    _whole: Any = None  # what has another's options follows the topology through it

    def __getattr__(self, name: str) -> Any:
        if name == "_live" or name.startswith("__"):  # on a copy that is not whole yet
            raise AttributeError(name)
        return getattr(self._live.now, name)

    def with_options(
        self, *, read_from: ReadFrom | None = None, min_replicas: int | None = None, wait_timeout: float | None = None
    ) -> Self:
        """Return the same client with other options, as `ShardedRedis.with_options` does.

        A shard that comes later and has no replicas cannot be read from with ``read_from="replica"``: ShardDown.
        """
        terms = self._options.changed(read_from, min_replicas, wait_timeout)
        self._live.now._servers.check(terms)  # noqa: SLF001  they are one
        other = copy.copy(self)
        other._options, other._whole = terms, self  # noqa: SLF001  it is one of us
        return other

    def _on_terms(self, moment: Any) -> Any:
        """Return a moment of ours on our terms; the moment itself has to be kept while that is used."""
        return moment._kept_on(self._options)  # noqa: SLF001  they are one

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Have the replies to a command parsed by ``callback``, on the clients of every shard and of later ones."""
        self._live.on_each(command, lambda moment: moment.set_response_callback(command, callback))

    def adopt(self, topology: Topology) -> bool:
        """Adopt a newer topology; return False if it is the present one."""
        return self._live.adopt(topology)

    @property
    def topology(self) -> Topology | None:
        """Return the topology that was adopted last."""
        return self._live.topology

    @property
    def epoch(self) -> int:
        """Return the epoch of the topology that was adopted last."""
        return self._live.topology.epoch

    @property
    def placement(self) -> Placement:
        """Return what says which shard serves a key."""
        placement: Placement = self._live.now.placement
        return placement

    def router(self) -> Router:
        """Return what decides where a command goes now."""
        router: Router = self._live.now.router()
        return router

    def shards(self) -> Mapping[str, C]:
        """Return the plain client of each shard by name, of the present moment."""
        shards: Mapping[str, C] = self._live.now.shards()
        return shards

    def slot(self, key: Any) -> int:
        """Return the slot of ``key``."""
        slot: int = self._live.now.slot(key)
        return slot

    def shard_for(self, key: Any) -> str:
        """Return the name of the shard that serves ``key``."""
        shard: str = self._live.now.shard_for(key)
        return shard

    def owners(self, key: Any, n: int = 1) -> list[str]:
        """Return ``n`` distinct shards in order of preference, as `ShardedRedis.owners` does."""
        owners: list[str] = self._live.now.owners(key, n)
        return owners

    def client_for(self, key: Any) -> C:
        """Return the plain client of the shard that serves ``key``."""
        client: C = self._live.now.client_for(key)
        return client

    def store_client(self, key: Any) -> Any:  # noqa: ARG002  it is the same for all
        """Return this client itself: what locks send goes by the topology, as everything else."""
        return self

    def on(self, shard: str) -> C:
        """Return the plain client of the shard with this name."""
        client: C = self._live.now.on(shard)
        return client

    def explain(self, *command: Any) -> Explanation:
        """Say where a command would go and why."""
        explanation: Explanation = self._live.now.explain(*command)
        return explanation
