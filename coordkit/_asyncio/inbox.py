"""The inbox of the asyncio flavour, one for each event loop: where tasks hear of their grants, over `inbox_lines`."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions

from coordkit._asyncio.inbox_lines import InboxLines
from coordkit._asyncio.line import Box
from coordkit._asyncio.runtime import life
from coordkit._inbox import AGAIN, Boxes, Told, asks_again, ear_of
from coordkit._ports import Call
from coordkit._threads.runtime import now
from coordkit.errors import CoordError
from coordkit.scripts import load

if TYPE_CHECKING:
    from coordkit._asyncio.redis import RedisStore

_CHECK = load("inbox_check")


class Inbox:
    """Where the tasks of one client that wait for locks, in one event loop, hear of their grants."""

    def __init__(self, store: RedisStore, client: Any, told: Told, *, keeps: bool) -> None:
        self._store = store
        self._client = client
        self._keeps = keeps
        self._told = told
        self._identity = secrets.token_hex(8)
        self._boxes: Boxes[Box] = Boxes()
        self._lines = InboxLines(self._boxes)
        self._opening = asyncio.Lock()
        self._openings: dict[str, asyncio.Task[None]] = {}  # by name
        self._not_before = 0.0

    async def close(self) -> None:
        """Listen no more, unless somebody waits, or is about to; whoever comes next listens anew."""
        if not self._openings:
            await self._lines.close()

    # -- the port

    def address(self, name: str) -> str:
        if not self._lines.by_node:
            return ""
        ear = ear_of(self._client, self._identity, name, keeps=self._keeps)
        return self._lines.address_of(ear) if ear else ""

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
                address = await self._lines.subscribe(ear)
                await self._check(name, address)
            except BaseException as error:
                await self._lines.leave(ear)  # whoever may not publish cannot be handed anything, either
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
        self._lines.used = now()

    async def receive(self, holder: str, until: float) -> str | None:
        box = self._boxes[holder]
        await self._lines.wait(box, until)
        return box.messages.popleft() if box.messages else None

    async def _check(self, name: str, address: str) -> None:
        verb, channel = address.split(" ", 1)
        heard = await self._store.run(name, Call(_CHECK, (f"coordkit:1:{{{name}}}:lock".encode(),), (verb, channel)))
        if not heard:
            kind = exceptions.ResponseError if self._keeps else exceptions.ConnectionError  # its slot has just moved
            raise kind("published to it, and nobody heard")
