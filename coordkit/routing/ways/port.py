"""A `ShardPort` over the `Way` to a shard, blocking: for those who fence it and bring its keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from coordkit import _redis_answers, _redis_packing
from coordkit._ports import Call, Confirm
from coordkit.routing.fence.fence import Greeting
from coordkit.routing.fence.port import Command
from coordkit.routing.ways.port_replies import answers, must_be_taught, unnamed
from coordkit.routing.ways.replies import RAW
from coordkit.routing.ways.sending import exchanged
from coordkit.routing.ways.way import Way


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

    @property
    def made(self) -> int:
        return self._way.connected

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        delivery = self._way.delivery(
            [(command, RAW) for command in commands], transaction=False, decided=self._decided
        )
        return answers(self.shard, exchanged(delivery))

    async def run(self, call: Call) -> Any:
        [reply] = await self.run_many([call])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[Call]) -> list[Any]:
        replies = await self.ask([_redis_packing.evalsha(call) for call in calls])
        if unknown := [i for i, reply in enumerate(replies) if must_be_taught(reply)]:
            taught = await self.ask(_redis_packing.evals([calls[i] for i in unknown]))
            for i, reply in zip(unknown, taught, strict=True):
                replies[i] = reply
        return replies

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        replies: list[Any] = []
        for command in (_redis_packing.evalsha(call), *_redis_packing.evals([call])):
            replies = await self.ask(_redis_packing.confirming(command, confirm))
            if not must_be_taught(replies[0]):
                break
        return _redis_answers.confirmed([unnamed(reply) for reply in replies], confirm, name, f"shard {self.shard}")

    def close(self) -> None:
        """Close its connections."""
        self._way.close()
