"""The runtime of the asyncio flavour: ports that suspend.

Everything belongs to the event loop that is running when it is used, so objects may be built at import time, before
there is a loop, and used under one loop after another. No thread is started.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any
from weakref import WeakKeyDictionary

from coordkit._ports import Event, Runtime, Timer, Worker
from coordkit._threads.runtime import new_holder, now

_log = logging.getLogger("coordkit")


class LoopEvent:
    """An event of one loop, with a timeout that costs one timer entry and no task."""

    __slots__ = ("_actions", "_happened", "_waiting")

    def __init__(self) -> None:
        self._happened = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._actions: list[Callable[[], None]] = []

    def set(self) -> None:
        self._happened = True
        for future in self._waiting:
            _settle(future)
        actions, self._actions = self._actions, []
        for action in actions:
            action()

    def call_when_set(self, action: Callable[[], None]) -> None:
        if self._happened:
            action()
        else:
            self._actions.append(action)

    def is_set(self) -> bool:
        return self._happened

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


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class LoopEnd:
    """What is to be done when an event loop ends: the background tasks end first, then connections are closed.

    A loop that ends closes its async generators (``asyncio.run`` sees to it): the one moment at which we are told.
    """

    def __init__(self) -> None:
        self.over = False
        self.actions: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
        self._told = self._tell()
        with suppress(StopIteration):
            self._told.__anext__().send(None)  # up to the yield: from here on the loop knows of it

    async def _tell(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.over = True
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for action in self.actions:
                await action()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in the background, until the loop ends at the latest."""
        task = asyncio.get_running_loop().create_task(work, name="coordkit")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


_ends: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopEnd] = WeakKeyDictionary()


def loop_end() -> LoopEnd:
    """Return the end of the running loop."""
    loop = asyncio.get_running_loop()
    end = _ends.get(loop)
    if end is None:
        end = _ends[loop] = LoopEnd()
    return end


class LoopWorker:
    """A task that exists only while there is work."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._pending = False
        self._task: asyncio.Task[None] | None = None

    def poke(self) -> None:
        self._pending = True
        loop, end = asyncio.get_running_loop(), loop_end()
        idle = self._task is None or self._task.done() or self._task.get_loop() is not loop
        if idle and not end.over:
            self._task = end.spawn(self._serve())

    async def _serve(self) -> None:
        while self._pending:
            self._pending = False
            try:
                await self._work()
            except Exception:  # noqa: BLE001  whatever it is, the leases that come next must be renewed
                _log.exception("background work failed; it goes on with what comes next")


class LoopRuntime:
    """Ports that suspend."""

    def now(self) -> float:
        return now()

    def process(self) -> int:
        return os.getpid()

    def new_holder(self) -> str:
        return new_holder()

    def event(self) -> Event:
        return LoopEvent()

    def mutex(self) -> AbstractContextManager[Any]:
        return _NOTHING  # between two awaits, nobody else runs

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, when - now()), action)

    def worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Worker:
        return LoopWorker(work)

    async def finish(self, work: Coroutine[Any, Any, None], *, within: float) -> None:
        task = loop_end().spawn(work)
        await asyncio.wait([task], timeout=within)
        if task.done() and not task.cancelled():
            task.result()


_NOTHING = nullcontext()

RUNTIME: Runtime = LoopRuntime()
