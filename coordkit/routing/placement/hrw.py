"""Rendezvous hashing of keys (highest random weight): each shard has a score for the key, the highest owns it.

Minimal and in no need of a table; each lookup costs one score for each shard. coordkit's own `rendezvous` does the same
for slots instead of keys, once, and keeps every shard at its exact share.
Sources: Thaler and Ravishankar 1998; redis/go-redis internal/hashtag/rendezvous.go; pinterest/pymemcache
pymemcache/client/rendezvous.py, which is python-clandestined's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, get_args

from coordkit.routing.placement.hashes import murmur3_32
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.quotas import checked_names
from coordkit.routing.placement.slots import wire
from coordkit.routing.placement.xxh64 import xxh64

Dialect = Literal["go-redis", "pymemcache"]
_64 = 0xFFFFFFFFFFFFFFFF


def _mixed(value: int) -> int:
    """The last steps of xorshift64*, Marsaglia's generator with Vigna's multiplier."""
    value ^= value >> 12
    value ^= value << 25 & _64
    value ^= value >> 27
    return value * 2685821657736338717 & _64


@dataclass(frozen=True, slots=True, repr=False)
class Hrw(Placement):
    """Say which shard owns each key, by rendezvous hashing: see `hrw`, which makes it."""

    shards: tuple[str, ...]
    dialect: Dialect
    hash_tags: bool
    _hashed: tuple[tuple[int, str], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        hashed = ((xxh64(name.encode()) if self.dialect == "go-redis" else 0, name) for name in self.shards)
        object.__setattr__(self, "_hashed", tuple(hashed))

    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        return max(self.scored(key))[1]

    def scored(self, key: str | bytes) -> list[tuple[int, str]]:
        """Return the score that each shard has for ``key``, and its name; the highest owns it."""
        hashed = wire(key, self.hash_tags)
        if self.dialect == "go-redis":
            value = xxh64(hashed)
            return [(_mixed(value ^ of_name), name) for of_name, name in self._hashed]
        return [(murmur3_32(name.encode() + b"-" + hashed), name) for name in self.shards]

    def _preference(self, key: str | bytes) -> Iterator[str]:
        for _, name in sorted(self.scored(key), reverse=True):
            yield name

    def _keyspace(self) -> tuple[Any, ...]:
        return (self.dialect, "tags" if self.hash_tags else "whole keys", "hrw")

    def _kept(self, other: Hrw) -> Fraction:
        # The same shard wins in both if the best of all is in both.
        return Fraction(len({*self.shards} & {*other.shards}), len({*self.shards, *other.shards}))

    def _shares(self) -> dict[str, Fraction]:
        return dict.fromkeys(self.shards, Fraction(1, len(self.shards)))

    def _content(self) -> Iterable[str | bytes | int]:
        return (*self._keyspace(), *self.shards)


def hrw(shards: Iterable[str], *, dialect: Dialect = "go-redis", hash_tags: bool | None = None) -> Hrw:
    """Place keys by rendezvous hashing as go-redis's Ring or pymemcache's HashClient does, to find what they placed.

    ``shards`` are the names that they hash: of go-redis the keys of ``Addrs``, of pymemcache "host:port". The order
    does not matter and there are no weights. ``hash_tags`` is the dialect's own way unless it is given: go-redis has
    tags, pymemcache has none. Shares and `diff` are those of an ideal hash. Raise NoNodes without any shard, ValueError
    for duplicate names or another dialect.
    """
    if dialect not in get_args(Dialect):
        raise ValueError(f"dialect={dialect!r}; one of {', '.join(get_args(Dialect))} is allowed")
    tags = dialect == "go-redis" if hash_tags is None else hash_tags
    return Hrw(tuple(sorted(checked_names(shards))), dialect, tags)
