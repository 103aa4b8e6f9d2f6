"""The loss of what one holds: something to look at, to wait for, and to be cancelled by."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from coordkit._ports import Event


class Lost:
    """Whether a lease, a leadership or a membership was lost; false while it holds."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether it was lost."""
        return self._event.is_set()

    __bool__ = is_set

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the loss, at most ``timeout`` seconds (None: for ever); return whether it was lost."""
        return await self._event.wait(timeout)

    def __repr__(self) -> str:
        return f"<Lost {self.is_set()}>"


class Scope:
    """The body of an ``async with``, cancelled when what it stands on is lost (as ``asyncio.timeout`` does).

    The task that entered is the one that is cancelled. ``left(error)`` must be called first thing when the body is
    left; it says whether ``error`` is our own cancellation, which the caller then replaces by the loss.
    """

    __slots__ = ("_cancelled", "_inside", "_requests", "_task")

    def __init__(self, lost: Event) -> None:
        task = asyncio.current_task()
        if task is None:  # a coroutine driven by hand: nothing to cancel
            raise TypeError("async with needs a running asyncio task")
        self._task: asyncio.Task[Any] = task
        self._requests = _cancelling(task)
        self._inside = True
        self._cancelled = False
        lost.call_when_set(self._cancel)

    def _cancel(self) -> None:
        # A task that finds out by itself (by ensure() or renew()) gets its exception there; a second would hit later.
        if self._inside and asyncio.current_task() is not self._task:
            self._cancelled = True
            _ours[self._task] = _ours.get(self._task, 0) + 1
            self._task.cancel("what this block stands on was lost")

    def left(self, error: BaseException | None) -> bool:
        """Return whether the body ended by our own cancellation, and by nobody else's."""
        self._inside = False
        if not self._cancelled:
            return False
        _ours[self._task] = outer = _ours[self._task] - 1
        uncancel = getattr(self._task, "uncancel", None)  # Python 3.11
        others = uncancel() - outer > self._requests if uncancel is not None else False
        return isinstance(error, asyncio.CancelledError) and not others


_ours: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
"""Cancellations that scopes asked for and have not taken back: of nested ones that stand on the same, each asks."""


def _cancelling(task: asyncio.Task[Any]) -> int:
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return int(cancelling()) if cancelling is not None else 0
