"""The topology of sharded Redis in ZooKeeper, for asyncio."""

from __future__ import annotations

from collections.abc import Callable

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._async.election import Election
from coordkit._async.leadership import Leadership
from coordkit._async.stream import Stream
from coordkit._asyncio.zookeeper import session_of
from coordkit.core import adoption, checks, topologies, zk_checks
from coordkit.errors import LeadershipLost
from coordkit.routing.topology.topology import Topology


class Topologies(Stream[Topology]):
    """A stream of a topology's epochs: iterate over it, and close it (or leave its ``async with``) when done.

    It ends when it is closed, and raises ``StoreUnavailable`` if the first state cannot be had in one session timeout,
    or when the client is stopped; ``BadTopology`` for a document that is none, after which it can be read on.
    """

    __slots__ = ()

    def __init__(self, core: topologies.Topologies) -> None:
        super().__init__(core, core.next_topology)


class TopologyStore:
    """Describe where a topology is kept in ZooKeeper, with its history: read it, watch it, and change it as the leader.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed.
    :param path: the znode of the topology, absolute; ``log``, ``rebalancer`` and ``clients`` are made below it.
    :param history: how many epochs the log keeps at most, 1 to 10,000.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    The topology is changed by compare-and-set, by the leader of ``rebalancer()`` alone: a write of one that leads no
    more is refused by the servers, however late it comes. Not promised: that anybody has heard of a change; what makes
    it safe is that clients and shards compare epochs.
    """

    def __init__(self, zk: KazooClient, path: str, *, history: int = 100) -> None:
        _kazoo.check_client(zk)
        self.path = zk_checks.check_path(path)
        self.history_length = checks.check_history(history)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._core = topologies.TopologyStore(lambda: session_of(zk), path, history)

    async def create(self, topology: Topology) -> Topology:
        """Write the first topology, if there is none; return the one that is there, which may be a later one.

        Raises ``BadTopology`` if one of another name is there, or what is there is none; ``StoreUnavailable`` if no
        answer came: it may have been written, and may be asked for again.
        """
        return await self._core.create(topology)

    async def read(self) -> Topology:
        """Return the present topology, as all that was written before the call has made it; one round trip.

        Raises ``BadTopology`` if there is none, or what is there is none; ``StoreUnavailable`` if no answer came.
        """
        return await self._core.read()

    def observe(self) -> Topologies:
        """Return a stream of topologies: first the present one, then what is new each time; bursts are merged.

        It goes on through reconnects and new sessions, and waits for a topology that is not there. What it shows is
        what one server knows: it may be late by at most one session timeout.
        """
        return Topologies(self._core.observe())

    def rebalancer(self, identity: str, *, on_lost: Callable[[LeadershipLost], object] | None = None) -> Election:
        """Return the election of who may change this topology; ``identity`` and ``on_lost`` as for ``Election``."""
        return Election(self.client, self._core.election, identity=identity, on_lost=on_lost)

    async def publish(self, topology: Topology, *, expected: Topology, leadership: Leadership) -> None:
        """Put ``topology`` in the place of ``expected``, in one transaction, and note it in the history.

        ``leadership`` is of ``rebalancer()``; ``expected`` is what it was made from. Calling it again after no answer
        is safe: what was published already is a success. Raises ``ValueError`` if the one may not follow the other (see
        ``Topology.check_follows``), ``TransactionFailed`` if another is there: nothing was done, read it and plan anew;
        ``LeadershipLost`` if we do not lead; ``StoreUnavailable`` if no answer came: it may have been carried out.
        """
        await self._core.publish(topology, expected, leadership._core)  # noqa: SLF001  one facade

    async def history(self) -> list[int]:
        """Return the epochs that the history has, in order; one round trip. Raises ``StoreUnavailable``."""
        return await self._core.history()

    async def at(self, epoch: int) -> Topology:
        """Return what was published with this epoch.

        Raises ``BadTopology`` if the history does not have it, ``StoreUnavailable`` if no answer came.
        """
        return await self._core.at(epoch)

    async def clients(self) -> dict[str, int]:
        """Return which epoch each client has adopted, by the client's id; two round trips.

        To see who is behind, and to wait less; never to be sure: a client that is cut off is not in it, and goes on.
        Raises ``StoreUnavailable``.
        """
        return await self._core.clients()

    def _following(self, take: Callable[[Topology, str], object], poll: float) -> adoption.Adoption:
        return adoption.Adoption(session_of(self.client), self.path, take, poll=poll)

    def __repr__(self) -> str:
        return f"<TopologyStore {self.path}>"
