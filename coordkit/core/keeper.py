"""Renew what is held, and give back what is no longer wanted: the background work of one client.

One keeper per client; its worker (a thread, or a task) lives only while something is due. What is due together goes to
the server in one pipeline, so that a thousand leases cost a few round trips, and a stalled server delays no other's.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from coordkit._ports import Call, Runtime
from coordkit.core.grantor import Grantor
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.lease import Lease

_log = logging.getLogger("coordkit")

BATCH = 2000
"""Renewals in one pipeline. A server reads 16 KiB of it at a time, so that its other clients wait for some 70."""


LOOK_AGAIN = (0.1, 1.0)
"""Seconds after which what was not there is looked for again: a request that its sender gave up may overtake nothing,
but it may be overtaken, by our giving back over another connection."""


_LOST = 1.0  # seconds: a timer as late as this went with its event loop, or was the parent's of this process

LOOK_AFTER = 10.0
"""Seconds for which a claim that ended is asked about, if no answer comes; by then those who wait ask by themselves."""


_FIRST = 0.01  # seconds before what was not given back is tried again; doubled each time


class Unwanted(NamedTuple):
    """A holder id that may have been granted something that nobody will use."""

    grantor: Grantor
    holder: str
    entry: str  # in the queue, or ""
    until: float
    pause: float = _FIRST
    looked: int = 0


class Asked(Protocol):
    """Where renewals are sent: one store, or a set that answers by majority."""

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]: ...


class Keeper:
    """Renews the leases of one client in batches, and gives back what was left."""

    def __init__(self, runtime: Runtime, store: Asked, *, repeats: bool = False) -> None:
        self.repeats = repeats  # whether what is sent may be sent again by the client itself, unseen by us
        self._runtime = runtime
        self._store = store
        self._due: deque[Lease] = deque()
        self._unwanted: deque[Unwanted] = deque()
        self.claimed: dict[
            str, tuple[float, float]
        ] = {}  # by key: when the last claim that we handed on ends, and when a timer looks
        # Two workers: a server that does not answer a give-back must not keep leases from being renewed.
        self._renewing = runtime.worker(self._renew)
        self._returning = runtime.worker(self._return)

    def renew(self, lease: Lease) -> None:
        """Renew ``lease`` in the next round."""
        self._due.append(lease)
        self._renewing.poke()

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

    # -- renewing

    async def _renew(self) -> None:
        while self._due:
            batch = [self._due.popleft() for _ in range(min(BATCH, len(self._due)))]
            rounds = [(lease, lease.next_ttl()) for lease in batch if lease.held]
            if rounds:
                await self._renew_batch(rounds)

    async def _renew_batch(self, rounds: list[tuple[Lease, float]]) -> None:
        asked = self._runtime.now()
        calls = [(lease.name, lease.grantor.renewal(lease.holder, ttl)) for lease, ttl in rounds]
        # An answer that does not come must leave time to ask again; a claim ends long before its ttl would.
        within = min(min(ttl, 2 * lease.remaining()) for lease, ttl in rounds) / 3 + 0.001
        failed: list[tuple[Lease, BaseException]] = []
        try:
            replies = await self._store.run_many(calls, within=within)
        except Exception as error:  # noqa: BLE001  also what a user's credential provider raises: renewal goes on
            replies = [error] * len(rounds)
        except BaseException as error:  # cancelled from outside: who still holds then is renewed later
            for lease, _ in rounds:
                self._again(lease, error)
            raise
        for (lease, ttl), reply in zip(rounds, replies, strict=True):
            if isinstance(reply, Exception):
                failed.append((lease, reply))
                self._again(lease, reply)
            elif reply == 1:
                lease.renewed(asked, ttl)
            else:
                lease.lose("the server no longer has it: it expired early, or was taken away")
        if failed:
            lease, problem = min(failed, key=lambda one: one[0].remaining())
            _log.warning(
                "%d of %d renewals failed; the most urgent is %s, with %.1f s left: %s",
                *(len(failed), len(rounds), lease.name, lease.remaining(), problem),
            )

    def _again(self, lease: Lease, error: BaseException) -> None:
        """Ask again soon; the lease's own timer says when it is too late."""
        if not lease.held:
            return
        if isinstance(error, Exception):
            lease.not_renewed(error)
        pause = min(lease.ttl / 10, lease.remaining() / 4, 1.0)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  spreads retries, guards nothing
        self._runtime.call_at(self._runtime.now() + pause, lambda: self.renew(lease))

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
