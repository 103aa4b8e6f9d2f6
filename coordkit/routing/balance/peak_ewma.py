"""Pick the quicker of two nodes chosen by chance, by what they lately took and how many requests they have under way.

Source: "The Power of Two Choices in Randomized Load Balancing", Mitzenmacher 1996; peak-EWMA as in Twitter's Finagle.
Three things differ, because a replica of Redis answers in a tenth of a millisecond and often has but one sibling. The
better of the two is picked with odds and not always: of two nodes a strict minimum would leave the one idle that is a
hair slower. What a node took is forgotten as time goes by, not only as it answers. And one that was not asked for
a while, and has nothing under way, is asked, whatever it took last.
"""

from __future__ import annotations

import math
import random
import threading  # noqa: TID251  a picker is shared by threads and tasks alike
import time  # noqa: TID251  pure code outside the core; a test gives its own clock
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic, TypeVar

from coordkit.routing.balance.pickers import distinct, nothing

N = TypeVar("N", bound=Hashable)

_ODDS = 4
"""A node that costs twice as much is picked 2**4 times less often than the other of the two."""

_UNASKED = 0.5
"""The part of ``decay`` after which a node that was not asked is asked."""


class _Load:
    """What is known of one node."""

    __slots__ = ("asked", "at", "busy", "took")

    def __init__(self, now: float) -> None:
        self.took = 0.0  # seconds, as of ``at``; 0 while nothing is known
        self.at = now
        self.asked = now
        self.busy = 0


class PeakEwma(Generic[N]):
    """Pick the less loaded of two nodes chosen by chance: seconds it takes, times requests under way and one more.

    The seconds are an average that takes a slower answer at once and a quicker one by and by; ``decay`` is the seconds
    after which a third of what was measured is left, whether answers came or not. ``seed`` makes the chances
    repeatable, ``clock`` gives the seconds. It knows of the picks of this process alone.
    """

    def __init__(
        self,
        nodes: Iterable[N] = (),
        *,
        decay: float = 1.0,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float):
            raise TypeError(f"decay={decay!r}; a number of seconds above 0 is allowed")
        if not (math.isfinite(decay) and decay > 0):
            raise ValueError(f"decay={decay!r}; a finite number of seconds above 0 is allowed")
        self._decay = decay
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._clock = clock
        self._mutex = threading.Lock()
        self._loads: dict[N, _Load] = {}
        self.update(nodes)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return a node that is not in ``exclude``, busier by one until ``done``; raise NoNodes if there is none."""
        now = self._clock()
        with self._mutex:
            nodes = [node for node in self._loads if node not in exclude] if exclude else list(self._loads)
            if not nodes:
                raise nothing("peak EWMA", exclude)
            node = self._better(nodes, now) if len(nodes) > 1 else nodes[0]
            load = self._loads[node]
            load.busy += 1
            load.asked = now
            return node

    def took(self, node: N, seconds: float) -> None:
        """Say how long ``node`` took for one request; not for many at once, nor for one that waits or fails."""
        now = self._clock()
        with self._mutex:
            load = self._loads.get(node)
            if load is None:
                return
            left = self._left(load, now)
            before = load.took * left
            load.took = seconds if seconds > before else before + seconds * (1.0 - left)
            load.at = now

    def done(self, node: N) -> None:
        """Say that a pick of ``node`` is over, however it ended; what is gone from the nodes is nobody's concern."""
        with self._mutex:
            load = self._loads.get(node)
            if load is not None and load.busy:
                load.busy -= 1

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on; of those that stay is known what was known."""
        named = distinct(nodes)
        now = self._clock()
        with self._mutex:
            self._loads = {node: self._loads.get(node) or _Load(now) for node in named}

    def _better(self, nodes: list[N], now: float) -> N:
        i = self._random.randrange(len(nodes))
        j = self._random.randrange(len(nodes) - 1)
        one, other = nodes[i], nodes[j + (j >= i)]
        for node in (one, other):
            load = self._loads[node]
            if not load.busy and now - load.asked > self._decay * _UNASKED:
                return node
        a, b = self._costs(self._loads[one], self._loads[other], now)
        if a == b:
            return one
        # With odds of b**4 to a**4, as a ratio, so that no power is too great or too small for a float.
        ratio = min(a, b) / max(a, b)
        worse = ratio**_ODDS / (1.0 + ratio**_ODDS)
        better, other = (one, other) if a < b else (other, one)
        return other if self._random.random() < worse else better

    def _costs(self, one: _Load, other: _Load, now: float) -> tuple[float, float]:
        a, b = one.took * self._left(one, now), other.took * self._left(other, now)
        a, b = a or b or 1.0, b or a or 1.0  # of whom nothing is known is taken to be like the other
        return a * (one.busy + 1), b * (other.busy + 1)

    def _left(self, load: _Load, now: float) -> float:
        return math.exp((load.at - now) / self._decay)
