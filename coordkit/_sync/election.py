"""Election for threads."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._open import OpenBlocks
from coordkit._run import run
from coordkit._sync.leadership import Leadership
from coordkit._sync.stream import Stream
from coordkit._threads.runtime import RUNTIME
from coordkit._threads.zookeeper import session_of
from coordkit.core import checks, election, leadership, views, zk_checks
from coordkit.core.candidate import Terms
from coordkit.core.records import Leader
from coordkit.core.views import View
from coordkit.errors import CoordError, LeadershipLost

_log = logging.getLogger("coordkit")

R = TypeVar("R")


class Views(Stream[View]):
    """A stream of who leads: iterate over it, and close it (or leave its ``with``) when done.

    It ends when it is closed, and raises ``StoreUnavailable`` if the first state cannot be had in one session timeout,
    or when the client is stopped.
    """

    __slots__ = ()

    def __init__(self, core: views.Views) -> None:
        super().__init__(core, core.next_view)


class Lead:
    """One block that is run by the leader only.

    Leaving the block resigns, after the work. It raises ``LeadershipLost`` if the leadership was lost meanwhile, and
    ``StoreUnavailable`` if resigning got no answer (it goes on in the background), unless the block itself raised: its
    own error always wins.
    """

    __slots__ = ("_election", "_leadership", "_timeout")

    def __init__(self, election: Election, timeout: float | None) -> None:
        self._election = election
        self._timeout = checks.check_timeout(timeout)
        self._leadership: Leadership | None = None

    if not TYPE_CHECKING:  # to a type checker, nothing else is there

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"lead() has no {name}: enter it (with ...lead(...) as leadership)")

    def __enter__(self) -> Leadership:
        if self._leadership is not None:
            raise CoordError(self._election.path, "this lead() is in use: call lead() again for each block")
        self._leadership = self._election._led(self._timeout)  # noqa: SLF001  one facade
        return self._leadership

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._leadership = self._leadership, None
        if held is not None:
            run(leadership.leave(held._core, error))  # noqa: SLF001  one facade


class Election:
    """Describe an election on ZooKeeper; ``with election as leadership`` waits until elected, and leads.

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
        called in a thread of its own, so it may block; what it raises is logged.
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

    def _led(self, timeout: float | None) -> Leadership:
        core = run(self._core.lead(timeout))
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

        def begin() -> None:
            if (lost := known()) is None:
                return
            try:
                threading.Thread(target=call, args=(lost,), name="coordkit-on-lost", daemon=True).start()
            except RuntimeError:
                _log.exception("%s: on_lost was not called: too many threads", self.path)

        core.lost.call_when_set(begin)

    def lead(self, timeout: float | None = None) -> Lead:
        """Return a block that waits until elected: for ever, or at most ``timeout`` seconds; 0 asks once.

        Entering raises ``AcquireTimeout`` (``NotAcquired`` for 0) if another led to the end, ``StoreUnavailable`` if
        there was no connection for that long or for one session timeout, ``StoreRefused`` if the servers said no.

        Nothing interrupts the block when the leadership is lost: it must look at ``lost`` or ``ensure()`` by itself.
        Its place in the line is kept until it ends; only then, or when the session has ended, another leads.
        """
        return Lead(self, timeout)

    def run(self, serve: Callable[[Leadership], R], *, again: bool = True) -> R | None:
        """Wait until elected, call ``serve(leadership)``, resign, and return what it returned.

        After a loss, and after an outage once it has stood, it stands again, with growing pauses; with ``again=False``
        it raises ``LeadershipLost`` or ``StoreUnavailable``. A quota that is used up counts as an outage; any other
        ``StoreRefused`` (rights, credentials, a chroot that is not there) is raised, as it lasts until somebody mends
        the set-up. What ``serve`` raises by itself is raised. Returns None if ``stop()`` was called before it led.

        Nothing interrupts ``serve`` when the leadership is lost: it must look at ``lost`` or ``ensure()`` by itself.
        While it goes on, nobody else leads unless the session has ended.
        """
        if inspect.iscoroutinefunction(serve):
            raise TypeError(f"serve must be a plain function, got the coroutine function {serve!r}: see coordkit.aio")

        async def served(core: leadership.Leadership) -> R:
            self._tell(core)
            return serve(Leadership(core))

        return run(self._core.run(served, again=again))

    def stop(self) -> None:
        """Have every ``run`` in progress leave the line or not stand again; a ``serve`` that runs goes on."""
        self._core.stop()

    def leader(self) -> Leader | None:
        """Return the identity and the token of who leads, or None; one round trip.

        It is what one server knows: one that is cut off from the others may be late, by at most one session timeout.
        Raises ``StoreUnavailable``.
        """
        return run(self._core.leader())

    def contenders(self) -> list[str]:
        """Return the identities of all who stand, in order of succession, the leader first; two round trips.

        Who crashed is in line until its session has ended: at most one session timeout. Raises ``StoreUnavailable``.
        """
        return run(self._core.contenders())

    def evict(self, reason: str = "", *, force: bool = False) -> Leader | None:
        """Have who leads step down; return its identity and token, or None if nobody leads.

        Its leadership is lost at once, with ``reason`` in the error; when its block has ended, the next in line leads.
        ``election.run`` stands again, at the end of the line. With ``force=True`` its znode is deleted: the next leads
        at once, beside work of the evicted that may go on, as after a crash. In both cases the token of the next is
        greater, and a resource that compares them refuses the evicted one from then on. Raises ``StoreUnavailable``.
        """
        return run(self._core.evict(reason, force=force))

    def observe(self) -> Views:
        """Return a stream of who leads: first the present state, then what is new each time; bursts are merged.

        It goes on through reconnects and new sessions. What it shows is what one server knows, as with ``leader()``.
        """
        return Views(self._core.observe())

    def __enter__(self) -> Leadership:
        block = self.lead()
        held = block.__enter__()
        self._open.entered(threading.get_ident(), block)
        return held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.left(threading.get_ident()).__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Election {self.path} identity={self.identity!r}>"
