"""What a client does before a command on keys of slots that are moving: it brings them, then runs on the target.

All keys of the command are brought first: of a split, a pipeline, a transaction (with what it watches), a script. Their
slots have one target each, so what was on one shard before is on one shard again, and what is sent there finds all of
it. Replicas are not read for such slots: the source's have what is gone, the target's lag behind.

A script that reads or writes keys which it does not declare finds them only if somebody has brought them; SORT with BY
or GET is refused while its slot moves (by the router). What SCAN and the like see says
`coordkit.routing.topology.router`. The keys in which each shard keeps its epoch and its moves are never brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from coordkit._ports import Runtime
from coordkit.errors import CoordError
from coordkit.routing.fence.decision import Decision
from coordkit.routing.fence.fence import is_local
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.moving.moving import Carrier
from coordkit.routing.placement.slots import slot_of
from coordkit.routing.topology.topology import Topology


class FirstTouch:
    """Brings keys by the topology that a command was planned by; one for each client, safe for many at once.

    ``port`` gives the way to a shard, by its name, for what is decided by a topology.
    """

    def __init__(self, runtime: Runtime, port: Callable[[str, Topology], ShardPort]) -> None:
        self._runtime = runtime
        self._port = port
        self._carriers: tuple[Topology | None, dict[int, Carrier]] = None, {}

    async def ensure(self, topology: Topology, keys: Iterable[bytes]) -> dict[str, Decision]:
        """Return once those of ``keys`` that are moving are where ``topology.serving`` says; say where, and how long.

        Raises Outdated, upon which the command is planned anew by a newer topology, and what `Carrier.ensure` raises.
        """
        brought: dict[str, Decision] = {}
        for number, some in _by_move(topology, keys).items():
            await self._ensure(topology, number, some, brought)
        return brought

    async def failing(
        self, topology: Topology, keys: Iterable[bytes]
    ) -> tuple[dict[str, Decision], dict[bytes, CoordError]]:
        """Bring keys as `ensure` does; return the error for each key of a move whose keys could not be brought, too."""
        brought: dict[str, Decision] = {}
        failed: dict[bytes, CoordError] = {}
        for number, some in _by_move(topology, keys).items():
            try:
                await self._ensure(topology, number, some, brought)
            except CoordError as error:
                failed.update(dict.fromkeys(some, error))
        return brought, failed

    async def _ensure(
        self, topology: Topology, number: int, keys: Sequence[bytes], brought: dict[str, Decision]
    ) -> None:
        carrier = self._carrier(topology, number)
        made, target = await carrier.ensure(keys), carrier.move.target
        if target in brought:
            made = min(made, brought[target].made)
        brought[target] = Decision(topology.epoch, made)

    def _carrier(self, topology: Topology, number: int) -> Carrier:
        # A carrier decides by one topology, as the command does: by a later one its connections would let it act on a
        # move that has been turned round since.
        known, carriers = self._carriers
        if known is not topology:
            carriers = {}
            self._carriers = topology, carriers
        carrier = carriers.get(number)
        if carrier is None:
            move = topology.move(number)
            ways = self._port(move.source, topology), self._port(move.target, topology)
            carrier = carriers[number] = Carrier(self._runtime, topology.name, move, *ways)
        return carrier


def _by_move(topology: Topology, keys: Iterable[bytes]) -> dict[int, list[bytes]]:
    """Return those of ``keys`` that are moving by the number of their move; nothing of what a shard has for itself."""
    moving = topology.moving
    by_move: dict[int, list[bytes]] = {}
    if not moving:
        return by_move
    for key in keys:
        move = moving.get(slot_of(key))
        if move is not None and not is_local(topology.name, key):
            by_move.setdefault(move.number, []).append(key)
    return by_move
