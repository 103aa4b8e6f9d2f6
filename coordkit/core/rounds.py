"""Renew what is equally urgent: one pipeline at a time, for leases that may wait about equally long for its answer."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coordkit._ports import Call, Runtime

if TYPE_CHECKING:
    from coordkit.core.lease import Lease

_log = logging.getLogger("coordkit")

BATCH = 2000
"""Renewals in one pipeline. A server reads 16 KiB of it at a time, so that its other clients wait for some 70."""


class Asked(Protocol):
    """Where renewals are sent: one store, or a set that answers by majority."""

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]: ...


def urgency(lease: Lease) -> float:
    """Return the seconds a third of which an answer may take: less for what failed before, or is a claim yet.

    An answer that does not come must leave time to ask again; a claim ends long before its ttl would.
    """
    return min(lease.next_ttl(), 2 * lease.remaining())


class Rounds:
    """The renewals of one urgency, and their worker."""

    def __init__(self, runtime: Runtime, store: Asked, again: Callable[[Lease], None]) -> None:
        self.until = -math.inf  # when the answer that is waited for has come, or is waited for no longer
        self._runtime = runtime
        self._store = store
        self._again = again  # how a lease is renewed anew, by what is urgent then
        self._due: deque[Lease] = deque()
        self._worker = runtime.worker(self._renew)

    def renew(self, lease: Lease) -> None:
        """Renew ``lease`` in the next round."""
        self._due.append(lease)
        self._worker.poke()

    async def _renew(self) -> None:
        while self._due:
            batch = [self._due.popleft() for _ in range(min(BATCH, len(self._due)))]
            rounds = [(lease, lease.next_ttl()) for lease in batch if lease.held]
            if rounds:
                try:
                    await self._renew_batch(rounds)
                finally:
                    self.until = -math.inf

    async def _renew_batch(self, rounds: list[tuple[Lease, float]]) -> None:
        asked = self._runtime.now()
        calls = [(lease.name, lease.grantor.renewal(lease.holder, ttl)) for lease, ttl in rounds]
        within = max(0.001, min(urgency(lease) for lease, _ in rounds) / 3)
        self.until = asked + within
        failed: list[tuple[Lease, BaseException]] = []
        try:
            replies = await self._store.run_many(calls, within=within)
        except Exception as error:  # noqa: BLE001  also what a user's credential provider raises: renewal goes on
            replies = [error] * len(rounds)
        except BaseException as error:  # cancelled from outside: who still holds then is renewed later
            for lease, _ in rounds:
                self._later(lease, error)
            raise
        for (lease, ttl), reply in zip(rounds, replies, strict=True):
            if isinstance(reply, Exception):
                failed.append((lease, reply))
                self._later(lease, reply)
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

    def _later(self, lease: Lease, error: BaseException) -> None:
        """Ask again soon; the lease's own timer says when it is too late."""
        if not lease.held:
            return
        if isinstance(error, Exception):
            lease.not_renewed(error)
        pause = min(lease.ttl / 10, lease.remaining() / 4, 1.0)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  spreads retries, guards nothing
        self._runtime.call_at(self._runtime.now() + pause, lambda: self._again(lease))
