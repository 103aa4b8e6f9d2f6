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
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

__all__ = ["FaultProxy"]

T = TypeVar("T")

_CHUNK = 65536
_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST


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
        self.target = (host, port)
        self.hits: Counter[str] = Counter()
        self._latency = 0.0
        self._refuse = False
        self._requests = _Losses("request")
        self._replies = _Losses("reply")
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._flowing, self._server = self._run(self._open())
        self.port: int = self._server.sockets[0].getsockname()[1]

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
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"latency: {seconds!r} is not a finite number of seconds, 0 or more")
        self._latency = seconds

    @property
    def drop_requests(self) -> bool:
        """Whether requests vanish; connections that lost one are reset when it goes off."""
        return self._requests.all

    @drop_requests.setter
    def drop_requests(self, on: bool) -> None:
        self._change(lambda: self._drop(self._requests, on))

    @property
    def drop_replies(self) -> bool:
        """Whether requests arrive and answers vanish; connections that lost one are reset when it goes off."""
        return self._replies.all

    @drop_replies.setter
    def drop_replies(self, on: bool) -> None:
        self._change(lambda: self._drop(self._replies, on))

    @property
    def hold(self) -> bool:
        """Whether nothing moves; what was sent is delivered when it goes off, as after a long pause."""
        return not self._flowing.is_set()

    @hold.setter
    def hold(self, on: bool) -> None:
        self._change(self._flowing.clear if on else self._flowing.set)

    @property
    def refuse(self) -> bool:
        """Whether new connections are reset as soon as they are made; existing ones stay."""
        return self._refuse

    @refuse.setter
    def refuse(self, on: bool) -> None:
        self._change(lambda: setattr(self, "_refuse", on))

    def drop_request_matching(self, needle: bytes, times: int = 1) -> None:
        """Swallow the next request that contains ``needle`` and reset its connection: it is never carried out."""
        self._change(lambda: self._requests.arm(needle, times))

    def drop_reply_matching(self, needle: bytes, times: int = 1) -> None:
        """Swallow the next reply that contains ``needle`` and reset its connection: the request was carried out."""
        self._change(lambda: self._replies.arm(needle, times))

    def lossy(self, *, replies: float = 0.0, requests: float = 0.0, seed: int = 0) -> None:
        """Lose a random share (0 to 1) of replies and of requests, each with a reset; a seed gives the same choices."""
        for name, share in (("replies", replies), ("requests", requests)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: {share!r} is not a share between 0 and 1")

        def lose() -> None:
            self._requests.lose(requests, seed)
            self._replies.lose(replies, seed + 1)

        self._change(lose)

    def reset_all(self) -> None:
        """Reset every connection, on both sides; new ones are served."""

        def reset() -> None:
            self.hits["reset_all"] += len(self._links)
            for link in list(self._links):
                link.reset()

        self._change(reset)

    def cut(self) -> None:
        """Cut the line: reset every connection and refuse new ones, until ``heal``."""
        self.refuse = True
        self.reset_all()

    def heal(self) -> None:
        """Turn every switch off: held bytes are delivered, connections that lost bytes are reset."""

        def off() -> None:
            self._latency, self._refuse = 0.0, False
            self._flowing.set()
            for losses in (self._requests, self._replies):
                losses.clear()
                self._drop(losses, False)

        self._change(off)

    def close(self) -> None:
        """Reset every connection and end the thread; do nothing the second time."""
        if self._loop.is_closed():
            return
        self._run(self._shut())
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

    # What follows runs in the proxy's loop.

    async def _open(self) -> tuple[asyncio.Event, asyncio.Server]:
        flowing = asyncio.Event()
        flowing.set()
        return flowing, await asyncio.start_server(self._serve, self.host, 0)

    async def _shut(self) -> None:
        # What was accepted just now must come to _serve, or nobody closes its socket; a server that is closed does not
        # let it (CPython before 3.12.1). So stop listening, let it come, and close then.
        for listener in self._server.sockets:
            self._loop.remove_reader(listener.fileno())
        self._refuse = True
        for _ in range(4):
            await asyncio.sleep(0)
        self._server.close()
        for task in self._serving:
            task.cancel()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)  # lets the transports close their sockets

    def _drop(self, losses: _Losses, on: bool) -> None:
        losses.all = on
        if not on:
            for link in [link for link in self._links if losses.noun in link.holed]:
                link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        serving = asyncio.current_task()
        assert serving is not None  # noqa: S101  for the type checker: start_server makes a task of each connection
        self._serving.add(serving)
        pumps: list[asyncio.Task[None]] = []  # kept to their ends: asyncio itself holds tasks weakly
        try:
            if self._refuse:
                self.hits["refuse"] += 1
                return
            server_reader, server_writer = await asyncio.open_connection(*self.target)
            link.add(server_writer)
            self._links.add(link)
            pumps += [
                asyncio.create_task(self._pump(link, reader, server_writer, self._requests)),
                asyncio.create_task(self._pump(link, server_reader, writer, self._replies)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the server is gone, or the proxy is closing: so is the client's side, by the reset below
        finally:
            self._links.discard(link)
            link.reset()
            for pump in pumps:
                pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # closing: the pumps are ending already
                await asyncio.gather(*pumps, return_exceptions=True)
            self._serving.discard(serving)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losses: _Losses
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        forward = asyncio.create_task(self._forward(queue, writer))
        seen = b""
        try:
            while data := await reader.read(_CHUNK):
                seen = seen[-256:] + data  # so that a needle that spans two reads is found
                cause = losses.cause(seen)
                if cause is None:
                    await queue.put((self._loop.time() + self._latency, data))
                    continue
                self.hits[cause] += 1
                if not losses.all:
                    raise ConnectionResetError(cause)
                link.holed.add(losses.noun)
            await queue.put((0.0, b""))
            await forward
        finally:
            forward.cancel()
            await asyncio.wait([forward])

    async def _forward(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await queue.get()
            if (early := due - self._loop.time()) > 0:
                await asyncio.sleep(early)
            await self._flowing.wait()
            if not data:
                return
            writer.write(data)
            with contextlib.suppress(OSError):  # the reading side of the same connection says so too
                await writer.drain()


class _Link:
    """The two sockets of one proxied connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.holed: set[str] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.add(client)

    def add(self, writer: asyncio.StreamWriter) -> None:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers.append(writer)

    def reset(self) -> None:
        for writer in self._writers:
            raw: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
            writer.transport.abort()


class _Losses:
    """What is lost in one direction, and why."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.all = False
        self._needles: list[bytes] = []
        self._share = 0.0
        self._chance = random.Random(0)  # noqa: S311 - repeatable on purpose, nothing secret

    def arm(self, needle: bytes, times: int) -> None:
        if not 1 <= len(needle) <= 256:
            raise ValueError(f"needle: {needle!r} is not 1 to 256 bytes")
        self._needles += [needle] * times

    def lose(self, share: float, seed: int) -> None:
        self._share = share
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose, nothing secret

    def clear(self) -> None:
        self._needles.clear()
        self._share = 0.0

    def cause(self, seen: bytes) -> str | None:
        """Return the name of the switch that loses what was just read; None when it goes through."""
        if self.all:
            return f"drop_{'requests' if self.noun == 'request' else 'replies'}"
        for needle in self._needles:
            if needle in seen:
                self._needles.remove(needle)
                return f"drop_{self.noun}_matching"
        if self._share and self._chance.random() < self._share:
            return f"lossy_{self.noun}"
        return None
