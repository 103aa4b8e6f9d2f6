"""A lock that whoever holds it may acquire again: counted, per thread or task.

Each acquire gives a level of one lease, with the same token; the last level that is given back gives the lease back. A
level knows its lease, so it may be given back by another thread or task, and then counts for the one that acquired it.
What belongs to a thread or task is forgotten with it: an id that is used again inherits nothing. A lease that is lost
is lost at every level, and whoever asks then asks the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from weakref import WeakKeyDictionary

from coordkit._ports import Event
from coordkit.core.contend import Contender
from coordkit.core.lease import Lease
from coordkit.core.token import Token
from coordkit.errors import LeaseLost


class Stack:
    """The levels of one lease."""

    def __init__(self, lease: Lease, contender: Contender) -> None:
        self.lease = lease
        self._mutex = contender.runtime.mutex()
        self._levels = 1

    def enter(self) -> Level | None:
        """Return one level more; None if the lease is over, or being given back."""
        if not self.lease.held:  # asked first: in a forked child the mutex may be taken for ever
            return None
        with self._mutex:
            if self._levels == 0 or self.lease.remaining() <= 0:
                return None
            self._levels += 1
        return Level(self)

    def leave(self, level: Level) -> int | None:
        """Take ``level`` off; return how many are left, None if it was off."""
        with self._mutex:
            if level.given_back:
                return None
            level.given_back = True
            self._levels -= 1
            return self._levels


class Level:
    """One acquire of a reentrant lock; of the ``Held`` things the one that shares its lease."""

    __slots__ = ("_stack", "given_back")

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.given_back = False

    @property
    def name(self) -> str:
        return self._stack.lease.name

    @property
    def token(self) -> Token:
        return self._stack.lease.token

    @property
    def holder(self) -> str:
        return self._stack.lease.holder

    @property
    def ttl(self) -> float:
        return self._stack.lease.ttl

    @property
    def lost(self) -> Event:
        return self._stack.lease.lost

    def remaining(self) -> float:
        return 0.0 if self.given_back else self._stack.lease.remaining()

    def ensure(self) -> Literal[True]:
        if self.given_back:
            raise self.loss()
        return self._stack.lease.ensure()

    def loss(self) -> LeaseLost:
        lease = self._stack.lease
        if self.given_back and lease.remaining() > 0:
            return LeaseLost(self.name, "this level of it was given back", token=self.token)
        return lease.loss()

    async def renew(self) -> None:
        self.ensure()
        await self._stack.lease.renew()

    async def release(self) -> bool:
        lease = self._stack.lease
        if not lease.held:
            return False
        left = self._stack.leave(self)
        if left == 0:
            return await lease.release()
        return left is not None and lease.remaining() > 0


class Reentrant:
    """Asks, unless the thread or task that asks holds it already; ``here`` says which one that is."""

    def __init__(self, contender: Contender, here: Callable[[], object]) -> None:
        self._contender = contender
        self._here = here
        self._stacks: WeakKeyDictionary[object, Stack] = WeakKeyDictionary()

    async def try_acquire(self) -> Level | None:
        if level := self._again():
            return level
        lease = await self._contender.try_acquire()
        return None if lease is None else self.begin(lease)

    async def acquire(self, timeout: float | None) -> Level:
        return self._again() or self.begin(await self._contender.acquire(timeout))

    def begin(self, lease: Lease) -> Level:
        """Make a lease the present thread's or task's, at its first level."""
        stack = self._stacks[self._here()] = Stack(lease, self._contender)
        return Level(stack)

    def _again(self) -> Level | None:
        stack = self._stacks.get(self._here())
        return None if stack is None else stack.enter()
