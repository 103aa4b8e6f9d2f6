"""Redis servers that know one another: what ``replicated``, ``sentinel`` and ``cluster`` have in common.

A deployment promises that, once it was given out, all its servers serve and agree on who does what; ``wait_ready``
waits for that again, after faults. Its servers run at a site: local processes (``LocalSite``, here) or containers
(``pod.ContainerSite``). Each keeps its role in a configuration file, as in production, so a server that comes back is
what it was told to be last, and the deployment's own machinery corrects it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from coordkit.testing import processes
from coordkit.testing._process import LocalProcess, chance, free_ports, is_free, start_all
from coordkit.testing.servers import RedisServer, ServerFailed, Several, scaled, serves_redis

__all__ = ["Deployment", "LocalSite", "Member", "MemberProcess", "Silent", "Site", "bus_ports", "launched", "tell"]

_BUS = 10_000  # a Cluster's servers talk to each other at this distance from their ports

D = TypeVar("D", bound="Deployment")


class Member(RedisServer, Protocol):
    """One Redis server (or Sentinel) of a deployment."""

    part_of: Deployment | None


class Site(Protocol):
    """A place where the servers of one deployment run and reach each other."""

    @property
    def host(self) -> str:
        """The address of all of them, for each other and for clients alike."""
        ...

    def open(self, count: int, *, bus: bool = False) -> list[int]:
        """Return that many ports; with ``bus`` the Cluster bus has its ports as well. Call it once."""
        ...

    def member(self, port: int, words: Sequence[str], config: Sequence[str] = ()) -> Member:
        """Make a server, not started yet, of command line arguments and first lines of its configuration file."""
        ...

    def start(self, members: Sequence[Member]) -> None:
        """Start servers side by side; raise ServerFailed, leaving none behind."""
        ...

    def close(self) -> None:
        """Give back what ``open`` took; the servers are gone."""
        ...


class MemberProcess(LocalProcess):
    """A server of a deployment as a local process."""

    def __init__(self, port: int, words: Sequence[str], config: Sequence[str]) -> None:
        super().__init__("redis-server", port)
        self.part_of: Deployment | None = None
        file = self.directory / "redis.conf"
        file.write_text("".join(f"{line}\n" for line in config))
        command = [processes.redis_binary(), str(file), "--port", str(port), "--bind", self.host]
        command += ["--dir", str(self.directory)]
        if processes.takes_debug_option(command[0]):
            command += ["--enable-debug-command", "yes"]
        self.command = [*command, *words]

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def ready(self) -> bool:
        return serves_redis(self.host, self.port)


class LocalSite:
    """Local processes on 127.0.0.1."""

    host = "127.0.0.1"

    def open(self, count: int, *, bus: bool = False) -> list[int]:
        return bus_ports(count) if bus else free_ports(count)

    def member(self, port: int, words: Sequence[str], config: Sequence[str] = ()) -> MemberProcess:
        return MemberProcess(port, words, config)

    def start(self, members: Sequence[Any]) -> None:
        start_all(members, 30.0)

    def close(self) -> None:
        """Nothing was taken but the ports."""


class Deployment(Several[Member], ABC):
    """Redis servers that make one service."""

    kind = ""

    def __init__(self, nodes: Sequence[Member], site: Site) -> None:
        super().__init__(nodes, after=site.close)
        self._site = site
        for node in self.nodes:
            node.part_of = self

    @abstractmethod
    def trouble(self) -> str:
        """Return what is not as it should be; empty when every server serves and all agree on who does what."""

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until all servers serve and agree on who does what, at most ``timeout`` seconds; raise ServerFailed."""
        self.until(self.trouble, timeout)

    def at(self, port: int | str) -> Member:
        """Return the server that listens on ``port``."""
        for node in self.nodes:
            if node.port == int(port):
                return node
        raise LookupError(f"{self}: no server on port {port}")

    def until(self, trouble: Callable[[], str], timeout: float) -> None:
        """Wait until ``trouble`` is empty and no server is silent; raise ServerFailed that says what it was last."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                what = trouble()
            except Silent as error:
                what = str(error)
            if not what:
                return
            if time.monotonic() >= deadline:
                raise ServerFailed(f"{self}: not within {timeout:g} s: {what}")
            time.sleep(0.02)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(f'{node.host}:{node.port}' for node in self.nodes)}>"


class Silent(Exception):
    """A server gave no answer, or one that says no."""


def tell(server: Member, *words: str | int, timeout: float = 2.0) -> Any:
    """Send one command over a connection of its own and return the reply, text as latin-1; raise Silent."""
    import redis  # imported where it is needed: loading the plugin stays light
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    make: Any = redis.Connection  # it has no types
    connection = make(
        host=server.host,
        port=server.port,
        protocol=2,
        encoding="latin-1",  # any bytes of a key come back as they were
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        connection.connect()
        connection.send_command(*words)
        return connection.read_response()
    except (redis.RedisError, OSError) as error:
        raise Silent(f"{server.host}:{server.port}: {' '.join(map(str, words[:3]))}: {error}") from error
    finally:
        connection.disconnect()


def launched(deployment: D, wire: Callable[[D], None]) -> D:
    """Start a deployment's servers, let ``wire`` join them, wait until it is ready; on failure leave nothing behind."""
    try:
        deployment._site.start(deployment.nodes)  # noqa: SLF001 - the other half of its constructor
        wire(deployment)
        deployment.wait_ready(scaled(60.0))
    except BaseException as error:
        deployment.stop()
        if isinstance(error, Silent):
            raise ServerFailed(f"{deployment}: {error}") from error
        raise
    return deployment


def bus_ports(count: int) -> list[int]:
    """Return that many different free ports of 127.0.0.1 whose Cluster bus ports are free as well."""
    found: list[int] = []
    while len(found) < count:
        port = chance.randrange(10_500, 22_500)  # both below the ports that clients get
        if port not in found and is_free(port) and is_free(port + _BUS):
            found.append(port)
    return found
