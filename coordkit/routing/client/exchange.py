"""Batches to several shards at once, blocking: all are sent before any reply is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordkit._threads.runtime import now
from coordkit.routing.replicas.way import ReplicatedWay
from coordkit.routing.ways.batch import Gathering
from coordkit.routing.ways.pool import PoolWay
from coordkit.routing.ways.way import Way


def exchange(
    ways: Mapping[str, Way | PoolWay | ReplicatedWay],
    gathering: Gathering,
    *,
    transaction: bool = False,
    decided: int = 0,
) -> dict[str, list[Any]]:
    """Send each shard its batch, then read all replies; what a shard did not answer is an error in its place.

    Connections are taken in the order of the names, so that bounded pools cannot deadlock. Raise Outdated, with nothing
    sent, if a connection has seen a newer epoch than ``decided``, by which the commands were routed.
    """
    batches = gathering.batches
    deliveries = [
        ways[shard].delivery(batches[shard], transaction=transaction, decided=gathering.decided.get(shard, decided))
        for shard in sorted(batches)
    ]
    try:
        for delivery in deliveries:
            delivery.take()
        for delivery in deliveries:
            delivery.send()
        began = now()
        for delivery in deliveries:
            delivery.read(began)
    finally:
        for delivery in deliveries:
            delivery.give_back()
    return {delivery.shard: delivery.replies() for delivery in deliveries}
