"""In which order shards are gone through, so that no key is missed though keys move meanwhile: pure, no I/O.

A key that is there all the time is at each moment where the topology says: at its slot's owner, or while the slot moves
at the source or the target. So a slot is done when the shards of its way were gone through one after the other, source
before target: what had left the source before its end was at the target when that was begun with. A topology that is
adopted on the way changes the way of the slots that are not done yet, and only of those whose state it changes:

- a key that is at one shard for certain, and is to leave it: the pass over that shard goes on, the target comes after;
- any other: its new way is gone from its beginning.

That our topology may be an older one than the shards' does not matter: what a shard answered to a connection of epoch
``m`` it answered before it was fenced for a later one (`coordkit.routing.fence.fence`), and so before anything left it
or came to it by that; from then on it refuses, and the newer topology is adopted. (Where CLIENT KILL is forbidden, that
is as weak as the barrier that takes the fence's place.)
"""

from __future__ import annotations

from collections.abc import Iterator

from coordkit.routing.placement.slots import SLOTS
from coordkit.routing.topology.topology import Topology

Way = tuple[str, ...]


class Sweep:
    """What is still to be gone through. ``slots`` are those for which the present pass is good."""

    def __init__(self, topology: Topology) -> None:
        self.shard = ""
        self.slots: set[int] = set()
        self._topology = topology
        self._left: list[Way] = [_way(topology, slot) for slot in range(SLOTS)]

    def begin(self) -> str | None:
        """Return the shard to go through next, from its beginning to its end; None if everything is done."""
        first = {way[0] for way in self._left if way}
        if not first:
            return None
        later = {shard for way in set(self._left) for shard in way[1:]}
        self.shard = min(first - later or first)
        self.slots = {slot for slot, way in enumerate(self._left) if way and way[0] == self.shard}
        return self.shard

    def ended(self) -> None:
        """Take note that the shard was gone through."""
        for slot in self.slots:
            self._left[slot] = self._left[slot][1:]
        self.slots = set()

    def adopt(self, topology: Topology) -> None:
        """Go on by a later topology; if ``slots`` is empty then, the present pass is of no use any more."""
        before, self._topology = self._topology, topology
        now = topology.shards.get(self.shard)
        if now is None or now.primary != before.shards[self.shard].primary:  # a cursor is one server's
            self.slots = set()
        for slot, left in enumerate(self._left):
            if not left or _state(before, slot) == _state(topology, slot):
                continue
            way = self._left[slot] = _way(topology, slot)
            if len(left) > 1 or left[:1] != way[:1]:
                self.slots.discard(slot)


def order(topology: Topology) -> Iterator[tuple[str, frozenset[int]]]:
    """Yield the shards in the order to go through them, as long as the topology stays, and for which slots each is."""
    sweep = Sweep(topology)
    while (shard := sweep.begin()) is not None:
        yield shard, frozenset(sweep.slots)
        sweep.ended()


def _way(topology: Topology, slot: int) -> Way:
    move = topology.moving.get(slot)
    return (topology.owners.table[slot],) if move is None else (move.source, move.target)


def _state(topology: Topology, slot: int) -> tuple[str, int]:
    move = topology.moving.get(slot)
    return topology.owners.table[slot], move.number if move else 0
