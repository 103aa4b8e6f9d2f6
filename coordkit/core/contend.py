"""Ask for a lease until it is granted, refused for good, or no longer wanted.

A refused contender asks again after a pause that grows, is jittered, and never ends later than the holder's ttl or the
caller's timeout. Whatever way an acquisition ends, what it may have been granted is given back: a request that got no
answer may have been carried out. A request that is still on its way when we give back may land afterwards, so we look
again, twice; what lands later still is ended by its ttl.
"""

from __future__ import annotations

import math

from tenacity.wait import wait_base, wait_random_exponential

from coordkit._ports import Runtime
from coordkit.core.answer import answered, attempts
from coordkit.core.grantor import Granted, Grantor, Refused, Returned
from coordkit.core.lease import Lease
from coordkit.errors import AcquireTimeout, CoordError, NotAcquired, StoreRefused, StoreUnavailable

PAUSES = wait_random_exponential(multiplier=0.005, max=0.1)
"""Between two asks of a refused contender: at random up to 5, 10, 20 ... 100 ms."""

_GIVE_BACK = 1.0  # seconds a cancelled acquire waits for its own give-back


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
        self._runtime = runtime
        self._grantor = grantor
        self._ttl = ttl
        self._renew = renew
        self._max_hold = max_hold
        self._wait = wait

    async def try_acquire(self) -> Lease | None:
        """Ask once: a lease, or None if another holds it."""
        got = await self._contend(0.0)
        return got if isinstance(got, Lease) else None

    async def acquire(self, timeout: float | None) -> Lease:
        """Wait for the grant: None for ever, 0 ask once."""
        got = await self._contend(timeout)
        if isinstance(got, Lease):
            return got
        who = f"held by {got.holder}"
        if got.left == math.inf:
            who += ", without expiry: that is no lease of coordkit's, look who else uses this key"
        if timeout == 0:
            raise NotAcquired(self.name, who)
        raise AcquireTimeout(self.name, f"{who}; waited {timeout} s", timeout=timeout or 0.0)

    async def _contend(self, timeout: float | None) -> Lease | Refused:
        runtime = self._runtime
        holder = runtime.new_holder()
        deadline = math.inf if timeout is None else runtime.now() + timeout
        doubt = False  # whether a request is on its way, or was never answered

        async def ask() -> tuple[float, Granted | Refused]:
            nonlocal doubt
            # The server starts the ttl later than this: err on the short side. Asked again, it starts it anew.
            asked = runtime.now()
            unsure, doubt = doubt, True
            try:
                answer = await self._grantor.grant(holder, self._ttl)
            except StoreRefused:
                doubt = unsure
                raise
            doubt = unsure
            return asked, answer

        attempt = None
        try:
            while True:
                asked, answer = await answered(runtime, ask, deadline)
                if isinstance(answer, Granted):
                    return await self._lease(holder, answer, asked)
                left = deadline - runtime.now()
                if left <= 0:
                    break
                attempt = attempt or attempts()
                await runtime.sleep(min(self._wait(attempt), left, max(0.001, answer.left)))
                attempt.attempt_number += 1
        except StoreRefused:
            if doubt:
                self._give_back_later(holder)
            raise
        except (StoreUnavailable, GeneratorExit):
            # No answer, or nobody left to wait for one: see to it in the background.
            self._give_back_later(holder)
            raise
        except BaseException:
            await runtime.finish(self._give_back(holder, doubt), within=_GIVE_BACK)
            raise
        if doubt:
            self._give_back_later(holder)  # an earlier ask may be granted yet, now that we are gone
        return answer

    async def _lease(self, holder: str, granted: Granted, asked: float) -> Lease:
        lease = Lease(
            self._runtime,
            self._grantor,
            holder,
            granted.token,
            self._ttl,
            asked=asked,
            renewing=self._renew,
            max_hold=self._max_hold,
        )
        if lease.remaining() > 0:
            return lease
        await lease.release()
        raise StoreUnavailable(
            self.name, f"the answer took longer than the ttl ({self._ttl} s); use a longer ttl or a nearer server"
        )

    async def _give_back(self, holder: str, doubt: bool) -> None:
        try:
            said = await self._grantor.revoke(holder)
        except CoordError:
            self._give_back_later(holder)
        else:
            if doubt and said is not Returned.GIVEN_BACK:
                self._give_back_later(holder)  # what we asked for may arrive after what we sent to undo it

    def _give_back_later(self, holder: str) -> None:
        self._grantor.keeper.give_back(self._grantor, holder, until=self._runtime.now() + self._ttl)
