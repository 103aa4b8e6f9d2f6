"""Going through all keys of a live topology, asyncio: see `coordkit.routing.topology.sweep`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from coordkit.errors import StoreUnavailable
from coordkit.routing.client.live_scan import TRIES, scan_words
from coordkit.routing.topology.live import Live
from coordkit.routing.topology.sweep import Sweep
from coordkit.routing.ways.errors import Outdated


class Scanning:
    """The part of a live client that walks through all keys."""

    _live: Live[Any]

    async def scan_iter(
        self, match: Any = None, count: int | None = None, _type: str | None = None, **options: Any
    ) -> AsyncIterator[Any]:
        """Yield all keys, as redis-py's: each that is there from the beginning to the end, also if it moves meanwhile.

        A key may come more than once, and one that was deleted may come yet while its slot moves. ``scan`` has only its
        cursor to go by, and refuses that with ValueError once slots have begun or ended to move.
        """
        moment = self._live.now
        sweep = Sweep(moment.topology)
        while (shard := sweep.begin()) is not None:
            cursor = lost = 0
            while sweep.slots:
                try:
                    words = scan_words(cursor, match, count, _type)
                    cursor, keys = await moment._ways[shard].execute(words, options, moment.epoch)  # noqa: SLF001  they are one
                except Outdated as outdated:
                    moment = await self._live.newer(outdated)
                    sweep.adopt(moment.topology)
                    continue
                except StoreUnavailable:
                    if lost == TRIES:
                        raise
                    lost += 1  # as when the fence drops connections: it is only read, so it may be asked again
                    continue
                lost = 0
                router = moment.router()
                for key in keys:
                    if router.is_shown(key, sweep.slots):
                        yield key
                if not cursor:
                    sweep.ended()
                elif moment is not self._live.now:
                    moment = self._live.now
                    sweep.adopt(moment.topology)
