"""Go through the keys of a shard, or the members of a set there, by a cursor; and again if another process answers.

A cursor means nothing to another process: the order is that of hashes, and each process has its own seed for them. So
who goes on with it after a restart or a failover would pass over keys without a word.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coordkit._ports import Runtime
from coordkit.core.answer import answered
from coordkit.routing.fence.port import Command, ShardPort, Word

_PAGE = 500  # keys that are looked at for one reply

Ask = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Asks one shard; raises what it refuses."""


class Walk:
    """All pages, from the first to where ``over`` is set; keys may come more than once.

    ``words`` are what stands before the cursor: SCAN, or SSCAN and a key. ``also`` is asked with each page, on the same
    connection, and ``heard`` is told what came of it before the page counts.
    """

    def __init__(
        self, ask: Ask, *words: Word, also: Sequence[Command] = (), heard: Callable[..., None] | None = None
    ) -> None:
        self.over = False
        self._ask = ask
        self._words = words
        self._also = also
        self._heard = heard
        self._cursor = b"0"
        self._process: str | None = None

    async def page(self) -> list[bytes]:
        """Return the next page, which may be empty before the end."""
        page: Command = (*self._words, self._cursor, b"COUNT", _PAGE)
        [[cursor, keys], info, *also] = await self._ask([page, (b"INFO", b"server"), *self._also])
        if self._heard is not None:
            self._heard(*also)
        process = said(info, "run_id")
        if self._process not in (None, process):
            cursor = b"0"
        else:
            self.over = cursor == b"0"
        self._process, self._cursor = process, cursor
        return list(keys)


async def replies(runtime: Runtime, port: ShardPort, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to commands that stand being sent twice; raise the first refusal among them."""
    replies = await answered(runtime, lambda: port.ask(commands), runtime.now())
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def said(info: Any, name: str) -> str:
    """Return what INFO says of ``name``, or ""."""
    text = info.decode() if isinstance(info, bytes) else str(info)
    found = re.search(rf"^{name}:([^\r\n]*)", text, re.MULTILINE)
    return found[1] if found else ""
