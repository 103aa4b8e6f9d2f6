"""A lock that whoever holds it may acquire again: counted, per thread or task.

Each acquire gives a level of one lease, with the same token; the last level that is given back gives the lease back. A
level knows its lease, so it may be given back by another thread or task, and then counts for the one that acquired it.
What belongs to a thread or task is forgotten with it: an id that is used again inherits nothing. A lease that is lost
is lost at every level, and whoever asks then asks the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal
from weakref import WeakKeyDictionary, ref

from coordkit._ports import Event
from coordkit.core.contend import Contender
from coordkit.core.lease import Lease
from coordkit.core.pulse import Kept
from coordkit.core.token import Token
from coordkit.errors import LeaseLost

_log = logging.getLogger("coordkit")


class Stack:
    """The levels of one lease, and whose it is."""

    def __init__(self, lease: Lease, contender: Contender, owner: object) -> None:
        self.lease = lease
        self._owner = ref(owner)
        self._told = False
        self._mutex = contender.runtime.mutex()
        self._levels: list[Kept] = []
        lease.pulse.kept = self._levels

    def first(self) -> Level:
        """Return the level with which it begins."""
        level = Level(self)
        self._levels.append(level.pulse)
        return level

    def enter(self) -> Level | None:
        """Return one level more; None if the lease is over, or being given back."""
        if not self.lease.held:  # asked first: in a forked child the mutex may be taken for ever
            return None
        with self._mutex:
            if not self._levels or self.lease.remaining() <= 0:
                return None
            return self.first()

    def asked_by_another(self) -> None:
        """Say, once, that it is inherited by nobody: whoever asks may well have it, and waits for itself."""
        if self._told or not self.lease.held or not _ended(self._owner()):
            return
        self._told = True
        _log.warning(
            "%s: whoever acquired it has ended without giving it back, and a reentrant lock is inherited by nobody; "
            "who has the lease and waits here waits for itself. asyncio.wait_for (before Python 3.12), gather and "
            "create_task run acquire() in a task of its own: use acquire(timeout=...) or asyncio.timeout()",
            self.lease.name,
        )

    def leave(self, level: Level) -> int | None:
        """Take ``level`` off; return how many are left, None if it was off."""
        with self._mutex:
            if level.given_back:
                return None
            level.given_back = True
            level.pulse.kept = None
            self._levels.remove(level.pulse)
            return len(self._levels)


def _ended(owner: object | None) -> bool:
    """Whether a thread is gone, or a task done."""
    return owner is None or bool(getattr(owner, "done", bool)())


class Level:
    """One acquire of a reentrant lock; of the ``Held`` things the one that shares its lease."""

    __slots__ = ("_stack", "given_back", "pulse")

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.given_back = False
        self.pulse = Kept()

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
        self._stacks: WeakKeyDictionary[object, ref[Stack]] = WeakKeyDictionary()  # its levels have a lease
        self._latest: Callable[[], Stack | None] = _nothing

    async def try_acquire(self) -> Level | None:
        if level := self._again():
            return level
        lease = await self._contender.try_acquire()
        return None if lease is None else self.begin(lease)

    async def acquire(self, timeout: float | None) -> Level:
        if level := self._again():
            return level
        if latest := self._latest():
            latest.asked_by_another()
        return self.begin(await self._contender.acquire(timeout))

    def begin(self, lease: Lease) -> Level:
        """Make a lease the present thread's or task's, at its first level."""
        owner = self._here()
        stack = Stack(lease, self._contender, owner)
        self._stacks[owner] = self._latest = ref(stack)
        return stack.first()

    def _again(self) -> Level | None:
        known = self._stacks.get(self._here())
        stack = known() if known is not None else None
        return None if stack is None else stack.enter()


def _nothing() -> None:
    """Stand for a stack that there is not."""
