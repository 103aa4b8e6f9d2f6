"""What a fresh connection is greeted with, before anybody uses it, asyncio: it says which epoch the shard has seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coordkit._asyncio.wire import Wire

Ask = Callable[..., Awaitable[Any]]
Greet = Callable[[Ask], Awaitable[int]]


class Asking:
    """Asks on a fresh connection, before it is anybody's; ``packed`` gives commands as they go on the wire."""

    def __init__(self, packed: Callable[[Sequence[tuple[Any, ...]]], bytes], wire: Wire) -> None:
        self._packed, self._wire = packed, wire

    async def __call__(self, *command: Any) -> Any:
        [reply] = await self._wire.ask(self._packed([command]), 1)
        if isinstance(reply, Exception):
            raise reply
        return reply
