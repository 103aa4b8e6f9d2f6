"""A loopback TCP proxy that misbehaves on request, between any client and a Redis or ZooKeeper server.

Promised: exactly the bytes that a switch names are lost, and ``hits`` counts them; a connection that lost bytes is
never used on as if nothing had happened: it is reset, at once or when the switch goes off. ``close`` ends the one
thread and every socket. Not promised: protocol boundaries. A "request" or "reply" is what one read gave; with
pipelining that may be several.

    with FaultProxy(server.host, server.port) as proxy:
        client = redis.Redis(host=proxy.host, port=proxy.port)
        proxy.drop_reply_matching(b"OK")     # the next SET is carried out, and its answer is lost
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from coordkit.testing.relay import Relay

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

__all__ = ["FaultProxy"]

T = TypeVar("T")


class FaultProxy:
    """A proxy on a free loopback port; every switch may be flipped, from any thread, while connections live.

    ``target`` is the server's host and port; ``server_url`` its ``redis://`` URL, whose user, password and database
    ``url`` keeps. Raise ValueError for ``rediss://`` and ``unix://``: a proxy of bytes cannot stand before those.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int, *, server_url: str = "redis:///0") -> None:
        self._server_url = urlsplit(server_url)
        if self._server_url.scheme != "redis":
            shown = f"{self._server_url.scheme}://...@{host}:{port}"  # without its password
            raise ValueError(
                f"server_url: {shown!r} is not redis://: with TLS the certificate is for the server's own name, and "
                "there is no reply that the proxy could read; use a server without TLS for this test"
            )
        self._relay = Relay(host, port)
        self.hits: Counter[str] = self._relay.hits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.port: int = self._run(self._relay.open(self.host))

    @property
    def target(self) -> tuple[str, int]:
        """The server's host and port, to which new connections go."""
        return self._relay.target

    @target.setter
    def target(self, address: tuple[str, int]) -> None:
        self._relay.target = address

    @property
    def address(self) -> str:
        """``host:port``, as KazooClient's ``hosts`` takes it."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What ``redis.Redis.from_url`` takes: the server's own URL, with this address in place of the server's."""
        userinfo, at, _ = self._server_url.netloc.rpartition("@")
        return self._server_url._replace(netloc=f"{userinfo}{at}{self.address}").geturl()

    @property
    def latency(self) -> float:
        """Seconds added in each direction."""
        return self._relay.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"latency: {seconds!r} is not a finite number of seconds, 0 or more")
        self._relay.latency = seconds

    @property
    def drop_requests(self) -> bool:
        """Whether requests vanish; connections that lost one are reset when it goes off."""
        return self._relay.requests.all

    @drop_requests.setter
    def drop_requests(self, on: bool) -> None:
        self._change(lambda: self._relay.drop(self._relay.requests, on))

    @property
    def drop_replies(self) -> bool:
        """Whether requests arrive and answers vanish; connections that lost one are reset when it goes off."""
        return self._relay.replies.all

    @drop_replies.setter
    def drop_replies(self, on: bool) -> None:
        self._change(lambda: self._relay.drop(self._relay.replies, on))

    @property
    def hold(self) -> bool:
        """Whether nothing moves; what was sent is delivered when it goes off, as after a long pause."""
        return not self._relay.flowing.is_set()

    @hold.setter
    def hold(self, on: bool) -> None:
        self._change(self._relay.flowing.clear if on else self._relay.flowing.set)

    @property
    def refuse(self) -> bool:
        """Whether new connections are reset as soon as they are made; existing ones stay."""
        return self._relay.refuse

    @refuse.setter
    def refuse(self, on: bool) -> None:
        self._change(lambda: setattr(self._relay, "refuse", on))

    def drop_request_matching(self, needle: bytes, times: int = 1) -> None:
        """Swallow the next request that contains ``needle`` and reset its connection: it is never carried out."""
        self._change(lambda: self._relay.requests.arm(needle, times))

    def drop_reply_matching(self, needle: bytes, times: int = 1) -> None:
        """Swallow the next reply that contains ``needle`` and reset its connection: the request was carried out."""
        self._change(lambda: self._relay.replies.arm(needle, times))

    def lossy(self, *, replies: float = 0.0, requests: float = 0.0, seed: int = 0) -> None:
        """Lose a random share (0 to 1) of replies and of requests, each with a reset; a seed gives the same choices."""
        for name, share in (("replies", replies), ("requests", requests)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: {share!r} is not a share between 0 and 1")

        def lose() -> None:
            self._relay.requests.lose(requests, seed)
            self._relay.replies.lose(replies, seed + 1)

        self._change(lose)

    def reset_all(self) -> None:
        """Reset every connection, on both sides; new ones are served."""
        self._change(self._relay.reset_all)

    def cut(self) -> None:
        """Cut the line: reset every connection and refuse new ones, until ``heal``."""
        self.refuse = True
        self.reset_all()

    def heal(self) -> None:
        """Turn every switch off: held bytes are delivered, connections that lost bytes are reset."""
        self._change(self._relay.heal)

    def close(self) -> None:
        """Reset every connection and end the thread; do nothing the second time."""
        if self._loop.is_closed():
            return
        self._run(self._relay.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Awaitable[T]) -> T:
        async def inner() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(inner(), self._loop).result()

    def _change(self, change: Callable[[], object]) -> None:
        """Make a change between two steps of the proxy's loop; it holds when this returns."""
        if self._loop.is_closed():
            raise RuntimeError(f"the proxy on port {self.port} is closed")

        async def inner() -> None:
            change()

        self._run(inner())
