"""What the probes of a shard with replicas ask its servers and Sentinel, blocking."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import redis
from redis.exceptions import ResponseError

from coordkit._threads.connection import bounded
from coordkit.routing.replicas.probes import WITHIN, Probes
from coordkit.routing.replicas.readers import Node
from coordkit.routing.replicas.sentinels import Followed
from coordkit.routing.replicas.terms import unbroken
from coordkit.routing.ways.errors import NO_ANSWER
from coordkit.routing.ways.pool import way_of


class Questions:
    """What is asked of the servers of a shard in the background, over connections that are bounded in time."""

    def __init__(self, shard: str, followed: Followed | None) -> None:
        self._shard = shard
        self._followed = followed
        self._clients: dict[Any, redis.Redis] = {}
        self._nodes: dict[tuple[str, int], Node] = {}

    def begin(self, probes: Probes) -> bool:  # noqa: ARG002  asyncio needs them
        """Return False: threads go on for as long as the process does."""
        return False

    def go_on(self) -> bool:
        """Return True, for the same reason."""
        return True

    async def infos(self, nodes: Collection[Node]) -> dict[Node, Any]:
        """Return what each answered to INFO replication, or its error; the primary is asked first."""
        said: dict[Node, Any] = {}
        for node in sorted(nodes, key=lambda node: not node.is_primary):
            client = self._bounded(node.client)
            try:
                client.ping()
                said[node] = client.info("replication")
            except (ResponseError, *NO_ANSWER) as error:
                said[node] = error
        return said

    async def replicas(self) -> list[Node] | None:
        """Return the replicas that the first Sentinel to answer knows; None if there is no such."""
        followed = self._followed
        if followed is None:
            return None
        for sentinel in followed.sentinels():
            try:
                known = self._bounded(sentinel).sentinel_slaves(followed.service_name)
            except (ResponseError, *NO_ANSWER):
                continue
            return self._as_nodes(followed, followed.filtered(known))
        return None

    def _as_nodes(self, followed: Followed, addresses: Sequence[tuple[str, int]]) -> list[Node]:
        gone = self._nodes.keys() - set(addresses)
        for address in set(addresses) - self._nodes.keys():
            client = followed.client_at(address, redis)
            name = f"{address[0]}:{address[1]}"
            self._nodes[address] = Node(name, client, way_of(f"{self._shard} at {name}", client, unbroken()))
        for address in gone:
            node = self._nodes.pop(address)
            node.way.close()
            node.client.close()
            if (bounded := self._clients.pop(node.client, None)) is not None:
                bounded.connection_pool.disconnect()
        return [self._nodes[address] for address in addresses]

    def _bounded(self, client: Any) -> redis.Redis:
        if client not in self._clients:
            pool = client.connection_pool
            made = redis.ConnectionPool(connection_class=pool.connection_class, **bounded(pool, WITHIN))
            self._clients[client] = redis.Redis(connection_pool=made)
        return self._clients[client]

    async def close(self) -> None:
        """Close the connections of the probes, and the clients that were made for Sentinel's replicas."""
        for client in list(self._clients.values()):
            client.connection_pool.disconnect()
        for node in list(self._nodes.values()):
            node.way.close()
            node.client.close()
