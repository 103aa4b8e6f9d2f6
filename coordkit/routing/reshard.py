"""Move slots between shards while they are in use: which moves, in which order, and whose word counts.

One rebalancer at a time, elected (`coordkit.Election`), works off the plan of the topology, a batch of slots after the
other. A batch is::

    clear      what b still has of these slots from another time is dropped: a scan of b           `leftovers`
    announce   the topology says MOVING(a -> b), by compare-and-set     its epoch is the number of the move
    fence      the epoch is raised on a and b, then all connections are dropped there             `fence`
    begin      the move is opened on b: from here on keys may be brought                           `moving`
    passes     all keys of these slots are brought, until a whole pass finds nothing               `mover`
    close      the move is closed on b: from here on nothing is brought
    finish     the topology says STABLE(b), by compare-and-set

The state of all that is in the topology and on the shards, none in this process. So it may stop, or be killed, between
any two steps or within one; who is elected next goes on there. Until then clients go on, too: before *announce* and
after *begin* at no cost to others, with one exception: between *announce* and *begin* they wait for keys of the slots
that are to move (`Carrier`), which is a few milliseconds, or, if the rebalancer died just there, until the next one.
That, or a failover of b just there, costs another scan of b, for which they wait as well (up to the ten seconds that a
`Carrier` has): who goes on does not know what b had.

The word of a former rebalancer that was paused does not count: it cannot write the topology (compare-and-set, and only
while it leads), its connections to the two shards are gone after the next fence, an epoch never falls, and a move that
was closed is never opened again.

Where CLIENT KILL is forbidden, waiting takes the place of the fence, which is weaker: see `barrier`. A warning says so,
and ``Progress.weaker``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from coordkit._ports import Runtime
from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing.admission import check_distinct, check_keys
from coordkit.routing.barrier import Barrier
from coordkit.routing.client_errors import Outdated
from coordkit.routing.fence import local_key
from coordkit.routing.goals import Goals, Ledger
from coordkit.routing.leftovers import drop_leftovers
from coordkit.routing.mover import Mover, Stopped, keys_in
from coordkit.routing.pace import Pace
from coordkit.routing.progress import Progress
from coordkit.routing.shard_port import ShardPort
from coordkit.routing.slots import SLOTS
from coordkit.routing.topology import Topology
from coordkit.routing.topology_parts import Move, Shard, Step
from coordkit.routing.walk import replies

_log = logging.getLogger("coordkit")

BATCH = 1024
"""Slots of one batch: each costs every client of two shards a new connection, and the mover three scans at least."""

BIG = 64 << 20
"""Bytes from which on the mover warns of a key before it moves it: some tenths of a second for two servers."""

KEYS_PER_SECOND = 5_000.0
BYTES_PER_SECOND = 32.0 * (1 << 20)

_PAUSE, _LONGEST = 0.1, 2.0  # seconds between two tries while a shard does not answer


class Reshard(Goals):
    """The rebalancer's work. ``port`` gives the way to a shard, for what a topology decides; None: not greeted."""

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
        self._cleared = 0, ""  # the number of a move, and which data its target had when it was cleared
        self._copies: tuple[tuple[object, ...], dict[str, int]] = (), {}  # replicas of the shards of a move

    def stop(self) -> None:
        """Have the work end at its next step, with everything as it is; it can be resumed."""
        self._stopping = True

    # -- the work

    async def run(self) -> Progress:
        """Finish the move that is under way, if there is one, then work off the plan; return how far it came.

        ``Progress.phase`` is "done", or "stopped" after `stop`. A shard that does not answer is asked again for
        ``patience`` seconds; then StoreUnavailable. Raises what the ledger raises, LeadershipLost among it.
        """
        return await self._work(self._go_on)

    async def roll_back(self, *, target_lost: bool = False) -> Progress:
        """Turn round the move that is under way, and carry that out; CoordError if there is none.

        What is complete stays: to take that back, drain the shard that was added, undrain the one that was drained, or
        give the old weight. With ``target_lost`` nothing is fetched back from the shard to which the slots were moving:
        its data is gone, and what the other still has is served (`Mover.give_up_source`).
        """
        topology = await self._read()
        if not topology.moves:
            raise CoordError(
                topology.name,
                "no move is under way: to take back what was done, drain the new shard, undrain the one that was "
                "drained, or give the former weight",
            )
        move = topology.moves[0]
        away = move.source if move.undoes else move.target
        await self._check_whether_lost(topology, away, target_lost)
        if not move.undoes:
            await self._write(topology.roll_back_move(move.number))
        return await self._work(self._finish_without_source if target_lost else self._finish_moves)

    async def _check_whether_lost(self, topology: Topology, name: str, lost: bool) -> None:
        """Raise CoordError if a shard that is said to be lost is there, or one that is needed is not."""
        key = local_key(topology.name, "epoch")
        try:
            [known] = await replies(self._runtime, self._port(name, topology.shards[name], None), [(b"GET", key)])
        except StoreUnavailable as error:
            if lost:
                return
            raise StoreUnavailable(
                name,
                f"{error.why}; to roll back, what was moved to it is fetched from it, so nothing was changed. Bring it "
                "back, or promote its replica and give the topology the new address (`coordkit reshard readdress`). If "
                "its data is gone for good: `coordkit reshard rollback --target-lost`, which loses what it alone has",
            ) from error
        if lost and known is not None:
            raise CoordError(
                name, f"it answers, and knows epoch {known.decode()}: it is not lost; roll back without target_lost"
            )

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
                        return progress
                except (StoreUnavailable, Outdated) as error:
                    if (progress.seen, self.known) != before:
                        pause, until = _PAUSE, self._runtime.now() + self._patience
                    if self._runtime.now() >= until:
                        raise _of_ours(error) from error
                    _log.warning("resharding pauses: %s", error)
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
        if topology.moves:
            await self._carry_out(topology, topology.moves[0])
            return True
        steps = topology.plan(self._batch)
        if steps:
            after = topology.begin_move(*steps[0])
            self._cleared = after.moves[-1].number, await self._clear(topology, steps[0])
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

    async def _finish_without_source(self) -> bool:
        topology = await self._read()
        if topology.moves:
            await self._carry_out(topology, topology.moves[0], source_lost=True)
        return len(topology.moves) > 1

    async def _carry_out(self, topology: Topology, move: Move, *, source_lost: bool = False) -> None:
        source = self._port(move.source, topology.shards[move.source], topology)
        target = self._port(move.target, topology.shards[move.target], topology)
        if not source_lost:
            await self._expect(topology, move, source)
        mover = Mover(
            self._runtime,
            topology.name,
            move,
            source,
            target,
            pace=self._pace,
            progress=self.progress,
            barrier=self._barrier,
            big=self._big,
            step=self._step,
            copies=self._replicas(topology, move),
            cleared=self._cleared[1] if self._cleared[0] == move.number else "",
        )
        await (mover.give_up_source() if source_lost else mover.carry())
        self._step("finish")
        # Read again: where a shard is may have been written meanwhile, or another rebalancer may have finished it.
        topology = await self._read()
        if move in topology.moves:
            await self._write(topology.finish_move(move.number))
        self.progress.slots_done += len(move.slots)
        self.progress.slots_left -= len(move.slots)
        self.progress.slots = 0

    async def _clear(self, topology: Topology, step: Step) -> str:
        shard = topology.shards[step.target]
        target = self._port(step.target, shard, topology)
        await check_distinct(self._runtime, [self._port(step.source, topology.shards[step.source], topology), target])
        if not shard.fenced:  # it never had other slots than now, so what it has of others is not left over
            await check_keys(self._runtime, target, topology)
        return await drop_leftovers(
            self._runtime, target, topology.name, step.slots, epoch=topology.epoch, step=lambda: self._step("clear")
        )

    def _replicas(self, topology: Topology, move: Move) -> dict[str, int]:
        """Return how many replicas the shards of a move must have: as the topology names, or as they were seen with."""
        shards = {name: topology.shards[name] for name in (move.source, move.target)}
        of = (move.number, *shards.values())  # after a failover it counts anew
        if self._copies[0] != of:
            self._copies = of, {name: len({*shard.replicas} - {shard.primary}) for name, shard in shards.items()}
        return self._copies[1]

    async def _expect(self, topology: Topology, move: Move, source: ShardPort) -> None:
        """Guess how much there is to do."""
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


def check_batch(value: object) -> int:
    """Return ``value`` if it is how many slots may move at once."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"batch={value!r}; an int from 1 to {SLOTS} is allowed")
    if not 1 <= value <= SLOTS:
        raise ValueError(f"batch={value!r}; 1 to {SLOTS} is allowed")
    return value


def _of_ours(error: StoreUnavailable | Outdated) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(
        error.shard, f"{error}; and no newer topology can be read: look whether the topology was restored from a copy"
    )
