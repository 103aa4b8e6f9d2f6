"""A background thread that is started when there is something to do, and woken when there is more.

It may be woken from a signal handler, which interrupts the main thread anywhere, also in here: there is no lock that
a handler could find taken by the very thread that it interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Solo:
    """One daemon thread that runs ``work``; after an end of it, the next ``wake`` starts another."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._guard = threading.RLock()
        self._thread: threading.Thread | None = None
        self._starting = False
        self._bell = threading.Lock()
        self._bell.acquire()

    def wake(self) -> None:
        """Have it look for work: at once if it waits, and before it waits the next time if it does not."""
        with self._guard:
            if not self._starting and (self._thread is None or not self._thread.is_alive()):
                self._starting = True  # a handler that comes in between leaves it to us
                try:
                    thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                    self._thread = thread
                    thread.start()  # may raise, where there are too many threads: then the next call tries again
                finally:
                    self._starting = False
            try:  # noqa: SIM105  contextlib.suppress takes its time
                self._bell.release()
            except RuntimeError:  # it was woken before
                pass

    def wait(self, seconds: float | None) -> bool:
        """Wait, in the thread itself, until it is woken, at most so long; return whether it was."""
        return self._bell.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def is_me(self) -> bool:
        """Return whether the present thread is still the one; another was started where its start was interrupted."""
        return self._thread is threading.current_thread()

    def over(self, has_work: Callable[[], bool]) -> bool:
        """Say, in the thread itself, that it ends, unless there is work; return whether it must."""
        with self._guard:
            if self.is_me() and has_work():
                return False
            if self.is_me():
                self._thread = None
            return True
