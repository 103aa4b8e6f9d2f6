"""What one holds: a lease with a deadline, a token, and a loud end.

Everything that can be held answers the three questions of a ``Grantor``; holding, renewing, losing and giving back
are written here, once, for all of them.

What is promised: the lease never counts itself valid longer than a server does whose clock runs at most ``DRIFT``
faster than ours, because it counts from before the request was sent; its end is announced no later than its own local
deadline, whether or not the server answers. What is not: that nobody else holds it while we are paused between a look
at the lease and what we do next. Only the resource can refuse us then, by the token.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Literal, NamedTuple

from coordkit._ports import Runtime, Timer
from coordkit.core.answer import answered
from coordkit.core.grantor import Grantor, Returned
from coordkit.core.held import Held
from coordkit.core.pulse import Pulse
from coordkit.core.token import Token
from coordkit.errors import CoordError, LeaseLost, StoreUnavailable

_log = logging.getLogger("coordkit")

DRIFT = 0.01
"""How much faster than ours a server's clock may run: a lease of 10 s counts as 9.9 s."""

ROUNDS = 30
"""Moments in one ttl at which leases are renewed: thousands that fall due one by one cost a few pipelines."""


SOON = 0.05
"""The part of a claim after which it is renewed: what was handed on lasts a second until then."""


class State(Enum):
    HELD = "held"
    RELEASED = "released"
    LOST = "lost"
    HANDED_OVER = "handed over"


_GIVEN_BACK = Returned.GIVEN_BACK
_HELD, _RELEASED, _LOST, _HANDED_OVER = State  # by names of ours: an Enum is slow to be asked for its members


class Terms(NamedTuple):
    """Under which leases of one kind are held."""

    runtime: Runtime
    grantor: Grantor
    ttl: float
    renew: bool = True
    max_hold: float | None = None


