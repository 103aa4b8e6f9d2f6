"""Give up a shard that is dead for good, by an operator's word: its slots begin empty at the others.

Nobody does that by itself, ever: two clients that decide on their own who is dead hold one lock on two shards. It is
one decision, of the elected rebalancer, in the topology that all share::

    look       the dead shard does not answer; the others do
    clear      what the others still have of its slots from another time is dropped               `leftovers`
    announce   the topology says ABANDONING(c -> a, b, ...), by compare-and-set
    fence      the epoch is raised on the others, then all connections are dropped there          `fence`
    wait       unless the topology is a cache: until all registered clients have adopted that, and ``lease`` seconds
    close      each target is told to serve the slots that it gets, with nothing in them          `Mover.give_up`
    finish     the topology knows the shard no more, by compare-and-set

From *announce* on it is final, and whoever is elected next goes on (`Reshard.run`). Until *close* nobody serves the
slots: commands on them fail, as they did while the shard was dead.

**Lost** are all keys of these slots, locks and their token counters among them. For a topology that was declared a
cache (`Topology.first`) that is what it is for, and no locks are kept there (`LiveStore`). For any other it must be
asked for in words.

**Should the shard come back**, it serves what it had to those who have not adopted what was announced, and to nobody
else: to a client that is cut off from ZooKeeper *and* from all other shards, each of which tells it of a later epoch at
its next command. What such a client reads is old, what it writes is lost, and a lock that it takes may be another's,
too. So have the server not come back with its data: switch it off, or remove its file. If it answers while it is being
given up it is fenced, which ends that. `Goals.add` takes it only if it is empty, and drops who still uses it.

**Locks**, where it is no cache. Who held one at the dead shard cannot renew it: no answer while it is dead, and none
for this key from the moment of adoption on. So no registered client still believes to hold it when another is granted
it, if its ttl was at most ``lease``. Tokens: a counter that was lost is replaced by the time of the new shard's server
(``token.lua``), so the next token is greater than all before if that clock is not behind the dead one's by more than
``lease``. If it was, tokens fall: the resource refuses the new holder (`StaleToken`) until the clock has passed the old
tokens, which is safe, but looks like an outage. How far the clocks of the others are apart is looked at, and warned of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from coordkit._ports import Runtime
from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing.fence.barrier import Barrier
from coordkit.routing.fence.fence import drop_connections, local_key, raise_epoch
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import replies
from coordkit.routing.moving.mover import Mover
from coordkit.routing.moving.progress import Progress
from coordkit.routing.placement.slots import SLOTS
from coordkit.routing.topology.parts import Move, Shard
from coordkit.routing.topology.topology import Topology

_log = logging.getLogger("coordkit")

Port = Callable[[str, Shard, "Topology | None"], ShardPort]


async def check_gone(runtime: Runtime, port: Port, topology: Topology, name: str) -> None:
    """Raise CoordError if a shard answers, or, unless it is a cache, a replica of it that has its data."""
    shard = topology.shards[name]
    answer = await _answer(runtime, port(name, shard, None), topology)
    if answer is not None:
        raise CoordError(
            name,
            f"it answers ({answer}), so nothing was changed: it is not to be given up, but emptied "
            f"(`coordkit reshard drain {name}`), which loses nothing; if it must not be used, switch it off first",
        )
    for address in () if topology.cache else shard.replicas:
        at = replace(shard, primary=address, replicas=())
        answer = await _answer(runtime, port(name, at, None), topology)
        if answer is not None and answer.isdigit() and int(answer) >= max(1, shard.fenced):
            raise CoordError(
                name,
                f"its replica {address} answers and has its data, so nothing was changed: promote it (REPLICAOF NO "
                f"ONE), and say where the shard is now (`coordkit reshard readdress {name}={address}`)",
            )


async def _answer(runtime: Runtime, port: ShardPort, topology: Topology) -> str | None:
    """Return which epoch a server says that it knows, or what it refuses with; None if it does not answer at all."""
    try:
        [known] = await replies(runtime, port, [(b"GET", local_key(topology.name, "epoch"))])
    except StoreUnavailable:
        return None
    except CoordError as error:
        return f"{error.why}"
    return "it knows no epoch" if known is None else bytes(known).decode("utf-8", "replace")


def check_meant(topology: Topology, name: str, *, lose_keys_and_locks: bool) -> None:
    """Raise CoordError unless a topology is a cache, or its operator says that what a shard had may be lost."""
    if topology.cache or lose_keys_and_locks:
        return
    slots = topology.serving.counts()[name]
    raise CoordError(
        name,
        f"topology {topology.name!r} was not declared a cache: {slots} slots of keys, locks and token counters are on "
        "this shard, and on no other. Nothing was changed. Bring its server back; or restore its data elsewhere (a "
        f"replica, its file), and `coordkit reshard readdress {name}=ADDRESS`. If the data is gone for good, and you "
        f"accept that: `coordkit reshard abandon {name} --lose-keys-and-locks`",
    )


class Abandonment:
    """Carries out what a topology that gives up a shard has announced; all of it may be done again, by anybody."""

    def __init__(
        self,
        runtime: Runtime,
        port: Port,
        mover: Callable[[Topology, Move], Mover],
        *,
        barrier: Barrier,
        progress: Progress,
        step: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._port = port
        self._mover = mover
        self._barrier = barrier
        self._progress = progress
        self._step = step
        self._waited = self._said = 0  # the epochs for which we have waited, and said what is lost

    async def carry_out(self, topology: Topology, name: str) -> None:
        """Have the others serve what was the dead shard's; then the topology may say so."""
        movers = {
            move: self._mover(topology, move)
            for move in topology.moves
            if move.state == "abandoning" and move.source == name
        }
        progress, slots = self._progress, topology.leaving[name]
        progress.phase, progress.source, progress.target = "fencing", name, ", ".join(m.target for m in movers)
        progress.slots, progress.slots_left = slots, slots
        await self._tell_others(topology, name, list(movers))
        # All of them, also after one that was there already.
        if any([await mover.fence_target() for mover in movers.values()]) and not topology.cache:
            await self._wait(topology, name)
        progress.phase = "giving up"
        for mover in movers.values():
            await mover.give_up()
        await self._fence_if_back(topology, name)

    def say(self, topology: Topology, name: str) -> None:
        """Say once what is lost, as soon as others serve it."""
        if self._said == topology.epoch:
            return
        self._said = topology.epoch
        progress, slots = self._progress, topology.leaving[name]
        progress.slots_lost += slots
        progress.slots_done += slots
        progress.slots = progress.slots_left = 0
        shares = {move.target: len(move.slots) for move in topology.moves if move.source == name}
        _log.warning(
            "shard %r (%s) was given up: %s of %s slots (%.1f %%) are served by others, without what it had: %s. Its "
            "keys are lost%s. Do not let its server come back with its data: who has not heard of this would use it. "
            "To use it again, empty it, and add it as a new shard",
            name,
            topology.shards[name].primary,
            slots,
            SLOTS,
            100 * slots / SLOTS,
            ", ".join(f"{target} has {count} more" for target, count in sorted(shares.items())),
            "" if topology.cache else ", and its locks, with the counters of their tokens",
        )

    async def _tell_others(self, topology: Topology, name: str, moves: Sequence[Move]) -> None:
        """Raise the epoch on those who get nothing, so that who talks to them hears of it; targets are fenced apart."""
        targets = {move.target for move in moves}
        for other, shard in topology.shards.items():
            if other == name or other in targets or shard.state != "up":
                continue
            port = self._port(other, shard, None)
            self._step(f"raise {other}")
            await raise_epoch(port, topology.name, topology.epoch, replicas=len({*shard.replicas} - {shard.primary}))
            self._step(f"drop {other}")
            await drop_connections(port)

    async def _wait(self, topology: Topology, name: str) -> None:
        if self._waited == topology.epoch:
            return
        self._progress.phase = "waiting"
        await self._warn_of_clocks(topology, name)
        await self._barrier.adopted(
            topology.epoch,
            f"nobody may still hold a lock at {name!r} when others take it: end them, or bring coordkit up to date "
            "there",
        )
        self._waited = topology.epoch

    async def _warn_of_clocks(self, topology: Topology, name: str) -> None:
        """Look how far the clocks of those that are there are apart: that of the one that is gone cannot be asked."""
        first, apart = self._runtime.now(), []
        for other, shard in topology.shards.items():
            if other == name or shard.state != "up":
                continue
            asked = self._runtime.now()
            [[seconds, micros]] = await replies(self._runtime, self._port(other, shard, None), [(b"TIME",)])
            apart.append(int(seconds) + int(micros) / 1e6 - (asked - first))
        if apart and max(apart) - min(apart) > self._barrier.lease / 2:
            _log.warning(
                "the clocks of the shards are up to %.0f s apart; if that of %r was ahead of them by more than %g s, "
                "tokens of its locks may be lower than before for so long, and are refused at what they protect",
                max(apart) - min(apart),
                name,
                self._barrier.lease,
            )

    async def _fence_if_back(self, topology: Topology, name: str) -> None:
        """Have who still uses the shard, should it be back, learn of what was announced."""
        port = self._port(name, topology.shards[name], None)
        try:
            try:
                await raise_epoch(port, topology.name, topology.epoch, disk=False)
            finally:
                await drop_connections(port, subscribers=True)
        except StoreUnavailable:
            return  # as it should be
        except CoordError as error:
            _log.warning("shard %r is back, and cannot be fenced; see that nobody uses it: %s", name, error)
        else:
            _log.warning("shard %r is back; it was given up, and what it has is not used: empty it, then add it", name)
