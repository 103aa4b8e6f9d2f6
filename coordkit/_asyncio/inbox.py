"""The inbox of the asyncio flavour: one subscribed connection for each event loop, read by one task."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.lines import connect
from coordkit._asyncio.runtime import life
from coordkit._asyncio.wire import hang_up
from coordkit._inbox import AGAIN, MANY, QUIET, Boxes, Ear, Told, asks_again, ear_of, leaving, refuse, understood
from coordkit._ports import BROKEN, Call
from coordkit._threads.runtime import now
from coordkit.errors import CoordError
from coordkit.scripts import load

if TYPE_CHECKING:
    from coordkit._asyncio.redis import RedisStore

_CHECK = load("inbox_check")


class Box:
    """The messages for one holder, and its bell."""

    __slots__ = ("__weakref__", "_bell", "address", "messages", "refusal")

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: deque[str] = deque()
        self.refusal: Exception | None = None
        self._bell: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for a message, at most so long."""
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        timer = loop.call_later(seconds, self.ring)
        try:
            await self._bell
        finally:
            timer.cancel()
            self._bell = None


class Line:
    """A connection that is subscribed to some channels, and the task that reads it."""

    def __init__(self, node: str, connection: Any, patience: float) -> None:
        self.node = node
        self.connection = connection
        self.patience = patience
        self.addresses: dict[str, str] = {}  # by channel, once confirmed
        self.asked: dict[str, Box] = {}  # by channel, until confirmed
        self.heard = now()
        self.reader: asyncio.Task[None] | None = None

    async def send(self, *words: str) -> None:
        packed = self.connection.pack_command(*(word.encode() for word in words))
        await self.connection.send_packed_command(packed, check_health=False)


