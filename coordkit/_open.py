"""Which block is being left: the bookkeeping behind ``with lock``, when many threads and tasks share one lock.

``with`` tells ``__exit__`` nothing about its ``__enter__``. The frame that holds the ``with`` statement is the same in
both calls, wherever a generator or a web framework runs them, so it is asked first; it is kept until then, so that no
other frame can take its address. Where the two differ (an ``ExitStack``, a wrapper class) the thread or task is asked,
then whether there is only one candidate; a guess is never made, because it might give back somebody else's lease.
"""

from __future__ import annotations

import sys
from collections import deque
from types import FrameType
from typing import Generic, TypeVar

from coordkit.errors import CoordError

T = TypeVar("T")

_frame = sys._getframe  # noqa: SLF001  the documented way to ask CPython and PyPy for a frame


class OpenBlocks(Generic[T]):
    """The blocks of one lock that were entered and not yet left."""

    __slots__ = ("_entries", "_instead", "_name", "_nests")

    def __init__(self, name: str, instead: str = "lock.hold()", *, nests: bool = False) -> None:
        self._name = name
        self._nests = nests  # the blocks of one thread or task are levels of one lease: the newest is left first
        self._instead = instead
        # The frame that holds the `with`, the thread or task, the block.
        self._entries: deque[tuple[FrameType, object, T]] = deque()

    def entered(self, place: object, block: T) -> None:
        """Remember a block, by its frame and by ``place``, its thread or task."""
        self._entries.append((_frame(2), place, block))  # above this, the lock's own method

    def left(self, place: object) -> T:
        """Return the block that is being left; raise ``CoordError`` if that cannot be known."""
        frame = _frame(2)
        if self._entries and (newest := self._entries[-1])[0] is frame:  # as nearly always
            self._entries.remove(newest)
            return newest[2]
        entries = list(self._entries)
        here = [entry for entry in entries if entry[0] is frame]
        if here:
            return self._take(here[-1])  # nested in one frame: the inner one first
        of_this_place = [entry for entry in entries if entry[1] == place]
        if self._nests and of_this_place:
            return self._take(of_this_place[-1])
        for candidates in (of_this_place, entries):
            if len(candidates) == 1:
                return self._take(candidates[0])
        raise CoordError(
            self._name,
            "a block was left in another thread or task than it was entered in, while others are open: it is held "
            f"to the end of the process (or max_hold); use `with {self._instead}` there, which knows its own",
        )

    def _take(self, entry: tuple[FrameType, object, T]) -> T:
        self._entries.remove(entry)
        return entry[2]
