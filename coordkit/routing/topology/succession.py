"""Which topology may come after which: in the store, and in a client that has adopted one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordkit.errors import BadTopology

if TYPE_CHECKING:
    from coordkit.routing.topology.topology import Topology


def check_follows(after: Topology, before: Topology) -> None:
    """See `Topology.check_follows`."""
    if after.name != before.name:
        raise ValueError(f"name={after.name!r} after {before.name!r}; the same is allowed")
    if after.epoch <= before.epoch:
        raise ValueError(f"epoch={after.epoch!r} after {before.epoch}; a greater one is allowed")
    if after.cache != before.cache:
        raise ValueError(f"cache={after.cache!r} after {before.cache!r}; what it was declared when made is allowed")
    for slot, owner in enumerate(after.owners.table):
        if owner not in {before.owners.table[slot], before.serving.table[slot]}:
            was = before.state_of(slot)
            raise ValueError(f"slot {slot} goes to {owner!r} after {was}; publish a move first, then its end")
        if slot in before.moving and owner == before.owners.table[slot] and _left(after, slot, before):
            was = before.state_of(slot)
            raise ValueError(f"slot {slot} is {after.state_of(slot)} after {was}; roll back that move instead")


def _left(after: Topology, slot: int, before: Topology) -> bool:
    move = after.moving.get(slot)
    return move is None or move.target != before.moving[slot].target


def check_newer(topology: Topology, than: Topology, where: str) -> bool:
    """See `Topology.check_newer`."""
    if topology.name != than.name:
        raise BadTopology(where, f"it is of {topology.name!r}, and {than.name!r} was adopted: it is not adopted")
    if topology.epoch == than.epoch and topology == than:
        return False
    if topology.epoch <= than.epoch:
        raise BadTopology(
            where,
            f"it has epoch {topology.epoch}, and {than.epoch} was adopted: it is not adopted. The store was set back, "
            f"or there are two; publish what is right with an epoch above {than.epoch} (Topology.raised_to)",
        )
    return True
