"""Redis as people run it: standalone, behind Sentinels, as a Cluster, as shards; a client of each, in both flavours."""

from __future__ import annotations

from typing import Any

from coordkit.routing import ReplicaSet

UNSHARDED = ("standalone", "sentinel", "cluster")
KINDS = (*UNSHARDED, "shards")


class Deployed:
    """One deployment, as a test in one flavour reaches it; the clients it makes are closed at the end of the test."""

    def __init__(self, flavour: Any, kind: str, servers: Any) -> None:
        self.kind = kind
        self.servers = servers
        self._flavour = flavour

    def redis(self, **options: Any) -> Any:
        """Return a client of this deployment."""
        return getattr(self, f"_{self.kind}")(options)

    def _standalone(self, options: dict[str, Any]) -> Any:
        return self._flavour.redis(self.servers.url, **options)

    def replica_set(self, **options: Any) -> Any:
        """Return the shard that the Sentinels watch: its master, and the replicas that they know."""
        return ReplicaSet.of_sentinel(self._watchers(), self.servers.service_name, **options)

    def _sentinel(self, options: dict[str, Any]) -> Any:
        client: Any = self._watchers().master_for(self.servers.service_name, **options)
        self._flavour.on_exit(client.connection_pool.disconnect)  # before redis-py 5.0.1 its own `close` leaves it open
        return self._flavour.closing(client)

    def _watchers(self) -> Any:
        if self._flavour.is_async:
            from redis.asyncio import Sentinel
        else:
            from redis import Sentinel  # type: ignore[assignment]  # one of two
        patience = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
        sentinel: Any = Sentinel(self.servers.sentinels, sentinel_kwargs=patience)
        for watcher in sentinel.sentinels:
            self._flavour.closing(watcher)
        return sentinel

    def _shards(self, options: dict[str, Any]) -> Any:
        clients = {name: self._flavour.redis(one.url, **options) for name, one in zip("abc", self.servers, strict=True)}
        return self._flavour.closing(self._flavour.ShardedRedis(clients))

    def _cluster(self, options: dict[str, Any]) -> Any:
        if self._flavour.is_async:
            from redis.asyncio.cluster import ClusterNode, RedisCluster
        else:
            from redis.cluster import ClusterNode, RedisCluster  # type: ignore[assignment]  # one of two
        nodes: Any = [ClusterNode(host, port) for host, port in self.servers.startup_nodes]
        client: Any = RedisCluster(startup_nodes=nodes, **options)
        if self._flavour.is_async:
            self._flavour.on_exit(lambda: _close_nodes(client.nodes_manager))
        return self._flavour.closing(client)


async def _close_nodes(manager: Any) -> None:
    """Close what an asyncio RedisCluster leaves open: its own ``aclose`` does nothing when its last request failed."""
    close = getattr(manager, "aclose", None) or manager.close
    await close()
    await close("startup_nodes")
