"""Where a topology is kept: one znode with the document, its history, and who has adopted what.

::

    <topology>              persistent; the document, see ``routing/topology/form.py``
    ├── log                 persistent
    │   └── <epoch>         persistent; the document of that epoch, 16 digits; the last ones only
    ├── rebalancer          an election: who may change it
    └── clients             a group: each client's adopted epoch; for people, and to wait less, never for safety

It is changed in one transaction that checks that the leader leads, compares the version of the znode with what was
read, and writes the document and its entry in the log. So there is one line of epochs, whoever was deposed meanwhile.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from coordkit._ports_zookeeper import (
    Create,
    Delete,
    GetChildren,
    GetData,
    GetStat,
    Multi,
    NodeError,
    NoNode,
    Request,
    SetData,
    Stat,
    Sync,
)
from coordkit.core import znodes
from coordkit.core.data import from_json
from coordkit.core.group import Group
from coordkit.core.leadership import Leadership
from coordkit.core.session import GRACE, Session
from coordkit.core.stream import Stream
from coordkit.errors import BadTopology, StoreRefused, StoreUnavailable, TransactionFailed
from coordkit.routing.topology.topology import Topology

_log = logging.getLogger("coordkit")

_ENTRY = re.compile(r"\d{16}", re.ASCII)

_TRIES = 3  # what is there may change between a look and a write

NONE = b""
"""The document of a topology that is not there; the znode may be, for what is below it."""


class TopologyStore:
    """The topology of one path."""

    def __init__(self, session: Callable[[], Session], path: str, history: int) -> None:
        self.path = path
        self.election = f"{path}/rebalancer"
        self._session = session
        self._history = history
        self._entries = f"{path}/log"

    # -- reading

    async def read(self) -> Topology:
        """Return the latest, as the quorum knows it: our server catches up first."""
        return topology_of(self.path, (await self._read())[0])

    async def _read(self) -> tuple[bytes, Stat]:
        requests: list[Request] = [Sync(self.path), GetData(self.path)]
        answer = (await self._session().read(self.path, requests))[1]
        if isinstance(answer, NoNode):
            raise none_there(self.path)
        found: tuple[bytes, Stat] = answer
        return found

    async def history(self) -> list[int]:
        """Return the epochs that the log has, in order."""
        return [int(name) for name in await self._logged()]

    async def at(self, epoch: int) -> Topology:
        """Return what was published with this epoch."""
        path = self._entry(epoch)
        answer = (await self._session().read(self.path, [GetData(path)]))[0]
        if isinstance(answer, NoNode):
            raise BadTopology(path, f"the history has no epoch {epoch}; it has {await self.history()}")
        return topology_of(path, answer[0])

    def observe(self) -> Topologies:
        return Topologies(self._session(), self.path)

    async def clients(self) -> dict[str, int]:
        """Return which epoch each client has adopted, by its id; what is none of ours has 0."""
        members = await Group(self._session().runtime, self._session, clients(self.path)).members()
        return {identity: _adopted(data) for identity, data in members.items()}

    # -- writing

    async def create(self, topology: Topology) -> Topology:
        """Write the first one if there is none; return the one that is there."""
        data, entry = topology.to_bytes(), self._entry(topology.epoch)
        above = [Create(each) for each in znodes.ancestors(self.path)[:-1]]
        for _ in range(_TRIES):
            looks: list[Request] = [*above, Sync(self.path), GetData(self.path), GetChildren(self._entries)]
            there, entries = (await self._session().read(self.path, looks))[-2:]
            if not isinstance(there, NoNode) and there[0]:
                return self._same(topology_of(self.path, there[0]), topology)
            # Without data it is there if somebody stands for rebalancer() already, or follows what was deleted.
            steps: list[Create | SetData] = [
                Create(self.path, data) if isinstance(there, NoNode) else SetData(self.path, data, there[1].version)
            ]
            if isinstance(entries, NoNode):
                entries = []
                steps.append(Create(self._entries))
            again = f"{topology.epoch:016}" in entries
            steps.append(SetData(entry, data) if again else Create(entry, data))
            answer = (await self._session().read(self.path, [Multi(tuple(steps))]))[0]
            if not isinstance(answer, Exception):
                return topology
            if not isinstance(answer, NodeError):
                raise answer
        raise StoreRefused(self.path, "its parent cannot be created: the client's chroot does not exist")

    def _same(self, there: Topology, topology: Topology) -> Topology:
        if there.name != topology.name:
            raise BadTopology(self.path, f"here is the topology {there.name!r}, not {topology.name!r}")
        return there

    async def publish(self, topology: Topology, expected: Topology, leadership: Leadership) -> None:
        """Put ``topology`` in the place of ``expected``, if that is there and the leader leads."""
        if leadership.name != self.election:
            raise ValueError(
                f"leadership={leadership.name!r} is of another election; one of {self.election!r}, as rebalancer() "
                "gives, is allowed"
            )
        topology.check_follows(expected)
        data = topology.to_bytes()
        found, stat = await self._read()
        there = topology_of(self.path, found)
        transaction = leadership.transaction()
        if there.checksum() == topology.checksum():
            await transaction.commit()  # an earlier try got through; that we lead is all that is left to be said
            return
        if there.checksum() != expected.checksum():
            raise self._changed(there, expected)
        transaction.set(self.path, data, stat.version)
        entries, entry = await self._logged(), self._entry(topology.epoch)
        if f"{topology.epoch:016}" in entries:  # of a topology that was set back by hand
            transaction.set(entry, data, -1)
        else:
            transaction.create(entry, data, ephemeral=False)
        await transaction.commit()
        await self._prune(entries)

    def _changed(self, there: Topology, expected: Topology) -> TransactionFailed:
        why = (
            f"it has epoch {there.epoch} (checksum {there.checksum()}) and not {expected.epoch} "
            f"({expected.checksum()}) as expected; nothing was done: read it, and plan anew"
        )
        return TransactionFailed(self.path, why, step=0, path=self.path)

    async def _logged(self) -> list[str]:
        listed: Any = (await self._session().read(self.path, [GetChildren(self._entries)]))[0]
        return [] if isinstance(listed, NoNode) else sorted(name for name in listed if _ENTRY.fullmatch(name))

    async def _prune(self, entries: list[str]) -> None:
        old = entries[: max(0, len(entries) + 1 - self._history)]
        if not old:
            return
        session = self._session()
        try:
            await session.ask(
                self.path, [Delete(f"{self._entries}/{name}") for name in old], session.runtime.now() + GRACE
            )
        except StoreUnavailable as error:
            _log.info("%s: the history is pruned next time: %s", self.path, error)

    def _entry(self, epoch: int) -> str:
        return f"{self._entries}/{epoch:016}"


class Topologies(Stream[bytes]):
    """The topologies of one path as a stream."""

    async def next_topology(self, timeout: float | None = None) -> Topology | None:
        """Return the next topology; None after ``timeout`` seconds, or once the stream is closed.

        Raises ``BadTopology`` for a document that is none, and goes on after it; one that is gone is no news.
        """
        runtime = self._runtime
        deadline = None if timeout is None else runtime.now() + timeout
        while True:
            data = await self.next_view(None if deadline is None else max(0.0, deadline - runtime.now()))
            if data is None:
                return None
            if data != NONE:
                return topology_of(self.name, data)

    async def _look(self, deadline: float) -> bytes | None:
        soon = min(deadline, self._runtime.now() + GRACE)
        answer = (await self._session.read(self.name, [self._document()], soon))[0]
        if isinstance(answer, NoNode):
            return NONE if (await self._session.read(self.name, [self._birth()], soon))[0] is None else None
        data: bytes = answer[0]
        return data

    def _document(self) -> GetData:
        return GetData(self.name, self._ring)

    def _birth(self) -> GetStat:
        return GetStat(self.name, self._ring)

    def _unwatch(self) -> None:
        self._session.ensemble.unwatch(self._document())
        self._session.ensemble.unwatch(self._birth())


def clients(path: str) -> str:
    """Return the group of the clients of a topology."""
    return f"{path}/clients"


def none_there(path: str) -> BadTopology:
    """Return the error for a topology that is not there."""
    return BadTopology(
        path,
        "there is no topology; make the first one, by `coordkit reshard init` or TopologyStore.create(), or look "
        "whether the path is right",
    )


def topology_of(path: str, data: bytes) -> Topology:
    """Return the topology of a znode's data; BadTopology, naming the path, if it is none."""
    return Topology.from_bytes(data, path) if data else _raise(none_there(path))


def _raise(error: Exception) -> Topology:
    raise error


def _adopted(data: bytes) -> int:
    try:
        return int(from_json(data)["epoch"])
    except (ValueError, TypeError, KeyError):
        return 0
