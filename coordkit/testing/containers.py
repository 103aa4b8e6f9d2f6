"""Real Redis and ZooKeeper servers in containers, through testcontainers: the same handles as ``processes``.

A restarted container keeps its address, because its host port is chosen here and bound (in testcontainers' mode
``bridge_ip`` there is no host port, and the address may change). Containers carry the labels ``coordkit.pid`` and
``coordkit.host``: those of dead processes are removed before a start. Ryuk, testcontainers' own reaper, is used only
where its image is on the machine already; it is never pulled for coordkit. The images are the official ones, or any
that take the same command and variables.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import docker.errors  # type: ignore[import-untyped]  # docker ships no types
from testcontainers.community.redis import RedisContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from coordkit.testing._process import free_ports
from coordkit.testing.servers import ServerFailed, ZooKeeperEnsemble, scaled, serves_redis, serves_zookeeper

__all__ = [
    "ContainerRedis",
    "ContainerServer",
    "Serves",
    "ZooKeeperContainer",
    "has_image",
    "labels",
    "missing",
    "start_all",
    "start_redis_servers",
    "start_zookeeper",
    "sweep",
    "takes_debug_option",
]

_REDIS, _CLIENTS, _PEERS, _VOTES = 6379, 2181, 2888, 3888


class Serves(WaitStrategy):
    """Wait until a check of the container's host and port is true; fail at once when the container has ended."""

    def __init__(self, port: int, check: Callable[[str, int], bool]) -> None:
        super().__init__()
        self.port = port
        self.check = check
        self.with_poll_interval(0.05).with_startup_timeout(60)

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        def look() -> bool:
            container.reload()
            if container.status in ("exited", "dead"):
                raise ServerFailed(f"the container ended (status {container.status})")
            return self.check(container.get_container_host_ip(), container.get_exposed_port(self.port))

        if not self._poll(look):
            raise TimeoutError(f"the container did not serve within {self._startup_timeout:g} s")


class ZooKeeperContainer(DockerContainer):
    """A ZooKeeper node, configured by the official image's variables; testcontainers has none of its own."""

    def __init__(self, image: str, *, my_id: int = 1, servers: Sequence[str] = (), tick_time: int = 200) -> None:
        super().__init__(image)
        self.with_exposed_ports(_CLIENTS)
        self.with_envs(
            ZOO_MY_ID=str(my_id),
            ZOO_TICK_TIME=str(tick_time),
            ZOO_INIT_LIMIT="50",
            ZOO_SYNC_LIMIT="25",
            ZOO_MAX_CLIENT_CNXNS="0",
            ZOO_4LW_COMMANDS_WHITELIST="*",
            ZOO_ADMINSERVER_ENABLED="false",
            ZOO_CFG_EXTRA="maxSessionTimeout=60000 forceSync=no",
            # As for processes, and a short DNS cache: a restarted peer may come back with another address.
            JVMFLAGS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Xmx128m -Dsun.net.inetaddr.ttl=1",
        )
        if servers:
            self.with_env("ZOO_SERVERS", " ".join(servers))
        self.waiting_for(Serves(_CLIENTS, serves_zookeeper))


class ContainerServer:
    """A server in a container that was started here."""

    owned = True

    def __init__(self, container: DockerContainer, ready: Serves) -> None:
        self.container = container.with_kwargs(labels=labels()).waiting_for(_Later())
        self._ready = ready
        self.host = ""
        self.port = 0

    def pause(self) -> None:
        if self._status() == "running":
            self.container.get_wrapped_container().pause()

    def resume(self) -> None:
        if self._status() == "paused":
            self.container.get_wrapped_container().unpause()

    def kill(self) -> None:
        self.resume()  # Docker refuses to kill what is paused
        if self._status() == "running":
            self.container.get_wrapped_container().kill("SIGKILL")
            self.container.wait()

    def start(self) -> None:
        if self._status() not in ("running", "paused"):
            self.container.get_wrapped_container().start()

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_ready(scaled(30.0))

    def wait_ready(self, timeout: float = 30.0) -> None:
        # testcontainers takes the timeout as a float in fact, and says int | timedelta
        self._ready.with_startup_timeout(timeout)  # type: ignore[arg-type]  # see the line above
        try:
            self._ready.wait_until_ready(self.container)
        except (TimeoutError, ServerFailed, RuntimeError) as error:
            raise ServerFailed(f"{self}: {error.__cause__ or error}\n{self._log_tail()}") from error
        self.host = self.container.get_container_host_ip()
        self.port = self.container.get_exposed_port(self._ready.port)

    def stop(self) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            self.container.stop()

    def _status(self) -> str:
        self.container.reload()
        return self.container.status

    def _log_tail(self) -> str:
        with contextlib.suppress(docker.errors.APIError):
            return str(self.container.get_wrapped_container().logs(tail=20), "utf-8", "replace")
        return "(no log)"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.container.image} {self.host}:{self.port}>"


class ContainerRedis(ContainerServer):
    """A Redis server in a container."""

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


