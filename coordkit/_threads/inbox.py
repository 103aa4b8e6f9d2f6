"""The inbox of the blocking flavour: where its threads hear of their grants, over the lines of `inbox_lines`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis import exceptions

from coordkit._inbox import AGAIN, Boxes, Told, asks_again, ear_of
from coordkit._ports import Call
from coordkit._threads.inbox_lines import InboxLines, seconds_left
from coordkit._threads.line import Box
from coordkit._threads.runtime import now
from coordkit._threads.turns import Turns
from coordkit.errors import CoordError
from coordkit.scripts import load

if TYPE_CHECKING:
    from coordkit._threads.redis import RedisStore

_CHECK = load("inbox_check")


class Inbox:
    """Where the threads of one client that wait for locks hear of their grants."""

    def __init__(self, store: RedisStore, client: Any, *, keeps: bool) -> None:
        self._store = store
        self._client = client
        self._keeps = keeps
        self._told = Told()
        self._begin()

    def reset(self) -> None:
        """Forget everything: a forked child inherits sockets that are its parent's."""
        self._lines.forget()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._identity = secrets.token_hex(8)
        self._boxes: Boxes[Box] = Boxes()
        self._lines = InboxLines(self._boxes)
        self._opening = Turns()
        self._not_before = 0.0

    def close(self) -> None:
        """Listen no more, unless somebody waits, or is about to; whoever comes next listens anew."""
        if os.getpid() != self._process or (turn := self._opening.take()) is None:
            return
        try:
            self._lines.close()
        finally:
            self._opening.end(turn)

    # -- the port

    def address(self, name: str) -> str:
        if not self._lines.by_node:
            return ""
        if os.getpid() != self._process:
            self.reset()
            return ""
        if self._keeps:  # one line, one address
            return self._lines.any_address()
        ear = ear_of(self._client, self._identity, name, keeps=False)
        return self._lines.address_of(ear) if ear else ""

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
            address = self._lines.subscribe(ear, until)
            await self._check(name, address, until)
        except BaseException as error:
            self._lines.leave(ear)  # whoever may not publish cannot be handed anything, either
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
        if box is not None:
            self._lines.left(box)

    async def receive(self, holder: str, until: float) -> str | None:
        box = self._boxes.by_holder[holder]
        self._lines.wait(box, until)
        return box.messages.popleft() if box.messages else None

    async def _check(self, name: str, address: str, until: float) -> None:
        verb, channel = address.split(" ", 1)
        call = Call(_CHECK, (f"coordkit:1:{{{name}}}:lock".encode(),), (verb, channel))
        [heard] = await self._store.run_many([(name, call)], within=seconds_left(until))
        if isinstance(heard, Exception):
            raise heard
        if not heard:
            kind = exceptions.ResponseError if self._keeps else exceptions.ConnectionError  # its slot has just moved
            raise kind("published to it, and nobody heard")
