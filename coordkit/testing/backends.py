"""Where the servers of a test run come from: the choice, and the servers that were started by it.

``auto`` takes, for Redis and for ZooKeeper each by itself: servers that were named by URL, else local processes, else
containers. What was asked for by name is never replaced by something else. Nothing is started before it is needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from coordkit.testing import images

if TYPE_CHECKING:
    from coordkit.testing.cluster import ClusterRedis
    from coordkit.testing.deployments import Deployment, Site
    from coordkit.testing.replicated import ReplicatedRedis
    from coordkit.testing.sentinel import SentinelRedis
    from coordkit.testing.servers import RedisServer, ZooKeeperEnsemble

__all__ = ["BACKENDS", "Choice", "Servers", "Settings", "Unavailable", "choose"]

Kind = Literal["redis", "zookeeper"]
T = TypeVar("T")
D = TypeVar("D", bound="Deployment")

BACKENDS = ("auto", "external", "process", "docker")
_TRUE = ("1", "true", "yes", "on")


class Unavailable(Exception):
    """No backend has what a test needs; ``fail`` says that this is a failure and not a reason to skip."""

    def __init__(self, why: str, *, fail: bool) -> None:
        super().__init__(why)
        self.fail = fail


@dataclass(frozen=True)
class Settings:
    """What the command line, the environment and the ini file said, in this order of precedence.

    An option that is given empty takes back what the others say; an empty variable is one that is not set.
    """

    backends: tuple[str, ...] = ("auto",)
    redis_url: str = ""
    zk_hosts: str = ""
    redis_image: str = images.REDIS
    zk_image: str = images.ZOOKEEPER
    require: bool = False

    @classmethod
    def read(cls, option: Callable[[str], str | None], env: Mapping[str, str], ini: Callable[[str], str]) -> Settings:
        """Read the settings; ``option`` and ``ini`` give the values of ``coordkit_backend`` and so on.

        Raise ValueError when a backend is none of those that exist.
        """

        def first(name: str) -> str:
            given = option(f"coordkit_{name}")
            if given is not None:
                return given
            return env.get(f"COORDKIT_TEST_{name.upper()}") or ini(f"coordkit_{name}")

        names = tuple(dict.fromkeys(part.strip() for part in (first("backend") or "auto").split(",")))
        for name in names:
            if name not in BACKENDS:
                raise ValueError(f"coordkit backend: {name!r} is none of {', '.join(BACKENDS)}")
        # In CI a test that cannot run is a hole that nobody sees; COORDKIT_TEST_REQUIRE=0 says that it is meant.
        require = first("require") or env.get("CI", "")
        return cls(
            backends=names,
            redis_url=first("redis_url"),
            zk_hosts=first("zk_hosts"),
            redis_image=first("redis_image") or images.redis_image(env),
            zk_image=first("zk_image") or images.zookeeper_image(env),
            require=require.lower() in _TRUE,
        )


@dataclass(frozen=True)
class Choice:
    """Where one kind of server comes from; ``backend`` is None when there is none, and ``why`` says what would help."""

    backend: Literal["external", "process", "docker"] | None
    named: bool
    why: str

    def __str__(self) -> str:
        return f"{self.backend} ({self.why})" if self.backend else "none"


def choose(kind: Kind, settings: Settings, backend: str) -> Choice:
    """Return where servers of a kind come from, for one of BACKENDS; start nothing."""
    named = backend != "auto"
    reasons = []
    for name, look in (("external", _external), ("process", _process), ("docker", _docker)):
        if backend not in ("auto", name):
            continue
        found, why = look(kind, settings)
        if found:
            return Choice(name, named, why)  # type: ignore[arg-type]  # the three names above
        reasons.append(why)
    return Choice(None, named, "; or ".join(reasons))


def _external(kind: Kind, settings: Settings) -> tuple[bool, str]:
    given = settings.redis_url if kind == "redis" else settings.zk_hosts
    if given:
        return True, ",".join(part.rpartition("@")[2] for part in given.split(","))  # a report shows no password
    variable, example = (
        ("COORDKIT_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
        if kind == "redis"
        else ("COORDKIT_TEST_ZK_HOSTS", "127.0.0.1:2181")
    )
    return False, f"name a server: {variable}={example}"


def _process(kind: Kind, settings: Settings) -> tuple[bool, str]:  # noqa: ARG001 - one of three of the same shape
    from coordkit.testing import processes  # not before a header or a test asks

    lacks = processes.missing(kind)
    if lacks:
        return False, f"install it: {lacks}"
    name = "redis-server" if kind == "redis" else "java, ZooKeeper"
    return True, f"{name} {processes.version(kind)}".strip()


def _docker(kind: Kind, settings: Settings) -> tuple[bool, str]:
    if importlib.util.find_spec("testcontainers") is None:
        return False, "use containers: pip install 'coordkit[testing]' and start a Docker engine"
    from coordkit.testing import containers  # imports docker and testcontainers

    lacks = containers.missing()
    if lacks:
        return False, f"use containers: {lacks}"
    return True, settings.redis_image if kind == "redis" else settings.zk_image


class Servers:
    """The servers of one test session, started when first asked for and kept until ``stop``.

    A start that failed is not tried again: each test that needs those servers gets the same error at once, where
    waiting for them anew would take up to a minute each time.
    """

    def __init__(self, settings: Settings, backend: str) -> None:
        self.settings = settings
        self.backend = backend
        self._redis: dict[str, list[RedisServer]] = {}
        self._zookeeper: dict[int, ZooKeeperEnsemble] = {}
        self._deployments: dict[str, Deployment] = {}
        self._failed: dict[str | int, Exception] = {}

    def redis(self, role: str, count: int) -> list[RedisServer]:
        """Return the ``count`` independent Redis servers of a role; raise Unavailable or ServerFailed."""
        if role not in self._redis:
            self._redis[role] = self._once(role, lambda: self._start_redis(count))
        return self._redis[role]

    def zookeeper(self, nodes: int) -> ZooKeeperEnsemble:
        """Return the ZooKeeper of so many nodes; raise Unavailable or ServerFailed."""
        if nodes not in self._zookeeper:
            self._zookeeper[nodes] = self._once(nodes, lambda: self._start_zookeeper(nodes))
        return self._zookeeper[nodes]

    def replicated(self) -> ReplicatedRedis:
        """Return the Redis primary with two replicas; raise Unavailable or ServerFailed."""
        from coordkit.testing.replicated import start_replicated  # here and below: only what was asked for is imported

        return self._deployment("replicated", lambda site: start_replicated(site=site))

    def sentinel(self, role: str = "sentinel", replicas: int = 2, sentinels: int = 3) -> SentinelRedis:
        """Return the Redis behind Sentinels of a role; raise Unavailable or ServerFailed."""
        from coordkit.testing.sentinel import start_sentinel

        return self._deployment(role, lambda site: start_sentinel(replicas, sentinels, site=site))

    def cluster(self) -> ClusterRedis:
        """Return the Redis Cluster; raise Unavailable or ServerFailed."""
        from coordkit.testing.cluster import start_cluster

        return self._deployment("cluster", lambda site: start_cluster(site=site))

    def guests(self) -> tuple[list[RedisServer], list[ZooKeeperEnsemble]]:
        """Return what was used and is not ours: there, tests must leave nothing behind."""
        redis = {server.url: server for servers in self._redis.values() for server in servers if not server.owned}
        zookeeper = {ensemble.hosts: ensemble for ensemble in self._zookeeper.values() if not ensemble.owned}
        return list(redis.values()), list(zookeeper.values())

    def stop(self) -> None:
        everything: list[RedisServer | ZooKeeperEnsemble | Deployment]
        everything = [*self._zookeeper.values(), *self._deployments.values()]
        everything += [server for servers in self._redis.values() for server in servers]
        self._redis.clear()
        self._zookeeper.clear()
        self._deployments.clear()
        with ThreadPoolExecutor(max_workers=4) as pool:  # a container takes a third of a second to go
            list(pool.map(lambda server: server.stop(), everything))

    def _once(self, what: str | int, start: Callable[[], T]) -> T:
        if what in self._failed:
            raise self._failed[what].with_traceback(None)  # else it grows with every test
        try:
            return start()
        except Exception as error:
            self._failed[what] = error
            raise

    def _deployment(self, what: str, start: Callable[[Site], D]) -> D:
        if what not in self._deployments:
            self._deployments[what] = self._once(what, lambda: start(self._site(what)))
        return self._deployments[what]  # type: ignore[return-value]  # it was started by the same `start`

    def _site(self, what: str) -> Site:
        choice = self._choice("redis")
        if choice.backend == "process":
            from coordkit.testing.deployments import LocalSite

            return LocalSite()
        if choice.backend == "docker":
            from coordkit.testing.pod import ContainerSite

            return ContainerSite(self.settings.redis_image)
        why = f"a {what} Redis cannot be named by URL; its tests need --coordkit-backend process, or docker"
        raise self._unavailable(why, choice)

    def _start_redis(self, count: int) -> list[RedisServer]:
        choice = self._choice("redis")
        if choice.backend == "process":
            from coordkit.testing import processes  # here and below: only what was chosen is imported

            return [*processes.start_redis_servers(count)]
        if choice.backend == "docker":
            from coordkit.testing import containers

            return [*containers.start_redis_servers(count, image=self.settings.redis_image)]
        from coordkit.testing import external

        try:
            return [*external.connect_redis(self.settings.redis_url, count)]
        except LookupError as error:
            raise self._unavailable(str(error), choice) from None  # it says all there is to say

    def _start_zookeeper(self, nodes: int) -> ZooKeeperEnsemble:
        choice = self._choice("zookeeper")
        if choice.backend == "process":
            from coordkit.testing import processes

            return processes.start_zookeeper(nodes)
        if choice.backend == "docker":
            from coordkit.testing import containers

            return containers.start_zookeeper(nodes, image=self.settings.zk_image)
        from coordkit.testing import external

        try:
            return external.connect_zookeeper(self.settings.zk_hosts, nodes)
        except LookupError as error:
            raise self._unavailable(str(error), choice) from None  # it says all there is to say

    def _choice(self, kind: Kind) -> Choice:
        choice = choose(kind, self.settings, self.backend)
        if choice.backend is None:
            label = "Redis" if kind == "redis" else "ZooKeeper"
            asked = f" by backend {self.backend!r}" if choice.named else ""
            raise self._unavailable(f"no {label} for the tests{asked}: {choice.why}", choice)
        return choice

    def _unavailable(self, why: str, choice: Choice) -> Unavailable:
        return Unavailable(why, fail=choice.named or self.settings.require)
