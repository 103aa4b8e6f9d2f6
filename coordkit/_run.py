"""Drive a coroutine that never suspends: the whole machinery of the blocking flavour.

The core is written once, as coroutines that await ports only. Under asyncio the ports suspend. Under threads they
block and return, so a coroutine runs from its first line to its ``return`` within one ``next()``, in the thread that
called it and with its locals on that thread's stack. Nothing else in coordkit mentions this.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine as awaits
from typing import Any, TypeVar, cast

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end; an ``AssertionError`` names it if it awaited something that does not block."""
    result: list[T] = []
    next(carried := _carried(coroutine, result), None)
    if result:
        return result[0]
    carried.close()
    raise AssertionError(f"{coroutine!r} suspended: it awaited something that is not a blocking port")


@awaits
def _carry(coroutine: Coroutine[Any, Any, T], result: list[T]) -> Generator[Any, Any, None]:
    # What returns None ends without an exception. A coroutine that is driven by hand raises its result as a
    # StopIteration with a traceback, which takes as long as all its other steps.
    result.append((yield from coroutine))


_carried = cast("Any", _carry)
