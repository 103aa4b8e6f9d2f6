"""Election for asyncio; the KazooClient is a threading one, bridged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, TypeVar

from coordkit import _kazoo
from coordkit._async.lost import Lost, Scope
from coordkit._asyncio.runtime import RUNTIME
from coordkit._asyncio.zookeeper import session_of
from coordkit._open import OpenBlocks
from coordkit.core import checks, election, leadership, znodes
from coordkit.core.token import Token
from coordkit.core.znodes import Leader
from coordkit.errors import CoordError

R = TypeVar("R")


class Leadership:
    """What a leader holds: a token, a proof that ends, and a loud loss.

    Made by ``async with election`` and ``election.run``, never by hand. A forked child leads nothing.
    """

    __slots__ = ("_core", "lost")

    def __init__(self, core: leadership.Leadership) -> None:
        self._core = core
        self.lost = Lost(core.lost)

    @property
    def name(self) -> str:
        """The path of the election."""
        return self._core.name

    @property
    def identity(self) -> str:
        """Who leads."""
        return self._core.identity

    @property
    def token(self) -> Token:
        """The fencing token: the zxid of taking over, greater than that of every earlier leader."""
        return self._core.token

    def remaining(self) -> float:
        """Return the seconds for which the last answered write proves that we lead; 0.0 once it is lost."""
        return self._core.remaining()

    def ensure(self) -> Literal[True]:
        """Return True if we lead, without asking the servers; raise ``LeadershipLost`` if we may not."""
        return self._core.ensure()

    async def verify(self) -> None:
        """Ask the quorum, by one write, whether we lead.

        Raises ``LeadershipLost`` if we do not, ``StoreUnavailable`` if no answer came.
        """
        await self._core.renew()

    def __repr__(self) -> str:
        return f"<Leadership {self.name} {self.identity} token={self.token} remaining={self.remaining():.1f}s>"


class Lead:
    """One block that is run by the leader only; it is cancelled, in the task that entered, when that is lost.

    Leaving the block resigns, after the work. It raises ``LeadershipLost`` if the leadership was lost meanwhile, and
    ``StoreUnavailable`` if resigning got no answer (it goes on in the background), unless the block itself raised: its
    own error always wins.
    """

    __slots__ = ("_election", "_leadership", "_scope", "_timeout")

    def __init__(self, election: Election, timeout: float | None) -> None:
        self._election = election
        self._timeout = checks.check_timeout(timeout)
        self._leadership: Leadership | None = None
        self._scope: Scope | None = None

    async def __aenter__(self) -> Leadership:
        if self._leadership is not None:
            raise CoordError(self._election.path, "this lead() is in use: call lead() again for each block")
        self._leadership = Leadership(await self._election._core.lead(self._timeout))  # noqa: SLF001  one facade
        self._scope = Scope(self._leadership._core.lost)  # noqa: SLF001  one facade
        return self._leadership

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._leadership = self._leadership, None
        scope, self._scope = self._scope, None
        if held is not None:
            if scope is not None and scope.left(error):
                error = None  # our own cancellation: what became of the leadership is the error
            await leadership.leave(held._core, error)  # noqa: SLF001  one facade


class Election:
    """Describe an election on ZooKeeper; ``async with election as leadership`` waits until elected, and leads.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed. Its session is what
        leads: a leader that crashes is replaced when its session timeout has passed.
    :param path: the znode of the election, absolute. ``epoch`` and ``candidates`` are made below it.
    :param identity: who stands, a text for people and for ``leader()``.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Contenders lead in the order in which they came. The leadership is lost at the earliest of: the connection is
    suspended, the session ends, our znode is deleted, or two thirds of the session timeout pass without an answered
    write. Not promised: that an old leader has stopped when a new one starts. Only the token tells them apart.
    """

    def __init__(self, zk: Any, path: str, *, identity: str) -> None:
        _kazoo.check_client(zk)
        self.path = znodes.check_path(path)
        self.identity = znodes.check_identity(identity)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._core = election.Election(RUNTIME, lambda: session_of(zk), path, identity)
        self._open: OpenBlocks[Lead] = OpenBlocks(path, "election.lead()")

    def lead(self, timeout: float | None = None) -> Lead:
        """Return a block that waits until elected: for ever, or at most ``timeout`` seconds; 0 asks once.

        Entering raises ``AcquireTimeout`` (``NotAcquired`` for 0) if another led to the end, ``StoreUnavailable`` if
        there was no connection for that long or for one session timeout, ``StoreRefused`` if the servers said no.

        The block is cancelled when the leadership is lost. Its place in the line is kept until it ends; only then, or
        when the session has ended, another leads: what blocks the event loop keeps all waiting.
        """
        return Lead(self, timeout)

    async def run(self, serve: Callable[[Leadership], Awaitable[R]], *, again: bool = True) -> R | None:
        """Wait until elected, await ``serve(leadership)``, resign, and return what it returned.

        ``serve`` is cancelled when the leadership is lost. After a loss, and after an outage once it has stood, it
        stands again, with growing pauses; with ``again=False`` it raises ``LeadershipLost`` or ``StoreUnavailable``.
        What ``serve`` raises by itself is raised. Returns None if ``stop()`` was called before it led.
        """

        async def served(core: leadership.Leadership) -> R:
            scope = Scope(core.lost)
            try:
                result = await serve(Leadership(core))
            except BaseException as error:
                if scope.left(error):
                    raise core.loss() from None
                raise
            scope.left(None)
            return result

        return await self._core.run(served, again=again)

    def stop(self) -> None:
        """Have every ``run`` in progress leave the line or not stand again; a ``serve`` that runs goes on."""
        self._core.stop()

    async def leader(self) -> Leader | None:
        """Return the identity and the token of who leads, or None; one round trip.

        It is what one server knows: one that is cut off from the others may be late, by at most one session timeout.
        Raises ``StoreUnavailable``.
        """
        return await self._core.leader()

    async def contenders(self) -> list[str]:
        """Return the identities of all who stand, in order of succession, the leader first; two round trips.

        Who crashed is in line until its session has ended: at most one session timeout. Raises ``StoreUnavailable``.
        """
        return await self._core.contenders()

    async def __aenter__(self) -> Leadership:
        block = self.lead()
        held = await block.__aenter__()
        self._open.entered(asyncio.current_task(), block)
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.left(asyncio.current_task()).__aexit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Election {self.path} identity={self.identity!r}>"
