"""A `ShardPort` over the `Way` to a shard, blocking: for those who fence it and bring its keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from coordkit import _redis
from coordkit._ports import Call
from coordkit.routing.client_shards import RAW
from coordkit.routing.fence import Greeting
from coordkit.routing.port_replies import answers, must_be_taught
from coordkit.routing.shard_port import Command
from coordkit.routing.way import Way


def greeted(greeting: Greeting) -> Callable[[Callable[..., Any]], int]:
    """Return how a `Way` greets each connection."""
    return lambda ask: greeting.heard(ask(*greeting.command))


class WayPort:
    """One shard, for what was decided by the topology of epoch ``decided``."""

    def __init__(self, way: Way, decided: int, patience: float | None = None) -> None:
        self.shard = way.name
        self.patience = patience or math.inf
        self._way = way
        self._decided = decided

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        delivery = self._way.delivery(
            [(command, RAW) for command in commands], transaction=False, decided=self._decided
        )
        try:
            delivery.take()
            delivery.send()
            delivery.read()
        finally:
            delivery.give_back()
        return answers(self.shard, delivery.replies())

    async def run(self, call: Call) -> Any:
        [reply] = await self.ask([_redis.evalsha(call)])
        if must_be_taught(reply):
            [reply] = await self.ask(_redis.evals([call]))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        """Close its connections."""
        self._way.close()
