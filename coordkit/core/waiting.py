"""A contender's place in a queue, and what it hears there.

The server hands a lock on in the script that gives it back, and tells the next holder over the client's inbox. Such a
grant is a *claim*: short, until the first renewal makes it a whole lease, so that a waiter that died costs a claim and
not a ttl. Messages may be lost and waiters may be dead, so nobody relies on being told: a waiter asks again, and keeps
its place,

- when its inbox broke,
- when the lease that is ahead would have ended; those further back later, a claim for each that came before,
- when a claim that it was told of would have ended.

The receiver of a grant sent no request that its lease could be counted from. It counts from what it does know: its own
clock when it queued up, and how long ago that was by the server's clock when the grant was made.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from coordkit._ports import BROKEN, Inbox, Runtime
from coordkit.core.grantor import Grantor, Queued, Refused, Spot
from coordkit.core.lease import DRIFT
from coordkit.core.token import Token

CLAIM = 1.0
"""Seconds a grant lasts that nobody asked for just now, until it is renewed."""

LOOK = 30.0
"""Seconds after which whoever waits asks again in any case."""

_MARGIN = 0.002  # seconds: a server expires keys by the millisecond


def claim_of(ttl: float) -> float:
    """Return how long a lease of ``ttl`` seconds lasts before it is renewed first, if it was handed on."""
    return min(ttl, CLAIM)


class HandedOn(NamedTuple):
    """A grant that came unasked: valid from ``asked`` (our clock) for ``span`` seconds."""

    token: int
    slot: int | None
    asked: float
    span: float


class Waiting:
    """One contender's wait. Its ``spot`` goes with every ask; without one it is not in the queue.

    ``address`` is where we listen already, if we do.
    """

    def __init__(self, runtime: Runtime, grantor: Grantor, holder: str, ttl: float, address: str = "") -> None:
        self.spot: Spot | None = None
        self._runtime = runtime
        self._grantor = grantor
        self._holder = holder
        self._ttl = ttl
        self._place = ""
        self._ear: object = None
        self._deaf = 0  # how often in a row the server said that nobody listens where we do
        self._inbox: Inbox | None = grantor.inbox()
        if self._inbox is not None and address:
            self._stand(self._inbox, address)

    def _stand(self, inbox: Inbox, address: str) -> None:
        self._ear = inbox.expect(self._holder, address)
        self.spot = Spot(self._grantor.entry(self._holder, self._ttl, address), self._place)

    def _stray(self) -> None:
        """Give back what was granted to us after we had left."""
        until = self._runtime.now() + self._ttl
        self._grantor.keeper.give_back(self._grantor, self._holder, until=until)

    def over(self, *, won: bool) -> None:
        """Listen no more; a grant that comes yet is given back, unless what it is for was ``won`` already."""
        if self._inbox is not None and self.spot is not None:
            self._inbox.forget(self._holder, None if won else self._stray)
            self.spot = None

    async def queue_up(self, until: float) -> bool:
        """Listen, and be ready to take a place with the next ask; return False where it cannot be had by ``until``."""
        self.over(won=True)  # for now: the next ask says so if we have been granted it meanwhile
        inbox = self._inbox
        if inbox is None or self._deaf > 1 or not (address := await inbox.open(self._grantor.name, until)):
            return False
        self._stand(inbox, address)
        return True

    async def told(self, refused: Refused, asked: float, until: float) -> HandedOn | None:
        """Wait for the grant; return None when it is time to ask again, or ``until`` has come."""
        inbox, queued = self._inbox, refused.queued
        if inbox is None or self.spot is None or queued is None:
            return None
        self.spot.place = self._place = queued.place
        if not queued.heard:  # whoever hands it on would take us for dead
            self._deaf += 1
            await self.queue_up(until)
            return None
        # A longer rest than our own ttl may be shorter by now: the server's clock was set back, and the holder renewed.
        left = LOOK / 30 if refused.left == math.inf else min(refused.left, max(self._ttl, CLAIM))
        ask_again = asked + min(LOOK, left + queued.ahead * CLAIM + _MARGIN)
        while True:
            message = await inbox.receive(self._holder, min(ask_again, until))
            if message is None:
                return None
            if message == BROKEN:
                await self.queue_up(until)
                return None
            self._deaf = 0
            what, *rest = message.split(" ")
            if what == "grant":
                return self._handed_on(queued, asked, *rest)
            if what == "next":
                ask_again = min(ask_again, self._runtime.now() + int(rest[0]) / 1000 + _MARGIN)

    def _handed_on(self, queued: Queued, asked: float, *grant: str) -> HandedOn:
        number, at, slot, *by = grant
        # Our server may run at most DRIFT faster than we do; a clock that was set back makes us count on less.
        since = (int(at) - queued.at) / 1e6 * (1 - DRIFT)
        counted = min(asked + since, self._runtime.now())
        token = Token(int(number), by[0]) if by else int(number)
        return HandedOn(token, None if slot == "-" else int(slot), counted, claim_of(self._ttl))
