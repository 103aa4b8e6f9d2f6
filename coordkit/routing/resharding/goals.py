"""What is to be: the changes that a rebalancer makes to a topology's goal, and what a shard must be told for that.

None of them moves a key; `reshard` does, towards the goal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from coordkit._ports import Runtime
from coordkit.errors import CoordError
from coordkit.routing.fence.fence import drop_connections, local_key, raise_epoch, settle
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import replies
from coordkit.routing.moving.admission import check_distinct, check_is, check_keys, database_of
from coordkit.routing.moving.mover import keys_in
from coordkit.routing.resharding.functions import copy_functions
from coordkit.routing.topology.parts import Shard
from coordkit.routing.topology.topology import Topology

_log = logging.getLogger("coordkit")


class Ledger(Protocol):
    """Where the topology is kept, for one who leads."""

    async def read(self) -> Topology:
        """Return the present topology."""
        ...

    async def write(self, after: Topology, before: Topology) -> None:
        """Write the next one in the place of ``before``; raise if another stands there, or if we lead no longer."""
        ...

    async def behind(self, epoch: int) -> list[str]:
        """Return which registered clients have not adopted ``epoch`` yet."""
        ...


class Goals:
    """The present topology, as one leader reads and writes it; ``port`` gives the way to a shard, as for `Reshard`."""

    def __init__(
        self, runtime: Runtime, ledger: Ledger, port: Callable[[str, Shard, Topology | None], ShardPort]
    ) -> None:
        self.known: Topology | None = None
        self._runtime = runtime
        self._ledger = ledger
        self._port = port

    async def check(self, topology: Topology) -> None:
        """Raise CoordError if the servers of a topology cannot be its shards; nothing is changed (see `admission`)."""
        ports = [self._port(name, shard, None) for name, shard in topology.shards.items()]
        await check_distinct(self._runtime, ports)
        for port in ports:
            if not topology.shards[port.shard].fenced:
                await check_keys(self._runtime, port, topology)

    async def initialise(self) -> None:
        """Tell every shard of a topology that no move has touched yet which epoch it has."""
        topology = await self._read()
        await self.check(topology)
        for name, shard in topology.shards.items():
            await raise_epoch(
                self._port(name, shard, None), topology.name, max(1, shard.fenced), create=not shard.fenced
            )

    async def add(self, name: str, shard: Shard | str) -> Topology:
        """Add a shard, which must be empty, and is given the others' functions; `run` moves slots to it."""
        topology = await self._read()
        after = topology.with_shard(name, shard)
        ports = [self._port(each, one, None) for each, one in after.shards.items()]
        await check_distinct(self._runtime, ports)
        [port] = [port for port in ports if port.shard == name]
        await self._check_empty(port, topology)
        await copy_functions(self._runtime, next(each for each in ports if each is not port), port)
        await raise_epoch(port, topology.name, topology.epoch, create=True)
        # It may have been a shard before, whose clients have not heard that it is none any more (`abandoning`).
        await drop_connections(port, subscribers=True)
        await self._check_empty(port, topology)
        return await self._write(after)

    async def _check_empty(self, port: ShardPort, topology: Topology) -> None:
        if keys := await keys_in(port) - await self._told(port, topology):
            [known] = await replies(self._runtime, port, [(b"GET", local_key(topology.name, "epoch"))])
            was = (
                f" it knows epoch {int(known)} of this topology, so it was a shard, and they are old;" if known else ""
            )
            raise CoordError(
                port.shard,
                f"it has {keys} keys, and a new shard must have none: keys of slots that move to it would be replaced;"
                f"{was} empty it (FLUSHDB), or check the address",
            )

    async def drain(self, name: str) -> Topology:
        """Have a shard own nothing; `run` moves its slots to the others and then forgets it."""
        return await self._write((await self._read()).draining(name))

    async def undrain(self, name: str) -> Topology:
        """Have a shard that was to own nothing have its share again; `run` moves that back to it."""
        return await self._write((await self._read()).undrained(name))

    async def reweight(self, name: str, weight: float) -> Topology:
        """Give a shard another weight; `run` moves what that makes too much."""
        return await self._write((await self._read()).reweighted(name, weight))

    async def readdress(self, name: str, primary: str, replicas: Iterable[str] = ()) -> Topology:
        """Say where a shard is now: at a server that has its data. The one at the old address is fenced, if it answers.

        Clients of the old topology get no further there: they hear of a newer one, and wait for it.
        """
        topology = await self._read()
        after = topology.with_addresses(name, primary, replicas)
        port = self._port(name, after.shards[name], None)
        await check_is(self._runtime, port, topology)
        others = [self._port(each, one, None) for each, one in topology.shards.items() if each != name]
        await check_distinct(self._runtime, [port, *others], absent_too=True)
        if after.shards[name].primary != topology.shards[name].primary:
            await self._retire(self._port(name, topology.shards[name], None), port, after)
        return await self._write(after)

    async def _retire(self, old: ShardPort, new: ShardPort, after: Topology) -> None:
        """Have who still uses the server that a shard had before learn of ``after``; a warning if that cannot be."""
        try:
            if await database_of(self._runtime, old) == await database_of(self._runtime, new):
                return  # another name of it
            try:
                await raise_epoch(old, after.name, after.epoch)
            finally:
                forbidden = await drop_connections(old, subscribers=True) is None
        except CoordError as error:
            _log.warning(
                "the server that this shard had before cannot be fenced, see that nobody writes there: %s", error
            )
        else:
            if forbidden:
                _log.warning("%s forbids CLIENT KILL: see that nobody writes to the server it had before", old.shard)

    async def repair(self, name: str) -> None:
        """Tell a shard its epoch again that has lost it, with what else it lost: it is served from then on."""
        topology = await self._read()
        shard = topology.shards.get(name)
        if shard is None:
            raise ValueError(f"name={name!r}; one of the shards {list(topology.shards)!r} is allowed")
        numbers = [move.number for move in topology.moves if name in (move.source, move.target)]
        epoch = max([1, shard.fenced, *numbers])
        port = self._port(name, shard, None)
        await raise_epoch(port, topology.name, epoch, create=True)
        if shard.fenced:
            await settle(port, topology.name, shard.fenced)

    def floor(self, name: str) -> Callable[[], int]:
        """Return what says the least epoch that a shard must know, by the topology that was read last.

        Else a move would raise the epoch of a shard that lost it, and have it used with what it has, by nobody's word.
        """

        def floor() -> int:
            shard = None if self.known is None else self.known.shards.get(name)
            return 0 if shard is None else shard.fenced

        return floor

    async def _read(self) -> Topology:
        self.known = await self._ledger.read()
        return self.known

    async def _write(self, after: Topology) -> Topology:
        assert self.known is not None  # noqa: S101 - for the type checker: what comes after it was made from it
        await self._ledger.write(after, self.known)
        self.known = after
        return after

    async def _told(self, port: ShardPort, topology: Topology) -> int:
        """Return how many keys of a shard are those that say which epoch it knows."""
        keys = [local_key(topology.name, part) for part in ("epoch", "moves", "settled")]
        [count] = await port.ask([(b"EXISTS", *keys)])
        if isinstance(count, Exception):
            raise count
        return int(count)
