"""What is held, for threads: a lease, the block it is held for, and what everything that can be held has in common."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar
from weakref import ref

from coordkit._open import OpenBlocks
from coordkit._run import run
from coordkit._sync.lost import Lost
from coordkit._threads.runtime import RUNTIME
from coordkit.core import checks, lease
from coordkit.core.handover import hand_over
from coordkit.core.held import Asks, Held
from coordkit.core.token import Token
from coordkit.errors import CoordError

P = ParamSpec("P")
R = TypeVar("R")


class Lease:
    """What you hold: a token, a deadline, and a loud end.

    Made by ``Lock.acquire``, ``Lock.try_acquire`` and ``with lock``, never by hand. A forked child holds nothing of
    its parent's: there ``ensure`` raises and ``release`` returns False.
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

    def renew(self) -> None:
        """Renew now, by one request.

        Raises ``LeaseLost`` if it is no longer ours, ``StoreUnavailable`` if no answer came (it may still be ours).
        """
        run(self._core.renew())

    def release(self) -> bool:
        """Give it back; return False if it was no longer ours, and if it was given back before.

        If a first request got no answer, and another finds it gone before its deadline, the first counts as what gave
        it back: True is wrong then if the lock was broken, or forgotten by its server, just before. Raises
        ``StoreUnavailable`` if no answer came: it is then given back in the background, or ends with its ttl.
        """
        return run(self._core.release())

    def handover(self) -> str:
        """Renew it, end it here, and return the text by which another process can ``adopt`` it, for a whole ttl.

        Leaving the block is then no error and gives nothing back; ``ensure`` raises. Whoever reads the text may adopt
        the lease. Raises ``LeaseLost`` if it is no longer ours, ``StoreUnavailable`` if no answer came (it is still
        held then), ``CoordError`` for what is no plain ``Lock``'s. The adopter gets a token of its own: once it has
        claimed a fence, that refuses what we send or sent late.
        """
        return run(hand_over(RUNTIME, self._core))

    def __repr__(self) -> str:
        return f"<Lease {self.name} token={self.token} remaining={self.remaining():.1f}s>"


class Hold:
    """One block under a lock; also a decorator, which makes a block of each call.

    Leaving the block gives the lease back. It raises ``LeaseLost`` if the lease was lost meanwhile, and
    ``StoreUnavailable`` if giving back got no answer, unless the block itself raised: its own error always wins.
    """

    __slots__ = ("_free", "_lease", "_lock", "_timeout")

    def __init__(self, lock: Acquirable, timeout: float | None) -> None:
        self._lock = lock
        self._timeout = checks.check_timeout(timeout)
        self._lease: Lease | None = None
        self._free = [True]  # taken while the block is entered; one thread of several gets it

    def __enter__(self) -> Lease:
        try:
            self._free.pop()
        except IndexError:
            raise CoordError(self._lock.name, "this hold() is in use: call hold() again for each block") from None
        try:
            core = run(self._lock._contender.acquire(self._timeout))  # noqa: SLF001  one facade, two classes
            lease = self._lease = self._lock._made(core)  # noqa: SLF001  the same
        except BaseException:
            self._lease = None
            self._free.append(True)
            raise
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._lease = self._lease, None
        self._free.append(True)
        if held is not None:
            run(lease.leave(held._core, error))  # noqa: SLF001  one facade, two classes

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function`` with each of its calls under the lock."""
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(kind(function) for kind in kinds):
            # Such a call returns before its body has begun, and the lock would be given back by then.
            raise TypeError(f"hold() decorates plain functions only, got {function!r}; use `with` inside it")

        @functools.wraps(function)
        def held(*args: P.args, **kwargs: P.kwargs) -> R:
            with Hold(self._lock, self._timeout):
                return function(*args, **kwargs)

        return held


class Block:
    """The end of one ``with lock``: only the frame of the block has it, and so what is held.

    An exception of a signal handler may end the block in front of the first line of any ``__exit__``; then this goes
    with the frame, and nobody has the lease.
    """

    __slots__ = ("__weakref__", "core", "others")  # set by who makes it, sooner than by an __init__

    core: Held | None
    others: OpenBlocks[Held]

    def __call__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        core = self.core or self.others.left(threading.get_ident())  # called by hand
        run(lease.leave(core, error))


class OfEachBlock:
    """An ``__exit__`` that is made anew for each ``with``, which looks it up before it enters."""

    def __init__(self, leave: Callable[..., None]) -> None:
        self._leave = leave

    def __get__(self, lock: Acquirable | None, kind: type) -> Callable[..., None]:
        if lock is None:
            return self._leave  # for an ExitStack
        block = Block()
        block.core, block.others = None, lock._open  # noqa: SLF001  one facade, two classes
        lock._coming[threading.get_ident()] = ref(block)  # noqa: SLF001  the same
        return block

    def __call__(self, *arguments: Any) -> None:
        self._leave(*arguments)


class Acquirable:
    """What can be held: wait for it, ask once, or hold it for a block. Made as one of its kinds, never by itself."""

    _made: type[Lease] = Lease  # what its kind gives out

    def __init__(self, name: str, contender: Asks, *, nests: bool = False) -> None:
        self.name = name
        self._contender = contender
        self._open: OpenBlocks[Held] = OpenBlocks(name, nests=nests)
        self._coming: dict[int, ref[Block]] = {}  # by thread: of a `with` that asked for its end, and enters next

    def acquire(self, timeout: float | None = None) -> Lease:
        """Wait for the lock: for ever, or at most ``timeout`` seconds; 0 asks once.

        Raises ``AcquireTimeout`` (``NotAcquired`` for 0) if another held it to the end, ``StoreUnavailable`` if no
        answer came, ``StoreRefused`` if the server said no.
        """
        core = run(self._contender.acquire(checks.check_timeout(timeout)))
        made = self._made(core)
        core.pulse.kept = core  # nothing can come between this and who called
        return made

    def try_acquire(self) -> Lease | None:
        """Ask once; return None if another holds it. Raises as ``acquire`` does otherwise."""
        core = run(self._contender.try_acquire())
        if core is None:
            return None
        made = self._made(core)
        core.pulse.kept = core
        return made

    def hold(self, timeout: float | None = None) -> Hold:
        """Return a block that waits like ``acquire(timeout)`` and gives back at its end; also a decorator."""
        return Hold(self, timeout)

    def __enter__(self) -> Lease:
        coming = self._coming.pop(threading.get_ident(), None)
        core = run(self._contender.acquire(None))
        block = coming() if coming is not None else None
        if block is None:  # no `with` is in front of us
            self._open.entered(threading.get_ident(), core)
        else:
            block.core = core
        return self._made(core)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(lease.leave(self._open.left(threading.get_ident()), error))

    if not TYPE_CHECKING:
        __exit__ = OfEachBlock(__exit__)


class Holdable(Acquirable):
    """What can be held for a ``ttl``, without news from us."""

    def __init__(self, name: str, ttl: float, contender: Asks, *, nests: bool = False) -> None:
        super().__init__(name, contender, nests=nests)
        self.ttl = ttl
