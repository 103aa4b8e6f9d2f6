"""The pytest plugin: real servers, connected clients, a namespace and faults, as fixtures.

pytest loads it through the entry point ``coordkit``; loading imports neither redis, kazoo, tenacity, docker nor
testcontainers.

====================================  =======  ==============================================================
coordkit_redis_server                 session  a Redis: ``.url``, ``.owned``, ``.pause()`` ... (see ``servers``)
coordkit_redis_shards                 session  three of them
coordkit_redis_quorum                 session  five independent ones
coordkit_redis_replicated             session  a primary with two replicas: ``.primary``, ``.promote(replica)`` ...
coordkit_redis_sentinel               session  the same behind three Sentinels: ``.sentinels``, ``.failover()`` ...
coordkit_redis_sentinel_shards        session  three primaries with a replica each, each pair behind a Sentinel
coordkit_redis_cluster                session  a Cluster, three primaries with a replica each: ``.url``, ``.move_slot``
coordkit_zk_server                    session  a standalone ZooKeeper: ``.hosts``, ``.nodes``
coordkit_zk_ensemble                  session  a ZooKeeper of three nodes
coordkit_namespace                    test     a prefix that no other test has, nor another xdist worker
coordkit_redis                        test     a connected ``redis.Redis``; the namespace's keys are deleted after
coordkit_zk                           test     a started ``KazooClient`` inside ``/<namespace>``, deleted after
coordkit_faults                       test     pause, resume, kill, restart, proxy, expire_session; healed after
====================================  =======  ==============================================================

Isolation is by name only, never by FLUSHALL: use ``coordkit_namespace`` in every key, lock name and path.
``@pytest.mark.coordkit_zk(nodes=3, timeout=4.0)`` sets the ensemble and the session timeout behind ``coordkit_zk``.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from coordkit.testing.backends import Servers, Settings, Unavailable, choose

if TYPE_CHECKING:
    import redis

    from coordkit.testing.cluster import ClusterRedis
    from coordkit.testing.faults import Faults
    from coordkit.testing.replicated import ReplicatedRedis
    from coordkit.testing.sentinel import SentinelRedis
    from coordkit.testing.servers import RedisServer, Server, ZooKeeperEnsemble

T = TypeVar("T")

_OPTIONS = {
    "backend": "where test servers come from: auto, external, process or docker (or several of them, comma separated)",
    "redis_url": "Redis servers to use, comma separated URLs; they are never paused, killed or flushed",
    "zk_hosts": "ZooKeeper to use, host:port,host:port/chroot",
    "redis_image": "image of Redis containers (else COORDKIT_REDIS_IMAGE, which the demo and compose read too)",
    "zk_image": "image of ZooKeeper containers (else COORDKIT_ZOOKEEPER_IMAGE, as above)",
}
_REQUIRE = "fail, instead of skip, where no test server is available (also COORDKIT_TEST_REQUIRE=1 or CI=true)"
_settings = pytest.StashKey[Settings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("coordkit", "coordkit: real Redis and ZooKeeper for tests")
    for name, text in _OPTIONS.items():
        group.addoption(f"--coordkit-{name.replace('_', '-')}", dest=f"coordkit_{name}", default=None, help=text)
        parser.addini(f"coordkit_{name}", text, default="")
    group.addoption(
        "--coordkit-require", dest="coordkit_require", action="store_const", const="1", default=None, help=_REQUIRE
    )
    parser.addini("coordkit_require", _REQUIRE, default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "coordkit_zk(nodes=1, timeout=10.0): ensemble size and session timeout (seconds) of coordkit_zk"
    )
    try:
        config.stash[_settings] = Settings.read(config.getoption, os.environ, config.getini)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> str:
    settings = config.stash[_settings]
    return "\n".join(
        f"coordkit ({name}): redis: {choose('redis', settings, name)}, zookeeper: {choose('zookeeper', settings, name)}"
        for name in settings.backends
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A matrix only on request: each backend more is the whole suite once more.
    backends = metafunc.config.stash[_settings].backends
    if len(backends) > 1 and "coordkit_backend" in metafunc.fixturenames:
        metafunc.parametrize("coordkit_backend", backends, indirect=True, scope="session")


@pytest.fixture(scope="session")
def coordkit_backend(request: pytest.FixtureRequest) -> str:
    """Give the backend that was asked for: ``auto``, ``external``, ``process`` or ``docker``."""
    return str(getattr(request, "param", request.config.stash[_settings].backends[0]))


@pytest.fixture(scope="session")
def coordkit_servers(request: pytest.FixtureRequest, coordkit_backend: str) -> Iterator[Servers]:
    """Give the session's servers; the fixtures below take theirs from here."""
    servers = Servers(request.config.stash[_settings], coordkit_backend)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def coordkit_redis_server(coordkit_servers: Servers) -> RedisServer:
    """Give one Redis server."""
    return _get(lambda: coordkit_servers.redis("one", 1))[0]


@pytest.fixture(scope="session")
def coordkit_redis_shards(coordkit_servers: Servers) -> list[RedisServer]:
    """Give three Redis servers, to be shards."""
    return _get(lambda: coordkit_servers.redis("shards", 3))


@pytest.fixture(scope="session")
def coordkit_redis_quorum(coordkit_servers: Servers) -> list[RedisServer]:
    """Give five Redis servers that know nothing of each other."""
    return _get(lambda: coordkit_servers.redis("quorum", 5))


