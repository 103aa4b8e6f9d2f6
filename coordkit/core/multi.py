"""Several locks at once: all or none, in one order, so that no two who want some of the same wait for each other.

Each name is a lock of its own, with its own queue and its own tokens, wherever it lies; what is held is renewed while
the rest is waited for. What expired meanwhile is noticed at the end, and then all is given back and asked for anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NoReturn
from weakref import WeakMethod

from coordkit._ports import Runtime
from coordkit.core.checks import check_bool
from coordkit.core.contend import Contender
from coordkit.core.lease import Lease
from coordkit.core.pulse import Kept
from coordkit.errors import AcquireTimeout, CoordError, LeaseLost, NotAcquired, StoreUnavailable

_log = logging.getLogger("coordkit")

_GIVE_BACK = 1.0  # seconds an acquire that ends with nothing waits for its own give-back


def of_each_name(what: str, instead: str) -> AttributeError:
    """Return the error of who asks several leases for what each has of its own."""
    return AttributeError(f"a lease of several names has no {what} of its own: use {instead}")


def drop(leases: Iterable[Lease]) -> None:
    """Give back in the background whatever of ``leases`` is held yet."""
    for lease in leases:
        lease.drop()


def _call(told: WeakMethod[Callable[[], None]]) -> None:
    action = told()
    if action is not None:
        action()


class MultiLease:
    """Leases that stand and fall together: lost as soon as one is, and the others are then given back."""

    def __init__(self, runtime: Runtime, name: str, ttl: float, leases: Sequence[Lease]) -> None:
        self.name = name
        self.ttl = ttl
        self.tokens = {lease.name: lease.token for lease in leases}
        self.lost = runtime.event()
        self._leases = leases
        self._first_lost: Lease | None = None
        self._given_back = False
        self.pulse = Kept()
        told = WeakMethod(self._one_is_lost)  # nobody has us because one of the names is ours
        for lease in leases:
            lease.pulse.kept = self.pulse
            lease.lost.call_when_set(lambda: _call(told))

    @property
    def token(self) -> NoReturn:
        raise of_each_name("token", "tokens[name]")

    @property
    def holder(self) -> NoReturn:
        raise of_each_name("holder", "tokens[name].holder")

    @property
    def given_back(self) -> bool:
        return self._given_back

    def _one_is_lost(self) -> None:
        if self._given_back or self._first_lost is not None:
            return
        self._first_lost = next(lease for lease in self._leases if lease.lost.is_set())
        self.pulse.kept = None
        self.lost.set()
        drop(self._leases)

    def remaining(self) -> float:
        return min(lease.remaining() for lease in self._leases)

    def ensure(self) -> Literal[True]:
        if self._first_lost is not None:
            raise self.loss()
        for lease in self._leases:
            lease.ensure()
        return True

    def loss(self) -> LeaseLost:
        over = (lease for lease in self._leases if lease.remaining() <= 0)
        return (self._first_lost or next(over, self._leases[0])).loss()

    async def renew(self) -> None:
        self.ensure()
        for lease in self._leases:
            await lease.renew()

    async def release(self) -> bool:
        if self._given_back:
            return False
        if self._first_lost is None:
            self._given_back = all(lease.held for lease in self._leases)
        self.pulse.kept = None
        trouble: CoordError | None = None
        said = []
        try:
            for lease in reversed(self._leases):
                try:
                    said.append(await lease.release())
                    if not said[-1]:
                        self._first_lost = self._first_lost or lease
                except CoordError as error:
                    trouble = trouble or error
                    if isinstance(error, StoreUnavailable):
                        break  # one wait for a server that is silent is enough
        except BaseException:  # interrupted, or what a credential provider raised: the rest must not be held on
            drop(self._leases)
            raise
        if trouble is not None:
            drop(self._leases)
            raise trouble
        return all(said)


class Several:
    """Asks for all of several locks."""

    def __init__(
        self, runtime: Runtime, contenders: Sequence[Contender], *, renew: bool, max_hold: float | None
    ) -> None:
        self._runtime = runtime
        self._contenders = contenders  # in the one order
        self._renew = check_bool("renew", renew)
        self._max_hold = max_hold
        self.name = ", ".join(contender.name for contender in contenders)

    async def try_acquire(self) -> MultiLease | None:
        try:
            return await self._all(0.0)
        except NotAcquired:
            return None

    async def acquire(self, timeout: float | None) -> MultiLease:
        return await self._all(timeout)

    async def _all(self, timeout: float | None) -> MultiLease:
        deadline = math.inf if timeout is None else self._runtime.now() + timeout
        while True:
            held = await self._each(timeout, deadline)
            if all(lease.remaining() > 0 for lease in held):
                return MultiLease(self._runtime, self.name, held[0].ttl, held)
            await self._runtime.finish(self._give_back(held), within=_GIVE_BACK)
            if self._runtime.now() >= deadline:
                raise StoreUnavailable(
                    self.name, f"the first expired before the last was granted (ttl {held[0].ttl} s); use a longer ttl"
                )

    async def _each(self, timeout: float | None, deadline: float) -> list[Lease]:
        held: list[Lease] = []
        try:
            for contender in self._contenders:
                left = None if deadline == math.inf else max(0.0, deadline - self._runtime.now())
                held.append(await contender.acquire(0.0 if timeout == 0 else left))
            if not self._renew or self._max_hold is not None:
                # While the rest was waited for all were renewed; what was asked for begins now, with a whole ttl.
                for lease in held:
                    lease.bound(renewing=self._renew, max_hold=self._max_hold)
                    await lease.renew()
        except LeaseLost:
            return held
        except GeneratorExit:  # nobody is left to wait for an answer
            drop(held)
            raise
        except StoreUnavailable:
            drop(held)  # the caller has waited for the server once
            raise
        except BaseException as error:
            await self._runtime.finish(self._give_back(held), within=_GIVE_BACK)
            if isinstance(error, NotAcquired) and timeout:
                why = f"{error.why.split('; waited')[0]}; waited {timeout} s for all of {self.name}"
                raise AcquireTimeout(error.name, why, timeout=timeout) from None
            raise
        return held

    async def _give_back(self, held: Sequence[Lease]) -> None:
        try:
            for lease in reversed(held):
                try:
                    await lease.release()
                except CoordError as error:  # it is seen to in the background
                    _log.warning("%s: not given back yet: %s", lease.name, error)
                    if isinstance(error, StoreUnavailable):
                        break
        finally:
            drop(held)
