"""A loopback proxy that reads Redis's protocol, so that a fault can name one request, or one answer, by its number.

``coordkit.testing.FaultProxy`` loses what matches; this one counts. Requests are numbered from 0 over all connections,
in the order in which they come, and so are the answers (each read from the server, also what it pushes to a
subscriber). It can carry a request out twice, which FaultProxy cannot: over a connection of its own, as a client does
that asks anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST
LATE = 0.05  # seconds after which a late duplicate arrives

REQUEST_FAULTS = ("lose", "reset", "twice", "late")
ANSWER_FAULTS = ("lose", "reset")
PIPED = {"lose": "mute"}
"""Where a connection is not given up when an answer does not come, TCP lets nothing come after it either."""


class Fault(NamedTuple):
    """What befalls which: the number of a request or of an answer."""

    what: str  # one of the above, "mute" (all after it is lost, too), or "hold": nothing moves until `release_held`
    of: str  # "request" or "answer"
    number: int

    def __str__(self) -> str:
        return f"{self.what} {self.of} {self.number}"


class Line:
    """Stands between clients and one server; every method may be called from any thread."""

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.fired: Counter[str] = Counter()
        self.requests: list[bytes] = []
        self.answers = 0
        self._fault: Fault | None = None
        self._closing = False
        self._twice: list[bytes] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()
        self._held, self._server = self._do(self._open())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def arm(self, fault: Fault | None) -> None:
        """Count from 0 again, and let ``fault`` happen once."""
        self._call(lambda: self._arm(fault))

    def duplicate_next(self, needle: bytes) -> None:
        """Carry the next request that contains ``needle`` out twice, one right after the other."""
        self._call(lambda: self._twice.append(needle))

    def release_held(self) -> None:
        self._call(self._held.set)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._do(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: Awaitable[Any]) -> Any:
        async def inner() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(inner(), self._loop).result()

    def _call(self, change: Callable[[], object]) -> None:
        async def inner() -> None:
            change()

        self._do(inner())

    # What follows runs in the proxy's loop.

    def _arm(self, fault: Fault | None) -> None:
        self.requests, self.answers, self._fault = [], 0, fault
        self._held.clear()

    def _hit(self, of: str, number: int) -> str:
        """Return what is to happen to this one; the empty string is: nothing."""
        fault = self._fault
        if fault is None or fault.of != of or fault.number != number:
            return ""
        self.fired[str(fault)] += 1
        self._fault = None
        return fault.what

    async def _open(self) -> tuple[asyncio.Event, asyncio.Server]:
        return asyncio.Event(), await asyncio.start_server(self._serve, self.host, 0)

    async def _shut(self) -> None:
        # What was accepted just now must come to _serve and find that it ends, or nobody closes its socket: a task that
        # is cancelled before its first step never does. So stop listening, let it come, and close then.
        for listener in self._server.sockets:
            self._loop.remove_reader(listener.fileno())
        self._closing = True
        self._held.set()
        for _ in range(4):
            await asyncio.sleep(0)
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            if self._closing:
                return
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            for each in writers:
                each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps += [
                asyncio.create_task(self._pump_requests(reader, server_writer)),
                asyncio.create_task(self._pump_answers(server_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the server is gone, or this is closing: so is the client's side, by the reset below
        finally:
            for each in writers:
                with contextlib.suppress(OSError):
                    each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
                each.transport.abort()
            for pump in pumps:
                pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump_requests(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            number = len(self.requests)
            self.requests.append(request)
            fate = self._hit("request", number)
            if not fate and any(needle in request for needle in self._twice):
                self._twice.pop()
                self.fired["duplicate"] += 1
                fate = "twice"
            if fate == "reset":
                return
            if fate == "lose":
                continue
            if fate == "mute":
                await self._closed_by(reader)
                return
            if fate == "hold":
                await self._held.wait()
            if fate == "twice":
                await self._at_the_side(request, 0.0)
            elif fate == "late":
                task = asyncio.create_task(self._at_the_side(request, LATE))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            server.write(request)
            await server.drain()

    async def _pump_answers(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            number, self.answers = self.answers, self.answers + 1
            fate = self._hit("answer", number)
            if fate == "reset":
                return
            if fate == "lose":
                continue
            if fate == "mute":
                await self._closed_by(reader)
                return
            if fate == "hold":
                await self._held.wait()
            client.write(data)
            await client.drain()

    @staticmethod
    async def _closed_by(reader: asyncio.StreamReader) -> None:
        """Take what still comes, and let none of it through, until that side closes the connection."""
        while await reader.read(65536):
            pass

    async def _at_the_side(self, request: bytes, delay: float) -> None:
        """Carry a request out over a connection of our own, and see it answered."""
        await asyncio.sleep(delay)
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # a server that is down carries nothing out
            reader, writer = await asyncio.open_connection(*self._target)
            try:
                writer.write(request)
                await asyncio.wait_for(reader.read(1), 1.0)
            finally:
                writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request of Redis's protocol whole; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n")
        if not head.startswith(b"*"):
            return head
        parts = [head]
        for _ in range(int(head[1:])):
            size = await reader.readuntil(b"\r\n")
            parts += [size, await reader.readexactly(int(size[1:]) + 2)]
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    return b"".join(parts)


def label(request: bytes, scripts: dict[bytes, str]) -> str:
    """Name a request for people: its command, and which script it runs."""
    words = request.split(b"\r\n")[2::2]
    command = words[0].decode().upper() if words else "?"
    if command == "EVALSHA":
        return f"EVALSHA {scripts.get(words[1], words[1][:8].decode())}"
    if command == "CLIENT" and len(words) > 1:
        return f"CLIENT {words[1].decode()}"
    return command
