"""Look at the replicas of one shard in the background: who failed, who lags, who came and went.

Written once for both flavours, over ports. Nothing is looked at before the first read from a replica, nor while nobody
is set aside, no ``max_lag`` is given and no Sentinel is followed. Each look is bounded in time, and at most one of a
shard is under way.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from coordkit._ports import Event, Runtime, Timer
from coordkit.routing.replicas.readers import Node, Readers

_log = logging.getLogger("coordkit")

WITHIN = 1.0
"""Seconds in which a server answers a probe, or has failed."""

_EVERY = 1.0  # seconds between looks at the most
_OFTEN = 4  # looks within max_lag, so that who keeps up is never taken for one that lags


class Questions(Protocol):
    """What probes ask, in one flavour; each bounded by ``WITHIN``."""

    async def infos(self, nodes: Collection[Node]) -> dict[Node, Any]:
        """Return what each says as INFO replication once it answers PING, or its error; the primary is asked first."""
        ...

    async def replicas(self) -> list[Node] | None:
        """Return the replicas that Sentinel knows; None if there is no Sentinel, or none answers."""
        ...

    def begin(self, probes: Probes) -> bool:
        """Have what looks closed where it cannot go on: with its event loop; return whether that was closed unheard."""
        ...

    def go_on(self) -> bool:
        """Return whether who has begun can still look: not under an event loop that is closed."""
        ...

    async def close(self) -> None:
        """Close the connections of the probes."""
        ...


class Probes:
    """The looks at one shard."""

    def __init__(self, readers: Readers, questions: Questions, runtime: Runtime, *, follows_sentinel: bool) -> None:
        self._readers = readers
        self._questions = questions
        self._runtime = runtime
        self._follows = follows_sentinel
        self._mutex = runtime.mutex()
        self._worker = runtime.worker(_looking(self))
        self._closed = False
        readers.on_failure = self._probe_who_failed
        self.reset()

    def reset(self) -> None:
        """Begin anew: in a forked child, whose timers are gone."""
        self._begun = False
        self._timer: Timer | None = None
        self._when = math.inf
        self._looked: Event | None = None

    @property
    def begun(self) -> bool:
        """Whether it is looked at; else the next who reads begins."""
        return self._begun and self._questions.go_on()

    async def begin(self) -> None:
        """Begin to look, before the first read; where replicas are asked of Sentinel, wait for its first answer.

        Where there is a ``max_lag``, too: until it was looked at, a replica is not read from.
        """
        self._closed = False  # a client that was closed may be used again, as redis-py's
        if self._questions.begin(self):
            self.reset()
        with self._mutex:
            looked, first = self._looked, self._looked is None and self._every() < math.inf
            if first:
                looked = self._looked = self._runtime.event()
        if first:
            self._worker.poke()
        else:  # who failed before it was closed, or forked, would wait for the next who fails
            self._look_at(self._due())
        awaited = self._readers.max_lag is not None or (self._follows and not self._readers.replicas)
        if awaited and looked is not None:
            await looked.wait(3 * WITHIN)
        self._begun = not self._closed  # else it was closed meanwhile, and the next read begins anew

    async def close(self) -> None:
        """Look no more, until somebody reads from a replica again."""
        self._closed = True
        with self._mutex:
            if self._timer is not None:
                self._timer.cancel()
            if self._looked is not None:
                self._looked.set()  # nobody waits for what does not come
            self.reset()
        await self._questions.close()

    def _every(self) -> float:
        most = self._readers.max_lag
        if most is not None:
            return min(_EVERY, most.seconds / _OFTEN)
        return _EVERY if self._follows else math.inf

    def _probe_who_failed(self) -> None:
        self._look_at(self._due())

    def _due(self) -> float:
        due = self._readers.aside.next_due()  # by the readers' clock, and timers go by the runtime's
        return math.inf if due == math.inf else self._runtime.now() + max(0.0, due - self._readers.clock())

    def _look_at(self, when: float) -> None:
        if when == math.inf or self._closed:
            return
        with self._mutex:
            if self._timer is not None:
                if self._when <= when:
                    return
                self._timer.cancel()
            self._when = when
            self._timer = self._runtime.call_at(when, _poking(self))

    def poke(self) -> None:
        """Look now."""
        with self._mutex:
            self._timer, self._when = None, math.inf
        if not self._closed:
            self._worker.poke()

    async def look(self) -> None:
        """Look once, and see to it that the next look comes."""
        try:
            await self._look_once()
        finally:
            if self._closed:
                await self._questions.close()  # what this look has opened since
            else:
                self._look_at(min(self._due(), self._runtime.now() + self._every()))
            if (looked := self._looked) is not None:  # it may be closed just now
                looked.set()

    async def _look_once(self) -> None:
        readers = self._readers
        if self._follows and (replicas := await self._questions.replicas()) is not None:
            if {*replicas} != {*readers.replicas}:
                _log.info("%s: the replicas are now %s", readers.shard, replicas)
            readers.update(replicas)
        if nodes := readers.to_probe():
            readers.found(await self._questions.infos(nodes), readers.clock())


# What runs in the background holds on to them only while it runs: nobody looks for a client that was dropped.


def _looking(probes: Probes) -> Callable[[], Coroutine[Any, Any, None]]:
    there = weakref.ref(probes)

    async def look() -> None:
        one = there()
        if one is not None:
            await one.look()

    return look


def _poking(probes: Probes) -> Callable[[], None]:
    there = weakref.ref(probes)

    def poke() -> None:
        one = there()
        if one is not None:
            one.poke()

    return poke
