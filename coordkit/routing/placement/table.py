"""Placements that are a table: a key's hash, modulo the table's size, is the place where its owner stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

from coordkit.routing.placement.hashes import Hash
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.slots import wire


@dataclass(frozen=True, slots=True, repr=False)
class Table(Placement):
    """Say which shard owns each key, by a table: see `maglev` and `modula`, which make it."""

    shards: tuple[str, ...]
    table: tuple[str, ...]
    hash: Hash
    hash_tags: bool = False

    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        return self.table[self.hash.of(wire(key, self.hash_tags)) % len(self.table)]

    def lookup_many(self, keys: Iterable[str | bytes]) -> list[str]:
        """Return the owners of many keys, in their order."""
        table, size, of, tags = self.table, len(self.table), self.hash.of, self.hash_tags
        return [table[of(wire(key, tags)) % size] for key in keys]

    def _preference(self, key: str | bytes) -> Iterator[str]:
        place = self.hash.of(wire(key, self.hash_tags)) % len(self.table)
        yield from self.table[place:]
        yield from self.table[:place]

    def _keyspace(self) -> tuple[Any, ...]:
        return (self.hash.name, "tags" if self.hash_tags else "whole keys", "table")

    def _kept(self, other: Table) -> Fraction:
        return kept(self.table, other.table)

    def _shares(self) -> dict[str, Fraction]:
        counts = Counter(self.table)
        return {name: Fraction(counts[name], len(self.table)) for name in self.shards}

    def _content(self) -> Iterable[str | bytes | int]:
        yield from (*map(str, self._keyspace()), *self.table)


def kept(one: tuple[str, ...], other: tuple[str, ...]) -> Fraction:
    """Return how much of a hash's values has the same owner in both tables.

    Tables of different size meet, by the Chinese remainder theorem, in every pair of places that agree modulo their
    greatest common divisor, each pair equally often: exactly so for an ideal hash, and for one of b bits but for the
    last, incomplete round of its values, the least common multiple of the sizes in 2**b.
    """
    if len(one) == len(other):
        return Fraction(sum(map(str.__eq__, one, other)), len(one))
    common = gcd(len(one), len(other))
    pairs = 0
    for rest in range(common):
        counts = Counter(other[rest::common])
        pairs += sum(times * counts[name] for name, times in Counter(one[rest::common]).items())
    return Fraction(pairs * common, len(one) * len(other))
