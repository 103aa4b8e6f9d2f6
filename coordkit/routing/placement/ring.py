"""Placements that are a ring: a key belongs to the first point at or after its hash, and after the last to the first.

`ketama` and `envoy_ring` make the points. Equal points of different shards go to the name that sorts first, whatever
the order in which the shards were given: there lookups of other routers depend on their sort or on history, and no
reference says who owns such a point.
Source: consistent hashing, Karger and others 1997.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from coordkit.routing.placement.hashes import Hash
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.slots import wire

_BITS = 64


@dataclass(frozen=True, slots=True, repr=False)
class Ring(Placement):
    """Say which shard owns each key, by points on a ring.

    ``shards`` are the names, ``points`` pairs of a point and its shard, in any order; of equal points the one whose
    name sorts first counts. ``hash`` is the hash function of keys; points beyond its results are never met. Raise
    ValueError for points that are not of 64 bits, of strangers, or none at all.
    """

    shards: tuple[str, ...]
    points: tuple[tuple[int, str], ...]
    hash: Hash
    hash_tags: bool = False
    _at: list[int] = field(init=False, compare=False)
    _owner: list[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        first: dict[int, str] = {}
        for point, name in sorted(self.points):
            if not 0 <= point < 1 << _BITS:
                raise ValueError(f"point {point!r} of {name!r}; 0 to 2**{_BITS} - 1 is allowed")
            first.setdefault(point, name)
        strangers = sorted(set(first.values()).difference(self.shards))
        if strangers or not first:
            raise ValueError(f"points names {strangers!r}; at least one, of {list(self.shards)!r}, is allowed")
        object.__setattr__(self, "points", tuple(first.items()))
        object.__setattr__(self, "_at", list(first))
        # One owner more than there are points: a hash beyond the last point goes round to the first.
        object.__setattr__(self, "_owner", [*first.values(), self.points[0][1]])

    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        return self._owner[bisect_left(self._at, self.hash.of(wire(key, self.hash_tags)))]

    def lookup_many(self, keys: Iterable[str | bytes]) -> list[str]:
        """Return the owners of many keys, in their order."""
        owner, at, of, tags = self._owner, self._at, self.hash.of, self.hash_tags
        return [owner[bisect_left(at, of(wire(key, tags)))] for key in keys]

    def owner(self, value: int) -> str:
        """Return the shard that owns what hashes to ``value``."""
        return self._owner[bisect_left(self._at, value)]

    def _preference(self, key: str | bytes) -> Iterator[str]:
        place = bisect_left(self._at, self.hash.of(wire(key, self.hash_tags)))
        yield from self._owner[place:]
        yield from self._owner[:place]

    def _keyspace(self) -> tuple[Any, ...]:
        return (self.hash.name, "tags" if self.hash_tags else "whole keys", "ring")

    def _kept(self, other: Ring) -> Fraction:
        space = 1 << self.hash.bits
        same, begin = 0, 0
        # Between two neighbours of all points of both, each of the two rings has one owner.
        for end in sorted({point for point in (*self._at, *other._at) if point < space} | {space - 1}):
            if self.owner(end) == other.owner(end):
                same += end + 1 - begin
            begin = end + 1
        return Fraction(same, space)

    def _shares(self) -> dict[str, Fraction]:
        space = 1 << self.hash.bits
        arcs, begin = dict.fromkeys(self.shards, 0), 0
        for point, name in self.points:
            end = min(point + 1, space)
            arcs[name] += end - begin
            begin = end
        arcs[self._owner[-1]] += space - begin
        return {name: Fraction(arc, space) for name, arc in arcs.items()}

    def _content(self) -> Iterable[str | bytes | int]:
        yield from map(str, self._keyspace())
        for point, name in self.points:
            yield point
            yield name
