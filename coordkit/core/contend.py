"""Ask for a lease until it is granted, refused for good, or no longer wanted.

A refused contender queues up and is told (``core/waiting.py``). Where it cannot be told it asks again, after a pause
that grows, is jittered, and never ends later than the holder's ttl or the caller's timeout. Whatever way an acquisition
ends, what it may have been granted is given back: a request that got no answer may have been carried out. A request
that is still on its way when we give back may land afterwards, so we look again, twice; what lands later still is ended
by its ttl.
"""

from __future__ import annotations

import math

from tenacity.wait import wait_base, wait_random_exponential

from coordkit._ports import Runtime
from coordkit.core.answer import answered, attempts
from coordkit.core.grantor import Granted, Grantor, Refused, Returned
from coordkit.core.lease import DRIFT, Lease
from coordkit.core.waiting import HandedOn, Waiting
from coordkit.errors import AcquireTimeout, CoordError, NotAcquired, StoreRefused, StoreUnavailable

PAUSES = wait_random_exponential(multiplier=0.005, max=0.1)
"""Between two asks of a contender that is not told: at random up to 5, 10, 20 ... 100 ms."""

_GIVE_BACK = 1.0  # seconds an acquire that ends with nothing waits for its own give-back


class Contender:
    """Asks for leases of one kind; holds no state of any of them, so it may be shared."""

    def __init__(
        self,
        runtime: Runtime,
        grantor: Grantor,
        ttl: float,
        *,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
    ) -> None:
        self.name = grantor.name
        self.runtime = runtime
        self.grantor = grantor
        self.ttl = ttl
        self.renew = renew
        self.max_hold = max_hold
        self.wait = wait

    async def try_acquire(self) -> Lease | None:
        """Ask once: a lease, or None if another holds it."""
        got = await Attempt(self, 0.0).run()
        return got if isinstance(got, Lease) else None

    async def acquire(self, timeout: float | None) -> Lease:
        """Wait for the grant: None for ever, 0 ask once."""
        got = await Attempt(self, timeout).run()
        if isinstance(got, Lease):
            return got
        who = f"held by {got.holder}"
        if got.left == math.inf:
            who += ", without expiry: that is no lease of coordkit's, look who else uses this key"
        if timeout == 0:
            raise NotAcquired(self.name, who)
        raise AcquireTimeout(self.name, f"{who}; waited {timeout} s", timeout=timeout or 0.0)


class Attempt:
    """One acquisition, from its first ask to its end: it has a holder id of its own."""

    __slots__ = ("_by", "_deadline", "_doubt", "_entry", "_holder", "_runtime", "_waiting")

    def __init__(self, contender: Contender, timeout: float | None) -> None:
        self._by = contender
        self._runtime = runtime = contender.runtime
        self._holder = runtime.new_holder()
        self._deadline = math.inf if timeout is None else runtime.now() + timeout
        self._waiting = None if timeout == 0 else Waiting(runtime, contender.grantor, self._holder, contender.ttl)
        self._doubt = False  # whether a request is on its way, or was never answered
        self._entry = ""  # of ours, in the queue, as far as we know

    async def run(self) -> Lease | Refused:
        """Ask until it is granted, or refused when the time is up; leave nothing behind, whatever happens."""
        got: Lease | Refused | None = None
        try:
            got = await self._contend()
            if not isinstance(got, Lease) and self._entry:
                await self._runtime.finish(self._give_back(), within=_GIVE_BACK)
        except StoreRefused:
            if self._doubt or self._entry:
                self._give_back_later()
            raise
        except (StoreUnavailable, GeneratorExit):
            # No answer, or nobody left to wait for one: see to it in the background.
            self._give_back_later()
            raise
        except BaseException:
            await self._runtime.finish(self._give_back(), within=_GIVE_BACK)
            raise
        finally:
            if self._waiting is not None:
                self._waiting.over(won=isinstance(got, Lease))
        if self._doubt and not isinstance(got, Lease):
            self._give_back_later()  # an earlier ask may be granted yet, now that we are gone
        return got

    async def _contend(self) -> Lease | Refused:
        waiting, attempt = self._waiting, None
        while True:
            asked, answer = await answered(self._runtime, self._ask, self._deadline)
            if isinstance(answer, Granted):
                return await self._lease(HandedOn(answer.token, answer.slot, asked, self._by.ttl))
            left = self._deadline - self._runtime.now()
            if left <= 0 or waiting is None:
                return answer
            if waiting.spot is not None:
                handed = await waiting.told(answer, asked, self._deadline)
                if handed is not None and self._is_enough(handed):
                    return await self._lease(handed)
            elif not await waiting.queue_up():
                attempt = attempt or attempts()
                await self._runtime.sleep(min(self._by.wait(attempt), left, max(0.001, answer.left)))
                attempt.attempt_number += 1

    async def _ask(self) -> tuple[float, Granted | Refused]:
        # The server starts the ttl later than this: err on the short side. Asked again, it starts it anew.
        asked = self._runtime.now()
        unsure, self._doubt = self._doubt, True
        spot = self._waiting.spot if self._waiting else None
        if spot is not None:
            self._entry = spot.entry
        try:
            answer = await self._by.grantor.grant(self._holder, self._by.ttl, spot)
        except StoreRefused:
            self._doubt = unsure
            raise
        self._doubt = unsure
        return asked, answer

    def _is_enough(self, handed: HandedOn) -> bool:
        """Whether a lease may begin with it; else we ask, as its holder by now, and get the whole ttl."""
        left = handed.asked + handed.span * (1 - DRIFT) - self._runtime.now()
        return left > handed.span / 2 and (self._by.renew or handed.span == self._by.ttl)

    async def _lease(self, granted: HandedOn) -> Lease:
        by = self._by
        lease = Lease(
            self._runtime,
            by.grantor,
            self._holder,
            granted.token,
            by.ttl,
            asked=granted.asked,
            span=granted.span,
            slot=granted.slot,
            renewing=by.renew,
            max_hold=by.max_hold,
        )
        if lease.remaining() > 0:
            return lease
        await lease.release()
        raise StoreUnavailable(
            by.name, f"the answer took longer than the ttl ({by.ttl} s); use a longer ttl or a nearer server"
        )

    # -- ending with nothing

    async def _give_back(self) -> None:
        try:
            said = await self._by.grantor.revoke(self._holder, self._entry)
        except CoordError:
            self._give_back_later()
        else:
            if self._doubt and said is not Returned.GIVEN_BACK:
                self._give_back_later()  # what we asked for may arrive after what we sent to undo it

    def _give_back_later(self) -> None:
        until = self._runtime.now() + self._by.ttl
        self._by.grantor.keeper.give_back(self._by.grantor, self._holder, self._entry, until=until)
