"""What both flavours of a live sharded client have in common: its clients, and what it says without asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from coordkit.core import checks
from coordkit.routing.client_shards import Directory
from coordkit.routing.fence import Greeting
from coordkit.routing.live import Live
from coordkit.routing.placement import Placement
from coordkit.routing.plan import Explanation
from coordkit.routing.readers import ReadFrom
from coordkit.routing.router import Router
from coordkit.routing.topology import Topology

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


def connected(topology: Topology, before: Directory[C] | None, connect: Callable[[str, str], C]) -> dict[str, C]:
    """Return a client for each shard: that of before where its address is the same, else a new one."""
    clients: dict[str, C] = {}
    for name, shard in topology.shards.items():
        known = None if before is None or before.topology is None else before.topology.shards.get(name)
        if before is not None and known is not None and known.primary == shard.primary:
            clients[name] = before.on(name)
        else:
            clients[name] = connect(name, shard.primary)
    return clients


def greeting(live: Live[Any], topology: str, shard: str) -> Greeting:
    """Return what new connections to a shard ask, and by what is adopted then, whether it may be used."""

    def floor() -> int:
        known = live.topology.shards.get(shard)
        return known.fenced if known is not None else 0

    return Greeting(topology, shard, floor)


class LiveDirectory(Directory[C]):
    """What a live client knows without asking: each answer is of one moment."""

    _live: Live[Any]

    def __getattr__(self, name: str) -> Any:
        if name == "_live" or name.startswith("__"):  # on a copy that is not whole yet
            raise AttributeError(name)
        return getattr(self._live.now, name)

    def with_options(
        self, *, read_from: ReadFrom | None = None, min_replicas: int | None = None, wait_timeout: float | None = None
    ) -> Self:
        """Refuse: the shards of a live topology are read and written at their primaries."""
        raise ValueError(
            f"read_from={read_from!r}, min_replicas={min_replicas!r}, wait_timeout={wait_timeout!r} over a live "
            "topology; its shards are read and written at their primaries: None is allowed"
        )

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
