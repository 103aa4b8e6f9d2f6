"""The third runtime: virtual time, a seeded order, processes that are paused or killed at any moment.

The very coroutines that serve threads and asyncio run here. Time jumps to the next thing that happens; things that
happen at the same time happen in a seeded order; whatever is random is drawn from one generator, so that a seed is a
history and a failing seed is a bug report.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any


class Cancelled(BaseException):
    """What a cancelled task meets at its await."""


class Stuck(AssertionError):
    """The history did not end: somebody waits for ever."""


class World:
    """Virtual time and everything that happens in it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 0.0
        self.current: Task | None = None
        self._order = count()
        self._queue: list[tuple[float, float, int, Process | None, Callable[[], None]]] = []

    def after(self, delay: float, action: Callable[[], None], process: Process | None = None) -> None:
        """Let ``action`` happen later; if it is a process's, only while that process runs."""
        item = (self.time + max(0.0, delay), self.random.random(), next(self._order), process, action)
        heapq.heappush(self._queue, item)

    def run(self, until: float) -> None:
        """Let everything happen up to ``until``."""
        while self._queue and self._queue[0][0] <= until:
            when, _, _, process, action = heapq.heappop(self._queue)
            self.time = max(self.time, when)
            if process is not None and process.dead:
                continue
            if process is not None and process.paused_until > self.time:
                self.after(process.paused_until - self.time, action, process)
                continue
            action()
        self.time = max(self.time, until)


class Wait:
    """Somebody waits: the one thing that a coroutine of this world may await in the end."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.done = False
        self.value: Any = None

    def __await__(self) -> Generator[Wait, None, Any]:
        if not self.done:
            yield self
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def settle(self, value: Any = None) -> None:
        if not self.done:
            self.done, self.value = True, value
            if self.task is not None:
                self.task.wake()


class Task:
    """A coroutine of one process."""

    def __init__(self, process: Process, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.process = process
        self.coroutine = coroutine
        self.finished = Wait()
        self.holder = ""  # the id of its latest acquisition
        self.waits = False  # for a lock
        self._cancel = False
        self._scheduled = False
        self._waiting: Wait | None = None
        self.wake()

    @property
    def done(self) -> bool:
        return self.finished.done

    def cancel(self) -> None:
        if not self.done:
            self._cancel = True
            self.wake()

    def wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.process.world.after(0.0, self._step, self.process)

    def _step(self) -> None:
        self._scheduled = False
        self.process.world.current = self
        if self.done:
            return
        if not self._cancel and self._waiting is not None and not self._waiting.done:
            return
        try:
            if self._cancel:
                self._cancel = False
                waiting = self.coroutine.throw(Cancelled())
            else:
                waiting = self.coroutine.send(None)
        except StopIteration as stop:
            self.finished.settle(stop.value)
        except Cancelled:
            self.finished.settle(None)
        except BaseException as error:  # noqa: BLE001  a task's end is looked at by whoever waits for it
            self.process.failures.append(error)
            self.finished.settle(None)
        else:
            self._waiting = waiting
            waiting.task = self
            if waiting.done:
                self.wake()


class SimEvent:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._set = False
        self._waiting: list[Wait] = []
        self._actions: list[Callable[[], None]] = []

    def set(self) -> None:
        self._set = True
        for wait in self._waiting:
            wait.settle(True)
        actions, self._actions = self._actions, []
        for action in actions:
            action()

    def is_set(self) -> bool:
        return self._set

    def call_when_set(self, action: Callable[[], None]) -> None:
        if self._set:
            action()
        else:
            self._actions.append(action)

    async def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        wait = Wait()
        self._waiting.append(wait)
        if timeout is not None:
            self._process.after(timeout, wait.settle)
        await wait
        return self._set


class SimTimer:
    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self._action = None

    def fire(self) -> None:
        if self._action is not None:
            self._action()


class SimWorker:
    def __init__(self, process: Process, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._process = process
        self._work = work
        self._pending = False
        self._task: Task | None = None

    def poke(self) -> None:
        self._pending = True
        if self._task is None or self._task.done:
            self._task = self._process.spawn(self._serve())

    async def _serve(self) -> None:
        while self._pending:
            self._pending = False
            await self._work()


def broken(violations: list[str]) -> list[str]:
    """Return the promises that were broken: that a task failed of what is no code of coordkit's proves nothing."""
    return [line for line in violations if " failed: " not in line]


class Process:
    """One process: a runtime whose clock runs at its own rate, and that can be paused or killed as a whole."""

    def __init__(self, world: World, name: str, *, rate: float = 1.0) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.paused_until = 0.0
        self.dead = False
        self.failures: list[BaseException] = []
        self._holders = count(1)

    def pause(self, seconds: float) -> None:
        """Stop the world of this process, as SIGSTOP does."""
        self.paused_until = max(self.paused_until, self.world.time + seconds)

    def kill(self) -> None:
        self.dead = True

    @property
    def running(self) -> bool:
        return not self.dead and self.paused_until <= self.world.time

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        return Task(self, coroutine)

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Let ``action`` happen after ``delay`` seconds of this process's own clock."""
        self.world.after(delay / self.rate, action, self)

    # -- the Runtime port

    def now(self) -> float:
        return self.world.time * self.rate

    @property
    def process(self) -> int:
        return zlib.crc32(self.name.encode())  # the same in every run: renewals are timed by it

    def new_holder(self) -> str:
        holder = f"{self.name}.{next(self._holders)}"
        if self.world.current is not None:
            self.world.current.holder = holder
        return holder

    def event(self) -> SimEvent:
        return SimEvent(self)

    def mutex(self) -> AbstractContextManager[Any]:
        return nullcontext()

    async def sleep(self, seconds: float) -> None:
        wait = Wait()
        self.after(seconds, wait.settle)
        await wait

    def call_at(self, when: float, action: Callable[[], None]) -> SimTimer:
        timer = SimTimer(action)
        self.after(when - self.now(), timer.fire)
        return timer

    def worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> SimWorker:
        return SimWorker(self, work)

    async def finish(self, work: Coroutine[Any, Any, None], *, within: float) -> None:
        done = self.spawn(work).finished
        self.after(within, done.settle)
        await done
