"""The subject of the loss experiment: the library as its users have it.

Its clients are ``ShardedRedis.from_topology``, its mover is ``Reshard`` under the leadership of the rebalancer, and the
topology is in ZooKeeper. The changes are other weights, as they are drawn: each moves slots between all shards; and a
shard that is drained and forgotten, and comes back empty.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis
import redis.asyncio
from kazoo.client import KazooClient
from regime.flavours import maybe
from regime.history import now
from regime.loss_place import Change, Client, Gaps, Move, Place, State

import coordkit
import coordkit.aio
from coordkit.routing import Topology
from coordkit.routing.commands.router import Router
from coordkit.routing.moving.source import Source
from coordkit.routing.moving.target import Target
from coordkit.routing.placement.slots import tagged
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.servers import scaled

PATH = "/loss"
WEIGHTS = (1, 2, 4)
DRAINED = 0.3  # of all changes a shard is drained, and the next adds it
BATCH = 4096  # slots that move at once: a change takes a batch for each pair of shards, or two
SESSION = 3.0  # seconds until a rebalancer that was killed is followed by another
PATIENCE = 30.0  # seconds
TICK = 500  # milliseconds of ZooKeeper, of which a session may last twenty


class Library:
    """coordkit itself."""

    name = "library"
    spared: tuple[str, ...] = ()

    def prepare(self, place: Place, stack: ExitStack) -> Place:
        zookeeper = stack.enter_context(start_zookeeper(tick_time=TICK))
        place = dataclasses.replace(place, hosts=zookeeper.hosts)
        zk = stack.enter_context(Session(place, TICK / 50))
        self._store = coordkit.TopologyStore(zk, PATH)
        self._store.create(Topology.first("loss", place.urls))
        with (
            self._store.rebalancer("the experiment").lead(timeout=scaled(10)) as leadership,
            coordkit.Reshard(self._store, leadership, connect(redis.Redis)) as reshard,
        ):
            reshard.initialise()
        return place

    def state(self, _place: Place) -> State:
        topology = self._now()
        moves = tuple(Move(move.source, move.target, move.slots, move.number) for move in topology.moves)
        return State(topology.epoch, topology.owners.table, moves)

    def _now(self) -> Topology:
        """Return the present topology, also if ZooKeeper takes its time: the machine may be a busy one."""
        ends = now() + scaled(30)
        while True:
            try:
                return self._store.read()
            except coordkit.StoreUnavailable:
                if now() >= ends:
                    raise
            time.sleep(0.1)

    def draw(self, place: Place, chance: random.Random) -> Change:
        """Draw another weight for a shard, or a shard that is drained; one that is away is added, empty.

        What was rolled back and not gone on with comes first.
        """
        topology = self._now()
        if topology.plan(BATCH):
            return _change(topology, ("go on",))
        for name in place.urls:
            if name not in topology.shards:
                return _change(topology.with_shard(name, place.urls[name]), ("add", name))
        name = chance.choice(list(topology.shards))
        if chance.random() < DRAINED:
            return _change(topology.draining(name), ("drain", name))
        weight = chance.choice([weight for weight in WEIGHTS if weight != topology.shards[name].weight])
        return _change(topology.reweighted(name, weight), ("reweight", name, weight))

    def client(self, place: Place, _name: str, flavour: str, gaps: Gaps) -> Client:
        watch_gaps(gaps)
        return _Client(place, flavour)

    def _begin(self, reshard: coordkit.Reshard, place: Place, what: Any) -> None:
        """Begin a change, if it has not begun."""
        topology = reshard.store.read()
        match what:
            case "reweight", name, weight:
                if topology.shards[name].weight != weight:
                    reshard.reweight(name, weight)
            case "drain", name:
                if name in topology.shards and topology.shards[name].state == "up":
                    reshard.drain(name)
            case "add", name:
                if name not in topology.shards:
                    reshard.add(name, place.urls[name])

    def carry_out(self, place: Place, what: Any, pace: float, slack: float) -> None:
        with (
            Session(place, min(SESSION * slack, TICK / 50)) as zk,
            (store := coordkit.TopologyStore(zk, PATH)).rebalancer("mover").lead(timeout=PATIENCE) as leadership,
            coordkit.Reshard(
                store,
                leadership,
                connect(redis.Redis),
                keys_per_second=1 / pace,
                batch=BATCH,
                patience=PATIENCE,
            ) as reshard,
        ):
            match what:
                case "roll back", *then:
                    if store.read().moves:
                        reshard.roll_back()
                    if then or not store.read().plan(BATCH):
                        reshard.run()  # the same slots once more, or a drained shard that is to be forgotten
                case _:
                    self._begin(reshard, place, what)
                    reshard.run()


class Locks(Library):
    """The same for W8."""

    name = "locks"


def _change(after: Topology, what: tuple[Any, ...]) -> Change:
    return Change(frozenset(slot for step in after.plan(BATCH) for slot in step.slots), what)


class Session:
    """A started ``KazooClient``."""

    def __init__(self, place: Place, timeout: float = 4.0) -> None:
        self._zk = KazooClient(place.hosts, timeout=timeout, connection_retry={"max_tries": -1, "max_delay": 0.3})

    def __enter__(self) -> Any:
        self._zk.start(scaled(20))
        return self._zk

    def __exit__(self, *_: object) -> None:
        self._zk.stop()
        self._zk.close()


def connect(kind: Any) -> Callable[[str, str], Any]:
    """Return what makes the client of a shard."""
    return lambda _name, address: kind.from_url(address, socket_timeout=10, socket_connect_timeout=10, retry=None)


async def shards(stack: ExitStack, place: Place, flavour: str) -> Any:
    """Return a client of the topology; for asyncio within its loop. ``stack`` ends the session."""
    zk = stack.enter_context(Session(place))
    if flavour == "asyncio":
        store: Any = coordkit.aio.TopologyStore(zk, PATH)
        return await coordkit.aio.ShardedRedis.from_topology(store, connect(redis.asyncio.Redis), patience=PATIENCE)
    return coordkit.ShardedRedis.from_topology(
        coordkit.TopologyStore(zk, PATH), connect(redis.Redis), patience=PATIENCE
    )


def watch_gaps(gaps: Gaps) -> None:
    """Have ``gaps`` called in this process wherever it is decided where a command goes, and while keys are brought."""
    route = Router.route

    def deciding(self: Router, key: Any) -> str:
        shard = route(self, key)
        gaps.decided(tagged(self.bytes_of(key)).decode(errors="replace"))
        return shard

    Router.route = deciding  # type: ignore[method-assign]  # wrapped, to be told
    for kind, step in ((Target, "look"), (Source, "read"), (Target, "take")):
        _stepping(kind, step, gaps)


def _stepping(kind: type, step: str, gaps: Gaps) -> None:
    was = getattr(kind, step)

    async def stepping(self: Any, *args: Any) -> Any:
        found = await was(self, *args)
        gaps.bringing()
        return found

    setattr(kind, step, stepping)


class _Client:
    """The counters over a sharded client; one for all actors of the process, connected at first use."""

    def __init__(self, place: Place, flavour: str) -> None:
        self._place, self._flavour = place, flavour
        self._stack = ExitStack()

    async def start(self) -> None:
        self._shards = await shards(self._stack, self._place, self._flavour)

    def incr(self, key: str) -> Any:
        return self._shards.incr(key)

    def getdel(self, key: str) -> Any:
        return self._shards.getdel(key)

    async def close(self) -> None:
        await maybe((getattr(self._shards, "aclose", None) or self._shards.close)())
        self._stack.close()
