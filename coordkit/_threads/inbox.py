"""The inbox of the blocking flavour: one subscribed connection, read by one of the threads that wait.

There is no thread of its own: whoever waits and finds nobody reading reads, for all, until its own message has come or
its time is up, and then rings another. So a grant wakes the very thread it is for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit import _redis
from coordkit._inbox import (
    AGAIN,
    MANY,
    MESSAGES,
    QUIET,
    Boxes,
    Ear,
    Told,
    asks_again,
    ear_of,
    leaving,
    refuse,
    understood,
)
from coordkit._ports import BROKEN, Call
from coordkit._threads.line import Box, Line
from coordkit._threads.runtime import RUNTIME, now, weakly
from coordkit._threads.turns import Turns
from coordkit.errors import CoordError
from coordkit.scripts import load

if TYPE_CHECKING:
    from coordkit._threads.redis import RedisStore

_CHECK = load("inbox_check")


def _left(until: float) -> float:
    """Return the seconds until then, a few at least: 0 would mean no bound to a socket."""
    return max(0.005, until - now())


def _hang_up(lines: dict[str, Line]) -> None:
    for line in lines.values():
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()


class Inbox:
    """Where the threads of one client that wait for locks hear of their grants."""

    def __init__(self, store: RedisStore, client: Any, *, keeps: bool) -> None:
        self._store = store
        self._client = client
        self._keeps = keeps
        self._told = Told()
        self._end: weakref.finalize[[dict[str, Line]], Inbox] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything: a forked child inherits sockets that are its parent's."""
        if self._end is not None:
            self._end.detach()
        self._process = os.getpid()
        self._identity = secrets.token_hex(8)
        self._boxes: Boxes[Box] = Boxes()
        self._lines: dict[str, Line] = {}  # by node
        self._end = weakref.finalize(self, _hang_up, self._lines)  # as of `Lines`
        self._end.atexit = False
        self._by_address: dict[str, Line] = {}
        self._opening = Turns()
        self._not_before = 0.0
        self._sweeping = False

    # -- the port

    def address(self, name: str) -> str:
        if not self._lines:
            return ""
        if os.getpid() != self._process:
            self.reset()
            return ""
        if self._keeps:  # one line, one address
            line = next(iter(self._lines.values()), None)
            return next(iter(line.addresses.values()), "") if line is not None and self._alive(line) else ""
        ear = ear_of(self._client, self._identity, name, keeps=False)
        line = self._lines.get(ear.node) if ear else None
        if ear is None or line is None or not self._alive(line):
            return ""
        return line.addresses.get(ear.channel, "")

    async def open(self, name: str, until: float) -> str:
        if os.getpid() != self._process:
            self.reset()  # before its lock: a thread of the parent's may have had that
        while (turn := self._opening.take()) is None:
            if (left := until - now()) <= 0:
                return ""
            self._opening.wait(left)
        try:
            return await self._open(name, until)
        finally:
            self._opening.end(turn)

    async def _open(self, name: str, until: float) -> str:
        began = now()
        if address := self.address(name):
            return address
        if began < self._not_before or began >= until:
            return ""
        ear = ear_of(self._client, self._identity, name, keeps=self._keeps)
        if ear is None:
            if asks_again(self._client, keeps=self._keeps):
                self._told.asks_again(str(self._store))
            return ""
        try:
            address = self._subscribe(ear, until)
            await self._check(name, address, until)
        except BaseException as error:
            self._leave(ear)  # whoever may not publish cannot be handed anything, either
            if not isinstance(error, exceptions.RedisError | OSError | CoordError):
                raise
            if (present := now()) < until or present - began > AGAIN:  # else it may only have been in a hurry
                self._told.say(str(self._store), error)
                self._not_before = present + AGAIN  # those behind us need not wait for the same silence
            return ""
        return address

    def expect(self, holder: str, address: str) -> Box:
        box = Box(address)
        self._boxes.add(holder, box)
        return box

    def forget(self, holder: str, stray: Callable[[], None] | None) -> None:
        if os.getpid() != self._process:
            return
        box = self._boxes.by_holder.get(holder)
        self._boxes.remove(holder, stray)
        if box is not None and (line := self._by_address.get(box.address)):
            self._pass_on(line, box)
            line.used = now()
            if not self._sweeping:
                self._sweeping = True
                RUNTIME.call_at(line.used + _redis.IDLE, weakly(self._sweep))

    async def receive(self, holder: str, until: float) -> str | None:
        box = self._boxes.by_holder[holder]
        self._await(box, until)
        return box.messages.popleft() if box.messages else None

    # -- reading, by turns

    def _await(self, box: Box, until: float) -> None:
        while not box.messages and (left := until - now()) > 0:
            line = self._by_address.get(box.address)
            if line is None:
                box.messages.append(BROKEN)
            elif (turn := line.reading.take()) is not None:
                try:
                    self._read(line, box, until)
                finally:
                    line.reading.end(turn)
                    self._pass_on(line, box)
            else:
                box.wait(left)

    def _pass_on(self, line: Line, box: Box) -> None:
        """Ring somebody else who waits on this line: nobody may be reading now."""
        other = self._boxes.other_than(box, line.addresses.values())
        if other is not None and not line.reading.taken():
            other.ring()

    def _read(self, line: Line, box: Box, until: float) -> None:
        try:
            while not box.messages and (left := until - now()) > 0:
                if came := line.replies(min(left, QUIET)):
                    self._dispatch(line, came)
                elif now() - line.heard > QUIET + line.patience:
                    self._broken(line)
                elif now() - line.heard > QUIET and not line.pinged:
                    line.pinged = True
                    line.send("PING")
        except BaseException as error:
            self._broken(line)
            if not isinstance(error, exceptions.RedisError | OSError):
                raise

    def _dispatch(self, line: Line, replies: list[Any]) -> None:
        line.heard, line.pinged = now(), False
        for reply in replies:
            if type(reply) is list and len(reply) == 3 and reply[0] in MESSAGES:  # as nearly always
                self._boxes.deliver(reply[2])
            elif isinstance(reply, exceptions.ResponseError):
                refuse(line.asked, reply)
            else:
                self._take(line, *understood(reply))

    def _take(self, line: Line, kind: str, channel: str, data: bytes) -> None:
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

    # -- lines

    def _subscribe(self, ear: Ear, until: float) -> str:
        refusal: Exception = exceptions.ConnectionError("no way to subscribe")
        for publish, subscribe in ear.verbs:
            line = self._lines.get(ear.node)
            if line is None or not self._alive(line):
                line = self._lines[ear.node] = self._connect(ear, until)
            self._thin_out(line)
            box = line.asked[ear.channel] = Box(f"{publish} {ear.channel}")
            try:
                line.send(subscribe, ear.channel)
                self._confirm(line, box, until)
            except BaseException:
                self._broken(line)
                raise
            if not box.messages:
                raise exceptions.TimeoutError("no subscription in the time of whoever wanted it")
            if box.refusal is None:
                return box.address
            refusal = box.refusal
            if _redis.is_silence(refusal):
                break  # the slot was moved; else the server knows no sharded channels, or the user may not have them
        raise refusal

    def _thin_out(self, line: Line) -> None:
        if len(line.addresses) >= MANY:
            waited_at = self._boxes.addresses()
            for channel, address in list(line.addresses.items()):
                if address not in waited_at:
                    self._unsubscribe(line, channel, address)

    def _leave(self, ear: Ear) -> None:
        """Undo a subscription that is of no use; and the connection, if it has no other."""
        line = self._lines.get(ear.node)
        if line is None:
            return
        box = line.asked.pop(ear.channel, None)
        address = line.addresses.get(ear.channel, box.address if box else "")
        if not line.addresses or list(line.addresses) == [ear.channel]:
            self._broken(line)
        elif address:
            with contextlib.suppress(exceptions.RedisError, OSError):  # whoever reads will notice
                self._unsubscribe(line, ear.channel, address)

    def _unsubscribe(self, line: Line, channel: str, address: str) -> None:
        line.addresses.pop(channel, None)
        self._by_address.pop(address, None)
        self._boxes.broken(address)  # somebody may have come just now
        line.send(*leaving(address))

    def _confirm(self, line: Line, box: Box, until: float) -> None:
        deadline = now() + line.patience
        while not box.messages:
            if now() > until:
                return
            if now() > deadline:
                raise exceptions.TimeoutError(f"no subscription within {line.patience} s")
            if (turn := line.reading.take()) is None:
                box.wait(0.1)
                continue
            try:
                self._dispatch(line, line.replies(min(0.1, line.patience)))
            finally:
                line.reading.end(turn)
                self._pass_on(line, box)  # whoever read before us may have left meanwhile, and rung nobody
        if box.messages[0] == BROKEN:
            raise exceptions.ConnectionError("the connection broke while it was subscribed")

    async def _check(self, name: str, address: str, until: float) -> None:
        verb, channel = address.split(" ", 1)
        call = Call(_CHECK, (f"coordkit:1:{{{name}}}:lock".encode(),), (verb, channel))
        [heard] = await self._store.run_many([(name, call)], within=_left(until))
        if isinstance(heard, Exception):
            raise heard
        if not heard:
            kind = exceptions.ResponseError if self._keeps else exceptions.ConnectionError  # its slot has just moved
            raise kind("published to it, and nobody heard")

    def _connect(self, ear: Ear, until: float) -> Line:
        patience = _redis.recipe(ear.pool, Retry(NoBackoff(), 0), redis.Connection)["socket_timeout"]
        kwargs = _redis.recipe(ear.pool, Retry(NoBackoff(), 0), redis.Connection, _left(until))
        kwargs.update(protocol=2, decode_responses=False)  # what is pushed comes as lists of bytes, whatever the client
        connection = ear.pool.connection_class(**kwargs)
        connection.connect()
        return Line(ear.node, connection, patience)

    def _alive(self, line: Line) -> bool:
        """Return whether a line may be used: while nobody reads, its end would go unnoticed."""
        if len(self._boxes) or (turn := line.reading.take()) is None:
            return True
        try:
            while came := line.replies(0):
                self._dispatch(line, came)
        except (exceptions.RedisError, OSError):
            self._broken(line)
            return False
        finally:
            line.reading.end(turn)
        return True

    def _broken(self, line: Line) -> None:
        if self._lines.get(line.node) is line:
            del self._lines[line.node]
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()
        for address in [*line.addresses.values(), *(box.address for box in line.asked.values())]:
            self._by_address.pop(address, None)
            self._boxes.broken(address)
        for box in line.asked.values():
            box.messages.append(BROKEN)
            box.ring()

    def _sweep(self) -> None:
        used = max((line.used for line in self._lines.values()), default=0.0)
        if len(self._boxes) or now() < used + _redis.IDLE:
            RUNTIME.call_at(now() + _redis.IDLE, weakly(self._sweep))
            return
        self._sweeping = False
        for line in list(self._lines.values()):
            self._broken(line)
