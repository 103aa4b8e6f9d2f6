"""Election for asyncio; the KazooClient is a threading one, bridged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._async.leadership import Leadership
from coordkit._async.lost import Scope
from coordkit._async.stream import Stream
from coordkit._asyncio.runtime import RUNTIME
from coordkit._asyncio.zookeeper import session_of
from coordkit._open import OpenBlocks
from coordkit.core import checks, election, leadership, views, zk_checks
from coordkit.core.candidate import Terms
from coordkit.core.records import Leader
from coordkit.core.views import View
from coordkit.errors import CoordError, LeadershipLost

_log = logging.getLogger("coordkit")

R = TypeVar("R")


class Views(Stream[View]):
    """A stream of who leads: iterate over it, and close it (or leave its ``async with``) when done.

    It ends when it is closed, and raises ``StoreUnavailable`` if the first state cannot be had in one session timeout,
    or when the client is stopped.
    """

    __slots__ = ()

    def __init__(self, core: views.Views) -> None:
        super().__init__(core, core.next_view)


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

    if not TYPE_CHECKING:  # to a type checker, nothing else is there

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"lead() has no {name}: enter it (async with ...lead(...) as leadership)")

    async def __aenter__(self) -> Leadership:
        if self._leadership is not None:
            raise CoordError(self._election.path, "this lead() is in use: call lead() again for each block")
        self._leadership = await self._election._led(self._timeout)  # noqa: SLF001  one facade
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
    :param priority: who leads next, when the present leader has ended: the greatest (0 to 999,999,999), of equals the
        first that came. It never ends the term of another.
    :param policy: "strict": a suspended connection ends the leadership, because the session may end unheard. "session":
        an outage is outlived if the same session comes back within two thirds of its timeout, counted from when the
        last answered write was sent; not longer, so it is as safe as far as clocks run alike.
    :param on_lost: called once, with the ``LeadershipLost``, when a leadership is lost (not when it is given up). It is
        called in the event loop and must not block; what it raises is logged.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Contenders lead in the order in which they came. The leadership is lost at the earliest of: the connection is
    suspended (but see ``policy``), the session ends, our znode is deleted, we are evicted, or two thirds of the session
    timeout pass without an answered write. Not promised: that an old leader has stopped when a new one starts. Only the
    token tells them apart.
    """

    def __init__(
        self,
        zk: KazooClient,
        path: str,
        *,
        identity: str,
        priority: int = 0,
        policy: Literal["strict", "session"] = "strict",
        on_lost: Callable[[LeadershipLost], object] | None = None,
    ) -> None:
        _kazoo.check_client(zk)
        self.path = zk_checks.check_path(path)
        self.identity = zk_checks.check_identity(identity)
        self.priority = zk_checks.check_priority(priority)
        self.policy = checks.check_policy(policy)
        self.on_lost = checks.check_callback("on_lost", on_lost)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        terms = Terms(identity, priority, strict=policy == "strict")
        self._core = election.Election(RUNTIME, lambda: session_of(zk), path, terms)
        self._open: OpenBlocks[Lead] = OpenBlocks(path, "election.lead()")

    async def _led(self, timeout: float | None) -> Leadership:
        core = await self._core.lead(timeout)
        self._tell(core)
        return Leadership(core)

    def _tell(self, core: leadership.Leadership) -> None:
        """Have ``on_lost`` called when this leadership is lost."""
        on_lost = self.on_lost
        if on_lost is None:
            return

        known: Callable[[], leadership.Leadership | None] = core.pulse  # to tell of it is not to have it

        def call(lost: leadership.Leadership) -> None:
            try:
                on_lost(lost.loss())
            except Exception:  # noqa: BLE001  the caller's code, called from ours
                _log.exception("%s: on_lost failed", self.path)

        loop = asyncio.get_running_loop()

        def soon() -> None:
            if (lost := known()) is not None:
                loop.call_soon(call, lost)

        core.lost.call_when_set(soon)

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
        stands again, with growing pauses; with ``again=False`` it raises ``LeadershipLost`` or ``StoreUnavailable``. A
        quota that is used up counts as an outage; any other ``StoreRefused`` (rights, credentials, a chroot that is not
        there) is raised, as it lasts until somebody mends the set-up. What ``serve`` raises by itself is raised.
        Returns None if ``stop()`` was called before it led.
        """

        async def served(core: leadership.Leadership) -> R:
            self._tell(core)
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

    async def evict(self, reason: str = "", *, force: bool = False) -> Leader | None:
        """Have who leads step down; return its identity and token, or None if nobody leads.

        Its leadership is lost at once, with ``reason`` in the error; when its block has ended, the next in line leads.
        ``election.run`` stands again, at the end of the line. With ``force=True`` its znode is deleted: the next leads
        at once, beside work of the evicted that may go on, as after a crash. In both cases the token of the next is
        greater, and a resource that compares them refuses the evicted one from then on. Raises ``StoreUnavailable``.
        """
        return await self._core.evict(reason, force=force)

    def observe(self) -> Views:
        """Return a stream of who leads: first the present state, then what is new each time; bursts are merged.

        It goes on through reconnects and new sessions. What it shows is what one server knows, as with ``leader()``.
        """
        return Views(self._core.observe())

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
