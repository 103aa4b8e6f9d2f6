"""Something that happens once, for threads that wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class ThreadEvent:
    """An event that costs nothing until somebody waits for it; ``threading.Event`` makes a lock and a condition."""

    _happened = False

    @property
    def _waiting(self) -> deque[threading.Lock]:
        waiting: deque[threading.Lock] = vars(self).setdefault("waiting", deque())  # the first of several threads'
        return waiting

    @property
    def _actions(self) -> deque[Callable[[], None]]:
        actions: deque[Callable[[], None]] = vars(self).setdefault("actions", deque())
        return actions

    def set(self) -> None:
        self._happened = True
        self._tell()

    def is_set(self) -> bool:
        return self._happened

    def call_when_set(self, action: Callable[[], None]) -> None:
        self._actions.append(action)
        if self.is_set():
            self._tell()

    async def wait(self, timeout: float | None = None) -> bool:
        if self._happened:
            return True
        gate = threading.Lock()
        gate.acquire()
        self._waiting.append(gate)
        if self.is_set():  # between the look above and the line before
            self._tell()
        if not gate.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)):
            with suppress(ValueError):  # told just now
                self._waiting.remove(gate)
        return self._happened

    def _tell(self) -> None:
        # Several threads, and a signal handler in one of them, may come here at once: each waiter and each action is
        # popped, and so told, by one of them. No lock, because a handler could not wait for the thread it interrupted.
        with suppress(IndexError):
            while True:
                self._waiting.popleft().release()
        while self._actions:
            try:
                action = self._actions.popleft()
            except IndexError:
                return
            action()
