"""One batch over one kept connection to a shard, blocking."""

from __future__ import annotations

import math
from typing import Any

from redis.exceptions import ResponseError

from coordkit._threads.runtime import now
from coordkit._threads.wire import Wire
from coordkit.errors import CoordError
from coordkit.routing.ways.batch import Batch, Delivery
from coordkit.routing.ways.connections import Connections
from coordkit.routing.ways.errors import NO_ANSWER
from coordkit.routing.ways.replies import QUICK
from coordkit.routing.ways.waits import waits

_PROMPT = 0.05  # seconds within which a reply that is there is read for certain


class Sending(Delivery):
    """One batch over one kept connection."""

    def __init__(self, connections: Connections, batch: Batch, *, transaction: bool, decided: int) -> None:
        super().__init__(connections.name, connections._client, batch, transaction=transaction)  # noqa: SLF001  they are one
        self._connections = connections
        self._decided = decided
        self._wire: Wire | None = None
        self._may_wait = not transaction and waits(batch)
        self._waits = False  # its connection is known to

    def take(self) -> None:
        """Pack the batch, so that nothing is sent anywhere if an argument cannot be; then take a connection."""
        self._packed = self._connections.packed(self._words())
        try:
            self._wire = self._connections.take(self._decided)
            if self._may_wait:
                self._connections.waits.begin(self._wire, self._decided)
                self._waits = True
        except CoordError as error:
            self._stands(error)
        except (ResponseError, *NO_ANSWER) as error:
            self._fail(error)

    def send(self) -> None:
        wire = self._wire
        if wire is None:
            return
        self._sent, self._in_step = True, False
        try:
            if self._longer:
                wire.bound(wire.patience + self._longer)
            wire.send(self._packed)
        except NO_ANSWER as error:
            self._lost(wire, error)

    def read(self, began: float = math.inf) -> None:
        """Read the replies; all that were asked at ``began`` together are waited for no longer than one would be."""
        wire = self._wire
        if wire is None:  # it failed already
            return
        spent = now() - began
        if spent > _PROMPT:
            wire.bound(max(_PROMPT, wire.patience - spent) + self._longer)
        replies: list[Any] = []
        undecoded = self._is_undecoded()
        try:
            wire.read_into(replies, self._owed, decoding=not undecoded)
            self._in_step = True
        except NO_ANSWER as error:
            self._parse(self._decoded(replies) if undecoded else replies)
            self._lost(wire, error)
            return
        if spent > _PROMPT:
            wire.bound(wire.patience)
        self._connections.heard()
        self._parse(self._decoded(replies) if undecoded else replies)

    def give_back(self) -> None:
        wire, self._wire = self._wire, None
        if wire is None:
            return
        self._wait_no_more(wire)
        if self._in_step:
            self._connections.give_back(wire, bounded=bool(self._longer))
        else:  # replies that nobody will read must not be taken for those of the next command
            self._connections.abandon(wire)

    def _wait_no_more(self, wire: Wire) -> None:
        if self._waits:
            self._waits = False
            self._connections.waits.over(wire)

    def _lost(self, wire: Wire, error: Exception) -> None:
        self._wire = None
        self._wait_no_more(wire)
        quick = not self._behind and all(args[0] in QUICK for args, _ in self._batch)
        self._stands(self._connections.lost(wire, error, quick=quick))


def exchanged(delivery: Any) -> list[Any]:
    """Send one batch by its delivery; return the reply to each command, or an error in its place."""
    try:
        delivery.take()
        delivery.send()
        delivery.read()
    finally:
        delivery.give_back()
    replies: list[Any] = delivery.replies()
    return replies
