"""The subscribed connections of an inbox, asyncio: each is read by one task."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.line import Box, Line
from coordkit._asyncio.lines import connect
from coordkit._asyncio.runtime import life
from coordkit._asyncio.wire import hang_up
from coordkit._inbox import MANY, QUIET, Boxes, Ear, leaving, refuse, understood
from coordkit._ports import BROKEN
from coordkit._threads.runtime import now


class InboxLines:
    """The lines of one inbox, by which its boxes get their messages."""

    def __init__(self, boxes: Boxes[Box]) -> None:
        self.by_node: dict[str, Line] = {}
        self.used = now()
        self._boxes = boxes
        self._by_address: dict[str, Line] = {}

    def address_of(self, ear: Ear) -> str:
        """Return the address of an ear; "" if nothing is heard there."""
        line = self.by_node.get(ear.node)
        return line.addresses.get(ear.channel, "") if line else ""

    async def wait(self, box: Box, until: float) -> None:
        """Return when a box has a message, or at ``until``."""
        while not box.messages and (left := until - now()) > 0:
            if box.address not in self._by_address:
                box.messages.append(BROKEN)
            else:
                await box.wait(left)

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
        while self.by_node.get(line.node) is line:
            await asyncio.sleep(QUIET)
            quiet = now() - line.heard
            if (not len(self._boxes) and now() - self.used > _redis.IDLE) or quiet > QUIET + line.patience:
                await self._broken(line)
            elif quiet > QUIET / 2:
                with contextlib.suppress(exceptions.RedisError, OSError):
                    await line.send("PING")

    # -- lines

    async def subscribe(self, ear: Ear) -> str:
        """Subscribe to what an ear hears; return its address. Raise redis-py's errors."""
        refusal: Exception = exceptions.ConnectionError("no way to subscribe")
        for publish, subscribe in ear.verbs:
            line = self.by_node.get(ear.node) or await self._connect(ear)
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

    async def leave(self, ear: Ear) -> None:
        """Undo a subscription that is of no use; and the connection, if it has no other."""
        line = self.by_node.get(ear.node)
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

    async def _connect(self, ear: Ear) -> Line:
        kwargs = _redis.recipe(ear.pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        patience = kwargs["socket_timeout"]
        # What is pushed comes as plain lists, whatever the version of the client; and it may be long in coming.
        connection = await connect(ear.pool, patience, protocol=2, decode_responses=False)
        line = self.by_node[ear.node] = Line(ear.node, connection, patience)
        line.reader = life().spawn(self._read(line))
        life().spawn(self._watch(line))
        return line

    async def _broken(self, line: Line) -> None:
        if self.by_node.get(line.node) is not line:
            return
        del self.by_node[line.node]
        for address in line.addresses.values():
            self._by_address.pop(address, None)
            self._boxes.broken(address)
        for box in line.asked.values():
            box.messages.append(BROKEN)
            box.ring()
        if line.reader is not None and line.reader is not asyncio.current_task():
            line.reader.cancel()
        await hang_up(line.connection)