@pytest.fixture(scope="session")
def coordkit_redis_replicated(coordkit_servers: Servers) -> ReplicatedRedis:
    """Give a Redis primary with two replicas, that are promoted by the test."""
    return _get(coordkit_servers.replicated)


@pytest.fixture(scope="session")
def coordkit_redis_sentinel(coordkit_servers: Servers) -> SentinelRedis:
    """Give a Redis primary with two replicas behind three Sentinels."""
    return _get(coordkit_servers.sentinel)


@pytest.fixture(scope="session")
def coordkit_redis_sentinel_shards(coordkit_servers: Servers) -> list[SentinelRedis]:
    """Give three Redis primaries with a replica each, each pair behind a Sentinel, to be shards."""
    return [_get(partial(coordkit_servers.sentinel, f"watched shard {name}", 1, 1)) for name in "abc"]


@pytest.fixture(scope="session")
def coordkit_redis_cluster(coordkit_servers: Servers) -> ClusterRedis:
    """Give a Redis Cluster of three primaries with a replica each."""
    return _get(coordkit_servers.cluster)


@pytest.fixture(scope="session")
def coordkit_zk_server(coordkit_servers: Servers) -> ZooKeeperEnsemble:
    """Give a standalone ZooKeeper."""
    return _get(lambda: coordkit_servers.zookeeper(1))


@pytest.fixture(scope="session")
def coordkit_zk_ensemble(coordkit_servers: Servers) -> ZooKeeperEnsemble:
    """Give a ZooKeeper of three nodes."""
    return _get(lambda: coordkit_servers.zookeeper(3))


@pytest.fixture
def coordkit_namespace(coordkit_servers: Servers) -> Iterator[str]:
    """Give a prefix for keys, lock names and (after a slash) znodes; on servers that are not ours, clean it after."""
    from coordkit.testing import cleaning  # imports redis and kazoo in its functions only

    namespace = f"coordkit-test-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{secrets.token_hex(6)}"
    yield namespace
    redis_guests, zk_guests = coordkit_servers.guests()
    for server in redis_guests:
        cleaning.delete_keys(server.url, namespace)
    for ensemble in zk_guests:
        cleaning.delete_tree(ensemble.hosts, namespace)


@pytest.fixture
def coordkit_redis(
    coordkit_redis_server: RedisServer, coordkit_namespace: str, coordkit_faults: Faults
) -> Iterator[redis.Redis]:
    """Give a client of ``coordkit_redis_server``; delete the namespace's keys and close it after."""
    import redis

    from coordkit.testing import cleaning

    client = redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10.0, socket_connect_timeout=10.0)
    yield client
    cleaning.close_redis(client)
    coordkit_faults.heal()
    cleaning.delete_keys(coordkit_redis_server.url, coordkit_namespace)


@pytest.fixture
def coordkit_zk(
    request: pytest.FixtureRequest, coordkit_servers: Servers, coordkit_namespace: str, coordkit_faults: Faults
) -> Iterator[Any]:
    """Give a started KazooClient inside ``/<namespace>``; delete that tree, stop and close the client after."""
    from coordkit.testing import cleaning

    nodes, timeout = _zk_mark(request)
    ensemble = _get(lambda: coordkit_servers.zookeeper(nodes))
    cleaning.make_tree(ensemble.hosts, coordkit_namespace)
    client = cleaning.start_kazoo(f"{ensemble.hosts}/{coordkit_namespace}", timeout)
    yield client
    cleaning.close_kazoo(client)
    coordkit_faults.heal()
    cleaning.delete_tree(ensemble.hosts, coordkit_namespace)


@pytest.fixture
def coordkit_faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Give faults on the session's servers; heal them and check that the servers serve, after.

    A fault on a server that is not ours skips the test, or fails it where servers are required.
    """
    faults = _make_faults(required=request.config.stash[_settings].require)
    yield faults
    faults.heal()


def _make_faults(*, required: bool) -> Faults:
    from coordkit.testing.faults import Faults
    from coordkit.testing.servers import NotOwned

    class SkippingFaults(Faults):
        def _about_to(self, fault: str, server: Server) -> None:
            try:
                return super()._about_to(fault, server)
            except NotOwned as error:
                why = str(error)
            _skip_or_fail(why, fail=required)  # outside: else the report would show the one error during the other

    return SkippingFaults()


def _zk_mark(request: pytest.FixtureRequest) -> tuple[int, float]:
    mark = request.node.get_closest_marker("coordkit_zk")
    wanted = {"nodes": 1, "timeout": 10.0, **(mark.kwargs if mark else {})}
    if (mark and mark.args) or set(wanted) != {"nodes", "timeout"}:
        raise pytest.UsageError(f"coordkit_zk takes nodes= and timeout= only: {mark}")
    nodes, timeout = wanted["nodes"], wanted["timeout"]
    if type(nodes) is not int or nodes < 1:
        raise pytest.UsageError(f"coordkit_zk: nodes: {nodes!r} is not an int of 1 or more")
    if type(timeout) not in (int, float) or not 0 < timeout < math.inf:
        raise pytest.UsageError(f"coordkit_zk: timeout: {timeout!r} is not a finite number of seconds above 0")
    return nodes, float(timeout)


def _get(start: Callable[[], T]) -> T:
    try:
        return start()
    except Unavailable as error:
        lacking = error
    return _skip_or_fail(str(lacking), fail=lacking.fail)  # outside: else the report shows one during the other


def _skip_or_fail(why: str, *, fail: bool) -> NoReturn:
    if fail:
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
