"""How a session ends: with a block, on a signal, and by a guardian when the process dies or hangs. For asyncio."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._async.lost import Scope
from coordkit._asyncio.runtime import RUNTIME
from coordkit._asyncio.zookeeper import session_of
from coordkit._guardian import Companion
from coordkit.core import checks
from coordkit.core.guard import Guard
from coordkit.errors import CoordError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs


class SessionScope:
    """End a client's session with a block, and the block on signals: another then leads within milliseconds.

    :param zk: a ``KazooClient``. It may be started inside the block; it is stopped and closed when the block is left.
    :param signals: those that cancel the block, so that every block inside is left as usual, and then raise what
        ``sys.exit(128 + number)`` does: by default SIGTERM, which else ends the process without a word, and its session
        one timeout later. Their handlers are put back at the end. Only the first signal counts.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Entering raises ``CoordError`` in another thread than the main one, unless ``signals=()``. What other tasks hold
    over the session is lost when the block ends, loudly. Leaving takes at most a second: where servers do not answer,
    the session ends at its timeout. (At the normal end of the interpreter, sessions are closed without this.)
    """

    def __init__(self, zk: KazooClient, *, signals: Iterable[int] = (signal.SIGTERM,)) -> None:
        _kazoo.check_client(zk)
        self.client = zk
        self.signals = checks.check_signals(signals)
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._before: dict[int, Any] = {}
        self._heard: int | None = None
        self._scope: Scope | None = None
        self._told = RUNTIME.event()

    async def __aenter__(self) -> Self:
        if self.signals and threading.current_thread() is not threading.main_thread():
            raise CoordError(
                str(_kazoo.wire_of(self.client)),
                "signals are handled in the main thread only: enter it there, or with signals=()",
            )
        self._heard = None
        self._told = RUNTIME.event()
        self._scope = Scope(self._told)
        for number in self.signals:
            self._before[number] = signal.getsignal(number)
            asyncio.get_running_loop().add_signal_handler(number, self._leave, number)
        return self

    def _leave(self, number: int) -> None:
        if self._heard is None:
            self._heard = number
            self._told.set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled = self._scope is not None and self._scope.left(error)
        heard = self._heard
        try:
            await session_of(self.client).end()
        finally:
            while self._before:
                number, handler = self._before.popitem()
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if heard is not None and (error is None or cancelled):
            raise SystemExit(128 + heard) from None

    def __repr__(self) -> str:
        return f"<SessionScope {_kazoo.wire_of(self.client)}>"


class Guardian:
    """Have a companion process close a client's session the moment this process dies, or when it hangs.

    :param zk: a ``KazooClient``. It may be started inside the block; the guardian follows it to new sessions.
    :param hang: seconds, at least 0.1; a process that was not heard of for that long counts as hung. It is heard of
        from this event loop: what blocks the loop for that long ends the session, as what stops the whole process
        (SIGSTOP) does. A machine that is suspended does not hang.
    :param python: the interpreter that runs the companion; by default ``sys.executable``, which in an embedding program
        (uWSGI, a frozen one) is that program itself, so name one there.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Enter it around what leads, joins or locks: even after SIGKILL the next leader leads within milliseconds, not after
    the session timeout. A hung process loses its session after ``hang`` seconds at the latest. Entering starts the
    companion and raises ``CoordError`` if that fails. If the companion itself ends or does not answer, what is led
    over the session is lost, loudly, within ``hang / 4`` (``hang``) seconds; another one is started, and until it
    guards nothing is led. Leaving ends the companion and leaves the session alone.

    Not promised: anything when the machine or its network fails, or when everything is killed at once: a container
    whose first process is this one takes the companion with it. Then the session timeout is what it was.
    """

    def __init__(self, zk: KazooClient, *, hang: float = 2.0, python: str | None = None) -> None:
        _kazoo.check_client(zk)
        self.client = zk
        self.hang = checks.check_hang(hang)
        self._companion = Companion(_kazoo.wire_of(zk), self.hang, checks.check_python(python))
        self._guard: Guard | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the companion; None while there is none."""
        return self._companion.pid

    async def __aenter__(self) -> Self:
        if self._guard is not None:
            raise CoordError(
                str(_kazoo.wire_of(self.client)), "this Guardian is in use: make another, for another client"
            )
        guard = Guard(RUNTIME, session_of(self.client).ensemble, self._companion, self.hang)
        await guard.begin()
        self._guard = guard
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.end()

    def __repr__(self) -> str:
        return f"<Guardian {_kazoo.wire_of(self.client)} hang={self.hang} pid={self.pid}>"
