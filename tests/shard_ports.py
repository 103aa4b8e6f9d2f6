"""Ways to shards, runtimes and a topology that is kept in memory, for the tests of moving in both flavours."""

from __future__ import annotations

from typing import Any

from coordkit._asyncio.runtime import RUNTIME as ASYNCIO
from coordkit._threads.runtime import RUNTIME as THREADS
from coordkit.errors import TransactionFailed
from coordkit.routing import Topology
from coordkit.routing.fence.fence import Greeting
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.ways import port as way_port
from coordkit.routing.ways import port_aio as way_port_aio
from coordkit.routing.ways import way, way_aio


def runtime(flavour: Any) -> Any:
    return ASYNCIO if flavour.is_async else THREADS


def port(flavour: Any, name: str, client: Any, topology: str = "", decided: int = 0) -> ShardPort:
    """Return the way to a shard; greeted as one of a topology, or not at all."""
    ways, ports = (way_aio, way_port_aio) if flavour.is_async else (way, way_port)
    made = ways.Way(name, client, greet=ports.greeted(Greeting(topology, name)) if topology else None)
    flavour.on_exit(made.close)
    return ports.WayPort(made, decided, client.connection_pool.connection_kwargs.get("socket_timeout"))


class Ledger:
    """A topology in memory, with the history of what was written."""

    def __init__(self, topology: Topology) -> None:
        self.now = topology
        self.clients: dict[str, int] = {}

    async def read(self) -> Topology:
        return self.now

    async def write(self, after: Topology, before: Topology | None = None) -> None:
        if (before or self.now).epoch != self.now.epoch or after.epoch <= self.now.epoch:
            raise TransactionFailed("topology", f"it has epoch {self.now.epoch}", step=0, path="/topology")
        after.check_follows(self.now)
        self.now = after

    async def behind(self, epoch: int) -> list[str]:
        return sorted(name for name, adopted in self.clients.items() if adopted < epoch)
