"""The subscribed connections of an inbox, blocking: each is read, by turns, by one of the threads that wait on it.

There is no thread of its own: whoever waits and finds nobody reading reads, for all, until its own message has come or
its time is up, and then rings another. So a grant wakes the very thread it is for.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from redis import exceptions

from coordkit import _redis, _redis_answers
from coordkit._inbox import MANY, MESSAGES, QUIET, Boxes, Ear, leaving, refuse, understood
from coordkit._ports import BROKEN
from coordkit._threads.connection import bounded, connection_of
from coordkit._threads.line import Box, Line
from coordkit._threads.runtime import RUNTIME, now, weakly


def seconds_left(until: float) -> float:
    """Return the seconds until then, a few at least: 0 would mean no bound to a socket."""
    return max(0.005, until - now())


def _hang_up(lines: dict[str, Line]) -> None:
    for line in lines.values():
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()


class InboxLines:
    """The lines of one inbox, by which its boxes get their messages."""

    def __init__(self, boxes: Boxes[Box]) -> None:
        self.by_node: dict[str, Line] = {}
        self._boxes = boxes
        self._by_address: dict[str, Line] = {}
        self._sweeping = False
        self._end = weakref.finalize(self, _hang_up, self.by_node)  # as of `Lines`
        self._end.atexit = False

    def forget(self) -> None:
        """Hang up nothing any more: in a forked child the sockets are its parent's."""
        self._end.detach()

    def close(self) -> None:
        """Hang up, unless somebody waits for a message."""
        if not len(self._boxes):
            for line in list(self.by_node.values()):
                self._broken(line)

    def any_address(self) -> str:
        """Return where the one line listens that there is; "" if it does not."""
        line = next(iter(self.by_node.values()), None)
        return next(iter(line.addresses.values()), "") if line is not None and self._alive(line) else ""

    def address_of(self, ear: Ear) -> str:
        """Return the address of an ear; "" if nothing is heard there."""
        line = self.by_node.get(ear.node)
        if line is None or not self._alive(line):
            return ""
        return line.addresses.get(ear.channel, "")

    def left(self, box: Box) -> None:
        """Take note that nobody waits with a box any more."""
        if line := self._by_address.get(box.address):
            self._pass_on(line, box)
            line.used = now()
            if not self._sweeping:
                self._sweeping = True
                RUNTIME.call_at(line.used + _redis.IDLE, weakly(self._sweep))

    # -- reading, by turns

    def wait(self, box: Box, until: float) -> None:
        """Return when a box has a message, or at ``until``."""
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

    def subscribe(self, ear: Ear, until: float) -> str:
        """Subscribe to what an ear hears; return its address. Raise redis-py's errors."""
        refusal: Exception = exceptions.ConnectionError("no way to subscribe")
        for publish, subscribe in ear.verbs:
            line = self.by_node.get(ear.node)
            if line is None or not self._alive(line):
                line = self.by_node[ear.node] = self._connect(ear, until)
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
            if _redis_answers.is_silence(refusal):
                break  # the slot was moved; else the server knows no sharded channels, or the user may not have them
        raise refusal

    def _thin_out(self, line: Line) -> None:
        if len(line.addresses) >= MANY:
            waited_at = self._boxes.addresses()
            for channel, address in list(line.addresses.items()):
                if address not in waited_at:
                    self._unsubscribe(line, channel, address)

    def leave(self, ear: Ear) -> None:
        """Undo a subscription that is of no use; and the connection, if it has no other."""
        line = self.by_node.get(ear.node)
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

    def _connect(self, ear: Ear, until: float) -> Line:
        patience = bounded(ear.pool)["socket_timeout"]
        # What is pushed comes as lists of bytes, whatever the client.
        connection = connection_of(ear.pool, seconds_left(until), protocol=2, decode_responses=False)
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
        if self.by_node.get(line.node) is line:
            del self.by_node[line.node]
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()
        for address in [*line.addresses.values(), *(box.address for box in line.asked.values())]:
            self._by_address.pop(address, None)
            self._boxes.broken(address)
        for box in line.asked.values():
            box.messages.append(BROKEN)
            box.ring()

    def _sweep(self) -> None:
        used = max((line.used for line in self.by_node.values()), default=0.0)
        if len(self._boxes) or now() < used + _redis.IDLE:
            RUNTIME.call_at(now() + _redis.IDLE, weakly(self._sweep))
            return
        self._sweeping = False
        self.close()
