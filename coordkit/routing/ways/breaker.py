"""A circuit breaker for one shard: after some failures in a row its commands fail at once, until a probe finds it well.

Pure, for threads and tasks alike; the I/O of a probe is a `way`'s. Closed: commands are sent. Open: none is, for
``reset_timeout`` seconds. Half-open: one probe at a time asks the shard, and closes the breaker or opens it anew.
Only what says that the shard was not reached counts as a failure, and any answer of it ends the row: a command that
takes too long, or a shard that is up and refuses, opens nothing.
Source of the states and their names: Nygard, Release It!, "Circuit Breaker".
"""

from __future__ import annotations

import math
import threading  # noqa: TID251  shared by threads and tasks alike
import time  # noqa: TID251  pure code outside the core; a test gives its own clock
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

_LOST = 60.0  # seconds after which a probe that told nothing is taken for lost: its event loop may have ended


class Breaker:
    """The breaker of one shard. ``failure_threshold`` failures in a row open it, for ``reset_timeout`` seconds.

    Raise TypeError or ValueError, naming the argument, for a threshold that is no whole number above 0, and a timeout
    that is no finite number of seconds above 0.
    """

    def __init__(
        self,
        *,
        failure_threshold: int = 5,
        reset_timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(failure_threshold, bool) or not isinstance(failure_threshold, int):
            raise TypeError(f"failure_threshold={failure_threshold!r}; a whole number above 0 is allowed")
        if failure_threshold < 1:
            raise ValueError(f"failure_threshold={failure_threshold!r}; a whole number above 0 is allowed")
        if isinstance(reset_timeout, bool) or not isinstance(reset_timeout, int | float):
            raise TypeError(f"reset_timeout={reset_timeout!r}; a number of seconds above 0 is allowed")
        if not (math.isfinite(reset_timeout) and reset_timeout > 0):
            raise ValueError(f"reset_timeout={reset_timeout!r}; a finite number of seconds above 0 is allowed")
        self.failure_threshold = failure_threshold
        self.reset_timeout = reset_timeout
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Begin anew, closed: in a forked child nobody probes any more."""
        self._mutex = threading.Lock()
        self.failures = 0  # in a row
        self.is_open = False  # half-open included
        self.why = ""  # what the last failure said
        self._until = 0.0  # when it is to be probed
        self._probing_until = -math.inf

    @property
    def state(self) -> State:
        """Return the state."""
        if not self.is_open:
            return "closed"
        return "half-open" if self._clock() < self._probing_until else "open"

    def failed(self, why: str) -> None:
        """Say that the shard was not reached."""
        with self._mutex:
            self.failures += 1
            self.why = why
            if not self.is_open and self.failures >= self.failure_threshold:
                self.is_open = True
                self._until = self._clock() + self.reset_timeout

    def worked(self) -> None:
        """Say that the shard answered: it is closed."""
        with self._mutex:
            self.failures = 0
            self.is_open = False
            self._probing_until = -math.inf

    def begin_probe(self) -> bool:
        """Return True to whoever is to probe the shard now, and tell what came of it: one at a time."""
        present = self._clock()
        if present < self._until or present < self._probing_until:
            return False
        with self._mutex:
            if not self.is_open or present < self._until or present < self._probing_until:
                return False
            self._probing_until = present + _LOST
        return True

    def probe_failed(self, why: str) -> None:
        """Say that the probe did not reach the shard: it is open anew. (One that did is told by `worked`.)"""
        with self._mutex:
            self.why = why
            self._until = self._clock() + self.reset_timeout
            self._probing_until = -math.inf
