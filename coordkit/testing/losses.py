"""What a `FaultProxy` loses in one direction: which bytes, and by which switch."""

from __future__ import annotations

import random

LONGEST = 256
"""Bytes of a needle."""


class Losses:
    """What is lost in one direction, and why."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.all = False
        self._needles: list[bytes] = []
        self._share = 0.0
        self._chance = random.Random(0)  # noqa: S311 - repeatable on purpose, nothing secret

    def arm(self, needle: bytes, times: int) -> None:
        if not 1 <= len(needle) <= LONGEST:
            raise ValueError(f"needle: {needle!r} is not 1 to {LONGEST} bytes")
        self._needles += [needle] * times

    def lose(self, share: float, seed: int) -> None:
        self._share = share
        self._chance = random.Random(seed)  # noqa: S311 - repeatable on purpose, nothing secret

    def clear(self) -> None:
        self._needles.clear()
        self._share = 0.0

    def cause(self, before: bytes, data: bytes) -> str | None:
        """Return the name of the switch that loses ``data``, which was just read; None when it goes through.

        ``before`` is what went through last: a needle may begin there, and must end in ``data``.
        """
        if self.all:
            return f"drop_{'requests' if self.noun == 'request' else 'replies'}"
        for needle in self._needles:
            if needle in before[max(0, len(before) - len(needle) + 1) :] + data:
                self._needles.remove(needle)
                return f"drop_{self.noun}_matching"
        if self._share and self._chance.random() < self._share:
            return f"lossy_{self.noun}"
        return None
