"""SCAN over many shards: one after the other, and a cursor that says which.

A cursor is a number to redis-py and its users, so it is one here, too: the server's own cursor, a mark of the names of
the shards, and the shard's place among them. It needs no memory on our side, and may be handed to another process that
has the same shards. With other shards it would skip keys without a word, so it is refused there; and over a topology as
soon as slots begin or end to move, where `scan_iter` goes on (`coordkit.routing.topology.sweep`).

SCAN's own promise holds for each shard: what is there from the beginning to the end is returned, once or more often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

from coordkit.routing.commands.plan import Part, Plan

_PLACES = 1 << 16  # as many shards as there are slots at most


Place = tuple[str, frozenset[int]]
"""A shard that is gone through, and the slots that it is gone through for; none if it is for all keys that it has."""


def scan_plan(
    places: Sequence[Place],
    mark: int,
    wire: Sequence[Any],
    options: Mapping[str, Any],
    mine: Callable[[Any, frozenset[int]], bool] | None = None,
) -> Plan:
    """Say to which shard a SCAN goes, and how its cursor becomes ours; ValueError for a cursor that is none of ours.

    ``mark`` tells from others what these places are; ``mine`` says whether a key is to be shown at one with such slots.
    """
    mark = mark & (_PLACES - 1) or 1
    cursor = wire[1] if len(wire) > 1 else None
    try:
        number = int(cursor)  # type: ignore[arg-type]  # what is no number is told below
    except (TypeError, ValueError):
        number = -1
    rest, place = divmod(number, _PLACES)
    theirs, marked = divmod(rest, _PLACES)
    if number < 0 or (number and marked != mark) or place >= len(places):
        raise ValueError(
            f"SCAN: cursor={cursor!r}; 0, or the cursor that the last call on the same shards returned, is allowed; "
            "where slots have begun or ended to move since, begin anew, or use scan_iter(), which goes on"
        )
    shard, slots = places[place]

    def onward(replies: Sequence[Any]) -> Any:
        returned, *found = replies[0]
        if mine is not None:
            found = [[key for key in found[0] if mine(key, slots)]]
        after = int(returned)
        at = place if after else place + 1
        ours = 0 if at == len(places) else (after * _PLACES + mark) * _PLACES + at
        return type(replies[0])([ours if isinstance(returned, int) else str(ours).encode(), *found])

    part = Part(shard, (wire[0], theirs, *wire[2:]), dict(options), (shard,))
    return Plan("SCAN", "merge", (part,), onward)


def mark_of(shards: Sequence[str]) -> int:
    """Return a number that tells these shards from others."""
    return crc32("\0".join(shards).encode())
