"""What a request is answered with, told in the thread that hears it.

kazoo's own results tell their callbacks in a thread of their own, so an answer that is to reach an event loop changes
threads twice; and each makes a condition, where most need no lock at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Answer:
    """One answer: kazoo calls ``set`` or ``set_exception`` once it is there, perhaps twice (then the first counts).

    ``send`` sends the request, if it lies there yet; whoever waits sees to it.
    Whoever is linked to it is called in kazoo's connection thread: it must be short, must not block and must not raise.
    """

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self.value: Any = None
        self.exception: BaseException | None = None
        self._there = False
        self._links: deque[Callable[[Any], object]] = deque()

    def set(self, value: Any = None) -> None:
        if not self._there:
            self.value = value
            self._tell()

    def set_exception(self, error: BaseException) -> None:
        if not self._there:
            self.exception = error
            self._tell()

    def ready(self) -> bool:
        return self._there

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Have ``callback`` called once, with this answer; at once if it is there."""
        self._links.append(callback)
        if self._there:
            self._tell()

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most ``timeout`` seconds; return whether it is there."""
        self._send()
        if not self._there:
            gate = threading.Lock()
            gate.acquire()
            Answer.rawlink(self, lambda _: gate.release())
            gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        return self._there

    def _tell(self) -> None:
        self._there = True
        while self._links:
            try:
                link = self._links.popleft()  # each by one, where it is told and linked at once
            except IndexError:
                return
            link(self)
