"""How slots go from one owner to another in a topology: a move is begun, finished, or turned round.

Which transition of a slot leads to which other is said in `topology`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.topology.parts import Move, Shard

if TYPE_CHECKING:
    from coordkit.routing.topology.topology import Topology


def check_shard(topology: Topology, argument: str, name: str) -> Shard:
    """Return the shard with this name; ValueError, naming the argument, if there is none."""
    if name not in topology.shards:
        raise ValueError(f"{argument}={name!r}; one of the shards {list(topology.shards)!r} is allowed")
    return topology.shards[name]


def check_moves(topology: Topology) -> None:
    """Raise ValueError unless each move is of slots that its source owns, and no slot moves twice."""
    taken: set[int] = set()
    numbers: set[int] = set()
    for move in topology.moves:
        check_shard(topology, "target", move.target)
        strangers = [slot for slot in move.slots if topology.owners.table[slot] != move.source]
        if strangers:
            raise ValueError(f"source={move.source!r} does not own the slots {strangers[:9]}; its own are allowed")
        if twice := taken.intersection(move.slots):
            raise ValueError(f"slots {sorted(twice)[:9]} move already; finish or roll back that move first")
        if move.number in numbers or not 1 <= move.number <= topology.epoch:
            raise ValueError(f"move number {move.number!r}; one of its own, at most {topology.epoch}, is allowed")
        taken.update(move.slots)
        numbers.add(move.number)


def begin_move(topology: Topology, slots: Iterable[int], source: str, target: str) -> Topology:
    """See `Topology.begin_move`."""
    check_shard(topology, "source", source)
    if check_shard(topology, "target", target).state != "up":
        raise ValueError(f"target={target!r} is draining; a shard that is up is allowed")
    move = Move(topology.epoch + 1, tuple(slots), source, target)
    return replace(topology, epoch=topology.epoch + 1, moves=(*topology.moves, move))


def finish_move(topology: Topology, number: int) -> Topology:
    """See `Topology.finish_move`."""
    move = topology.move(number)
    shards = dict(topology.shards)
    for name in (move.source, move.target):
        shards[name] = replace(shards[name], fenced=max(shards[name].fenced, move.number))
    owners, others = _owned(topology, move), _others(topology, move)
    return replace(topology, epoch=topology.epoch + 1, shards=shards, owners=owners, moves=others)


def roll_back_move(topology: Topology, number: int) -> Topology:
    """See `Topology.roll_back_move`."""
    move = topology.move(number)
    if move.state == "abandoning":
        raise ValueError(f"number={number!r} gives up {move.source!r}, which is final; another is allowed")
    if move.undoes:
        raise ValueError(f"number={number!r} is rolled back already; one that is not is allowed: finish it first")
    back = Move(topology.epoch + 1, move.slots, move.target, move.source, "rolling back", undoes=number)
    moves = (*_others(topology, move), back)
    return replace(topology, epoch=topology.epoch + 1, owners=_owned(topology, move), moves=moves)


def _owned(topology: Topology, move: Move) -> SlotMap:
    table = list(topology.owners.table)
    for slot in move.slots:
        table[slot] = move.target
    return SlotMap(topology.owners.shards, tuple(table))


def _others(topology: Topology, move: Move) -> tuple[Move, ...]:
    return tuple(each for each in topology.moves if each is not move)
