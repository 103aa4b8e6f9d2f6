"""Faults on real servers and sessions, which heal themselves.

``Faults`` is what the ``coordkit_faults`` fixture gives. Promised: the server served before its first fault; after
``heal`` (the fixture's teardown) it runs, is not paused, answers, and no proxy is left; ``fired`` counts what was done,
so that a test can prove that its faults happened. A server that coordkit did not start is never hurt: NotOwned.
"""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import NotOwned, Server, ServerFailed, ZooKeeperEnsemble, scaled

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

__all__ = ["Faults", "Held", "expire", "kill_session"]


class Held(Protocol):
    """What ``expire`` needs of a lock: its Redis key, and the client that reaches it."""

    @property
    def key(self) -> str: ...
    @property
    def client(self) -> Any: ...


def expire(lock: Held) -> Awaitable[None] | None:
    """Let a held lock run out now: set the end of its key to the past, upon which the server forgets it at once.

    On a lock over an asyncio client it returns an awaitable: ``await expire(lock)``. Raise LookupError when nobody
    holds the lock.
    """
    asked = lock.client.pexpireat(lock.key, 1)  # with a ttl of 1 ms its holder might renew it in between
    if inspect.isawaitable(asked):
        return _expire_async(lock, asked)
    _must_have_held(lock, asked)
    return None


async def _expire_async(lock: Held, asked: Awaitable[Any]) -> None:
    _must_have_held(lock, await asked)


def _must_have_held(lock: Held, there: Any) -> None:
    if not there:
        raise LookupError(f"{lock.key}: nobody holds it, so it cannot run out")


def kill_session(zk: Any) -> None:
    """End the session of a started KazooClient at the server, as if it had been away for too long.

    A second connection takes the session over and closes it: its ephemeral znodes go at once, and ``zk`` learns of the
    loss when it has reconnected; at a node of an ensemble that took it back in the last moment, when it asks something.
    Raise LookupError when ``zk`` has no session, ServerFailed when no server closed it.
    """
    from coordkit._companion import Closer  # which does the same when a process dies, by less than a client

    if zk.client_id is None or not zk.client_id[0]:
        raise LookupError("the client has no session yet: start it first")
    closer, (session, password) = Closer({"tls": None, "sasl": None, "auth": []}), zk.client_id
    hosts = [list(each) for each in zk.hosts]
    closer.session = {
        "id": session,
        "password": password.hex(),
        "timeout": scaled(15.0),
        "near": None,
        "hosts": hosts,
    }
    if not closer.close():
        raise ServerFailed(f"none of {hosts} closed session {session:#x}")


def _whole(server: Server) -> Server:
    """Return the deployment that a server is a part of, or the server itself."""
    whole: Server | None = getattr(server, "part_of", None)
    return server if whole is None else whole


class Faults:
    """Faults that are taken back by ``heal``; a context manager that heals at its end."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self._hurt: dict[int, Server] = {}
        self._proxies: list[FaultProxy] = []

    def pause(self, server: Server) -> None:
        """Stop a server where it stands: its connections stay up and answer nothing."""
        self._about_to("pause", server)
        server.pause()

    def resume(self, server: Server) -> None:
        """Let a paused server run on."""
        self._about_to("resume", server)
        server.resume()

    def kill(self, server: Server) -> None:
        """End a server as a crash would (SIGKILL)."""
        self._about_to("kill", server)
        server.kill()

    def restart(self, server: Server) -> None:
        """Kill a server where it runs and start it again on the same address and data; return when it serves."""
        self._about_to("restart", server)
        server.restart()

    def proxy(self, server: Any) -> FaultProxy:
        """Return a FaultProxy before a server (owned or not); a client must be pointed at its address.

        For an ensemble of several nodes take one for each: ``[faults.proxy(node) for node in ensemble.nodes]``. Raise
        ValueError for a Redis behind TLS.
        """
        if isinstance(server, ZooKeeperEnsemble):
            if len(server.nodes) != 1:
                raise ValueError(f"server: {server.hosts!r} are several nodes; take one proxy for each of server.nodes")
            server = server.nodes[0]
        url = getattr(server, "url", None)  # a ZooKeeper node has none
        proxy = FaultProxy(server.host, server.port, **({} if url is None else {"server_url": url}))
        self._proxies.append(proxy)
        self.fired["proxy"] += 1
        return proxy

    def expire_session(self, zk: Any) -> None:
        """End the session of a started KazooClient at the server; see ``kill_session``."""
        kill_session(zk)
        self.fired["expire_session"] += 1

    def heal(self) -> None:
        """Close the proxies, resume and start what was hurt, and wait until it serves; raise ServerFailed."""
        proxies, self._proxies = self._proxies, []
        hurt, self._hurt = self._hurt, {}
        for proxy in proxies:
            proxy.close()
        for server in hurt.values():
            server.resume()
            server.start()
        for server in hurt.values():
            server.wait_ready(scaled(30.0))
        for whole in {id(whole): whole for whole in map(_whole, hurt.values())}.values():
            whole.wait_ready(scaled(60.0))

    def _about_to(self, fault: str, server: Server) -> None:
        if not server.owned:
            raise NotOwned(f"{fault}: {server} was not started by coordkit, so it is not hurt")
        if id(server) not in self._hurt:
            whole = _whole(server)
            if fault != "resume":  # what is resumed may have been paused by other means
                broken = any(_whole(other) is whole for other in self._hurt.values())
                (server if broken else whole).wait_ready(scaled(30.0))
            self._hurt[id(server)] = server
        self.fired[fault] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