class Lease:
    """A grant that is ours until it is given back, lost, or its deadline passes."""

    __slots__ = (
        "__weakref__", "_mutex", "_process", "_renewing", "_runtime", "_state", "_timer", "_token", "_trouble",
        "_until", "_why", "expires", "given_back", "grantor", "holder", "lost", "pulse", "slot", "ttl",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917  each that is given by its name costs as much as making the lease's event
        self, terms: Terms, holder: str, token: int, asked: float, span: float | None = None, slot: int | None = None
    ) -> None:
        """Begin a lease of what was granted: valid from ``asked`` (our clock) for ``span`` seconds, or a whole ttl."""
        runtime, self.grantor, ttl, self._renewing, max_hold = terms
        self._runtime = runtime
        self.ttl = ttl
        self._token = token
        self.slot = slot
        self.holder = holder
        self.lost = runtime.event()
        self._process = runtime.process
        self._mutex = runtime.mutex()
        self._state = _HELD
        self.given_back = False  # whether it ended by our own will: given back, or handed over
        self._why = ""
        self._trouble: Exception | None = None
        self._timer: Timer | None = None
        self._until = None if max_hold is None else asked + max_hold
        self.expires = asked + (ttl if span is None else span) * (1 - DRIFT)
        self.pulse = pulse = Pulse(self)
        pulse.ended, pulse.holder, pulse.kept, pulse.terms = False, holder, None, terms
        if span is not None and span < ttl and self._renewing:
            # A claim becomes a whole lease as soon as it is renewed; most that are held briefly need not be.
            self._timer = runtime.call_at(runtime.now() + span * SOON, self.pulse.due)
        else:
            self._schedule(asked)

    # -- looking at it

    @property
    def name(self) -> str:
        return self.grantor.name

    @property
    def token(self) -> Token:
        number = self._token
        return number if isinstance(number, Token) else Token(number, self.holder)  # readers sign theirs together

    def remaining(self) -> float:
        """Return the seconds until the local deadline; 0.0 once it is over."""
        if self._state is not _HELD or self._runtime.process != self._process:
            return 0.0
        return max(0.0, self.expires - self._runtime.now())

    def ensure(self) -> Literal[True]:
        """Return True if the lease holds; raise ``LeaseLost`` if it does not."""
        if self.remaining() > 0:
            return True
        raise self.loss()  # the timer announces it: this may be called in another thread than the lease lives in

    @property
    def held(self) -> bool:
        """Whether it was neither given back nor lost, in this process; unlike ``remaining`` it asks no clock."""
        return self._state is _HELD and self._runtime.process == self._process

    def loss(self) -> LeaseLost:
        """Return the error that says what became of this lease."""
        if self._runtime.process != self._process:
            why = f"it belongs to process {self._process}; a forked child holds nothing of its parent's"
        elif self._state is _RELEASED:
            why = self._why or "it was given back"
        elif self._state is _HANDED_OVER:
            why = "it was handed over, and is another's to adopt; stop working on what it protects"
        else:
            why = f"{self._why or self._expiry()}; stop working on what it protects"
        error = LeaseLost(self.name, why, token=self.token)
        error.__cause__ = self._trouble
        return error

    def _expiry(self) -> str:
        if not self._renewing:
            return "its ttl ran out, and it is not renewed"
        if self._until is not None and self._runtime.now() >= self._until - self.ttl * DRIFT:
            return "it was held as long as max_hold allows"
        return "its ttl ran out before a renewal was answered"

    # -- keeping it

    def _schedule(self, asked: float) -> None:
        """Set the one timer: to renew after a third of the ttl, else to announce the end."""
        ttl = self.ttl
        if self._renewing and (self._until is None or asked + ttl < self._until):
            # A little before it is due, with the other leases of this process, and no two processes at the same moment.
            due, grid = asked + ttl / 3, ttl / ROUNDS
            self._timer = self._runtime.call_at(due - (due + self._process * grid * 0.618) % grid, self.pulse.due)
        else:
            self._timer = self._runtime.call_at(self.expires, self.pulse.over)

    def due(self) -> None:
        """Ask for its renewal."""
        with self._mutex:
            if self._state is not _HELD:
                return
            self._timer = self._runtime.call_at(self.expires, self.pulse.over)
        self.grantor.keeper.renew(self)

    def over(self) -> None:
        """Announce its end, if that has come."""
        if self._runtime.now() < self.expires:  # renewed since this timer was set
            with self._mutex:
                if self._state is _HELD:
                    self._timer = self._runtime.call_at(self.expires, self.pulse.over)
            return
        self.lose(self._expiry())

    def not_renewed(self, error: Exception) -> None:
        """Remember why a renewal failed: if the lease is lost of it, that is the cause."""
        self._trouble = error

    def next_ttl(self) -> float:
        """Return the ttl to ask for now: all of it, or what ``max_hold`` leaves."""
        if self._until is None:
            return self.ttl
        return max(0.001, min(self.ttl, self._until - self._runtime.now()))

    def renewed(self, asked: float, ttl: float) -> None:
        """Count on from a renewal that the server granted; ``asked`` is when it was sent."""
        with self._mutex:
            if self._state is not _HELD or self._runtime.now() >= self.expires:
                return  # an answer that came after the deadline renews nothing: who looked meanwhile was told its end
            if self._timer is not None:
                self._timer.cancel()
            self.expires = max(self.expires, asked + ttl * (1 - DRIFT))
            self._trouble = None
            self._schedule(asked)

    async def renew(self) -> None:
        """Renew now. Raises ``LeaseLost`` if it is no longer ours, ``StoreUnavailable`` if no answer came."""
        self.ensure()
        asked = ttl = 0.0

        async def ask() -> bool:
            nonlocal asked, ttl
            asked, ttl = self._runtime.now(), self.next_ttl()
            return await self.grantor.renew(self.holder, ttl)

        if not await answered(self._runtime, ask, self.expires):
            self.lose("the server no longer has it: it expired early, or was taken away")
        self.ensure()  # an answer that came after the deadline renews nothing
        self.renewed(asked, ttl)

    # -- ending it

    def lose(self, why: str) -> None:
        """End it, loudly."""
        if self._end(_LOST, why):
            self.lost.set()
            # A renewal that is still on its way may yet prolong at the server what we have given up.
            self.grantor.keeper.give_back(self.grantor, self.holder, until=self._runtime.now() + self.ttl)

    def drop(self) -> None:
        """Give it back without waiting for that."""
        if self._end(_RELEASED):
            self.grantor.keeper.give_back(self.grantor, self.holder, until=self._runtime.now() + self.ttl)

    def hand_over(self) -> bool:
        """End it, and leave it standing at the server; return whether it was still ours."""
        return self._end(_HANDED_OVER)

    def bound(self, *, renewing: bool, max_hold: float | None) -> None:
        """Say anew how long it is renewed, from now; counts from the next renewal on."""
        self._renewing = renewing
        self._until = None if max_hold is None else self._runtime.now() + max_hold

    def _end(self, state: State, why: str = "") -> bool:
        if self._runtime.process != self._process:
            return False
        with self._mutex:
            if self._state is not _HELD:
                return False
            self.given_back = state is not _LOST  # first: who leaves a block in another thread looks at it alone
            self._state = state
            self._why = why
            self.pulse.kept, self.pulse.ended = None, True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return True

    async def release(self) -> bool:
        """Give it back; return whether it was still ours. Raises ``StoreUnavailable`` if no answer came."""
        began = self._runtime.now()
        if self.expires <= began and self.held:
            self.lose("its ttl ran out before it was given back")
        if not self._end(_RELEASED):
            return False
        sure = True
        try:
            try:
                said = await self.grantor.revoke(self.holder)
            except StoreUnavailable as error:
                sure = False
                said = await answered(
                    self._runtime, lambda: self.grantor.revoke(self.holder), began, failed=error, began=began
                )
        except BaseException:
            # Interrupted, or no answer: somebody else will see to it, and the ttl is the backstop.
            self.grantor.keeper.give_back(self.grantor, self.holder, until=self._runtime.now() + self.ttl)
            raise
        given_back = said is _GIVEN_BACK
        if not given_back and (self.grantor.keeper.repeats or not sure):
            # Before our deadline nothing but a first request of ours can have taken it away, or handed it on; save for
            # an operator, or a server that forgets, and no answer could tell these from it.
            given_back = self._runtime.now() < self.expires
        if not given_back:
            self._why = "it was gone when it was given back: it expired early, or was taken away"
        return given_back


async def leave(lease: Held, error: BaseException | None) -> None:
    """Give ``lease`` back at the end of a block that ended with ``error``; the block's own error always wins."""
    if lease.given_back:
        return  # inside the block, by hand
    try:
        held = await lease.release()
    except CoordError as problem:
        if error is None:
            raise
        _log.warning("%s: not given back at the end of its block, its ttl ends it: %s", lease.name, problem)
        return
    if not held:
        if error is None:
            raise lease.loss()
        if isinstance(error, LeaseLost):
            return
        _log.warning("%s: lost before the end of its block, which failed by itself: %r", lease.name, error)
