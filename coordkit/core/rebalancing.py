"""The topology in ZooKeeper as one leader writes it, for `coordkit.routing.reshard`."""

from __future__ import annotations

from coordkit.core.leadership import Leadership
from coordkit.core.topologies import TopologyStore
from coordkit.routing.topology import Topology


class Rebalancing:
    """Reads and writes a topology while we lead; what the leadership is worth, the servers decide at each write."""

    def __init__(self, store: TopologyStore, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership
        self._read: Topology | None = None

    async def read(self) -> Topology:
        self._leadership.ensure()
        self._read = await self._store.read()
        return self._read

    async def write(self, after: Topology) -> None:
        before = self._read
        if before is None or before.epoch != after.epoch - 1:
            before = await self._store.read()
        await self._store.publish(after, before, self._leadership)
        self._read = after

    async def behind(self, epoch: int) -> list[str]:
        await self._store.read()  # which has our server catch up: one that lags may lack who has registered since
        return sorted(name for name, adopted in (await self._store.clients()).items() if adopted < epoch)
