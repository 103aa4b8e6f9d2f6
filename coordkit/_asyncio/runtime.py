"""The runtime of the asyncio flavour: ports that suspend.

Everything belongs to the event loop that is running when it is used, so objects may be built at import time, before
there is a loop, and used under one loop after another. No thread is started.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

from coordkit._agenda import LOOK, Agenda
from coordkit._ports import Event, Runtime, Timer, Worker
from coordkit._threads.runtime import new_holder, not_in_a_forked_child, now

_log = logging.getLogger("coordkit")


class LoopEvent:
    """An event of the loop it is made in; it may be set from any thread, and is waited for in its loop."""

    __slots__ = ("_actions", "_happened", "_loop", "_waiting")

    def __init__(self) -> None:
        self._happened = False
        self._loop = running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self._actions: list[Callable[[], None]] = []

    def set(self) -> None:
        self._happened = True
        if self._loop is running_loop():
            self._tell()
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        for future in self._waiting:
            _settle(future)
        actions, self._actions = self._actions, []
        for action in actions:
            action()

    def is_set(self) -> bool:
        return self._happened

    def call_when_set(self, action: Callable[[], None]) -> None:
        self._actions.append(action)
        if self._happened:
            self.set()

    async def wait(self, timeout: float | None = None) -> bool:
        if self._happened:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _settle, future)
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
            if timer is not None:
                timer.cancel()
        return self._happened


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, None if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Closing(Protocol):
    """Something that must close what it has before its event loop ends."""

    async def close(self) -> None: ...


class LoopLife:
    """What coordkit has in one event loop: its timers, its background tasks, and what to do when the loop ends.

    A loop that ends closes its async generators (``asyncio.run`` sees to it): the one moment at which we are told. The
    background tasks end first, then connections are closed.
    """

    def __init__(self, *, over: bool = False) -> None:
        self.over = over
        self.closing: WeakSet[Closing] = WeakSet()
        self._ending: set[Closing] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
        self._agenda = Agenda()
        self._tick: asyncio.TimerHandle | None = None
        if over:
            return
        self._told = self._tell()
        with suppress(StopIteration):
            self._told.__anext__().send(None)  # up to the yield: from here on the loop knows of it

    async def _tell(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.over = True
            if self._tick is not None:
                self._tick.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for one in list(self.closing):
                await one.close()
            while self._ending:
                await self._ending.pop().close()
            # What is told refers to the loop, so nothing else frees it. What still comes in its last moments (an answer
            # of a thread, the end of a task) must not begin anything anew.
            _lives[asyncio.get_running_loop()] = _OVER

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in the background, until the loop ends at the latest."""
        # Not by the loop's task factory: an eager one begins before whoever spawns knows of the task.
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), name="coordkit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Who closes a loop by hand ends none of its tasks. asyncio complains of each, and nobody could mend it.
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  as asyncio's own helpers do
        return task

    def end(self, one: Closing) -> None:
        """Close what nobody has any more: at once, and before the loop ends."""
        self._ending.add(one)
        if not self.over:
            self.spawn(self._end(one))

    async def _end(self, one: Closing) -> None:
        await one.close()
        self._ending.discard(one)

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        entry = self._agenda.add(when, action)
        if self._tick is None or self._agenda.is_next(entry):
            self._wait()
        return entry

    def _wait(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        due = self._agenda.next_due()
        if due != math.inf and not self.over:
            delay = min(max(0.0, due - now()), LOOK)
            self._tick = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._tick = None
        try:
            while (action := self._agenda.take(now())) is not None:
                action()
        finally:
            self._wait()


_OVER = LoopLife(over=True)
_lives: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLife] = WeakKeyDictionary()


def life() -> LoopLife:
    """Return what coordkit has in the running loop."""
    loop = asyncio.get_running_loop()
    known = _lives.get(loop)
    if known is None:
        forget_closed(_lives)
        known = _lives.setdefault(loop, LoopLife())
    return known


def forget_closed(by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Any]) -> None:
    """Drop what there was for loops that were closed, before there is something for another.

    A loop that is closed by hand tells nobody, and what there is for it refers to it: nothing else would free the two.
    """
    for known in by_loop.keyrefs():
        loop = known()
        if loop is not None and loop.is_closed():
            by_loop.pop(loop, None)


def end_in(known: ref[asyncio.AbstractEventLoop], one: Closing) -> None:
    """Close something in its loop; for finalizers, which run in any thread and between any two instructions."""
    loop = known()
    if loop is not None and not loop.is_closed():
        with suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(_end, one)


def _end(one: Closing) -> None:
    here = life()
    if here is not _OVER:  # which nobody would see to any more, and which no loop ends with
        here.end(one)


def end_all(by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Any]) -> None:
    """Close what there is for each loop."""
    for loop, one in list(by_loop.items()):
        end_in(ref(loop), one)


class LoopWorker:
    """A task that exists only while there is work."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._pending = False
        self._task: asyncio.Task[None] | None = None

    def poke(self) -> None:
        self._pending = True
        loop = running_loop()
        if loop is None:  # a coroutine that is closed after its loop: whoever pokes in the next one sees to it
            return
        here = life()
        idle = self._task is None or self._task.done() or self._task.get_loop() is not loop
        if idle and not here.over:
            self._task = here.spawn(self._serve())
            self._task.add_done_callback(self._ended)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        """Begin again if somebody cancelled it before it had begun with what it was poked for."""
        if self._pending and not life().over:
            self.poke()

    async def _serve(self) -> None:
        while self._pending:
            self._pending = False
            try:
                await self._work()
            except Exception:  # noqa: BLE001  whatever it is, the leases that come next must be renewed
                _log.exception("background work failed; it goes on with what comes next")


class LoopRuntime:
    """Ports that suspend; the small ones are what they stand for, with no method in between."""

    def __init__(self) -> None:
        self.now = now
        self.new_holder = new_holder
        self.event: Callable[[], Event] = LoopEvent
        self.reset()
        not_in_a_forked_child(self)

    def reset(self) -> None:
        self.process = os.getpid()

    def mutex(self) -> AbstractContextManager[Any]:
        return _NOTHING  # between two awaits, nobody else runs

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        return life().call_at(when, action)

    def worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Worker:
        return LoopWorker(work)

    async def finish(self, work: Coroutine[Any, Any, None], *, within: float) -> None:
        task = life().spawn(work)
        await asyncio.wait([task], timeout=within)
        if task.done() and not task.cancelled():
            task.result()


_NOTHING = nullcontext()


def here() -> object:
    """Return the present task: it stands for itself, and its id may be another's next."""
    task = asyncio.current_task()
    if task is None:  # a coroutine driven by hand
        raise TypeError("a reentrant lock needs a running asyncio task")
    return task


RUNTIME: Runtime = LoopRuntime()
