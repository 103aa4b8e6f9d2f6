"""What every placement can do, whatever its algorithm: say which shard owns a key.

A `Placement` is a finished answer that any number of threads may read. A new list of shards is a new one, put in place
by swapping one reference, so that each lookup belongs to the one or to the other. It depends on what it is made from
alone: not on PYTHONHASHSEED, the machine or the Python, nor on the order of the names unless its algorithm counts them
off (`modula`, `jump`). Its files: `slot_map`, `rendezvous` and `bounded_loads` fill a table of slots; `maglev` and
`modula` one of other sizes; `ketama` and `envoy_ring` a ring; `jump` and `hrw` compute.

Names of shards are their identity, never addresses. A compatible placement hashes the names that the other router
hashed, which may be addresses of old: name the shards so, wherever they are today.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from hashlib import blake2b
from itertools import islice
from typing import Any


class Placement(ABC):
    """Say which shard owns each key; immutable.

    Keys are str (hashed as UTF-8, redis-py's default encoding) or bytes. ``shards`` are the names; ``hash_tags`` says
    whether keys with the same ``{tag}`` stay together, by the rule of Redis Cluster.
    """

    __slots__ = ()

    shards: tuple[str, ...]
    hash_tags: bool

    @abstractmethod
    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""

    def lookup_many(self, keys: Iterable[str | bytes]) -> list[str]:
        """Return the owners of many keys, in their order."""
        return list(map(self.lookup, keys))

    def owners(self, key: str | bytes, n: int = 1) -> list[str]:
        """Return ``n`` distinct shards in order of preference, the owner of ``key`` first.

        The list for n begins with the list for n - 1. Raise ValueError unless ``n`` is from 1 to the number of shards.
        """
        if not 1 <= n <= len(self.shards):
            raise ValueError(f"n={n!r}; 1 to {len(self.shards)}, the number of shards, is allowed")
        # A dict is a set in the order of arrival. What owns no part of the keyspace is met last.
        met: dict[str, None] = {}
        for name in self._preference(key):
            met[name] = None
            if len(met) == n:
                return list(met)
        return list(islice(dict.fromkeys([*met, *sorted(self.shards)]), n))

    def diff(self, other: Placement) -> float:
        """Return the exact share (0.0 to 1.0) of the keyspace whose owner has another name in ``other``.

        The keyspace is what keys hash to, each value counted once. Raise ValueError if the two hash keys differently:
        then count over your own keys, by ``lookup_many`` of both.
        """
        if self._keyspace() != other._keyspace():
            raise ValueError(
                f"other={other!r} hashes keys by {other._keyspace()}, this one by {self._keyspace()}; the same is "
                "allowed: count with lookup_many over keys of your own instead"
            )
        return float(1 - self._kept(other))

    def shares(self) -> dict[str, float]:
        """Return the exact share (0.0 to 1.0) of the keyspace that each shard owns."""
        return {name: float(share) for name, share in self._shares().items()}

    def checksum(self) -> str:
        """Return 16 hex digits that two placements share when they give every key the same owner by the same rule."""
        digest = blake2b(digest_size=8, person=b"coordkit-place-2")
        for part in self._content():
            encoded = part if isinstance(part, bytes) else str(part).encode()
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.hexdigest()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {share:.2%}" for name, share in self.shares().items())
        kind = "-".join(str(part) for part in self._keyspace())
        return f"<{type(self).__name__} {self.checksum()} by {kind}: {shown if len(shown) < 200 else shown[:200]}>"

    @abstractmethod
    def _preference(self, key: str | bytes) -> Iterator[str]:
        """Yield shards in order of preference, the owner first; repeats are allowed."""

    @abstractmethod
    def _keyspace(self) -> tuple[Any, ...]:
        """Return what two placements must have in common to be compared value by value."""

    @abstractmethod
    def _kept(self, other: Any) -> Fraction:
        """Return the share of the keyspace with the same owner in a placement of the same keyspace."""

    @abstractmethod
    def _shares(self) -> Mapping[str, Fraction]:
        """Return the share of each shard."""

    @abstractmethod
    def _content(self) -> Iterable[str | bytes | int]:
        """Return what decides who owns a key."""
