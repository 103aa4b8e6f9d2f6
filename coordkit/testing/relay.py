"""What carries the bytes of a `FaultProxy` between clients and their server. All of it runs in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from typing import Any

from coordkit.testing.losses import LONGEST, Losses

_CHUNK = 65536
_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST


class Link:
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


class Relay:
    """The connections of one proxy, and the switches that they heed."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.hits: Counter[str] = Counter()
        self.latency = 0.0
        self.refuse = False
        self.requests = Losses("request")
        self.replies = Losses("reply")
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self.flowing: asyncio.Event
        self._server: asyncio.Server

    async def open(self, host: str) -> int:
        """Listen; return the port."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Listen no more, and reset every connection."""
        # What was accepted just now must come to _serve, or nobody closes its socket; a server that is closed does not
        # let it (CPython before 3.12.1). So stop listening, let it come, and close then.
        loop = asyncio.get_running_loop()
        for listener in self._server.sockets:
            loop.remove_reader(listener.fileno())
        self.refuse = True
        for _ in range(4):
            await asyncio.sleep(0)
        self._server.close()
        for task in self._serving:
            task.cancel()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)  # lets the transports close their sockets

    def drop(self, losses: Losses, on: bool) -> None:
        """Lose all of one direction, or no more; then reset the connections that lost something."""
        losses.all = on
        if not on:
            for link in [link for link in self._links if losses.noun in link.holed]:
                link.reset()

    def reset_all(self) -> None:
        """Reset every connection, on both sides."""
        self.hits["reset_all"] += len(self._links)
        for link in list(self._links):
            link.reset()

    def heal(self) -> None:
        """Turn every switch off."""
        self.latency, self.refuse = 0.0, False
        self.flowing.set()
        for losses in (self.requests, self.replies):
            losses.clear()
            self.drop(losses, False)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(writer)
        serving = asyncio.current_task()
        assert serving is not None  # noqa: S101  for the type checker: start_server makes a task of each connection
        self._serving.add(serving)
        pumps: list[asyncio.Task[None]] = []  # kept to their ends: asyncio itself holds tasks weakly
        try:
            if self.refuse:
                self.hits["refuse"] += 1
                return
            server_reader, server_writer = await asyncio.open_connection(*self.target)
            link.add(server_writer)
            self._links.add(link)
            pumps += [
                asyncio.create_task(self._pump(link, reader, server_writer, self.requests)),
                asyncio.create_task(self._pump(link, server_reader, writer, self.replies)),
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
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losses: Losses
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        forward = asyncio.create_task(self._forward(queue, writer))
        before = b""
        try:
            while data := await reader.read(_CHUNK):
                cause = losses.cause(before, data)
                before = (before + data)[-LONGEST:]  # so that a needle that spans two reads is found
                if cause is None:
                    await queue.put((asyncio.get_running_loop().time() + self.latency, data))
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
            if (early := due - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(early)
            await self.flowing.wait()
            if not data:
                return
            writer.write(data)
            with contextlib.suppress(OSError):  # the reading side of the same connection says so too
                await writer.drain()
