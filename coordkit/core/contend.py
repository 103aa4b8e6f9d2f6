"""Ask for a lease until it is granted, refused for good, or no longer wanted.

A refused contender queues up and is told (``core/waiting.py``). Where it cannot be told it asks again, after a pause
that grows, is jittered, and never ends later than the holder's ttl or the caller's timeout. Whatever way an acquisition
ends, what it may have been granted is given back: a request that got no answer may have been carried out. A request
that is still on its way when we give back may land afterwards, so we look again, twice; what lands later still is ended
by its ttl.
"""

from __future__ import annotations

import math
from typing import NoReturn

from tenacity.wait import wait_base, wait_random_exponential

from coordkit._ports import Runtime
from coordkit.core.answer import answered, attempts
from coordkit.core.checks import check_bool
from coordkit.core.grantor import Granted, Grantor, Refused
from coordkit.core.lease import DRIFT, Lease, Terms
from coordkit.core.waiting import HandedOn, Waiting
from coordkit.errors import AcquireTimeout, CoordError, NotAcquired, StoreRefused, StoreUnavailable

PAUSES = wait_random_exponential(multiplier=0.005, max=0.1)
"""Between two asks of a contender that is not told: at random up to 5, 10, 20 ... 100 ms."""

_HALFWAY = "@user_script"  # in what Redis says when it refuses a command in a script: those in front of it were done

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
        label: str = "",
    ) -> None:
        self.name = grantor.name
        self.runtime = runtime
        self.grantor = grantor
        self.ttl = ttl
        self.renew = check_bool("renew", renew)
        self.terms = Terms(runtime, grantor, ttl, renew, max_hold)
        self.wait = wait
        self._label = label  # the end of every holder id, as core/holder.py makes it
        self.crowded = False  # whether we had to wait the last time: then we queue up at once

    async def try_acquire(self) -> Lease | None:
        """Ask once: a lease, or None if another holds it."""
        try:
            return await self.acquire(0.0)
        except NotAcquired:
            return None

    async def acquire(self, timeout: float | None) -> Lease:
        """Wait for the grant: None for ever, 0 ask once.

        Most locks are free when they are asked for: whatever is not granted by one ask becomes an attempt.
        """
        runtime = self.runtime
        holder, asked = runtime.new_holder() + self._label, runtime.now()
        first: Granted | Refused | BaseException | None = None
        address = self._listens() if self.crowded and timeout != 0 else ""
        if not address:
            try:
                first = await self.grantor.grant(holder, self.ttl)
            except BaseException as error:  # noqa: BLE001  it is raised again, there where what it left is seen to
                first = error
            if type(first) is Granted:
                lease = Lease(self.terms, holder, first[0], asked, None, first[1])
                if lease.expires > runtime.now():
                    return lease
                await self.give_back_late(lease)
        self.crowded = False
        got = await Attempt(self, timeout, holder, asked, address).run(first)
        if isinstance(got, Lease):
            return got
        who = f"held by {got.holder}"
        if got.left == math.inf:
            who += ", without expiry: that is no lease of coordkit's, look who else uses this key"
        if timeout == 0:
            raise NotAcquired(self.name, who)
        raise AcquireTimeout(self.name, f"{who}; waited {timeout} s", timeout=timeout or 0.0)

    def _listens(self) -> str:
        """Return where we hear of grants, if we listen."""
        inbox = self.grantor.inbox()
        return inbox.address(self.name) if inbox is not None else ""

    def new_holder(self) -> str:
        return self.runtime.new_holder() + self._label

    def lease(self, holder: str, granted: HandedOn) -> Lease:
        token, slot, asked, span = granted
        return Lease(self.terms, holder, token, asked, span, slot)

    async def give_back_late(self, lease: Lease) -> NoReturn:
        """Give back a lease that was over when the answer came, and raise."""
        await lease.release()
        raise StoreUnavailable(
            self.name, f"the answer took longer than the ttl ({self.ttl} s); use a longer ttl or a nearer server"
        )