class Inbox:
    """Where the tasks of one client that wait for locks, in one event loop, hear of their grants."""

    def __init__(self, store: RedisStore, client: Any, told: Told, *, keeps: bool) -> None:
        self._store = store
        self._client = client
        self._keeps = keeps
        self._told = told
        self._identity = secrets.token_hex(8)
        self._boxes: Boxes[Box] = Boxes()
        self._lines: dict[str, Line] = {}  # by node
        self._by_address: dict[str, Line] = {}
        self._opening = asyncio.Lock()
        self._openings: dict[str, asyncio.Task[None]] = {}  # by name
        self._not_before = 0.0
        self._used = now()

    # -- the port

    def address(self, name: str) -> str:
        if not self._lines:
            return ""
        ear = ear_of(self._client, self._identity, name, keeps=self._keeps)
        line = self._lines.get(ear.node) if ear else None
        return line.addresses.get(ear.channel, "") if ear and line else ""

    async def open(self, name: str, until: float) -> str:
        # A task of its own: whoever gives up, or is cancelled, leaves it to the others.
        opening = self._openings.get(name)
        if opening is None:
            if address := self.address(name):
                return address
            if now() < self._not_before:
                return ""
            opening = self._openings[name] = life().spawn(self._open(name))
            opening.add_done_callback(partial(self._opened, name))
        await asyncio.wait([opening], timeout=None if until == math.inf else max(0.0, until - now()))
        if opening.done() and not opening.cancelled():
            opening.result()
        return self.address(name)

    def _opened(self, name: str, opening: asyncio.Task[None]) -> None:
        del self._openings[name]
        if not opening.cancelled():
            opening.exception()  # taken note of: perhaps nobody waits for it any more

    async def _open(self, name: str) -> None:
        async with self._opening:
            if self.address(name) or now() < self._not_before:
                return
            ear = ear_of(self._client, self._identity, name, keeps=self._keeps)
            if ear is None:
                if asks_again(self._client, keeps=self._keeps):
                    self._told.asks_again(str(self._store))
                return
            try:
                address = await self._subscribe(ear)
                await self._check(name, address)
            except BaseException as error:
                await self._leave(ear)  # whoever may not publish cannot be handed anything, either
                if not isinstance(error, exceptions.RedisError | OSError | CoordError):
                    raise
                self._told.say(str(self._store), error)
                self._not_before = now() + AGAIN  # from now on: those behind us need not wait for the same silence

    def expect(self, holder: str, address: str) -> Box:
        box = Box(address)
        self._boxes.add(holder, box)
        return box

    def forget(self, holder: str, stray: Callable[[], None] | None) -> None:
        self._boxes.remove(holder, stray)
        self._used = now()

    async def receive(self, holder: str, until: float) -> str | None:
        box = self._boxes[holder]
        while not box.messages and (left := until - now()) > 0:
            if box.address not in self._by_address:
                return BROKEN
            await box.wait(left)
        return box.messages.popleft() if box.messages else None

    # -- reading

    async def _read(self, line: Line) -> None:
        try:
            while True:
                try:
                    reply = await line.connection.read_response(disable_decoding=True)
                except exceptions.ResponseError as error:
                    refuse(line.asked, error)
                else:
                    self._dispatch(line, reply)
                line.heard = now()
        except (exceptions.RedisError, OSError):
            pass  # it broke; whoever waits is told so
        finally:
            await self._broken(line)

    def _dispatch(self, line: Line, reply: Any) -> None:
        kind, channel, data = understood(reply)
        if kind == "message":
            self._boxes.deliver(data)
        elif kind == "subscribed" and (waiting := line.asked.pop(channel, None)) is not None:
            line.addresses[channel] = waiting.address
            self._by_address[waiting.address] = line
            waiting.messages.append("subscribed")
            waiting.ring()
        elif kind == "unsubscribed" and (address := line.addresses.pop(channel, None)) is not None:
            self._by_address.pop(address, None)  # its slot was moved to another node
            self._boxes.broken(address)

    async def _watch(self, line: Line) -> None:
        """Ask a quiet line whether it is alive, and close one that nobody uses."""
        while self._lines.get(line.node) is line:
            await asyncio.sleep(QUIET)
            quiet = now() - line.heard
            if (not len(self._boxes) and now() - self._used > _redis.IDLE) or quiet > QUIET + line.patience:
                await self._broken(line)
            elif quiet > QUIET / 2:
                with contextlib.suppress(exceptions.RedisError, OSError):
                    await line.send("PING")

    # -- lines

    async def _subscribe(self, ear: Ear) -> str:
        refusal: Exception = exceptions.ConnectionError("no way to subscribe")
        for publish, subscribe in ear.verbs:
            line = self._lines.get(ear.node) or await self._connect(ear)
            await self._thin_out(line)
            box = line.asked[ear.channel] = Box(f"{publish} {ear.channel}")
            await line.send(subscribe, ear.channel)
            if not box.messages:
                await box.wait(line.patience)
            if not box.messages:
                await self._broken(line)
                raise exceptions.TimeoutError(f"no subscription within {line.patience} s")
            if box.messages[0] == BROKEN:
                raise exceptions.ConnectionError("the connection broke while it was subscribed")
            if box.refusal is None:
                return box.address
            refusal = box.refusal
            if _redis.is_silence(refusal):
                break  # the slot was moved; else the server knows no sharded channels, or the user may not have them
        raise refusal

    async def _thin_out(self, line: Line) -> None:
        if len(line.addresses) >= MANY:
            waited_at = self._boxes.addresses()
            for channel, address in list(line.addresses.items()):
                if address not in waited_at:
                    await self._unsubscribe(line, channel, address)

    async def _leave(self, ear: Ear) -> None:
        """Undo a subscription that is of no use; and the connection, if it has no other."""
        line = self._lines.get(ear.node)
        if line is None:
            return
        box = line.asked.pop(ear.channel, None)
        address = line.addresses.get(ear.channel, box.address if box else "")
        if not line.addresses or list(line.addresses) == [ear.channel]:
            await self._broken(line)
        elif address:
            with contextlib.suppress(exceptions.RedisError, OSError):  # the reader will notice
                await self._unsubscribe(line, ear.channel, address)

    async def _unsubscribe(self, line: Line, channel: str, address: str) -> None:
        line.addresses.pop(channel, None)
        self._by_address.pop(address, None)
        self._boxes.broken(address)  # somebody may have come just now
        await line.send(*leaving(address))

    async def _check(self, name: str, address: str) -> None:
        verb, channel = address.split(" ", 1)
        heard = await self._store.run(name, Call(_CHECK, (f"coordkit:1:{{{name}}}:lock".encode(),), (verb, channel)))
        if not heard:
            kind = exceptions.ResponseError if self._keeps else exceptions.ConnectionError  # its slot has just moved
            raise kind("published to it, and nobody heard")

    async def _connect(self, ear: Ear) -> Line:
        kwargs = _redis.recipe(ear.pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        patience = kwargs["socket_timeout"]
        # What is pushed comes as plain lists, whatever the version of the client; and it may be long in coming.
        connection = await connect(ear.pool, patience, protocol=2, decode_responses=False)
        line = self._lines[ear.node] = Line(ear.node, connection, patience)
        line.reader = life().spawn(self._read(line))
        life().spawn(self._watch(line))
        return line

    async def _broken(self, line: Line) -> None:
        if self._lines.get(line.node) is not line:
            return
        del self._lines[line.node]
        for address in line.addresses.values():
            self._by_address.pop(address, None)
            self._boxes.broken(address)
        for box in line.asked.values():
            box.messages.append(BROKEN)
            box.ring()
        if line.reader is not None and line.reader is not asyncio.current_task():
            line.reader.cancel()
        await hang_up(line.connection)
