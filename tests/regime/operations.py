"""What W5 does with everything that can be held: every way to ask, to wait, to keep and to give back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from regime.flavours import maybe
from regime.stage import OTHERS_TTL, Operation, Stage

from coordkit import LeaseLost, NotAcquired, StoreUnavailable


async def _told(stage: Stage, asked: Any) -> str:
    try:
        stage.lease = await maybe(asked)
    except NotAcquired:
        return "refused"
    return "refused" if stage.lease is None else "ours"


async def _try(stage: Stage) -> str:
    return await _told(stage, stage.lock.try_acquire())


async def _once(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=0))


async def _acquire(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=5))


async def _told_of(stage: Stage, ask: Callable[[], Any]) -> str:
    """The same for calls that raise before there is anything to await, as those of the blocking flavour do."""
    try:
        asked = ask()
    except NotAcquired:
        return "refused"
    return await _told(stage, asked)


def _give_back(lease: Any) -> None:
    time.sleep(0.12)
    with contextlib.suppress(StoreUnavailable):  # too busy a machine; it is then given back in the background
        lease.release()


async def _wait(stage: Stage) -> str:
    """The other gives back when we have been waiting for a while."""
    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(_give_back, stage.others[0])
        try:
            return await _told_of(stage, lambda: stage.lock.acquire(timeout=30))
        finally:
            while not giving.done():  # never blocking: a loop that stands still renews nothing
                await stage.flavour.sleep(0.002)
            giving.result()


async def _wait_and_keep(stage: Stage) -> str:
    """The same, until what was handed on for a moment only was made ours for a whole ttl."""
    told = await _wait(stage)
    while told == "ours" and stage.lease.remaining() < 1.5 * OTHERS_TTL:
        stage.lease.ensure()
        await stage.flavour.sleep(0.005)
    return told


async def _wait_in_vain(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=0.15))


async def _renew(stage: Stage) -> str:
    try:
        await maybe(stage.lease.renew())
    except LeaseLost:
        return "lost"
    return "ours"


async def _release(stage: Stage) -> str:
    given_back = await maybe(stage.lease.release())
    stage.lease = None
    return "given back" if given_back else "gone"


async def _block(stage: Stage) -> str:
    """Hold it for a block, and leave the block."""
    if stage.flavour.is_async:
        async with stage.lock:
            pass
    else:
        with stage.lock:
            pass
    return "given back"


async def _cancel(stage: Stage) -> str:
    """Cancel an acquire when its request, or the answer, is held up on the line."""
    task = asyncio.ensure_future(stage.lock.acquire(timeout=1))
    while not task.done() and not stage.line.fired:  # noqa: ASYNC110 - the line is not in this loop, but in a thread
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0.01)
    stage.line.release_held()
    try:
        stage.lease = await task
    except asyncio.CancelledError:
        return "given up"
    except NotAcquired:
        return "refused"
    return "ours"


async def _again(stage: Stage) -> str:
    """Hold it twice, and give both back: the first is by then the only one left."""
    first = await maybe(stage.lock.acquire(timeout=5))
    second = await maybe(stage.lock.acquire(timeout=5))
    if second.token != first.token or not await maybe(second.release()):
        return "not the same"
    first.ensure()
    return "given back" if await maybe(first.release()) else "gone"


ASKING = {
    "try": Operation(_try),  # on a fresh client: its handshake is part of it
    "once": Operation(_once, Stage.warm),
    "acquire": Operation(_acquire, Stage.warm),
    "wait": Operation(_wait, Stage.another_holds, waits=True),
    "wait and keep": Operation(_wait_and_keep, Stage.another_holds, waits=True),
    "wait in vain": Operation(_wait_in_vain, Stage.another_holds, told=("refused", "unknown"), waits=True),
    "renew": Operation(_renew, Stage.hold),
    "release": Operation(_release, Stage.hold, told=("given back", "unknown")),
    "block": Operation(_block, Stage.warm, told=("given back", "unknown", "lost")),
    "again": Operation(_again, Stage.warm, told=("given back", "unknown", "lost")),
    "cancel": Operation(_cancel, Stage.warm, told=("given up", "ours"), held=True, like="acquire"),
    "cancel a wait": Operation(
        _cancel, Stage.another_holds, told=("given up", "refused"), waits=True, held=True, like="wait in vain"
    ),
}