def start_redis_servers(count: int, *, image: str, args: Sequence[str] = ()) -> list[ContainerRedis]:
    """Start that many independent Redis servers; raise ServerFailed, leaving none behind."""
    command = ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"]
    if takes_debug_option(image):
        command += ["--enable-debug-command", "yes"]
    servers = []
    for port in free_ports(count):
        container = RedisContainer(image).with_command([*command, *args]).with_bind_ports(_REDIS, port)
        servers.append(ContainerRedis(container, Serves(_REDIS, serves_redis)))
    start_all(servers)
    return servers


def takes_debug_option(image: str) -> bool:
    """Return whether an image's server must be told to allow DEBUG; before 7 it knows no such option, and allows it."""
    return not image.rpartition(":")[2].startswith("6")


def start_zookeeper(nodes: int = 1, *, image: str, tick_time: int = 200) -> ZooKeeperEnsemble:
    """Start a standalone ZooKeeper or an ensemble in a network of its own; wait until all serve and one leads.

    ``tick_time`` is in milliseconds. Raise ServerFailed, leaving nothing behind.
    """
    sweep()
    network = Network(docker_network_kw={"labels": labels()}).create() if nodes > 1 else None
    servers = [f"server.{n}=zk{n}:{_PEERS}:{_VOTES};{_CLIENTS}" for n in range(1, nodes + 1)] if network else []
    members = []
    for my_id, port in enumerate(free_ports(nodes), 1):
        container = ZooKeeperContainer(image, my_id=my_id, servers=servers, tick_time=tick_time)
        container.with_bind_ports(_CLIENTS, port)
        if network is not None:
            container.with_network(network).with_network_aliases(f"zk{my_id}")
        members.append(ContainerServer(container, Serves(_CLIENTS, serves_zookeeper)))
    ensemble = ZooKeeperEnsemble(members, after=network.remove if network is not None else None)
    try:
        start_all(members)
        ensemble.wait_ready(scaled(60.0))
    except BaseException:
        ensemble.stop()
        raise
    return ensemble


def missing() -> str | None:
    """Return None when a Docker engine answers a ping within 2 seconds; else what to do."""
    engine = get_docker_host() or "unix:///var/run/docker.sock"
    try:
        if engine.startswith("unix://"):
            # The docker package leaves a socket open behind it when nobody listens, and a ResourceWarning.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(engine.removeprefix("unix://"))
        client = DockerClient(timeout=2).client
        try:
            client.ping()
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001 - docker's, requests' and the system's errors; any of them means no
        return f"start a Docker engine, e.g. by systemctl start docker ({engine}: {error})"
    return None


def has_image(image: str) -> bool:
    """Return whether an image is on the machine, so that nothing has to be pulled."""
    client = DockerClient().client
    try:
        return bool(client.images.list(name=image))
    finally:
        client.close()


def sweep() -> None:
    """Remove containers and networks that coordkit started from this host in processes that are dead."""
    api = DockerClient().client.api
    try:
        ours = {"label": ["coordkit.pid", f"coordkit.host={socket.gethostname()}"]}
        for container in api.containers(all=True, filters=ours):
            if not _alive(container["Labels"]["coordkit.pid"]):
                with contextlib.suppress(docker.errors.APIError):  # another run sweeps at the same time
                    api.remove_container(container["Id"], force=True, v=True)
        for network in api.networks(filters=ours):
            if not _alive(network["Labels"]["coordkit.pid"]):
                with contextlib.suppress(docker.errors.APIError):
                    api.remove_network(network["Id"])
    finally:
        api.close()


def start_all(servers: Sequence[ContainerServer]) -> None:
    """Start containers side by side and wait for all; when one fails, stop all and raise ServerFailed."""
    sweep()
    try:
        with _reaper_if_here() as reaped:
            if reaped:
                servers[0].container.start()  # several at once would race on creating the reaper
            rest = servers[1:] if reaped else servers
            with ThreadPoolExecutor(max_workers=len(rest) or 1) as pool:
                list(pool.map(lambda server: server.container.start(), rest))
        for server in servers:
            server.wait_ready(scaled(60.0))
    except BaseException as error:
        for server in servers:
            server.stop()
        if isinstance(error, docker.errors.DockerException):
            raise ServerFailed(f"{servers[0].container.image}: {error}") from error
        raise


@contextlib.contextmanager
def _reaper_if_here() -> Iterator[bool]:
    """Use Ryuk for what is started inside where it is on and its image is here: else the sweep is enough."""
    off = testcontainers_config.ryuk_disabled
    if not off and not has_image(testcontainers_config.ryuk_image):
        testcontainers_config.ryuk_disabled = True
    try:
        yield not testcontainers_config.ryuk_disabled
    finally:
        testcontainers_config.ryuk_disabled = off


class _Later(WaitStrategy):
    """Do not wait in ``start``: a node of an ensemble serves only once the others run too."""

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Return at once."""


def labels() -> dict[str, str]:
    """Return the labels by which ``sweep`` knows what this process has started."""
    return {"coordkit.pid": str(os.getpid()), "coordkit.host": socket.gethostname()}


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