class Attempt:
    """One acquisition, from its first ask to its end: it has a holder id of its own."""

    __slots__ = ("_began", "_by", "_deadline", "_doubt", "_entry", "_holder", "_runtime", "_waiting")

    def __init__(
        self, contender: Contender, timeout: float | None, holder: str, began: float, address: str = ""
    ) -> None:
        self._by = contender
        self._runtime = runtime = contender.runtime
        self._holder = holder
        self._began = began
        self._deadline = math.inf if timeout is None else began + timeout
        self._waiting = None if timeout == 0 else Waiting(runtime, contender.grantor, holder, contender.ttl, address)
        self._doubt = False  # whether a request is on its way, or was never answered
        self._entry = ""  # of ours, in the queue, as far as we know

    async def run(self, first: Granted | Refused | BaseException | None = None) -> Lease | Refused:
        """Ask until it is granted, or refused when the time is up; leave nothing behind, whatever happens.

        ``first`` is what became of an ask that came before, when this attempt began.
        """
        won = False
        try:
            got = await self._contend(first)
            won = isinstance(got, Lease)
            if not won and self._entry:
                await self._runtime.finish(self._give_back(), within=_GIVE_BACK)
        except StoreRefused as error:
            if self._doubt or self._entry:
                self._give_back_later()
            elif _HALFWAY in error.why:
                await self._runtime.finish(self._undo(), within=_GIVE_BACK)
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
                self._waiting.over(won=won)
        if self._doubt and not won:
            self._give_back_later()  # an earlier ask may be granted yet, now that we are gone
        return got

    async def _contend(self, first: Granted | Refused | BaseException | None) -> Lease | Refused:
        waiting, attempt = self._waiting, None
        while True:
            asked, answer = await self._answered(first)
            first = None
            if isinstance(answer, Granted):
                return await self._lease(HandedOn(answer.token, answer.slot, asked, self._by.ttl))
            left = self._deadline - self._runtime.now()
            if left <= 0 or waiting is None:
                return answer
            if waiting.spot is not None:
                self._by.crowded = True
                handed = await waiting.told(answer, asked, self._deadline)
                if handed is not None and self._is_enough(handed):
                    return self._by.lease(self._holder, handed)
            elif not await waiting.queue_up(self._deadline):
                attempt = attempt or attempts()
                left = max(0.0, self._deadline - self._runtime.now())
                await self._runtime.sleep(min(self._by.wait(attempt), left, max(0.001, answer.left)))
                attempt.attempt_number += 1

    async def _answered(self, first: Granted | Refused | BaseException | None) -> tuple[float, Granted | Refused]:
        if isinstance(first, Granted | Refused):
            return self._began, first
        refused = isinstance(first, StoreRefused) and self._by.grantor.confirm is None
        self._doubt = self._doubt or not (first is None or refused)
        failed = first if isinstance(first, StoreUnavailable) else None
        if first is not None and failed is None:
            raise first
        return await answered(self._runtime, self._ask, self._deadline, failed=failed, began=self._began)

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
            self._doubt = unsure or self._by.grantor.confirm is not None  # it may be the waiting that was refused
            raise
        self._doubt = unsure
        return asked, answer

    def _is_enough(self, handed: HandedOn) -> bool:
        """Whether a lease may begin with it; else we ask, as its holder by now, for the whole ttl and its copies."""
        left = handed.asked + handed.span * (1 - DRIFT) - self._runtime.now()
        whole = self._by.renew or handed.span == self._by.ttl
        return whole and left > handed.span / 2 and self._by.grantor.confirm is None

    async def _lease(self, granted: HandedOn) -> Lease:
        lease = self._by.lease(self._holder, granted)
        if lease.remaining() <= 0:
            await self._by.give_back_late(lease)
        return lease

    # -- ending with nothing

    async def _undo(self) -> None:
        try:
            await self._by.grantor.revoke(self._holder)
        except StoreRefused:
            pass  # nothing can be done here, and whoever asked is told so already
        except CoordError:
            self._give_back_later()

    async def _give_back(self) -> None:
        try:
            await self._by.grantor.revoke(self._holder, self._entry)
        except CoordError:
            self._give_back_later()
        else:
            if self._doubt:
                self._give_back_later()  # what we asked for may arrive after what we sent to undo it

    def _give_back_later(self) -> None:
        until = self._runtime.now() + self._by.ttl
        self._by.grantor.keeper.give_back(self._by.grantor, self._holder, self._entry, until=until)
