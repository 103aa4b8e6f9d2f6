"""Do several things side by side, and wait for all of them no longer than for one."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordkit._ports import Event, Runtime, Worker


async def side_by_side(
    runtime: Runtime, works: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, within: float | None
) -> None:
    """Run all of these at once; return when all have ended, or after ``within`` seconds, while the others go on.

    Each says itself what became of it. What one raises is logged, as of any background work.
    """
    until = math.inf if within is None else runtime.now() + within
    under_way = [_begun(runtime, work) for work in works]
    for ended, _ in under_way:
        await ended.wait(None if until == math.inf else max(0.0, until - runtime.now()))


def _begun(runtime: Runtime, work: Callable[[], Coroutine[Any, Any, None]]) -> tuple[Event, Worker]:
    ended = runtime.event()

    async def run() -> None:
        try:
            await work()
        finally:
            ended.set()

    worker = runtime.worker(run)
    worker.poke()
    return ended, worker
