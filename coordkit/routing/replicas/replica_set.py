"""A shard that is more than one server: a primary, and replicas of it that may be read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

C = TypeVar("C")


class ReplicaSet(Generic[C]):
    """A primary with its replicas, wherever ``ShardedRedis`` takes a client, and ``from_topology`` is given one.

    ``primary`` and ``replicas`` are redis-py clients of your own; a Sentinel's ``master_for`` is a primary, and its
    ``slave_for`` counts as one replica, whichever server it is connected to. ``weights`` are positive ints, one for
    each replica, for ``balance="weighted"``. Writes go to the primary alone. Raise ValueError or TypeError, naming the
    argument, for anything else.
    """

    def __init__(self, primary: C, replicas: Sequence[C] = (), *, weights: Sequence[int] | None = None) -> None:
        if isinstance(replicas, (str, bytes)) or not isinstance(replicas, Sequence):
            raise TypeError(f"replicas={replicas!r}; a list of clients is allowed")
        if weights is not None and len(weights) != len(replicas):
            raise ValueError(f"weights={weights!r}; one for each of the {len(replicas)} replicas is allowed")
        for weight in weights or ():
            if isinstance(weight, bool) or not isinstance(weight, int):
                raise TypeError(f"weights={weights!r}; positive ints are allowed")
            if weight < 1:
                raise ValueError(f"weights={weights!r}; positive ints are allowed")
        self.primary = primary
        self.replicas = tuple(replicas)
        self.weights = (1,) * len(replicas) if weights is None else tuple(weights)
        self.followed = False
        self.named: Mapping[str, C] = {}  # the clients by the addresses that a topology has for them

    @classmethod
    def of_sentinel(cls, sentinel: Any, service_name: str, **options: Any) -> ReplicaSet[Any]:
        """Return the shard that Sentinel watches under this name: its master, and the replicas as they come and go.

        ``sentinel`` is a `redis.Sentinel` (of redis.asyncio for asyncio), ``options`` are the clients', as for
        ``master_for``. The replicas are asked of the Sentinels once a second, each is spoken to by its address, and
        those that the Sentinels call down are left out.
        """
        if not callable(getattr(sentinel, "master_for", None)):
            raise TypeError(f"sentinel={sentinel!r}; a redis.Sentinel is allowed")
        primary = sentinel.master_for(service_name, **options)
        primary.auto_close_connection_pool = True  # nobody else has it; redis-py 5.0.0 does not say so itself
        shard: ReplicaSet[Any] = cls(primary)
        shard.followed = True
        return shard

    @property
    def has_replicas(self) -> bool:
        """Whether there may be anything to read from beside the primary."""
        return bool(self.replicas) or self.followed

    def __repr__(self) -> str:
        more = " and those that Sentinel knows" if self.followed else ""
        return f"<ReplicaSet {self.primary!r} with {len(self.replicas)} replicas{more}>"
