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
that are to move (`Carrier`). That is a few milliseconds; two seconds or so where a's file is written out each second
(``everysec``), because the epoch must be on its disk; or, if the rebalancer died just there, until the next one. That,
or a failover of b just there, costs another scan of b, for which they wait as well (up to the ten seconds that a
`Carrier` has): who goes on does not know what b had.

The word of a former rebalancer that was paused does not count: it cannot write the topology (compare-and-set, and only
while it leads), its connections to the two shards are gone after the next fence, an epoch never falls, and a move that
was closed is never opened again.

A shard that is dead for good is taken out by an operator's word alone: see `abandoning`.

Where CLIENT KILL is forbidden, waiting takes the place of the fence, which is weaker: see `barrier`. A warning says so,
and ``Progress.weaker``.
"""

from __future__ import annotations

from functools import partial

from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing.fence.fence import local_key
from coordkit.routing.fence.walk import replies
from coordkit.routing.moving.progress import Progress
from coordkit.routing.placement.slots import SLOTS
from coordkit.routing.resharding.abandoning import check_gone, check_meant
from coordkit.routing.resharding.carrying import Carrying
from coordkit.routing.topology.topology import Topology

KEYS_PER_SECOND = 5_000.0
BYTES_PER_SECOND = 32.0 * (1 << 20)

_RECENTLY = 5.0  # seconds after which a shard that did not answer is asked again whether it is dead


class Reshard(Carrying):
    """The rebalancer's work. ``port`` gives the way to a shard, for what a topology decides; None: not greeted."""

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
        if topology.leaving:
            raise CoordError(
                next(iter(topology.leaving)), "it is given up, which cannot be taken back: `coordkit reshard resume`"
            )
        move = topology.moves[0]
        away = move.source if move.undoes else move.target
        await self._check_whether_lost(topology, away, target_lost)
        if not move.undoes:
            await self._write(topology.roll_back_move(move.number))
        return await self._work(self._finish_without_source if target_lost else self._finish_moves)

    async def abandon(self, name: str, *, lose_keys_and_locks: bool = False) -> Progress:
        """Take a shard that is dead for good out of the topology, with all that it had: see `abandoning`.

        Returns and raises as `run` does. CoordError, and nothing was changed, if it answers, or a replica has its data;
        and if the topology is no cache, unless ``lose_keys_and_locks``.
        """
        topology = await self._read()
        if name not in topology.shards:
            raise ValueError(f"name={name!r}; one of the shards {list(topology.shards)!r} is allowed")
        if name not in topology.leaving:  # else that is decided, and this goes on with it
            check_meant(topology, name, lose_keys_and_locks=lose_keys_and_locks)
            await check_gone(self._runtime, self._port, topology, name)
            if not topology.moves:
                topology.abandoning(name)  # what cannot be is said now
        return await self._work(partial(self._abandon, name))

    async def _abandon(self, name: str) -> bool:
        topology = await self._read()
        others = [move for move in topology.moves if name not in (move.source, move.target)]
        if topology.leaving:
            await self._give_up(topology)
        elif others:
            await self._carry_out(topology, others[0])
        elif name in topology.shards:
            after = topology.abandoning(name)
            if not after.moves:  # it had nothing
                await self._write(topology.forget_shard(name))
                return False
            began = self._runtime.now()
            for move in after.moves:
                if move.slots[0] not in topology.moving:  # where it moves, its keys are in use
                    self._cleared[move.number] = await self._clear(topology, move)
            if self._runtime.now() - began > _RECENTLY:
                await check_gone(self._runtime, self._port, topology, name)
            self._step("announce")
            await self._write(after)
        return name in (self.known or topology).shards

    async def _finish_without_source(self) -> bool:
        topology = await self._read()
        if topology.moves:
            await self._carry_out(topology, topology.moves[0], source_lost=True)
        return len(topology.moves) > 1

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


def check_batch(value: object) -> int:
    """Return ``value`` if it is how many slots may move at once."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"batch={value!r}; an int from 1 to {SLOTS} is allowed")
    if not 1 <= value <= SLOTS:
        raise ValueError(f"batch={value!r}; 1 to {SLOTS} is allowed")
    return value
