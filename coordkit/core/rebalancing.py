"""The topology in ZooKeeper as one leader writes it, for `coordkit.routing.resharding.reshard`."""

from __future__ import annotations

from coordkit.core.leadership import Leadership
from coordkit.core.topologies import TopologyStore
from coordkit.routing.topology.topology import Topology


class Rebalancing:
    """Reads and writes a topology while we lead; what the leadership is worth, the servers decide at each write."""

    def __init__(self, store: TopologyStore, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def read(self) -> Topology:
        self._leadership.ensure()
        return await self._store.read()

    async def write(self, after: Topology, before: Topology) -> None:
        await self._store.publish(after, before, self._leadership)

    async def behind(self, epoch: int) -> list[str]:
        await self._store.read()  # which has our server catch up: one that lags may lack who has registered since
        return sorted(name for name, adopted in (await self._store.clients()).items() if adopted < epoch)
