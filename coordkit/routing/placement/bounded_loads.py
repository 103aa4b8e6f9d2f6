"""Consistent hashing with bounded loads: a ring on which nobody is asked for more than a set multiple of the mean.

Slots stand on a ring of points; each goes to the next shard round the ring that is not full. What is bounded here is
the number of slots, fixed when the placement is made, so that all processes agree: a bound on the load of the moment,
as in a proxy for stateless requests, would give a key another owner when the load shifts, and its data would be lost.
Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from hashlib import blake2b

from coordkit.routing.placement.quotas import capacities, checked_names, checked_weights
from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.placement.slots import SLOTS

_POINTS = 160


def bounded_loads(shards: Iterable[str], weights: Mapping[str, float] | None = None, *, bound: float = 1.25) -> SlotMap:
    """Place all slots on a ring of ``shards``, none of which gets more than ``bound`` times its share, rounded up.

    ``bound`` is at least 1: near 1 the shards are even and much moves when one comes or goes, far above it is an
    ordinary ring of 160 points for each. ``weights`` are positive finite numbers, 1 where a name is missing. The order
    of the names does not matter. Raise NoNodes without any shard, ValueError for what is not allowed.
    """
    names = sorted(checked_names(shards))
    weighed = checked_weights(names, weights)
    free = capacities(names, weighed, SLOTS, bound)
    mean = sum(Fraction(weight) for weight in weighed.values()) / len(names)
    ring = sorted(
        # The index first: "1" + "1" and "11" are different points.
        (_point(f"{i}:{name}"), name)
        for name in names
        for i in range(max(1, round(_POINTS * Fraction(weighed[name]) / mean)))
    )
    points = [point for point, _ in ring]
    table = []
    for point in _slots():
        place = bisect_left(points, point)
        while not free[ring[place % len(ring)][1]]:
            place += 1
        name = ring[place % len(ring)][1]
        free[name] -= 1
        table.append(name)
    return SlotMap(tuple(names), tuple(table))


@cache
def _slots() -> tuple[int, ...]:
    return tuple(_point(f"slot:{slot}") for slot in range(SLOTS))


def _point(label: str) -> int:
    return int.from_bytes(blake2b(label.encode(), digest_size=8, person=b"coordkit-ring-1").digest(), "big")
