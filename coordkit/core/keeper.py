"""Renew what is held, and give back what is no longer wanted: the background work of one client.

One keeper per client; its workers (threads, or tasks) live only while something is due. What is due together goes to
the server in one pipeline, so that a thousand leases cost a few round trips, and a stalled server delays no other's.

A worker waits for one answer at a time, so leases share one only if they may wait about equally long, within a factor
of two. Else those with a long ttl would keep one with a short ttl waiting for the answer of a dead connection, or that
one would have their pipeline given up before its answer can come.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from coordkit._ports import Runtime
from coordkit.core.grantor import Grantor
from coordkit.core.rounds import Asked, Rounds, urgency
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.lease import Lease

_log = logging.getLogger("coordkit")

LOOK_AGAIN = (0.1, 1.0)
"""Seconds after which what was not there is looked for again: a request that its sender gave up may overtake nothing,
but it may be overtaken, by our giving back over another connection."""


_LOST = 1.0  # seconds: a timer as late as this went with its event loop, or was the parent's of this process

LOOK_AFTER = 10.0
"""Seconds for which a claim that ended is asked about, if no answer comes; by then those who wait ask by themselves."""


_PATIENT = 0.4
"""The part of its urgency for which a lease waits for a round that is under way: more than such a round's own third,
lest equals that fall due with it go apart."""

_LEAST = 0.01  # seconds; there are no rounds for what is more urgent than that

_FIRST = 0.01  # seconds before what was not given back is tried again; doubled each time


class Unwanted(NamedTuple):
    """A holder id that may have been granted something that nobody will use."""

    grantor: Grantor
    holder: str
    entry: str  # in the queue, or ""
    until: float
    pause: float = _FIRST
    looked: int = 0


class Keeper:
    """Renews the leases of one client in batches, and gives back what was left."""

    def __init__(self, runtime: Runtime, store: Asked, *, repeats: bool = False) -> None:
        self.repeats = repeats  # whether what is sent may be sent again by the client itself, unseen by us
        self._runtime = runtime
        self._store = store
        self._rounds: dict[int, Rounds] = {}  # by the power of two that their urgency is below
        self._unwanted: deque[Unwanted] = deque()
        self.claimed: dict[
            str, tuple[float, float]
        ] = {}  # by key: when the last claim that we handed on ends, and when a timer looks
        # A worker of its own: a server that does not answer a give-back must not keep leases from being renewed.
        self._returning = runtime.worker(self._return)

    def renew(self, lease: Lease) -> None:
        """Renew ``lease`` in the next round of what is as urgent, or of what is more so, if that one comes too late."""
        urgent = urgency(lease)
        _, place = math.frexp(max(urgent, _LEAST))
        latest = self._runtime.now() + urgent * _PATIENT
        while (rounds := self._rounds_at(place)).until > latest:
            place -= 1
        rounds.renew(lease)

    def _rounds_at(self, place: int) -> Rounds:
        rounds = self._rounds.get(place)
        return rounds or self._rounds.setdefault(place, Rounds(self._runtime, self._store, self.renew))

    def give_back(self, grantor: Grantor, holder: str, entry: str = "", *, until: float) -> None:
        """Revoke whatever ``holder`` may have got, until an answer comes or the ttl has ended it (at ``until``)."""
        self._later(Unwanted(grantor, holder, entry, until), 0.0)

    def look_after(self, grantor: Grantor, claim: float) -> None:
        """See to what was handed on, for ``claim`` seconds, to somebody who may be unable to take it.

        Who hands on often looks seldom: once no claim of ours may be open any more.
        """
        present = self._runtime.now()
        ends = present + claim * 1.02 + 0.005
        _, looks = self.claimed.get(grantor.key, (0.0, -math.inf))
        if looks + _LOST < present:
            looks = ends
            self._runtime.call_at(ends, lambda: self._look_after(grantor))
        self.claimed[grantor.key] = ends, looks

    def _look_after(self, grantor: Grantor) -> None:
        present = self._runtime.now()
        ends, _ = self.claimed.get(grantor.key, (math.inf, 0.0))
        if ends == math.inf:
            return  # another timer has seen to it, while this one was late
        if present < ends:
            self.claimed[grantor.key] = ends, ends
            self._runtime.call_at(ends, lambda: self._look_after(grantor))
            return
        del self.claimed[grantor.key]
        self._later(Unwanted(grantor, "-", "", present + LOOK_AFTER, looked=len(LOOK_AGAIN)), 0.0)

    # -- giving back

    def _later(self, unwanted: Unwanted, delay: float) -> None:
        def now() -> None:
            self._unwanted.append(unwanted)
            self._returning.poke()

        if delay:
            self._runtime.call_at(self._runtime.now() + delay, now)
        else:
            now()

    async def _return(self) -> None:
        while self._unwanted:
            await self._revoke(self._unwanted.popleft())

    async def _revoke(self, unwanted: Unwanted) -> None:
        if self._runtime.now() >= unwanted.until:
            return  # its ttl has ended it
        try:
            await unwanted.grantor.revoke(unwanted.holder, unwanted.entry)
        except (StoreUnavailable, StoreRefused) as error:
            if isinstance(error, StoreRefused) and unwanted.pause == _FIRST:  # most refusals pass: BUSY, READONLY
                _log.warning(
                    "%s: not given back yet, tried again until its ttl ends it: %s", unwanted.grantor.name, error
                )
            self._later(unwanted._replace(pause=min(unwanted.pause * 2, 1.0)), unwanted.pause)
        except CoordError as error:
            _log.warning("%s: could not be given back, it ends with its ttl: %s", unwanted.grantor.name, error)
        else:
            # Also if something was given back: that may have been handed to it, and its own request be under way yet.
            if unwanted.looked < len(LOOK_AGAIN):
                self._later(unwanted._replace(looked=unwanted.looked + 1), LOOK_AGAIN[unwanted.looked])
