"""Take a shard out of a topology that is gone for good, with its data: which slots go where, and what is kept.

Nothing is fetched from it, so its slots begin empty at the others. That is said by moves all the same, so that a slot
never goes from one owner to another without a move that was published: who has adopted it waits until the rebalancer
has let the target begin, instead of asking the dead shard. What was under way with that shard becomes such a move, too:

==============================  ===================================================================================
was on its way                  what is served
==============================  ===================================================================================
from it to b                    what had been brought to b: the newest there is, and nothing else
from a to it                    in a cache nothing, because a still has what was changed at the dead shard since;
                                else what a still has, for want of better: see `Mover.give_up_source`
back from it, or back to it     the same as if it had been on its way to it, or from it
==============================  ===================================================================================
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.topology.parts import Move

if TYPE_CHECKING:
    from coordkit.routing.topology.topology import Topology


def leaving(topology: Topology) -> dict[str, int]:
    """Return the shards that are being given up, and how many slots of each."""
    slots: Counter[str] = Counter()
    for move in topology.moves:
        if move.state == "abandoning":
            slots[move.source] += len(move.slots)
    return dict(slots)


def abandoning(topology: Topology, name: str) -> Topology:
    """See `Topology.abandoning`."""
    if name in leaving(topology):
        raise ValueError(f"name={name!r} is given up already; resume that")
    if others := [move.number for move in topology.moves if name not in (move.source, move.target)]:
        raise ValueError(f"name={name!r} while moves {others} of others are under way; finish them first")
    after = topology.draining(name)
    number, table, moves = topology.epoch, list(topology.owners.table), []
    for move in topology.moves:
        if move.source == name and not (move.undoes and topology.cache):
            moves.append(replace(move, state="abandoning"))
            continue
        number += 1
        other = move.source if move.target == name else move.target
        undoes = 0 if topology.cache else move.number  # what it undoes is kept at the target, and not dropped there
        moves.append(Move(number, move.slots, name, other, "abandoning", undoes=undoes))
        for slot in move.slots:
            table[slot] = name
    after = _with(after, number, table, moves)
    for (source, target), slots in after.serving.moves(after.goal()).items():
        if source == name:  # what else is planned among the others waits its turn
            number += 1
            moves.append(Move(number, tuple(slots), name, target, "abandoning"))
    return _with(after, number, table, moves)


def abandoned(topology: Topology, name: str) -> Topology:
    """See `Topology.abandoned`."""
    for move in topology.moves:
        if move.state == "abandoning" and move.source == name:
            topology = topology.finish_move(move.number)
    return topology.forget_shard(name)


def _with(topology: Topology, number: int, table: list[str], moves: list[Move]) -> Topology:
    epoch = max(topology.epoch, number)
    return replace(topology, epoch=epoch, owners=SlotMap(topology.owners.shards, tuple(table)), moves=tuple(moves))
