"""Jump consistent hashing: a number of buckets, no names; a bucket's number is its shard's place in the list.

Even to the last digit and without any table, but only the *last* shard may go and only the end may grow: without the
first of ten, 99 % of all keys move.
Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from coordkit.routing.placement.hashes import Hash, hash_named
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.quotas import checked_names
from coordkit.routing.placement.slots import wire

_64 = 0xFFFFFFFFFFFFFFFF


def jump_hash(value: int, buckets: int) -> int:
    """Return the bucket (0 to ``buckets`` - 1) of a 64-bit hash value; a negative one counts as its complement."""
    if buckets < 1:
        raise ValueError(f"buckets={buckets!r}; a positive number is allowed")
    value &= _64
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        value = value * 2862933555777941757 + 1 & _64
        # In C's double, as the paper has it: a quotient, then a product that is cut.
        following = int((bucket + 1) * (2147483648.0 / ((value >> 33) + 1)))
    return bucket


@dataclass(frozen=True, slots=True, repr=False)
class Jump(Placement):
    """Say which shard owns each key, by jump consistent hashing: see `jump`, which makes it."""

    shards: tuple[str, ...]
    hash: Hash
    hash_tags: bool = False

    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        return self.shards[jump_hash(self.hash.of(wire(key, self.hash_tags)), len(self.shards))]

    def _preference(self, key: str | bytes) -> Iterator[str]:
        value = self.hash.of(wire(key, self.hash_tags))
        # The same jump from other values of the key, so that stand-ins are spread and stay as shards are added.
        for turn in range(8 * len(self.shards)):
            yield self.shards[jump_hash(value ^ turn * 0x9E3779B97F4A7C15, len(self.shards))]

    def _keyspace(self) -> tuple[Any, ...]:
        return (self.hash.name, "tags" if self.hash_tags else "whole keys", "jump")

    def _kept(self, other: Jump) -> Fraction:
        # A key that stays has one bucket under both; one that moves is, among n, anywhere, and among more, beyond n.
        few, many = sorted((self.shards, other.shards), key=len)
        stay = sum(map(str.__eq__, few, many))
        come = sum(name in few for name in many[len(few) :])
        return Fraction(stay, len(many)) + Fraction(come, len(few) * len(many))

    def _shares(self) -> dict[str, Fraction]:
        return dict.fromkeys(self.shards, Fraction(1, len(self.shards)))

    def _content(self) -> Iterable[str | bytes | int]:
        return (*self._keyspace(), *self.shards)


def jump(shards: Iterable[str], *, hash: str = "xxh64", hash_tags: bool = False) -> Jump:  # noqa: A002  # as in `ketama`
    """Place keys by jump consistent hashing, in **the order of the list**: add shards at its end, remove them there.

    There are no weights. ``hash`` is the hash of keys, by its name in `coordkit.routing.HASHES`: Go programs use
    "crc64_ecma", "fnv64", "fnv64a" or "crc32a". Shares and `diff` are those of an ideal hash: no table says which of
    2**64 values go where. Raise NoNodes without any shard, ValueError for duplicate names or an unknown hash.
    """
    return Jump(tuple(checked_names(shards)), hash_named(hash), hash_tags)
