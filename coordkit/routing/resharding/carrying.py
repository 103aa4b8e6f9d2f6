"""Work off what a topology plans: one move after the other, what each needs before it is announced, and how far it is.

Which order that has, and why it may end anywhere: see `reshard`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from coordkit._ports import Runtime
from coordkit.errors import StoreUnavailable
from coordkit.routing.fence.barrier import Barrier
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.moving.admission import check_distinct, check_keys
from coordkit.routing.moving.leftovers import drop_leftovers
from coordkit.routing.moving.mover import Mover, Stopped, keys_in
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.progress import Progress
from coordkit.routing.resharding.abandoning import Abandonment
from coordkit.routing.resharding.goals import Goals, Ledger
from coordkit.routing.topology.parts import Move, Shard, Step
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.errors import Outdated

_log = logging.getLogger("coordkit")

BATCH = 1024
"""Slots of one batch: each costs every client of two shards a new connection, and the mover three scans at least."""

BIG = 64 << 20
"""Bytes from which on the mover warns of a key before it moves it: some tenths of a second for two servers."""

_PAUSE, _LONGEST = 0.1, 2.0  # seconds between two tries while a shard does not answer


class Carrying(Goals):
    """Carries out moves. ``port`` gives the way to a shard, for what a topology decides; None: not greeted."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        port: Callable[[str, Shard, Topology | None], ShardPort],
        *,
        pace: Pace,
        batch: int = BATCH,
        big: int = BIG,
        lease: float = 30.0,
        patience: float = 60.0,
        on_progress: Callable[[Progress], None] | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(runtime, ledger, port)
        self.progress = Progress()
        self._pace = pace
        self._batch = batch
        self._big = big
        self._patience = patience
        self._barrier = Barrier(runtime, ledger.behind, lease=lease, patience=patience, step=self._step)
        self._on_progress = on_progress
        self._on_step = on_step
        self._stopping = False
        self._cleared: dict[int, str] = {}  # of a move, by its number: which data its target had when it was cleared
        self._copies: dict[tuple[int, Shard, Shard], dict[str, int]] = {}  # replicas of the shards of a move
        self._abandonment = Abandonment(
            runtime, port, self._mover, barrier=self._barrier, progress=self.progress, step=self._step
        )

    def stop(self) -> None:
        """Have the work end at its next step, with everything as it is; it can be resumed."""
        self._stopping = True

    # -- the work

    async def _work(self, work: Callable[[], Awaitable[bool]]) -> Progress:
        """Do one thing after the other until there is nothing more, or we are stopped."""
        progress = self.progress
        pause, until = _PAUSE, self._runtime.now() + self._patience
        try:
            while True:
                before = progress.seen, self.known
                try:
                    if not await work():
                        progress.phase = "done"
                        progress.slots = progress.slots_left = 0  # also where the answer to the last write was lost
                        return progress
                except (StoreUnavailable, Outdated) as error:
                    if (progress.seen, self.known) != before:
                        pause, until = _PAUSE, self._runtime.now() + self._patience
                    if self._runtime.now() >= until:
                        raise _of_ours(error) from error
                    _log.warning("resharding pauses: %s", error)
                    self._step("pause")
                    await self._runtime.sleep(pause)
                    pause = min(2 * pause, _LONGEST)
        except Stopped:
            progress.phase = "stopped"
            return progress
        finally:
            self._tell()

    async def _go_on(self) -> bool:
        """Do the next thing; return whether there may be more."""
        topology = await self._read()
        if topology.leaving:
            await self._give_up(topology)
            return True
        if topology.moves:
            await self._carry_out(topology, topology.moves[0])
            return True
        steps = topology.plan(self._batch)
        if steps:
            after = topology.begin_move(*steps[0])
            await self._check_apart(topology, steps[0])
            self._cleared = {after.epoch: await self._clear(topology, after.moves[-1])}
            self._step("announce")
            await self._write(after)
            return True
        empty = [name for name, shard in topology.shards.items() if shard.state == "draining"]
        if empty:
            self._step("forget")
            await self._write(topology.forget_shard(empty[0]))
        return len(empty) > 1

    async def _finish_moves(self) -> bool:
        topology = await self._read()
        if topology.moves:
            await self._carry_out(topology, topology.moves[0])
        return len(topology.moves) > 1

    async def _give_up(self, topology: Topology) -> None:
        name = next(iter(topology.leaving))
        await self._abandonment.carry_out(topology, name)
        self._abandonment.say(topology, name)
        self._step("finish")
        now = await self._read()
        if name in now.leaving:
            await self._write(now.abandoned(name))

    async def _carry_out(self, topology: Topology, move: Move, *, source_lost: bool = False) -> None:
        if not source_lost:
            await self._expect(topology, move)
        mover = self._mover(topology, move)
        await (mover.give_up_source() if source_lost else mover.carry())
        self._step("finish")
        # Read again: where a shard is may have been written meanwhile, or another rebalancer may have finished it.
        topology = await self._read()
        if move in topology.moves:
            await self._write(topology.finish_move(move.number))
        self.progress.slots_done += len(move.slots)
        self.progress.slots_left -= len(move.slots)
        self.progress.slots = 0

    def _mover(self, topology: Topology, move: Move) -> Mover:
        return Mover(
            self._runtime,
            topology.name,
            move,
            self._port(move.source, topology.shards[move.source], topology),
            self._port(move.target, topology.shards[move.target], topology),
            pace=self._pace,
            progress=self.progress,
            barrier=self._barrier,
            big=self._big,
            step=self._step,
            copies=self._replicas(topology, move),
            cleared=self._cleared.get(move.number, ""),
            epoch=topology.epoch if move.state == "abandoning" else 0,
        )

    async def _check_apart(self, topology: Topology, step: Step) -> None:
        ports = [self._port(name, topology.shards[name], topology) for name in (step.source, step.target)]
        await check_distinct(self._runtime, ports)

    async def _clear(self, topology: Topology, move: Move) -> str:
        """Clear the target of a move that is not announced yet; return which data it had."""
        shard = topology.shards[move.target]
        target = self._port(move.target, shard, topology)
        if not shard.fenced:  # it never had other slots than now, so what it has of others is not left over
            await check_keys(self._runtime, target, topology)
        clear, epoch, number = partial(self._step, "clear"), topology.epoch, move.number
        return await drop_leftovers(
            self._runtime, target, topology.name, move.slots, epoch=epoch, number=number, step=clear
        )

    def _replicas(self, topology: Topology, move: Move) -> dict[str, int]:
        """Return how many replicas the shards of a move must have: as the topology names, or as they were seen with."""
        shards = {name: topology.shards[name] for name in (move.source, move.target)}
        of = move.number, shards[move.source], shards[move.target]  # after a failover it counts anew
        numbers = {each.number for each in topology.moves}
        self._copies = {each: copies for each, copies in self._copies.items() if each[0] in numbers}
        named = {name: len({*shard.replicas} - {shard.primary}) for name, shard in shards.items()}
        return self._copies.setdefault(of, named)

    async def _expect(self, topology: Topology, move: Move) -> None:
        """Guess how much there is to do."""
        source = self._port(move.source, topology.shards[move.source], topology)
        progress = self.progress
        left = sum(len(each.slots) for each in topology.moves)
        left += sum(len(step.slots) for step in topology.plan(self._batch))
        owned = max(1, sum(1 for owner in topology.serving.table if owner == move.source) + len(move.slots))
        progress.source, progress.target = move.source, move.target
        progress.slots, progress.slots_left = len(move.slots), left
        progress.seen, progress.expected = 0, round(await keys_in(source) * len(move.slots) / owned)

    # -- steps

    def _step(self, name: str) -> None:
        self._tell()
        if self._on_step is not None:
            self._on_step(name)
        if self._stopping:
            raise Stopped(name)

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress)


def _of_ours(error: StoreUnavailable | Outdated) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(
        error.shard, f"{error}; and no newer topology can be read: look whether the topology was restored from a copy"
    )
