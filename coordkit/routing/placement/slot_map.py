"""A table of 16384 slots and their shards: the placement that coordkit stores, rebalances and moves live.

`SlotMap` holds the table. `rendezvous` fills one for a static configuration, `slot_map` a first one to be stored; from
then on `SlotMap.rebalance` makes the next from the last and moves no slot needlessly, which nothing that forgets its
past can do while it keeps every shard at its exact share.
Source: the slot is Redis Cluster's (`coordkit.routing.placement.slots`); rebalancing moves each shard's surplus, as
``redis-cli --cluster rebalance`` does.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any

from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.quotas import checked_names, checked_weights, quotas
from coordkit.routing.placement.slots import BRACE, SLOTS, slot_of, tagged
from coordkit.routing.placement.table import kept


@dataclass(frozen=True, slots=True, repr=False)
class SlotMap(Placement):
    """Say which shard owns each of the 16384 slots, and so each key.

    ``shards`` are the names, ``table`` the owner of each slot; a shard may own none. Raise ValueError if the table has
    another length or names an owner that is not in ``shards``.
    """

    shards: tuple[str, ...]
    table: tuple[str, ...]
    hash_tags: bool = field(default=True, init=False, compare=False)

    def __post_init__(self) -> None:
        checked_names(self.shards)
        if len(self.table) != SLOTS:
            raise ValueError(f"table={len(self.table)} owners; exactly {SLOTS} are allowed, one for each slot")
        strangers = sorted(set(self.table).difference(self.shards))
        if strangers:
            raise ValueError(f"table names {strangers!r}; only the shards {list(self.shards)!r} are allowed")

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {slots}" for name, slots in self.counts().items())
        shown = counts if len(counts) < 200 else counts[:200] + ", ..."
        return f"<SlotMap {self.checksum()} of {SLOTS} slots: {shown}>"

    def lookup(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        # The same as table[slot_of(key)], written out: a third of a lookup is the call.
        if isinstance(key, str):
            key = key.encode()
        return self.table[crc_hqx(tagged(key) if BRACE in key else key, 0) & 0x3FFF]

    def lookup_many(self, keys: Iterable[str | bytes]) -> list[str]:
        """Return the owners of many keys, in their order."""
        table, crc, tag = self.table, crc_hqx, tagged
        listed: list[Any] = list(keys)
        try:
            # All are of one type, usually; text is searched for a brace faster than bytes, and neither for the other's.
            if listed and isinstance(listed[0], str):
                return [table[crc(key.encode() if "{" not in key else tag(key.encode()), 0) & 0x3FFF] for key in listed]
            return [table[crc(tag(key) if BRACE in key else key, 0) & 0x3FFF] for key in listed]
        except TypeError:
            listed = [key.encode() if isinstance(key, str) else key for key in listed]
        return [table[crc(tag(key) if BRACE in key else key, 0) & 0x3FFF] for key in listed]

    def owner(self, slot: int) -> str:
        """Return the shard that owns ``slot``; ValueError unless it is from 0 to 16383."""
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot={slot!r}; 0 to {SLOTS - 1} is allowed")
        return self.table[slot]

    def counts(self) -> dict[str, int]:
        """Return how many slots each shard owns."""
        owned = dict.fromkeys(self.shards, 0)
        for name in self.table:
            owned[name] += 1
        return owned

    def rebalance(self, shards: Iterable[str], weights: Mapping[str, float] | None = None) -> SlotMap:
        """Return the map for another list of shards or other weights, with as few slots moved as there can be.

        ``shards`` are all that shall be there: a new name is added, a missing one drained. Each gets its share by
        ``weights`` (1 where a name is missing) to within one slot, and only what a shard has above it moves, to those
        below it. The result depends on this map; the order of the names does not matter. Raise as `rendezvous` does.
        """
        names = sorted(checked_names(shards))
        owned = self.counts()
        due = quotas(names, checked_weights(names, weights), SLOTS, owned)
        table = list(self.table)
        surplus: list[int] = []
        places: dict[str, list[int]] = {name: [] for name in self.shards}
        for slot, name in enumerate(self.table):
            places[name].append(slot)
        for name in sorted(places):
            # The highest slots, so that what was one run stays one.
            surplus += places[name][due.get(name, 0) :]
        free = iter(surplus)
        for name in names:
            for _ in range(due[name] - owned.get(name, 0)):
                table[next(free)] = name
        return SlotMap(tuple(names), tuple(table))

    def moves(self, target: SlotMap) -> dict[tuple[str, str], list[int]]:
        """Return which slots go from whom to whom, by (source, target), on the way to another map."""
        moved: dict[tuple[str, str], list[int]] = {}
        for slot, pair in enumerate(zip(self.table, target.table, strict=True)):
            if pair[0] != pair[1]:
                moved.setdefault(pair, []).append(slot)
        return dict(sorted(moved.items()))

    def runs(self) -> list[tuple[int, int, str]]:
        """Return the table as runs of (first slot, last slot, shard): the form in which it is stored."""
        grouped = (list(run) for _, run in groupby(enumerate(self.table), key=itemgetter(1)))
        return [(run[0][0], run[-1][0], run[0][1]) for run in grouped]

    @classmethod
    def of_runs(cls, shards: Iterable[str], runs: Iterable[Sequence[Any]]) -> SlotMap:
        """Return the map of these runs, as `runs` gives them; ValueError unless they name every slot once, in order."""
        table: list[str] = []
        for first, last, name in runs:
            if first != len(table) or not first <= last < SLOTS:
                raise ValueError(
                    f"run ({first!r}, {last!r}, {name!r}) after slot {len(table) - 1}; one that begins at the next "
                    f"slot and ends by {SLOTS - 1} is allowed"
                )
            table += [name] * (last + 1 - first)
        return cls(tuple(sorted(shards)), tuple(table))

    def checksum(self) -> str:
        """Return 16 hex digits that two maps share when they have the same shards and the same owners."""
        names = sorted(self.shards)
        number = {name: i.to_bytes(4, "big") for i, name in enumerate(names)}
        digest = blake2b(digest_size=8, person=b"coordkit-place-1")
        for name in names:
            encoded = name.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        digest.update(b"".join([number[name] for name in self.table]))
        return digest.hexdigest()

    def _preference(self, key: str | bytes) -> Iterator[str]:
        # A walk over all slots in steps of a length that the first slot decides: who stands in for a shard is then
        # every other shard by its share, and changes only where the slots on the way change.
        slot = slot_of(key)
        step = slot * 0x9E3779B1 >> 16 & 0x3FFF | 1  # odd, so that the walk meets each slot once
        for i in range(SLOTS):
            yield self.table[slot + i * step & 0x3FFF]

    def _keyspace(self) -> tuple[Any, ...]:
        return ("slots",)

    def _kept(self, other: SlotMap) -> Fraction:
        return kept(self.table, other.table)

    def _shares(self) -> dict[str, Fraction]:
        return {name: Fraction(slots, SLOTS) for name, slots in self.counts().items()}

    def _content(self) -> Iterable[str | bytes | int]:
        return (self.checksum(),)


def slot_map(shards: Iterable[str], weights: Mapping[str, float] | None = None) -> SlotMap:
    """Return a first map to be stored: each shard one run of slots, by weight, in the order of the names.

    As even as a map can be and short when written as runs; made for `SlotMap.rebalance`, which keeps both. Between two
    first maps nearly everything moves: do not make a new one when the shards change. Raise as `rendezvous` does.
    """
    names = sorted(checked_names(shards))
    due = quotas(names, checked_weights(names, weights), SLOTS)
    return SlotMap(tuple(names), tuple(name for name in names for _ in range(due[name])))
