"""Whose turn it is to do what one thread at a time may do; it is nobody's again once that thread has gone elsewhere.

A mutex that was acquired just before an exception of a signal handler came is never released. A turn is an object that
the frame has which took it: with the frame, it is over.
"""

from __future__ import annotations

import threading
from collections import deque
from weakref import ref

_LOOK = 1.0  # seconds after which who waits looks by itself


class Turn:
    """One thread's, until it says that it is over, or nobody has it any more."""

    __slots__ = ("__weakref__", "over")

    def __init__(self) -> None:
        self.over = False


class Turns:
    """Give turns to the threads that ask, one at a time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()  # entered by `with`, which nothing can come into, and for a moment
        self._last: ref[Turn] = ref(Turn())
        self._waiting: deque[threading.Lock] = deque()

    def taken(self) -> bool:
        turn = self._last()
        return turn is not None and not turn.over

    def take(self) -> Turn | None:
        """Return a turn, None if another has it; never waits."""
        turn = Turn()
        with self._guard:
            if self.taken():
                return None
            self._last = ref(turn)
        return turn

    def wait(self, seconds: float) -> None:
        """Wait until a turn may be free, at most so long."""
        gate = threading.Lock()
        gate.acquire()
        self._waiting.append(gate)
        if self.taken():
            gate.acquire(timeout=min(seconds, _LOOK))

    def end(self, turn: Turn) -> None:
        """End a turn, and tell who waits for one."""
        turn.over = True
        for _ in range(len(self._waiting)):
            try:
                self._waiting.popleft().release()
            except IndexError:
                return
