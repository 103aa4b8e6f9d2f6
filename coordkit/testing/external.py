"""Servers that somebody else runs, named by URL: they are used, and never hurt.

``redis_url`` may name several servers, separated by commas; shards and quorum take the first of them that they need.
Those must be different servers: two databases of one Redis fall together, and would make a quorum of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import urlsplit

from coordkit.testing.servers import NotOwned, ServerFailed, ZooKeeperEnsemble, scaled, serves_zookeeper, wait_until

__all__ = ["ExternalRedis", "ExternalZooKeeper", "ExternalZooKeeperNode", "connect_redis", "connect_zookeeper"]


class _Untouchable:
    """The faults, all refused."""

    owned = False
    host: str
    port: int

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def start(self) -> None:
        self._refuse()

    def restart(self) -> None:
        self._refuse()

    def stop(self) -> None:
        """Leave it alone: it is not ours to stop."""

    def _refuse(self) -> NoReturn:
        raise NotOwned(f"{self.host}:{self.port} was not started by coordkit, so it is not hurt")


class ExternalRedis(_Untouchable):
    """A Redis server that was named by URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError(f"redis_url: {url!r} is not redis://host:port/db or rediss://host:port/db")
        self.url = url
        self.host = parts.hostname
        self.port = parts.port or 6379

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it answers a PING with the URL's user and password."""
        import redis  # imported where it is needed: loading the plugin stays light

        client = redis.Redis.from_url(self.url, socket_timeout=2.0, socket_connect_timeout=2.0)
        why = ""

        def answers() -> bool:
            nonlocal why
            try:
                return bool(client.ping())
            except redis.RedisError as error:
                why = str(error)
                return False

        try:
            if not wait_until(answers, timeout, 0.1):
                raise ServerFailed(f"Redis at {self.host}:{self.port} does not answer: {why}")
        finally:
            client.close()

    @property
    def shown(self) -> str:
        """The URL without its user and password, for messages."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def run_id(self) -> str:
        """Return what tells this server from every other; where INFO is forbidden to us, its address."""
        import redis  # as above

        with redis.Redis.from_url(self.url, socket_timeout=10.0, socket_connect_timeout=10.0) as client:
            try:
                return str(client.info("server")["run_id"])
            except redis.ResponseError:  # an access list; NoPermissionError is one
                return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<ExternalRedis {self.host}:{self.port}>"  # without the URL's password


class ExternalZooKeeperNode(_Untouchable):
    """One node of a ZooKeeper that was named by hosts."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def wait_ready(self, timeout: float = 30.0) -> None:
        if not wait_until(lambda: serves_zookeeper(self.host, self.port), timeout, 0.1):
            raise ServerFailed(
                f"ZooKeeper at {self.host}:{self.port} does not answer 'srvr' with a mode "
                "(down, without quorum, or 4lw.commands.whitelist lacks srvr)"
            )

    def __repr__(self) -> str:
        return f"<ExternalZooKeeperNode {self.host}:{self.port}>"


class ExternalZooKeeper(ZooKeeperEnsemble):
    """A ZooKeeper that was named by ``host:port,host:port/chroot``."""

    def __init__(self, hosts: str) -> None:
        addresses, slash, chroot = hosts.partition("/")
        self._hosts = addresses + slash + chroot
        nodes = []
        for address in addresses.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"zk_hosts: {hosts!r} is not host:port,host:port with an optional /chroot at the end")
            nodes.append(ExternalZooKeeperNode(host.strip("[]"), int(port)))
        super().__init__(nodes)

    @property
    def hosts(self) -> str:
        return self._hosts


def connect_redis(redis_url: str, count: int) -> list[ExternalRedis]:
    """Return ``count`` servers of a comma separated list once all answer.

    Raise LookupError when the list is too short or names one server twice (by two names, or two of its databases),
    ServerFailed when one does not answer within 10 seconds.
    """
    urls = list(dict.fromkeys(url.strip() for url in redis_url.split(",") if url.strip()))
    if len(urls) < count:
        raise LookupError(f"{count} independent Redis servers are needed; COORDKIT_TEST_REDIS_URL names {len(urls)}")
    servers = [ExternalRedis(url) for url in urls[:count]]
    for server in servers:
        server.wait_ready(scaled(10.0))
    if count > 1:
        _must_differ(servers)
    return servers


def _must_differ(servers: Sequence[ExternalRedis]) -> None:
    seen: dict[str, ExternalRedis] = {}
    for server in servers:
        other = seen.setdefault(server.run_id(), server)
        if other is not server:
            raise LookupError(
                f"{other.shown} and {server.shown} are one Redis server, and {len(servers)} independent ones are "
                "needed: name another"
            )


def connect_zookeeper(zk_hosts: str, nodes: int) -> ExternalZooKeeper:
    """Return the ensemble once all its nodes serve; raise LookupError when it has fewer than ``nodes``."""
    ensemble = ExternalZooKeeper(zk_hosts)
    if len(ensemble.nodes) < nodes:
        raise LookupError(f"{nodes} ZooKeeper nodes are needed; COORDKIT_TEST_ZK_HOSTS names {len(ensemble.nodes)}")
    ensemble.wait_ready(scaled(10.0))
    return ensemble
