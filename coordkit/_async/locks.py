"""Lock, Lease and Fence for asyncio."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from tenacity.wait import wait_base

from coordkit._async.lost import Lost, Scope
from coordkit._asyncio.redis import store_for
from coordkit._asyncio.runtime import RUNTIME
from coordkit._open import OpenBlocks
from coordkit.core import checks, fence, lease, lock
from coordkit.core.contend import PAUSES, Contender
from coordkit.core.token import Token
from coordkit.errors import CoordError

P = ParamSpec("P")
R = TypeVar("R")


class Lease:
    """What you hold: a token, a deadline, and a loud end.

    Made by ``Lock.acquire``, ``Lock.try_acquire`` and ``async with lock``, never by hand. A forked child holds nothing
    of its parent's: there ``ensure`` raises and ``release`` returns False.
    """

    __slots__ = ("_core", "lost")

    def __init__(self, core: lease.Lease) -> None:
        self._core = core
        self.lost = Lost(core.lost)

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

        Raises ``StoreUnavailable`` if no answer came: it is then given back in the background, or ends with its ttl.
        """
        return await self._core.release()

    def __repr__(self) -> str:
        return f"<Lease {self.name} token={self.token} remaining={self.remaining():.1f}s>"


class Hold:
    """One block under a lock; also a decorator, which makes a block of each call.

    When the lease is lost, the body is cancelled (in the task that entered), and leaving raises ``LeaseLost``.
    Leaving the block gives the lease back. It raises ``StoreUnavailable`` if giving back got no answer, unless the
    block itself raised: its own error always wins.
    """

    __slots__ = ("_free", "_lease", "_lock", "_scope", "_timeout")

    def __init__(self, lock: Lock, timeout: float | None) -> None:
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
            self._lease = await self._lock.acquire(self._timeout)
        except BaseException:
            self._free.append(True)
            raise
        self._scope = Scope(self._lease._core.lost)  # noqa: SLF001  one facade, two classes
        return self._lease

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


class Lock:
    """Describe a lock on one Redis; ``async with lock as lease`` holds it.

    A ``Lock`` is a description and a ``Lease`` a possession: share one ``Lock`` between tasks as you like, and
    build it before there is an event loop if that suits you.

    :param redis: a ``redis.asyncio.Redis``, ``RedisCluster``, or a Sentinel's master. It is not closed. coordkit opens
        connections of its own by the recipe of its pool, at most 32 for all that is asked at the same time.
    :param name: what is locked; it becomes part of the keys ``coordkit:1:{name}:*``.
    :param ttl: seconds, 0.05 or more, that the server keeps the lease without news from us: how long others wait
        after a crash. Longer than your longest pause, or the lease is lost in it.
    :param renew: renew in the background every third of the ttl while it is held.
    :param max_hold: seconds after which a lease is not renewed any more, so that a body that hangs loses it.
    :param wait: a tenacity wait strategy: the pauses of a refused contender.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that nobody else *believes* to hold it. A process may be paused between looking and writing, and a
    server may fail over without the lock. The token tells the two apart: let the resource compare it (``Fence``).
    """

    def __init__(
        self,
        redis: Any,
        name: str,
        *,
        ttl: float,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
    ) -> None:
        self.name = checks.check_name("name", name)
        self.ttl = checks.check_ttl(ttl)
        self.client = redis
        store = store_for(redis)
        grantor = lock.Mutex(store, store.keeper, name)
        self.key = grantor.key
        bound = checks.check_max_hold(max_hold, self.ttl)
        self._contender = Contender(
            RUNTIME, grantor, self.ttl, renew=renew, max_hold=bound, wait=checks.check_wait(wait)
        )
        self._open: OpenBlocks[Hold] = OpenBlocks(name)

    async def acquire(self, timeout: float | None = None) -> Lease:
        """Wait for the lock: for ever, or at most ``timeout`` seconds; 0 asks once.

        Raises ``AcquireTimeout`` (``NotAcquired`` for 0) if another held it to the end, ``StoreUnavailable`` if no
        answer came, ``StoreRefused`` if the server said no.
        """
        return Lease(await self._contender.acquire(checks.check_timeout(timeout)))

    async def try_acquire(self) -> Lease | None:
        """Ask once, by one request; return None if another holds it. Raises as ``acquire`` does otherwise."""
        core = await self._contender.try_acquire()
        return None if core is None else Lease(core)

    def hold(self, timeout: float | None = None) -> Hold:
        """Return a block that waits like ``acquire(timeout)`` and gives back at its end; also a decorator."""
        return Hold(self, timeout)

    async def __aenter__(self) -> Lease:
        block = self.hold()
        held = await block.__aenter__()
        self._open.entered(asyncio.current_task(), block)
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.left(asyncio.current_task()).__aexit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Lock {self.name} ttl={self.ttl}s>"


class Fence:
    """Refuse the past, for values that live in Redis: the comparing side of a fencing token.

    Remembers the highest token seen for ``name``, and refuses every lower one (and an equal one of another holder) in
    the same step in which it reads or writes. **Claim on entry**, or read through the fence, before the first read:
    comparing only on writing still loses updates.

    Pass ``lease.token`` as it is: it carries the holder. Text is kept as UTF-8. The fence never forgets; its key is
    ``coordkit:1:{name}:fence``. On a Cluster, guarded keys must share its tag: ``{name}:...``. One fence takes tokens
    from one source only.
    """

    def __init__(self, redis: Any, name: str) -> None:
        self.name = checks.check_name("name", name)
        self._core = fence.Fence(RUNTIME, store_for(redis), name)

    async def claim(self, *, token: int) -> None:
        """Raise the fence to ``token``: from now on every earlier holder is refused.

        Raises ``StaleToken`` if a later holder was here, ``StoreUnavailable`` or ``StoreRefused`` as a lock does.
        """
        await self._core.claim(token)

    async def get(self, key: str | bytes, *, token: int) -> Any:
        """Claim, and return the value of ``key`` as the client decodes it, or None. Raises as ``claim`` does."""
        return await self._core.get(key, token)

    async def set(self, key: str | bytes, value: str | bytes | int, *, token: int) -> None:
        """Claim, and set ``key`` to ``value``, in one step. Raises as ``claim`` does."""
        await self._core.set(key, value, token)

    async def delete(self, key: str | bytes, *, token: int) -> None:
        """Claim, and delete ``key``, in one step. Raises as ``claim`` does."""
        await self._core.delete(key, token)

    def __repr__(self) -> str:
        return f"<Fence {self.name}>"
