"""Where the demo's servers come from, and that nothing is left of them.

Redis and ZooKeeper each by themselves: the servers that were named, else private ones that are found on the system,
started as child processes on free ports of 127.0.0.1 with their data in one temporary directory, else containers.
Shards and replicas are always private unless enough servers were named: the demo makes no replica of a server that is
not its own. On named servers everything lies in one namespace, and only that is deleted; nothing is ever flushed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import redis

from coordkit.testing import images, processes
from coordkit.testing.cleaning import close_kazoo, delete_keys, delete_tree, start_kazoo
from coordkit.testing.external import ExternalRedis, ExternalZooKeeper, connect_redis, connect_zookeeper
from coordkit.testing.servers import ServerFailed, ask

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

    from coordkit.testing.servers import RedisServer, ZooKeeperEnsemble

Kind = Literal["redis", "zookeeper"]
T = TypeVar("T")

SHARDS = 4
REPLICAS = 3

_LABELS: dict[Kind, str] = {"redis": "Redis", "zookeeper": "ZooKeeper"}
_DEBIAN: dict[Kind, str] = {"redis": "redis-server", "zookeeper": "default-jre-headless libzookeeper-java"}
_OPTIONS: dict[Kind, str] = {"redis": "--redis-url redis://HOST:6379/0", "zookeeper": "--zookeeper HOST:2181"}
_IMAGES: dict[Kind, str] = {"redis": "COORDKIT_REDIS_IMAGE", "zookeeper": "COORDKIT_ZOOKEEPER_IMAGE"}


class ServersMissing(Exception):
    """A server that the scenes need cannot be had or does not serve them; the message says what helps."""


class Servers:
    """The servers of one demo: started on first use, and gone at the end of the block."""

    def __init__(self, redis_url: str | None, zookeeper: str | None, *, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self.namespace = f"coordkit-demo-{secrets.token_hex(4)}"
        self._urls = [url.strip() for url in (redis_url or "").split(",") if url.strip()]
        self._hosts = zookeeper
        self._named_redis: list[ExternalRedis] = []
        self._named_zookeeper: ExternalZooKeeper | None = None
        self._sources: dict[Kind, Literal["process", "container"]] = {}
        self._redis: RedisServer | None = None
        self._zookeeper: ZooKeeperEnsemble | None = None
        self._closing = contextlib.ExitStack()
        self.versions: dict[str, str] = {}
        self.told: dict[str, str] = {}

    def find(self, *, redis: bool, zookeeper: bool, shards: bool, replicas: bool) -> None:
        """Connect to the servers that were named, and make sure that what else is wanted can be started.

        Raise ValueError for a bad address or a server that is named twice, ServerFailed when a named server does not
        answer, ServersMissing when it cannot be written to or one is nowhere to be found.
        """
        if self._urls:
            try:
                self._named_redis = connect_redis(",".join(self._urls), len(set(self._urls)))
            except LookupError as twice:
                raise ValueError(f"--redis-url: {twice}") from None
            self._closing.callback(self._delete_keys)
            for server in self._named_redis:
                _must_take_writes(server, self.namespace)
        if self._hosts:
            self._named_zookeeper = connect_zookeeper(self._hosts, 1)
            _must_have_its_chroot(self._hosts)
            self._closing.callback(self._delete_tree)
        lacks: dict[Kind, str] = {}
        if (redis and not self._named_redis) or (shards and len(self._named_redis) < SHARDS) or replicas:
            lacks.update(self._look("redis"))
        if zookeeper and not self._named_zookeeper:
            lacks.update(self._look("zookeeper"))
        if lacks:
            raise ServersMissing(_what_helps(lacks, beside=bool(self._named_redis)))

    def redis(self) -> RedisServer:
        """Return one Redis server."""
        if self._redis is None:
            self._redis = self._named_redis[0] if self._named_redis else self._start_redis(1)[0]
            self._tell("redis", self._redis)
        return self._redis

    def zookeeper(self) -> ZooKeeperEnsemble:
        """Return ZooKeeper: what was named, or one node."""
        if self._zookeeper is None:
            if self._named_zookeeper is not None:
                self._zookeeper = self._named_zookeeper
                self._say_named("zookeeper", "ZooKeeper", self._zookeeper.hosts)
            else:
                self._zookeeper = self._closing.enter_context(self._start_zookeeper())
                self.told["zookeeper"] = f"{self._zookeeper.hosts} (private, {self._where('zookeeper', 1)})"
            node = self._zookeeper.nodes[0]
            answer = ask(node.host, node.port, b"srvr").decode(errors="replace")
            self.versions["zookeeper"] = answer.partition("Zookeeper version: ")[2].partition("-")[0] or "unknown"
        return self._zookeeper

    def shards(self) -> list[RedisServer]:
        """Return four independent Redis servers: named ones if there are as many, else private ones."""
        servers = self._named_redis[:SHARDS] if len(self._named_redis) >= SHARDS else self._start_redis(SHARDS)
        self._tell("shards", *servers)
        return list(servers)

    def replicated(self) -> tuple[RedisServer, list[RedisServer]]:
        """Return a private primary and its three replicas, which are in step with it within 30 seconds."""
        primary, *replicas = servers = self._start_redis(1 + REPLICAS)
        self._tell("replicas", *servers)
        host, port = _seen_by_its_replicas(primary)
        for replica in replicas:
            with client(replica.url) as connection:
                connection.replicaof(host, port)
        return primary, replicas

    def _look(self, kind: Kind) -> dict[Kind, str]:
        """Decide where private servers of a kind come from; return what is missing when there are none."""
        lacks = processes.missing(kind)
        if lacks is None:
            self._sources[kind] = "process"
            return {}
        if _engine_lacks() is None:
            self._sources[kind] = "container"
            return {}
        return {kind: lacks}

    def _start_redis(self, count: int) -> list[RedisServer]:
        self._say_start("redis", count)
        start: Callable[[int], Sequence[RedisServer]]
        if self._sources["redis"] == "process":
            start = processes.start_redis_servers
        else:
            from coordkit.testing import containers  # imports docker and testcontainers

            start = partial(containers.start_redis_servers, image=images.redis_image())
        servers = self._started("redis", lambda: start(count))
        for server in servers:
            self._closing.callback(server.stop)
        return [*servers]

    def _start_zookeeper(self) -> ZooKeeperEnsemble:
        self._say_start("zookeeper", 1)
        if self._sources["zookeeper"] == "process":
            return self._started("zookeeper", processes.start_zookeeper)
        from coordkit.testing import containers  # imports docker and testcontainers

        return self._started("zookeeper", lambda: containers.start_zookeeper(image=images.zookeeper_image()))

    def _started(self, kind: Kind, start: Callable[[], T]) -> T:
        try:
            return start()
        except ServerFailed as failed:
            if self._sources[kind] == "process":
                raise  # it has the server's own last words
            why = f"it did not start in a container: {failed}"
            raise ServersMissing(_what_helps({kind: why}, beside=bool(self._named_redis))) from failed

    def _say_start(self, kind: Kind, count: int) -> None:
        many = f"{count} private {_LABELS[kind]} servers" if count > 1 else f"a private {_LABELS[kind]}"
        self._announce(f"(Starting {many} {self._where(kind, count)}.)")

    def _where(self, kind: Kind, count: int) -> str:
        one, several = ("as a child process", "as child processes")
        if self._sources[kind] == "container":
            one, several = ("in a container", "in containers")
        return one if count == 1 else several

    def _tell(self, role: str, *servers: RedisServer) -> None:
        with client(servers[0].url) as connection:
            facts = connection.info("server")
        name = str(facts.get("server_name") or "redis")  # Valkey says who it is, and a redis_version for old clients
        version = str(facts.get(f"{name}_version") or facts["redis_version"])
        self.versions.setdefault("redis", version if name == "redis" else f"{name} {version}")
        addresses = ", ".join(f"{server.host}:{server.port}" for server in servers)
        if servers[0].owned:
            self.told[role] = f"{addresses} (private, {self._where('redis', len(servers))})"
        else:
            self._say_named(role, "Redis", addresses)

    def _say_named(self, role: str, label: str, addresses: str) -> None:
        self.told[role] = f"{addresses} (named)"
        self._announce(f"({label} at {addresses}; everything is written below {self.namespace}, and deleted.)")

    def _delete_keys(self) -> None:
        for server in self._named_redis:
            delete_keys(server.url, self.namespace)

    def _delete_tree(self) -> None:
        assert self._hosts is not None  # noqa: S101 - for the type checker: it was named
        delete_tree(self._hosts, self.namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def client(url: str) -> redis.Redis:
    """Return a client whose replies are str and whose waits are bounded."""
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=10, socket_connect_timeout=10)


def _must_take_writes(server: ExternalRedis, namespace: str) -> None:
    with client(server.url) as connection:
        try:
            connection.set(f"{namespace}:probe", "1", px=1000)
            connection.delete(f"{namespace}:probe")
        except redis.ResponseError as refused:
            raise ServersMissing(
                f"the Redis at {server.host}:{server.port} was named, and refuses to be written to: {refused}\n"
                "Name a primary that takes SET and EVAL from this user and has memory left:\n"
                f"    coordkit demo {_OPTIONS['redis']}"
            ) from refused


def _must_have_its_chroot(hosts: str) -> None:
    addresses, slash, chroot = hosts.partition("/")
    if not slash or not chroot:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # kazoo's, of what is told below
        zk = start_kazoo(hosts, 10.0)
    try:
        there = zk.exists("/")
    finally:
        close_kazoo(zk)
    if not there:
        raise ServersMissing(
            f"the ZooKeeper at {addresses} was named, and has no /{chroot}, which was to be the root of everything.\n"
            "Create it, or name one that is there:\n"
            f"    zkCli.sh -server {addresses.partition(',')[0]} create /{chroot}   # each parent first\n"
            f"    coordkit demo --zookeeper {addresses}"
        )


def _what_helps(lacks: Mapping[Kind, str], *, beside: bool) -> str:
    lines = [f"no {_LABELS[kind]} to start: {why}" for kind, why in lacks.items()]
    if beside and "redis" in lacks:
        lines.append("(scenes 4 and 5 need Redis servers beside the one that was named; --scene 1 2 3 does without)")
    named = " ".join(_OPTIONS[kind] for kind in lacks)
    debian = " ".join(_DEBIAN[kind] for kind in lacks)
    return "\n".join(
        [
            *lines,
            "Any one of these helps:",
            f"    sudo apt-get install --no-install-recommends {debian}   # Debian, Ubuntu",
            f"    brew install {' '.join(lacks)}   # macOS",
            *([] if beside else [f"    coordkit demo {named}   # servers that run already"]),
            f"    {_what_helps_containers(lacks)}",
        ]
    )


def _what_helps_containers(lacks: Mapping[Kind, str]) -> str:
    engine = _engine_lacks()
    if engine is not None:
        return f"{engine}   # containers; images: {', '.join(_IMAGES[kind] for kind in lacks)}"
    named = " ".join(f"{_IMAGES[kind]}=IMAGE" for kind in lacks)
    return f"{named} coordkit demo   # another image; in a clone, compose/build-images makes some without a registry"


def _engine_lacks() -> str | None:
    if importlib.util.find_spec("testcontainers") is None:
        return "pip install 'coordkit[testing]' and start Docker"
    from coordkit.testing import containers  # imports docker and testcontainers

    return None if containers.missing() is None else "systemctl start docker"


def _seen_by_its_replicas(primary: RedisServer) -> tuple[str, int]:
    container = getattr(primary, "container", None)
    if container is None:
        return primary.host, primary.port
    # The mapped port of the host is not there for another container; the address on their bridge is.
    container.reload()
    networks = container.get_wrapped_container().attrs["NetworkSettings"]["Networks"]
    return next(iter(networks.values()))["IPAddress"], 6379
