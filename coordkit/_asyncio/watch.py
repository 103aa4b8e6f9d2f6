"""One timer for all that wait under one event loop, each until its own time."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from coordkit._agenda import LOOK
from coordkit._threads.runtime import now


class Waits(Protocol):
    """What waits: until when, which is infinity while it does not, and how it is told that this is over."""

    until: float

    def give_up(self) -> None: ...


class Watch:
    """Sees to it that nothing waits for too long: a timer for each request would cost a tenth of the request."""

    def __init__(self) -> None:
        self._waiting: set[Waits] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def begin(self, one: Waits, until: float) -> None:
        """Let ``one`` wait no longer than ``until``."""
        one.until = until
        self._waiting.add(one)
        if until < self._at:
            self._set(until)

    def end(self, one: Waits) -> None:
        """Take note that ``one`` waits no more."""
        self._waiting.discard(one)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._at = None, math.inf

    def _set(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = until
        # Never later than LOOK: our clock runs on while the machine is suspended, the loop's does not.
        delay = min(max(0.0, until - now()), LOOK)
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._timer, self._at = None, math.inf
        present = now()
        for one in [one for one in self._waiting if one.until <= present or one.until == math.inf]:
            self._waiting.discard(one)
            if one.until <= present:
                one.give_up()
        if self._waiting:
            self._set(min(one.until for one in self._waiting))
