"""The subscribed connections of an inbox, asyncio: each is read by one task.

The tasks know the inbox weakly: what only waits for a server keeps no client. When nobody has the inbox any more, its
connections end, and the tasks with them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from weakref import finalize, ref

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis, _redis_answers
from coordkit._asyncio.line import Box, Line
from coordkit._asyncio.lines import connect
from coordkit._asyncio.runtime import end_in, life
from coordkit._inbox import MANY, QUIET, Boxes, Ear, leaving, refuse, understood
from coordkit._ports import BROKEN
from coordkit._threads.runtime import now


class _Left:
    """The lines that an inbox had."""

    def __init__(self, by_node: dict[str, Line]) -> None:
        self._by_node = by_node

    async def close(self) -> None:
        for line in list(self._by_node.values()):
            await line.close()


async def _read(known: ref[InboxLines], line: Line) -> None:
    try:
        while True:
            try:
                reply = await line.connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except exceptions.ResponseError as error:
                refuse(line.asked, error)
            else:
                if (lines := known()) is None:
                    return
                lines.dispatch(line, reply)
                del lines
            line.heard = now()
    except GeneratorExit:
        raise  # its loop was closed by hand: nothing can be awaited any more
    except BaseException as error:
        if (lines := known()) is not None:
            await lines.broken(line)  # whoever waits is told so
        if not isinstance(error, exceptions.RedisError | OSError):
            raise


async def _watch(known: ref[InboxLines], line: Line) -> None:
    """Ask a quiet line whether it is alive, and close one that nobody uses."""
    while True:
        await asyncio.sleep(QUIET)
        lines = known()
        if lines is None or lines.by_node.get(line.node) is not line:
            return
        await lines.look_at(line)
        del lines


class InboxLines:
    """The lines of one inbox, by which its boxes get their messages."""

    def __init__(self, boxes: Boxes[Box]) -> None:
        self.by_node: dict[str, Line] = {}
        self.used = now()
        self._boxes = boxes
        self._by_address: dict[str, Line] = {}
        finalize(self, end_in, ref(asyncio.get_running_loop()), _Left(self.by_node)).atexit = False

    async def close(self) -> None:
        """Hang up, unless somebody waits for a message."""
        if not len(self._boxes):
            for line in list(self.by_node.values()):
                await self.broken(line)

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

    def dispatch(self, line: Line, reply: Any) -> None:
        """Tell whoever it is for what came over a line."""
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

    async def look_at(self, line: Line) -> None:
        """Close a line that is dead, or that nobody uses; ask a quiet one whether it is alive."""
        quiet = now() - line.heard
        if (not len(self._boxes) and now() - self.used > _redis.IDLE) or quiet > QUIET + line.patience:
            await self.broken(line)
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
                await self.broken(line)
                raise exceptions.TimeoutError(f"no subscription within {line.patience} s")
            if box.messages[0] == BROKEN:
                raise exceptions.ConnectionError("the connection broke while it was subscribed")
            if box.refusal is None:
                return box.address
            refusal = box.refusal
            if _redis_answers.is_silence(refusal):
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
            await self.broken(line)
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
        line.tasks += (life().spawn(_read(ref(self), line)), life().spawn(_watch(ref(self), line)))
        return line

    async def broken(self, line: Line) -> None:
        """Close a line, and tell whoever waits on it."""
        if self.by_node.get(line.node) is not line:
            return
        del self.by_node[line.node]
        for address in line.addresses.values():
            self._by_address.pop(address, None)
            self._boxes.broken(address)
        for box in line.asked.values():
            box.messages.append(BROKEN)
            box.ring()
        await line.close()
