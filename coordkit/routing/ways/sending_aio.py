"""One batch over one kept connection to a shard, asyncio."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from redis.exceptions import ResponseError

from coordkit._asyncio.wire import FastWire, Wire
from coordkit.errors import CoordError
from coordkit.routing.ways.batch import Batch, Delivery
from coordkit.routing.ways.connections_aio import Connections
from coordkit.routing.ways.errors import NO_ANSWER
from coordkit.routing.ways.replies import QUICK
from coordkit.routing.ways.waits import waits

_FEW = 128  # commands of a batch, and
_LITTLE = 65536  # bytes of it, that others on a shared connection can wait for


class Sending(Delivery):
    """One batch over one connection: the shared one, if all of it is answered at once."""

    def __init__(self, connections: Connections, batch: Batch, *, transaction: bool, decided: int) -> None:
        super().__init__(connections.name, connections._client, batch, transaction=transaction)  # noqa: SLF001  they are one
        self._connections = connections
        self._decided = decided
        self._undecoded = self._quick = self._little = False
        self._shared: FastWire | None = None
        self._request: asyncio.Future[list[Any]] | None = None
        self._own: Wire | None = None
        self._may_wait = not transaction and waits(batch)
        self._waits = False  # its connection is known to

    def take_now(self) -> bool:
        """Pack the batch, so that nothing is sent anywhere if an argument cannot be; return whether `take` is done."""
        connections, batch = self._connections, self._batch
        self._packed = connections.packed(self._words())
        self._undecoded = self._is_undecoded()
        self._quick = not self._behind and QUICK.issuperset([args[0] for args, _ in batch])
        self._little = self._quick and len(batch) <= _FEW and len(self._packed) <= _LITTLE and not self._undecoded
        try:
            self._shared = connections.shared_now(self._decided) if self._little else None
        except CoordError as error:
            self._stands(error)
            return True
        return self._shared is not None

    async def take(self) -> None:
        """Take a connection."""
        connections = self._connections
        try:
            if self._little:
                self._shared = await connections.shared(self._decided)
            if self._shared is None:
                self._own = await connections.take(self._decided)
                if self._may_wait:
                    connections.waits.begin(self._own, self._decided)
                    self._waits = True
        except CoordError as error:
            self._stands(error)
        except (ResponseError, *NO_ANSWER) as error:
            self._fail(error)

    def begin(self) -> bool:
        """Send the batch, and return whether `speak` need only `finish`."""
        if self._shared is not None:
            self._sent = True
            self._request = self._connections.begin(self._shared, self._packed, self._owed)
        return self._own is None

    async def speak(self) -> None:
        """Send the batch unless it is sent, and read the replies."""
        shared, request, own, came = self._shared, self._request, self._own, list[Any]()
        self._request = self._own = None  # the connections take it back
        try:
            if shared is not None and request is not None:
                replies = await self._connections.end(shared, request, came)
            elif own is not None:
                self._sent = True
                replies = await self._connections.ask_alone(
                    own,
                    self._packed,
                    self._owed,
                    came,
                    undecoded=self._undecoded,
                    quick=self._quick,
                    longer=self._longer,
                )
            else:
                return
        except NO_ANSWER as error:
            self._parse(self._decoded(came) if self._undecoded else came)
            self._fail(error)
            return
        finally:
            self._wait_no_more(own)
        self._parse(self._decoded(replies) if self._undecoded else replies)

    def _wait_no_more(self, own: Wire | None) -> None:
        if self._waits and own is not None:
            self._waits = False
            self._connections.waits.over(own)

    async def awaited_replies(self) -> list[Any]:
        replies = self._unjudged()
        if self._called:
            replies = [await reply if inspect.isawaitable(reply) else reply for reply in replies]
        return self._judged(replies)

    async def give_back(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            self._wait_no_more(own)
            self._connections.give_back(own)
        if self._request is not None and not self._request.cancel() and not self._request.cancelled():
            self._request.exception()  # seen, by nobody who cares


async def exchanged(delivery: Any) -> list[Any]:
    """Send one batch by its delivery; return the reply to each command, or an error in its place."""
    try:
        if not delivery.take_now():
            await delivery.take()
        delivery.begin()
        await delivery.speak()
    finally:
        await delivery.give_back()
    replies: list[Any] = await delivery.awaited_replies()
    return replies
