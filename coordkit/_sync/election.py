"""Election for threads."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TypeVar

from coordkit import _kazoo
from coordkit._open import OpenBlocks
from coordkit._run import run
from coordkit._sync.lost import Lost
from coordkit._threads.runtime import RUNTIME
from coordkit._threads.zookeeper import session_of
from coordkit.core import checks, election, leadership, znodes
from coordkit.core.token import Token
from coordkit.core.znodes import Leader
from coordkit.errors import CoordError

R = TypeVar("R")


class Leadership:
    """What a leader holds: a token, a proof that ends, and a loud loss.

    Made by ``with election`` and ``election.run``, never by hand. A forked child leads nothing.
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

    def verify(self) -> None:
        """Ask the quorum, by one write, whether we lead.

        Raises ``LeadershipLost`` if we do not, ``StoreUnavailable`` if no answer came.
        """
        run(self._core.renew())

    def __repr__(self) -> str:
        return f"<Leadership {self.name} {self.identity} token={self.token} remaining={self.remaining():.1f}s>"


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

    def __enter__(self) -> Leadership:
        if self._leadership is not None:
            raise CoordError(self._election.path, "this lead() is in use: call lead() again for each block")
        self._leadership = Leadership(run(self._election._core.lead(self._timeout)))  # noqa: SLF001  one facade
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

        Nothing interrupts the block when the leadership is lost: it must look at ``lost`` or ``ensure()`` by itself.
        Its place in the line is kept until it ends; only then, or when the session has ended, another leads.
        """
        return Lead(self, timeout)

    def run(self, serve: Callable[[Leadership], R], *, again: bool = True) -> R | None:
        """Wait until elected, call ``serve(leadership)``, resign, and return what it returned.

        After a loss, and after an outage once it has stood, it stands again, with growing pauses; with ``again=False``
        it raises ``LeadershipLost`` or ``StoreUnavailable``. What ``serve`` raises by itself is raised. Returns None if
        ``stop()`` was called before it led.

        Nothing interrupts ``serve`` when the leadership is lost: it must look at ``lost`` or ``ensure()`` by itself.
        While it goes on, nobody else leads unless the session has ended.
        """
        if inspect.iscoroutinefunction(serve):
            raise TypeError(f"serve must be a plain function, got the coroutine function {serve!r}: see coordkit.aio")

        async def served(core: leadership.Leadership) -> R:
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
