"""Carry out one move of slots, from the fence to where nothing is left at the source; `reshard` decides which moves.

Every step may be done again, by the same mover or by another: who resumes begins at the top. What was done is seen at
the shards (an epoch that stands, a move that is open or over), not remembered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from coordkit._ports import Runtime
from coordkit.errors import CoordError
from coordkit.routing.fence.barrier import Barrier
from coordkit.routing.fence.fence import Raised, drop_connections, raise_epoch, replicas_of, settle
from coordkit.routing.fence.flushed import flushed
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.moving.admission import check_distinct
from coordkit.routing.moving.emptying import Emptying
from coordkit.routing.moving.leftovers import data_of, drop_leftovers
from coordkit.routing.moving.moving import Carrier
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.progress import Progress
from coordkit.routing.topology.parts import Move

_log = logging.getLogger("coordkit")


class Stopped(Exception):
    """The mover was asked to stop; what it was doing can be resumed."""


class Mover:
    """Moves the keys of one move. ``step`` is told each step before it is done, and may raise to end it there.

    ``copies`` says of each shard how many replicas must have what it is told: as many as it was ever seen with, which
    is noted there, so that one that is away stays missed however often this move is taken up again. ``cleared`` is what
    `drop_leftovers` returned before the move was announced, or "". ``epoch`` is what its shards are to know at least,
    that is its number, where others of its topology do not share them.
    """

    def __init__(
        self,
        runtime: Runtime,
        topology: str,
        move: Move,
        source: ShardPort,
        target: ShardPort,
        *,
        pace: Pace,
        progress: Progress,
        barrier: Barrier,
        big: int,
        step: Callable[[str], None],
        copies: dict[str, int] | None = None,
        cleared: str = "",
        epoch: int = 0,
    ) -> None:
        self._cleared = cleared
        self._epoch = epoch or move.number
        self.carrier = Carrier(runtime, topology, move, source, target)
        self._copies = {} if copies is None else copies
        self._runtime = runtime
        self._topology = topology
        self._move = move
        self._source = source
        self._target = target
        self._progress = progress
        self._barrier = barrier
        self._step = step
        self._off_disk: set[str] = set()  # shards that cannot say what is on their disk: nothing to wait for
        self.emptying = Emptying(
            runtime,
            topology,
            frozenset(move.slots),
            self.carrier,
            source=source,
            target=target,
            pace=pace,
            progress=progress,
            big=big,
            step=step,
            secure=self._secure_target,
        )

    async def carry(self) -> None:
        """Bring all keys of these slots to the target, and close the move there; then the topology may say so."""
        await check_distinct(self._runtime, (self._source, self._target))
        state = await self.carrier.state()
        await self._see_replicas(self._target)
        if not state:
            self._progress.phase = "fencing"
            await self._fence(self._source, self._target)
            await self._drop_leftovers()
            if self._source.shard in self._off_disk:
                # It must not come back with the epoch before, once there is something elsewhere that is newer.
                await flushed(self._runtime, self._source)
            self._step("begin")
            await self.carrier.begin()
        if state != "over":
            self._progress.phase = "moving"
            await self.emptying.fetch_former()
            await self.emptying.empty()
            self._step("close")
            self._progress.phase = "closing"
        # Also one that is over: whoever closed it may have ended before the move that it rolls back was closed.
        await self.carrier.close()
        # Who routes by the move would take it for open, where others write by what the topology says then.
        await self._secure_target()
        for port in (self._target, self._source):
            await settle(port, self._topology, self._move.number, replicas=self._copies.get(port.shard, 0))

    async def give_up_source(self) -> None:
        """Close a move that is rolled back with what its target still has: the data of its source is gone for good.

        The source's servers are not fenced, so they must not come back with their data: who has not heard of this would
        use them. Whoever has heard refuses them, by their epoch.
        """
        state = await self.carrier.state()
        await self._see_replicas(self._target)
        if not state:
            self._progress.phase = "fencing"
            await self._fence(self._target)
            self._step("begin")
            await self.carrier.begin()
        _log.warning(
            "%s slots are served by %s again, with what it has: what was written at %s since they began to move, and "
            "what had been removed at %s by then, is lost; a lock that was taken there may be granted again, and "
            "its tokens begin anew from what %s has",
            len(self._move.slots),
            self._target.shard,
            self._source.shard,
            self._target.shard,
            self._target.shard,
        )
        self._step("close")
        await self.carrier.close(source_lost=True)
        await self._secure_target()
        await settle(self._target, self._topology, self._move.number, replicas=self._copies.get(self._target.shard, 0))

    async def fence_target(self) -> bool:
        """Have the target's clients look for the topology that gives up the source; False if it serves the slots."""
        state = await self.carrier.state()
        await self._see_replicas(self._target)
        if state != "over":
            await self._fence(self._target)
        return state != "over"

    async def give_up(self) -> None:
        """Have the target serve these slots with what was brought; the source is gone, and nothing more comes.

        The move is closed without having been opened, so that nobody asks the source, should it be back by then.
        """
        if not await self.carrier.state():
            await self._drop_leftovers()
        self._step("close")
        await self.carrier.close(source_lost=True, begun=False)
        await self.carrier.close_all()
        await self._secure_target()
        await settle(self._target, self._topology, self._move.number, replicas=self._copies.get(self._target.shard, 0))

    async def _fence(self, *ports: ShardPort) -> None:
        """See `coordkit.routing.fence.fence`: after this nobody acts on these shards by an earlier epoch."""
        for port in ports:
            self._step(f"raise {port.shard}")
            await self._raise(port)
        weaker = []
        for port in ports:
            self._step(f"drop {port.shard}")
            # Who subscribes to a channel of these slots at the source would hear nothing more there.
            if await drop_connections(port, subscribers=port is self._source) is None:
                weaker.append(port.shard)
        if weaker:
            self._progress.weaker = True
            await self._barrier.wait(self._epoch, weaker)

    async def _drop_leftovers(self) -> None:
        """See `coordkit.routing.moving.leftovers`; of a move that is rolled back, the target's are no leftovers."""
        if self._move.undoes or self._cleared == await data_of(self._runtime, self._target):
            return
        slots, epoch, number = self._move.slots, self._epoch, self._move.number
        again = partial(self._step, "clear again")
        await drop_leftovers(self._runtime, self._target, self._topology, slots, epoch=epoch, number=number, step=again)

    async def _secure_target(self) -> None:
        """Return once all replicas of the target have what it was told so far, and its disk, where it has a file.

        The epoch is written once more: who has that has all that was written before.
        """
        raised = await self._raise(self._target)
        if not raised.on_disk:
            await flushed(self._runtime, self._target)

    async def _raise(self, port: ShardPort) -> Raised:
        await self._see_replicas(port)
        replicas, disk = self._copies[port.shard], port.shard not in self._off_disk
        raised = await raise_epoch(port, self._topology, self._epoch, replicas=replicas, disk=disk)
        if not raised.on_disk:
            self._off_disk.add(port.shard)
        if raised.epoch > self._epoch:
            raise CoordError(
                port.shard,
                f"it knows epoch {raised.epoch}, and this move is of epoch {self._epoch}: another rebalancer "
                "has gone on; read the topology again",
            )
        return raised

    async def _see_replicas(self, port: ShardPort) -> None:
        self._copies[port.shard] = max(self._copies.get(port.shard, 0), await replicas_of(port))


async def keys_in(port: ShardPort) -> int:
    """Return how many keys a shard has."""
    [info] = await port.ask([(b"DBSIZE",)])
    if isinstance(info, Exception):
        raise info
    return int(info)
