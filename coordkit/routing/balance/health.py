"""Set a node aside that failed, and probe it again before it counts.

Pure code around any picker: shards' replicas and the members of a Group use the same. A node that failed is not picked
for a while, twice as long each time in a row; then one pick at a time tries it, and it is back once that worked. Where
all are set aside, all are tried: a wrong suspicion of everybody must not become an outage.
"""

from __future__ import annotations

import math
import threading  # noqa: TID251  shared by threads and tasks alike
import time  # noqa: TID251  pure code outside the core; a test gives its own clock
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from coordkit.errors import NoNodes

N = TypeVar("N", bound=Hashable)


class Picker(Protocol):
    """What ``balance`` has: something to pick from, and to be told of new nodes."""

    @property
    def pick(self) -> Callable[..., Any]: ...

    @property
    def update(self) -> Callable[..., None]: ...


class _Failure:
    """What is known of a node that failed."""

    __slots__ = ("pause", "until")

    def __init__(self) -> None:
        self.pause = 0.0
        self.until = 0.0  # when it is to be tried again


class Aside(Generic[N]):
    """Who is set aside, for how long: ``pause`` seconds at first, doubled at each further failure up to ``longest``."""

    def __init__(self, pause: float, longest: float, clock: Callable[[], float]) -> None:
        for name, value in (("pause", pause), ("longest", longest)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}={value!r}; a number of seconds above 0 is allowed")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r}; a finite number of seconds above 0 is allowed")
        self._pause = pause
        self._longest = max(pause, longest)
        self._clock = clock
        self._mutex = threading.Lock()
        self._failures: dict[N, _Failure] = {}
        self._nodes: frozenset[N] | None = None

    def __bool__(self) -> bool:
        return bool(self._failures)

    def out(self) -> set[N]:
        """Return who is set aside, those that are being tried again included."""
        with self._mutex:
            return set(self._failures)

    def due(self, exclude: Collection[N] = ()) -> set[N]:
        """Return who may be tried again, and have nobody else try it meanwhile."""
        now = self._clock()
        with self._mutex:
            due = set()
            for node, failure in self._failures.items():
                if failure.until <= now and node not in exclude:
                    failure.until = now + failure.pause  # or for ever, if the try is never given back
                    due.add(node)
            return due

    def next_due(self) -> float:
        """Return when the next of them may be tried again; infinity if there is none."""
        with self._mutex:
            return min((failure.until for failure in self._failures.values()), default=math.inf)

    def untried(self, nodes: Iterable[N]) -> None:
        """Say that ``due`` gave these, and that they were not tried."""
        now = self._clock()
        with self._mutex:
            for node in nodes:
                if node in self._failures:
                    self._failures[node].until = now

    def worked(self, node: N) -> None:
        """Say that ``node`` answered: it counts again."""
        if self._failures:
            with self._mutex:
                self._failures.pop(node, None)

    def failed(self, node: N) -> None:
        """Say that ``node`` did not answer: it is set aside, longer than the last time."""
        with self._mutex:
            if self._nodes is not None and node not in self._nodes:
                return
            failure = self._failures.setdefault(node, _Failure())
            failure.pause = min(self._longest, failure.pause * 2 or self._pause)
            failure.until = self._clock() + failure.pause

    def update(self, nodes: Iterable[N]) -> None:
        """Say which nodes there are: one that is gone is forgotten, and well if it returns."""
        with self._mutex:
            self._nodes = frozenset(nodes)
            for node in self._failures.keys() - self._nodes:
                del self._failures[node]


class SetAside(Generic[N]):
    """Pick with ``picker`` among the nodes that are not set aside.

    ``pause`` is the seconds for which a node is set aside at its first failure, doubled at each further one up to
    ``longest``. Every pick is followed by ``worked`` or ``failed``.
    """

    def __init__(
        self,
        picker: Picker,
        *,
        pause: float = 1.0,
        longest: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aside: Aside[N] = Aside(pause, longest, clock)
        self.picker = picker

    def pick(self, *args: Any, exclude: Collection[N] = ()) -> N:
        """Return a node that is well, or due to be tried again; ``args`` are the picker's. Raises NoNodes."""
        due = self._aside.due(exclude)
        try:
            node: N = self.picker.pick(*args, exclude={*exclude, *self._aside.out()} - due)
        except NoNodes:
            node = self.picker.pick(*args, exclude=exclude)
        self._aside.untried(due - {node})
        return node

    def worked(self, node: N) -> None:
        """Say that ``node`` answered: it counts again."""
        self._over(node)
        self._aside.worked(node)

    def failed(self, node: N) -> None:
        """Say that ``node`` did not answer: it is set aside, longer than the last time."""
        self._over(node)
        self._aside.failed(node)

    def given_up(self, node: N) -> None:
        """Say that nothing was learnt of ``node``: a cancelled call, say."""
        self._over(node)
        self._aside.untried({node})

    def _over(self, node: N) -> None:
        done = getattr(self.picker, "done", None)
        if done is not None:
            done(node)

    def aside(self) -> set[N]:
        """Return the nodes that are set aside, those that are being tried again included."""
        return self._aside.out()

    def update(self, nodes: Iterable[N] | Mapping[N, int]) -> None:
        """Replace the nodes (or weights), for the next pick on; one that is gone is forgotten, and well if it returns.

        Raises what the picker's own ``update`` raises, and changes nothing then.
        """
        given = nodes if isinstance(nodes, Mapping) else list(nodes)
        self.picker.update(given)
        self._aside.update(given)
