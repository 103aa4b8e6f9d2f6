"""What a test holds in its hand: handles on real servers, wherever they run.

Three files give these handles: ``processes`` (local processes), ``containers`` (testcontainers) and ``external``
(servers that somebody else runs, named by URL); ``replicated``, ``sentinel`` and ``cluster`` wire several of them into
one service. A handle promises that, once it was given out, the server answered;
that ``restart`` keeps the address and the data directory; and that faults on a server that is not ours are refused.
It does not promise that the port is not taken by a stranger while the server is down.

Nothing here imports redis, kazoo, docker or pytest: readiness is asked over a plain socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

__all__ = [
    "Node",
    "NotOwned",
    "RedisServer",
    "Server",
    "ServerFailed",
    "Several",
    "ZooKeeperEnsemble",
    "ask",
    "paused",
    "scaled",
    "serves_redis",
    "serves_zookeeper",
    "wait_until",
    "zookeeper_mode",
]


class ServerFailed(RuntimeError):
    """A server did not come up, or did not come back; the message ends with the tail of its log."""


class NotOwned(RuntimeError):
    """A fault was asked of a server that coordkit did not start."""


class Server(Protocol):
    """One server that can be hurt: a Redis, a ZooKeeper node, or a whole ensemble.

    Each call returns when the new state holds. On a server that is not ``owned`` the faults raise NotOwned.
    """

    @property
    def owned(self) -> bool:
        """Whether coordkit started it, so that it may be paused and killed."""
        ...

    def pause(self) -> None:
        """Stop the process or container where it stands; its connections stay up and answer nothing."""
        ...

    def resume(self) -> None:
        """Let a paused server run on; do nothing to one that runs."""
        ...

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; do nothing to one that is down."""
        ...

    def start(self) -> None:
        """Start it again after ``kill``, without waiting; do nothing to one that runs."""
        ...

    def restart(self) -> None:
        """Start it again on the same address and data, killing it first where it still runs; wait until it serves."""
        ...

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it serves, at most ``timeout`` seconds; raise ServerFailed."""
        ...

    def stop(self) -> None:
        """End it for good and remove what it left on disk; do nothing when it is gone."""
        ...


class Node(Server, Protocol):
    """A server at one address; a ZooKeeper node of an ensemble serves only while a majority runs."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


N = TypeVar("N", bound=Node)


class RedisServer(Node, Protocol):
    """One Redis (or Valkey) server."""

    @property
    def url(self) -> str:
        """What ``redis.Redis.from_url`` takes."""
        ...


class Several(Generic[N]):
    """Servers that make one service; ``pause``, ``kill`` and so on go to all: to hurt one, take it from ``nodes``."""

    def __init__(self, nodes: Sequence[N], *, after: Callable[[], None] | None = None) -> None:
        self.nodes = tuple(nodes)
        self._after = after

    @property
    def owned(self) -> bool:
        return all(node.owned for node in self.nodes)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every server serves, at most ``timeout`` seconds; raise ServerFailed."""
        deadline = time.monotonic() + timeout
        for node in self.nodes:
            node.wait_ready(max(0.0, deadline - time.monotonic()))

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_ready(scaled(30.0))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        if self._after is not None:
            after, self._after = self._after, None
            after()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ZooKeeperEnsemble(Several[Node]):
    """ZooKeeper nodes that make one service; one node is a standalone server."""

    @property
    def hosts(self) -> str:
        """What ``KazooClient(hosts=...)`` takes: ``host:port,host:port``."""
        return ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    def leader(self, timeout: float = 30.0) -> Node:
        """Return the node that says that it leads (or stands alone); wait at most ``timeout`` seconds for one."""
        found: list[Node] = []

        def look() -> bool:
            found[:] = [n for n in self.nodes if zookeeper_mode(n.host, n.port) in ("leader", "standalone")]
            return len(found) == 1

        if not wait_until(look, timeout):
            raise ServerFailed(f"ZooKeeper {self.hosts}: {len(found)} nodes say that they lead, after {timeout} s")
        return found[0]

    def followers(self) -> list[Node]:
        """Return the nodes that say that they follow."""
        return [n for n in self.nodes if zookeeper_mode(n.host, n.port) == "follower"]

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every node serves and exactly one leads, at most ``timeout`` seconds; raise ServerFailed."""
        deadline = time.monotonic() + timeout
        super().wait_ready(timeout)
        if self.owned:
            self.leader(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def paused(server: Server) -> Iterator[None]:
    """Pause a server for the length of a block; it runs again after, also when the block raises."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def scaled(seconds: float) -> float:
    """Return a wait stretched by COORDKIT_TEST_TIMEOUT_FACTOR, for machines that are slow or busy."""
    return seconds * float(os.environ.get("COORDKIT_TEST_TIMEOUT_FACTOR") or 1)


def wait_until(check: Callable[[], bool], timeout: float, interval: float = 0.02) -> bool:
    """Call ``check`` until it is true or ``timeout`` seconds have passed, at least once; return whether it was true."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def ask(host: str, port: int, question: bytes, until: bytes | None = None, timeout: float = 1.0) -> bytes:
    """Send bytes to a server; return the answer up to ``until`` or its end; empty when it does not answer in time."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout) as connection:
        if connection.getsockname() == connection.getpeername():
            return b""  # nobody listens, and the kernel joined the socket to itself
        connection.sendall(question)
        while part := connection.recv(65536):
            answer += part
            if until is not None and until in answer:
                break
    return answer


def serves_redis(host: str, port: int) -> bool:
    """Return whether a Redis server answers and has loaded its data (one that wants a password counts)."""
    return ask(host, port, b"PING\r\n", until=b"\r\n").startswith((b"+PONG", b"-NOAUTH"))


def serves_zookeeper(host: str, port: int) -> bool:
    """Return whether a ZooKeeper node serves: it stands alone, leads, or follows a leader."""
    return zookeeper_mode(host, port) is not None


def zookeeper_mode(host: str, port: int) -> str | None:
    """Return ``standalone``, ``leader``, ``follower`` or ``observer``; None while the node does not serve."""
    for line in ask(host, port, b"srvr").decode(errors="replace").splitlines():
        if line.startswith("Mode: "):
            return line.removeprefix("Mode: ").strip()
    return None
