"""Cables between named ends, all over loopback: each direction of each can be stopped while connections live.

A cable that is stopped keeps its bytes and delivers them when it is let go, as TCP does over a network that was away
for a while; ``hang_up`` loses them with their connections. Between the nodes of an ensemble and between clients and
nodes it is the same, so a follower is cut off from its ensemble and not from its clients, in one direction or in both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

Edit = Callable[[bytes], bytes]

_CHUNK = 65536
_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST


class Cables:
    """One loop in one thread that carries everything; its switches may be flipped from any thread."""

    def __init__(self) -> None:
        self.passed: Counter[tuple[str, str]] = Counter()  # chunks, by direction
        self._flowing: defaultdict[tuple[str, str], asyncio.Event] = defaultdict(_set)
        self._connections: dict[asyncio.Task[Any], tuple[str, str, list[asyncio.StreamWriter]]] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cables", daemon=True)
        self._thread.start()

    def lay(self, source: str, target: str, port: int, *, first: Edit | None = None) -> int:
        """Return the port at which ``source`` reaches ``target``'s; ``first`` edits what is sent first."""

        async def open_() -> asyncio.Server:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._serve(source, target, port, first, reader, writer)

            return await asyncio.start_server(serve, "127.0.0.1", 0)

        server = self._run(open_)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def stop(self, *directions: tuple[str, str]) -> None:
        """Let nothing through from the first to the second of each pair of ends."""
        self._each(directions, lambda flowing: flowing.clear())

    def let_go(self, *directions: tuple[str, str]) -> None:
        """Let through what came meanwhile, and what comes."""
        self._each(directions, lambda flowing: flowing.set())

    def heal(self) -> None:
        """Let everything go."""
        self.let_go(*self._flowing)

    def hang_up(self, one: str, other: str = "") -> int:
        """Reset the connections between two ends, or all of one; return how many there were."""

        async def hang_up() -> int:
            ours = {one, other} if other else {one}
            found = [each for each in self._connections.values() if ours <= {each[0], each[1]}]
            for _, _, writers in found:
                _reset(writers)
            return len(found)

        return int(self._run(hang_up))

    def ends(self, one: str) -> list[str]:
        """Return what is at the other ends of the connections that one has made."""

        async def ends() -> list[str]:
            return [target for source, target, _ in self._connections.values() if source == one]

        return list(self._run(ends))

    def close(self) -> None:
        async def shut() -> None:
            for server in self._servers:
                server.close()
            while tasks := [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets the transports close their sockets

        if not self._loop.is_closed():
            self._run(shut)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _each(self, directions: tuple[tuple[str, str], ...], change: Callable[[asyncio.Event], None]) -> None:
        async def all_at_once() -> None:
            for direction in directions:
                change(self._flowing[direction])

        self._run(all_at_once)

    def _run(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    # What follows runs in the loop.

    async def _serve(
        self,
        source: str,
        target: str,
        port: int,
        first: Edit | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        writers = [writer]
        self._connections[serving] = (source, target, writers)
        pumps: list[asyncio.Task[None]] = []
        try:
            _plain(writer)
            await self._flowing[source, target].wait()  # or who connects would be heard
            there_reader, there = await asyncio.open_connection("127.0.0.1", port)
            writers.append(there)
            _plain(there)
            pumps = [
                asyncio.create_task(self._pump((source, target), reader, there, first)),
                asyncio.create_task(self._pump((target, source), there_reader, writer, None)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the other end is away, or all is being closed: so is this end, by the reset below
        finally:
            del self._connections[serving]
            _reset(writers)
            for pump in pumps:
                pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, direction: tuple[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edit: Edit | None
    ) -> None:
        flowing = self._flowing[direction]
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await flowing.wait()
                writer.write(data if edit is None else edit(data))
                edit = None
                self.passed[direction] += 1
                await writer.drain()
        await flowing.wait()  # an end is told as late as all else


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _plain(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        raw: socket.socket = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
        writer.transport.abort()
