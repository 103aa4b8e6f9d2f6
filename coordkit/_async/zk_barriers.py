"""Barriers on ZooKeeper, for asyncio."""

from __future__ import annotations

import asyncio
from types import TracebackType

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._asyncio.zookeeper import session_of
from coordkit._open import OpenBlocks
from coordkit.core import checks, zk_barrier, zk_checks, zk_double_barrier
from coordkit.errors import CoordError


class Barrier:
    """Describe a barrier on ZooKeeper: once it is created, whoever waits goes on when it is removed.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed.
    :param path: the znode of the barrier, absolute; ``barrier`` is made below it, and outlives whoever made it.
    :raises ValueError, TypeError: for arguments that can only be mistakes.
    """

    def __init__(self, zk: KazooClient, path: str) -> None:
        _kazoo.check_client(zk)
        self.name = zk_checks.check_path(path)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._core = zk_barrier.Barrier(lambda: session_of(zk), path)

    async def create(self) -> None:
        """Put it up, if it is not. Raises ``StoreUnavailable`` if no answer came: it may be up."""
        await self._core.create()

    async def remove(self) -> None:
        """Take it down, if it is up. Raises ``StoreUnavailable`` if no answer came: it may be down."""
        await self._core.remove()

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it is down: for ever, or at most ``timeout`` seconds; 0 looks once. One that never was is down.

        Lost connections and sessions are survived. Raises ``AcquireTimeout`` (``NotAcquired`` for 0) if it was up to
        the end, ``StoreUnavailable`` if there was no connection for that long or for one session timeout.
        """
        await self._core.wait(checks.check_timeout(timeout))

    def __repr__(self) -> str:
        return f"<Barrier {self.name}>"


class Crossing:
    """What a party has that was let in, until it leaves. Made by ``DoubleBarrier``, never by hand."""

    __slots__ = ("_core",)

    def __init__(self, core: zk_double_barrier.Crossing) -> None:
        self._core = core

    @property
    def name(self) -> str:
        """The path of the barrier."""
        return self._core.name

    async def leave(self, timeout: float | None = None) -> None:
        """Leave, and wait until all who were let in together have left: for ever, or at most ``timeout`` seconds.

        0 does not wait. We have left in any case; who crashed has left when its session ends. Raises ``AcquireTimeout``
        if others are still inside, ``StoreUnavailable`` if no answer came (our znode is then removed in the
        background).
        """
        await self._core.leave(checks.check_timeout(timeout))

    def __repr__(self) -> str:
        return f"<Crossing {self.name}>"


class Passage:
    """One block inside a double barrier, with a patience for each of its ends.

    A block that raises leaves without waiting for the others: its own error wins.
    """

    __slots__ = ("_barrier", "_crossing", "_timeout")

    def __init__(self, barrier: DoubleBarrier, timeout: float | None) -> None:
        self._barrier = barrier
        self._timeout = checks.check_timeout(timeout)
        self._crossing: Crossing | None = None

    async def __aenter__(self) -> Crossing:
        if self._crossing is not None:
            raise CoordError(self._barrier.name, "this hold() is in use: call hold() again for each block")
        self._crossing = await self._barrier.enter(self._timeout)
        return self._crossing

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        crossing, self._crossing = self._crossing, None
        if crossing is not None:
            await crossing._core.left_with(error, self._timeout)  # noqa: SLF001  one facade


class DoubleBarrier:
    """Describe a double barrier on ZooKeeper: ``parties`` enter together and leave together, round after round.

    ``async with barrier`` waits at both ends. The first so many that wait are let in by one transaction, if all of them
    are there at that moment. Whoever is one too many waits for the next round.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed.
    :param path: the znode of the barrier, absolute; ``double`` is made below it.
    :param parties: how many enter together, 1 to 1000. All must agree: whoever comes with another number than the first
        who waits gets ``StoreRefused``.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that the others are still there once we are in. Whoever crashes has left when its session ends, and
    who loses its session has left, too.
    """

    def __init__(self, zk: KazooClient, path: str, *, parties: int) -> None:
        _kazoo.check_client(zk)
        self.name = zk_checks.check_path(path)
        self.client = zk
        self.parties = checks.check_parties(parties)
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._core = zk_double_barrier.DoubleBarrier(lambda: session_of(zk), path, parties)
        self._open: OpenBlocks[Passage] = OpenBlocks(path, "barrier.hold()")

    async def enter(self, timeout: float | None = None) -> Crossing:
        """Wait until enough are there and enter: for ever, or at most ``timeout`` seconds; 0 enters as the last or not.

        Lost connections are survived; who loses its session waits again in the next, at the end of the line. Raises
        ``AcquireTimeout`` (``NotAcquired`` for 0) if fewer came: we were not let in then. ``StoreUnavailable`` if there
        was no connection for that long or for one session timeout; ``StoreRefused`` if the parties do not agree.
        """
        return Crossing(await self._core.enter(checks.check_timeout(timeout)))

    def hold(self, timeout: float | None = None) -> Passage:
        """Return a block that is entered like ``enter(timeout)`` and left like ``leave(timeout)``."""
        return Passage(self, timeout)

    async def __aenter__(self) -> Crossing:
        block = self.hold()
        crossing = await block.__aenter__()
        self._open.entered(asyncio.current_task(), block)
        return crossing

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.left(asyncio.current_task()).__aexit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<DoubleBarrier {self.name} parties={self.parties}>"
