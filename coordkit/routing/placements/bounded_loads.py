"""Consistent hashing with bounded loads: a ring on which nobody is asked for more than a set multiple of the mean.

Slots stand on a ring of points; each goes to the next shard round the ring that is not full. What is bounded here is
the number of slots, fixed when the placement is made, so that all processes agree: a bound on the load of the moment,
as in a proxy for stateless requests, would give a key another owner when the load shifts, and its data would be lost.
Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from hashlib import blake2b

from coordkit.routing.placements.shares import checked_names, checked_weights
from coordkit.routing.placements.slot_map import SlotMap
from coordkit.routing.slots import SLOTS

_POINTS = 160


def bounded_loads(shards: Iterable[str], weights: Mapping[str, float] | None = None, *, bound: float = 1.25) -> SlotMap:
    """Place all slots on a ring of ``shards``, none of which gets more than ``bound`` times its share, rounded up.

    ``bound`` is at least 1: near 1 the shards are even and much moves when one comes or goes, far above it is an
    ordinary ring of 160 points for each. ``weights`` are positive finite numbers, 1 where a name is missing. The order
    of the names does not matter. Raise NoNodes without any shard, ValueError for what is not allowed.
    """
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise TypeError(f"bound={bound!r}; a number of at least 1 is allowed")
    if not (math.isfinite(bound) and bound >= 1):
        raise ValueError(f"bound={bound!r}; a finite number of at least 1 is allowed")
    names = sorted(checked_names(shards))
    exact = {name: Fraction(weight) for name, weight in checked_weights(names, weights).items()}
    mean = sum(exact.values()) / len(names)
    free = {name: math.ceil(Fraction(bound) * SLOTS * exact[name] / (mean * len(names))) for name in names}
    ring = sorted(
        # The index first: "1" + "1" and "11" are different points.
        (_point(f"{i}:{name}"), name)
        for name in names
        for i in range(max(1, round(_POINTS * exact[name] / mean)))
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
