"""Drive a coroutine that never suspends: the whole machinery of the blocking flavour.

The core is written once, as coroutines that await ports only. Under asyncio the ports suspend. Under threads they
block and return, so a coroutine runs from its first line to its ``return`` within one ``send(None)``, in the thread
that called it and with its locals on that thread's stack. Nothing else in coordkit mentions this.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end; an ``AssertionError`` names it if it awaited something that does not block."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError(f"{coroutine!r} suspended: it awaited something that is not a blocking port")
