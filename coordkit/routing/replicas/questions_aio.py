"""What the probes of a shard with replicas ask its servers and Sentinel, asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any
from weakref import ref

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from coordkit import _redis
from coordkit._asyncio.runtime import life
from coordkit.routing.replicas.probes import WITHIN, Probes
from coordkit.routing.replicas.readers import Node
from coordkit.routing.replicas.sentinels import Followed
from coordkit.routing.replicas.terms import unbroken
from coordkit.routing.ways.errors import NO_ANSWER
from coordkit.routing.ways.pool_aio import way_of


class Questions:
    """What is asked of the servers of a shard in the background, over connections that are bounded in time."""

    def __init__(self, shard: str, followed: Followed | None) -> None:
        self._shard = shard
        self._followed = followed
        self._clients: dict[Any, redis.Redis] = {}
        self._nodes: dict[tuple[str, int], Node] = {}
        self._loop: ref[asyncio.AbstractEventLoop] | None = None  # under which the probes began

    def begin(self, probes: Probes) -> bool:
        """Have the probes end with this event loop, and begin anew under the next that reads.

        Return whether they began under one before that was closed by hand, which tells nobody.
        """
        unheard = self._loop is not None and not self.go_on()
        if unheard:
            self._clients = {}  # their connections are that loop's
        self._loop = ref(asyncio.get_running_loop())
        life().closing.add(probes)
        return unheard

    def go_on(self) -> bool:
        """Return whether the event loop under which the probes began is still open."""
        loop = None if self._loop is None else self._loop()
        return loop is not None and not loop.is_closed()

    async def infos(self, nodes: Collection[Node]) -> dict[Node, Any]:
        """Return what each answered to INFO replication, or its error; the primary is asked first."""
        first = [node for node in nodes if node.is_primary]
        said = {node: await self._info(node) for node in first}
        others = [node for node in nodes if not node.is_primary]
        said.update(zip(others, await asyncio.gather(*map(self._info, others)), strict=True))
        return said

    async def _info(self, node: Node) -> Any:
        try:
            return await asyncio.wait_for(self._said(self._bounded(node.client)), WITHIN)
        except (ResponseError, asyncio.TimeoutError, *NO_ANSWER) as error:
            return error

    @staticmethod
    async def _said(client: redis.Redis) -> Any:
        await client.ping()
        return await client.info("replication")

    async def replicas(self) -> list[Node] | None:
        """Return the replicas that the first Sentinel to answer knows; None if there is no such."""
        followed = self._followed
        if followed is None:
            return None
        for sentinel in followed.sentinels():
            try:
                known = await asyncio.wait_for(self._bounded(sentinel).sentinel_slaves(followed.service_name), WITHIN)
            except (ResponseError, asyncio.TimeoutError, *NO_ANSWER):
                continue
            return await self._as_nodes(followed, followed.filtered(known))
        return None

    async def _as_nodes(self, followed: Followed, addresses: Sequence[tuple[str, int]]) -> list[Node]:
        gone = self._nodes.keys() - set(addresses)
        for address in set(addresses) - self._nodes.keys():
            client = followed.client_at(address, redis)
            name = f"{address[0]}:{address[1]}"
            self._nodes[address] = Node(name, client, way_of(f"{self._shard} at {name}", client, unbroken()))
        for address in gone:
            node = self._nodes.pop(address)
            await node.way.close()
            await closed(node.client)
            if (bounded := self._clients.pop(node.client, None)) is not None:
                await bounded.connection_pool.disconnect()
        return [self._nodes[address] for address in addresses]

    def _bounded(self, client: Any) -> redis.Redis:
        if client not in self._clients:
            pool = client.connection_pool
            kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection, WITHIN)
            made = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
            self._clients[client] = redis.Redis(connection_pool=made)
        return self._clients[client]

    async def close(self) -> None:
        """Close the connections of the probes, and the clients that were made for Sentinel's replicas."""
        for client in list(self._clients.values()):
            await client.connection_pool.disconnect()
        for node in list(self._nodes.values()):
            await node.way.close()
            await closed(node.client)


async def closed(client: Any) -> None:
    """Close a client; redis-py 5.0.0 has no aclose."""
    await (getattr(client, "aclose", None) or client.close)()
