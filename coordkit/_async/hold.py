"""What is held, for asyncio: a lease, the block it is held for, and what everything that can be held has in common."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from coordkit._async.lost import Lost, Scope
from coordkit._asyncio.runtime import RUNTIME
from coordkit._open import OpenBlocks
from coordkit.core import checks, lease
from coordkit.core.handover import hand_over
from coordkit.core.held import Asks, Held
from coordkit.core.token import Token
from coordkit.errors import CoordError

P = ParamSpec("P")
R = TypeVar("R")


class Lease:
    """What you hold: a token, a deadline, and a loud end.

    Made by ``Lock.acquire``, ``Lock.try_acquire`` and ``async with lock``, never by hand. A forked child holds nothing
    of its parent's: there ``ensure`` raises and ``release`` returns False.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Held) -> None:
        self._core = core

    @property
    def lost(self) -> Lost:
        """Whether it was lost: to look at, and to wait for."""
        return Lost(self._core.lost)

    @property
    def name(self) -> str:
        """The name of what is held."""
        return self._core.name

    @property
    def token(self) -> Token:
        """The fencing token: greater than that of every earlier grant of this name."""
        return self._core.token

    @property
    def holder(self) -> str:
        """The id of this one acquisition, as the server stores it: host, process, random."""
        return self._core.holder

    @property
    def slot(self) -> int | None:
        """The slot of a semaphore's permit, from 0; None for anything else."""
        return self._core.slot if isinstance(self._core, lease.Lease) else None

    @property
    def ttl(self) -> float:
        """Seconds the server keeps the lease without news from us."""
        return self._core.ttl

    def remaining(self) -> float:
        """Return the seconds until this lease ends unless renewed, by the local clock; 0.0 once it is over."""
        return self._core.remaining()

    def ensure(self) -> Literal[True]:
        """Return True if the lease holds, without asking the server; raise ``LeaseLost`` if it does not."""
        return self._core.ensure()

    async def renew(self) -> None:
        """Renew now, by one request.

        Raises ``LeaseLost`` if it is no longer ours, ``StoreUnavailable`` if no answer came (it may still be ours).
        """
        await self._core.renew()

    async def release(self) -> bool:
        """Give it back; return False if it was no longer ours, and if it was given back before.

        If a first request got no answer, and another finds it gone before its deadline, the first counts as what gave
        it back: True is wrong then if the lock was broken, or forgotten by its server, just before. Raises
        ``StoreUnavailable`` if no answer came: it is then given back in the background, or ends with its ttl.
        """
        return await self._core.release()

    async def handover(self) -> str:
        """Renew it, end it here, and return the text by which another process can ``adopt`` it, for a whole ttl.

        Leaving the block is then no error and gives nothing back; ``ensure`` raises. Whoever reads the text may adopt
        the lease. Raises ``LeaseLost`` if it is no longer ours, ``StoreUnavailable`` if no answer came (it is still
        held then), ``CoordError`` for what is no plain ``Lock``'s. The adopter gets a token of its own: once it has
        claimed a fence, that refuses what we send or sent late.
        """
        return await hand_over(RUNTIME, self._core)

    def __repr__(self) -> str:
        return f"<Lease {self.name} token={self.token} remaining={self.remaining():.1f}s>"


class Hold:
    """One block under a lock; also a decorator, which makes a block of each call.

    When the lease is lost, the body is cancelled (in the task that entered), and leaving raises ``LeaseLost``.
    Leaving the block gives the lease back. It raises ``StoreUnavailable`` if giving back got no answer, unless the
    block itself raised: its own error always wins.
    """

    __slots__ = ("_free", "_lease", "_lock", "_scope", "_timeout")

    def __init__(self, lock: Acquirable, timeout: float | None) -> None:
        self._lock = lock
        self._timeout = checks.check_timeout(timeout)
        self._lease: Lease | None = None
        self._free = [True]  # taken while the block is entered; one thread of several gets it
        self._scope: Scope | None = None

    async def __aenter__(self) -> Lease:
        try:
            self._free.pop()
        except IndexError:
            raise CoordError(self._lock.name, "this hold() is in use: call hold() again for each block") from None
        try:
            core = await self._lock._contender.acquire(self._timeout)  # noqa: SLF001  one facade, two classes
        except BaseException:
            self._free.append(True)
            raise
        self._scope = Scope(core.lost)
        lease = self._lease = self._lock._made(core)  # noqa: SLF001  one facade, two classes
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._lease = self._lease, None
        self._free.append(True)
        scope, self._scope = self._scope, None
        if held is not None:
            if scope is not None and scope.left(error):
                error = None  # our own cancellation: what became of the lease is the error
            await lease.leave(held._core, error)  # noqa: SLF001  one facade, two classes

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Return ``function`` with each of its calls under the lock."""
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"hold() decorates async functions only, got {function!r}; use `async with` inside it")

        @functools.wraps(function)
        async def held(*args: P.args, **kwargs: P.kwargs) -> R:
            async with Hold(self._lock, self._timeout):
                return await function(*args, **kwargs)

        return held


class Acquirable:
    """What can be held: wait for it, ask once, or hold it for a block. Made as one of its kinds, never by itself."""

    _made: type[Lease] = Lease  # what its kind gives out

    def __init__(self, name: str, contender: Asks, *, nests: bool = False) -> None:
        self.name = name
        self._contender = contender
        self._open: OpenBlocks[tuple[Held, Scope]] = OpenBlocks(name, nests=nests)

    async def acquire(self, timeout: float | None = None) -> Lease:
        """Wait for the lock: for ever, or at most ``timeout`` seconds; 0 asks once.

        Raises ``AcquireTimeout`` (``NotAcquired`` for 0) if another held it to the end, ``StoreUnavailable`` if no
        answer came, ``StoreRefused`` if the server said no.
        """
        core = await self._contender.acquire(checks.check_timeout(timeout))
        core.pulse.kept = core
        return self._made(core)

    async def try_acquire(self) -> Lease | None:
        """Ask once; return None if another holds it. Raises as ``acquire`` does otherwise."""
        core = await self._contender.try_acquire()
        if core is None:
            return None
        core.pulse.kept = core
        return self._made(core)

    def hold(self, timeout: float | None = None) -> Hold:
        """Return a block that waits like ``acquire(timeout)`` and gives back at its end; also a decorator."""
        return Hold(self, timeout)

    async def __aenter__(self) -> Lease:
        core = await self._contender.acquire(None)
        self._open.entered(asyncio.current_task(), (core, Scope(core.lost)))
        return self._made(core)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, scope = self._open.left(asyncio.current_task())
        await lease.leave(
            core, None if scope.left(error) else error
        )  # after our own cancellation, the loss is the error


class Holdable(Acquirable):
    """What can be held for a ``ttl``, without news from us."""

    def __init__(self, name: str, ttl: float, contender: Asks, *, nests: bool = False) -> None:
        super().__init__(name, contender, nests=nests)
        self.ttl = ttl
