"""How fast keys are moved: at most so many, and so many bytes, in a second. Pure; the clock is the caller's."""

from __future__ import annotations

import math

_BURST = 0.05  # seconds of work that may be done at once: what a server does between two requests of others


class Pace:
    """Say how long to pause after some work, so that rates are kept; None is no limit.

    Raise ValueError or TypeError for a rate that is not a positive number.
    """

    def __init__(self, keys_per_second: float | None = None, bytes_per_second: float | None = None) -> None:
        self.keys_per_second = _rate("keys_per_second", keys_per_second)
        self.bytes_per_second = _rate("bytes_per_second", bytes_per_second)
        self._due = -math.inf  # when all that was done would have been done at exactly these rates

    def keys_at_once(self, most: int) -> int:
        """Return how many keys to move in one go: 1 to ``most``."""
        return max(1, min(most, math.floor(min(self.keys_per_second * _BURST, most))))

    def pause(self, now: float, keys: int, size: int) -> float:
        """Take note of work that was done by ``now`` (seconds) and return how many seconds to pause before more."""
        cost = max(keys / self.keys_per_second, size / self.bytes_per_second)
        self._due = max(self._due, now - _BURST) + cost
        return max(0.0, self._due - now)


def _rate(argument: str, value: object) -> float:
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument}={value!r}; a number per second, or None for no limit, is allowed")
    if not value > 0:
        raise ValueError(f"{argument}={value!r}; a positive number per second, or None for no limit, is allowed")
    return float(value)
