"""Batches to several shards at once, asyncio: all are sent before any reply is read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from coordkit.routing.replicas.way_aio import ReplicatedWay
from coordkit.routing.ways.batch import Gathering
from coordkit.routing.ways.pool_aio import PoolWay
from coordkit.routing.ways.way_aio import Way


async def exchange(
    ways: Mapping[str, Way | PoolWay | ReplicatedWay],
    gathering: Gathering,
    *,
    transaction: bool = False,
    decided: int = 0,
) -> dict[str, list[Any]]:
    """Send each shard its batch and read its replies; what a shard did not answer is an error in its place.

    Raise Outdated, with nothing sent, if a connection has seen a newer epoch than ``decided``, by which the commands
    were routed.
    """
    batches = gathering.batches
    deliveries = [
        ways[shard].delivery(batches[shard], transaction=transaction, decided=gathering.decided.get(shard, decided))
        for shard in sorted(batches)
    ]
    try:
        waiting = [delivery for delivery in deliveries if not delivery.take_now()]
        await _together([delivery.take() for delivery in waiting])
        # What is begun is sent; a task for the others, which need one to be spoken to beside each other.
        unsent = [delivery for delivery in deliveries if not delivery.begin()]
        await _together([delivery.speak() for delivery in unsent])
        for delivery in deliveries:
            await delivery.speak()
    finally:
        for delivery in deliveries:
            await delivery.give_back()
    return {delivery.shard: await delivery.awaited_replies() for delivery in deliveries}


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    if len(works) < 2:  # a task would cost more than the wait
        for work in works:
            await work
        return
    # Exceptions are awaited as results: none may leave while the others still use their connections.
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
