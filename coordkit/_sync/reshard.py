"""Moving slots between the shards of a live topology, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

import redis

from coordkit import _redis
from coordkit._run import run
from coordkit._sync.leadership import Leadership
from coordkit._sync.topology import TopologyStore
from coordkit._threads.runtime import RUNTIME
from coordkit.core import checks
from coordkit.core.rebalancing import Rebalancing
from coordkit.routing.fence.fence import Greeting
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.progress import Progress
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.replicas.servers import clients_of, primary_of
from coordkit.routing.resharding import reshard
from coordkit.routing.resharding.carrying import BATCH, BIG
from coordkit.routing.topology.parts import Shard
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.port import WayPort, greeted
from coordkit.routing.ways.way import Way

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs


class Reshard:
    """Move slots between the shards of a live topology while clients use them; ``with`` closes its connections.

    :param store: where the topology is kept.
    :param leadership: that we are its rebalancer: of ``store.rebalancer(...)``.
    :param connect: returns a new client for a shard, given its name and address; it adds the password. Of a
        ``ReplicaSet`` the primary is used.
    :param keys_per_second: how many keys to move at most, None for no limit; as ``bytes_per_second``, of values as DUMP
        gives them. Both shards serve others meanwhile; a limit is what keeps them quick.
    :param batch: slots that move at once, 1 to 16384. Each batch drops, once, all connections of two shards.
    :param big: bytes from which on a warning is logged before a key is moved: both servers stand still meanwhile.
    :param lease: seconds that a client may be paused at most, where ``CLIENT KILL`` is forbidden; see below.
    :param patience: seconds for which a shard that does not answer is asked again.
    :param on_progress: called with a ``Progress`` at each step, many times a second; must be quick.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    While a batch moves, each key is brought to its new shard when it is first used, by whoever uses it, and in any case
    by us. Promised: no acknowledged write is lost, whoever is paused, killed or cut off, as far as the servers keep
    what they acknowledged. It may be stopped (``stop``) or killed at any point, and ``run`` resumes it, here or
    elsewhere: its state is in the topology.

    Needed: the right to ``CLIENT KILL`` on the shards. Where that is forbidden a warning is logged, and each batch
    waits until all registered clients have adopted it, and ``lease`` seconds longer. A client that is stopped, or cut
    off from ZooKeeper, for longer may then lose what it writes. Commands on keys of the batch wait meanwhile, and fail
    unsent after ten seconds: so take few batches, or a ``lease`` below that. An eviction policy of ``noeviction`` or
    ``volatile-*``.
    """

    def __init__(
        self,
        store: TopologyStore,
        leadership: Leadership,
        connect: Callable[[str, str], redis.Redis | ReplicaSet[redis.Redis]],
        *,
        keys_per_second: float | None = reshard.KEYS_PER_SECOND,
        bytes_per_second: float | None = reshard.BYTES_PER_SECOND,
        batch: int = BATCH,
        big: int = BIG,
        lease: float = 30.0,
        patience: float = 60.0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.store = store
        self.leadership = leadership
        self._connect = checks.check_callable("connect", connect)
        self._ways: dict[tuple[str, str, bool], tuple[redis.Redis | ReplicaSet[redis.Redis], Way]] = {}
        self._core = reshard.Reshard(
            RUNTIME,
            Rebalancing(store._core, leadership._core),  # noqa: SLF001  one facade
            self._port,
            pace=Pace(keys_per_second, bytes_per_second),
            batch=reshard.check_batch(batch),
            big=big,
            lease=checks.check_delay("lease", lease),
            patience=checks.check_delay("patience", patience),
            on_progress=checks.check_callback("on_progress", on_progress),
            on_step=self._still_leading,
        )

    @property
    def progress(self) -> Progress:
        """How far it has come: phase, keys, bytes, rates, time left."""
        return self._core.progress

    def check(self, topology: Topology) -> None:
        """Look whether the servers of a first topology can be its shards, before it is created; nothing is changed.

        Raises ``CoordError`` if two of them are one database or one is a replica, if one has keys of slots that it is
        not to own, or belongs to another topology already. It looks at every key: one SCAN of each shard.
        """
        run(self._core.check(topology))

    def initialise(self) -> None:
        """Tell each shard of a new topology its epoch, before the first client uses it; may be repeated.

        Raises what ``check`` raises, and ``StoreRefused`` for a shard that moves have touched, and that has lost its
        epoch: see ``repair``.
        """
        run(self._core.initialise())

    def add(self, name: str, shard: Shard | str) -> Topology:
        """Add an empty shard, a ``Shard`` or its primary's address, and return the topology; ``run`` moves slots to it.

        It is given the functions (FUNCTION) of the others, and no scripts: EVALSHA says NOSCRIPT there at first.
        Raises ``CoordError`` if it has keys, or is the database of another shard, ``ValueError`` if the name is taken.
        """
        return run(self._core.add(name, shard))

    def drain(self, name: str) -> Topology:
        """Have a shard own nothing, and return the topology; ``run`` moves its slots away and then forgets it."""
        return run(self._core.drain(name))

    def undrain(self, name: str) -> Topology:
        """Take a drain back, and return the topology; ``run`` moves its share of the slots back to the shard.

        Raises ``ValueError`` if there is no such shard: one that was emptied is forgotten, and is added anew.
        """
        return run(self._core.undrain(name))

    def reweight(self, name: str, weight: float) -> Topology:
        """Give a shard another weight, and return the topology; ``run`` moves what that makes too much."""
        return run(self._core.reweight(name, weight))

    def run(self) -> Progress:
        """Finish the move that is under way, if there is one, then work off the plan of the topology.

        Returns the progress, whose ``phase`` is "done", or "stopped" after ``stop()``. Raises ``LeadershipLost`` if we
        lead no longer, ``StoreUnavailable`` if a shard or ZooKeeper did not answer for ``patience``, ``StoreRefused``
        if one said no (out of memory, a version that cannot read the other's values). After any of these it can be
        called again, here or by the next rebalancer.
        """
        return run(self._core.run())

    def roll_back(self, *, target_lost: bool = False) -> Progress:
        """Turn round the move that is under way and carry that out, in the same way; returns and raises as ``run``.

        ``target_lost`` says that the shard to which the slots were moving is gone for good, with its data: the other
        one serves them again with what it still has. Lost is what was written since at the shard that is gone, and
        what had been removed at the other by then; its servers must not come back with their data. If it has a replica,
        promote that instead, and ``readdress``. ``CoordError`` if it answers.

        ``CoordError`` if none is. What is complete stays: to take that back, drain the shard that was added, undrain
        the one that was drained, or give the old weight.
        """
        return run(self._core.roll_back(target_lost=target_lost))

    def abandon(self, name: str, *, lose_keys_and_locks: bool = False) -> Progress:
        """Take a shard that is dead for good out of the topology; the others serve its slots, which begin empty.

        For a topology that was made with ``cache=True``. For any other it is ``CoordError``, unless you accept that all
        keys of these slots are lost, locks and the counters of their tokens among them: ``lose_keys_and_locks=True``.
        Then it waits until all registered clients have adopted that, and ``lease`` seconds: let that be at least your
        longest ttl, and clocks be no further apart. ``progress.slots_lost`` says how many slots, and so does a warning.

        ``CoordError``, and nothing was changed, if the shard answers: ``drain`` it; or if one of its replicas has its
        data and the topology is no cache: promote that, and ``readdress``. Once it is announced it is final, and
        ``run`` goes on with it, here or elsewhere. The server must not come back with its data: a client that is cut
        off from ZooKeeper and from all other shards would go on using it. ``add`` takes it only if it is empty.

        Returns and raises as ``run``; ``ValueError`` if there is no such shard, or no other that is up.
        """
        return run(self._core.abandon(name, lose_keys_and_locks=lose_keys_and_locks))

    def readdress(self, name: str, primary: str, replicas: Iterable[str] = ()) -> Topology:
        """Say where a shard is now, as after a failover without Sentinel, and return the topology; no slot moves.

        The server must have the shard's data: ``CoordError`` if it does not know the shard's epoch, is a replica, or
        the database of another shard. The server at the old address, if it answers, is told that it is none any more,
        and its clients are dropped; if it does not, a warning says so: see that nobody writes there when it returns.
        """
        return run(self._core.readdress(name, primary, replicas))

    def repair(self, name: str) -> None:
        """Tell a shard its epoch again that has lost it: after a FLUSHALL, or a restore from a copy.

        What else it lost is lost; until this is called, no client uses it.
        """
        run(self._core.repair(name))

    def stop(self) -> None:
        """Have ``run`` return at its next step; from any thread, or a signal handler."""
        self._core.stop()

    def close(self) -> None:
        """Close the clients that ``connect`` returned."""
        while self._ways:
            given, way = self._ways.popitem()[1]
            way.close()
            for client in clients_of(given):
                client.close()

    def _still_leading(self, _step: str) -> None:
        self.leadership.ensure()

    def _port(self, name: str, shard: Shard, topology: Topology | None) -> ShardPort:
        at = name, shard.primary, topology is not None
        if at not in self._ways:
            given = self._connect(name, shard.primary)
            greet = None if topology is None else greeted(Greeting(topology.name, name, self._core.floor(name)))
            self._ways[at] = given, Way(name, primary_of(given), greet=greet)
        given, way = self._ways[at]
        return WayPort(way, topology.epoch if topology else 0, _redis.patience(primary_of(given)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
