"""Bring all keys of a move off its source, at the pace that was set, and remove them there once they are safe.

What is brought is removed some thousands at a time: only when all replicas of the target have it, and its disk.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from coordkit._ports import Runtime
from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing.fence.fence import is_local
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import Walk
from coordkit.routing.moving.admission import check_foreign
from coordkit.routing.moving.leftovers import data_of
from coordkit.routing.moving.moving import AT_ONCE, Carrier
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.parts import Brought
from coordkit.routing.moving.progress import Progress
from coordkit.routing.placement.slots import slot_of

_log = logging.getLogger("coordkit")

_TAKEN_AT_ONCE, _BYTES_AT_ONCE = 5_000, 64 << 20  # keys and bytes that may be at both shards before they are removed
_REMOVED_AT_ONCE = 500  # keys of one UNLINK
_PASSES = 2  # at least: the last finds nothing
_LOOK = 1.0  # seconds between two looks whether to go on, in a pause that a large key costs


class Emptying:
    """Goes through the source of one move until nothing of its slots is left there.

    ``step`` is told each step before it is done, and may raise to end it there. ``secure`` returns once all copies of
    the target have what it was told so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        topology: str,
        slots: frozenset[int],
        carrier: Carrier,
        *,
        source: ShardPort,
        target: ShardPort,
        pace: Pace,
        progress: Progress,
        big: int,
        step: Callable[[str], None],
        secure: Callable[[], Awaitable[None]],
    ) -> None:
        self._runtime = runtime
        self._topology = topology
        self._slots = slots
        self._carrier = carrier
        self._source = source
        self._target = target
        self._pace = pace
        self._progress = progress
        self._big = big
        self._step = step
        self._secure = secure
        self._taken: list[bytes] = []  # and not removed at the source yet
        self._taken_size = 0
        self._taken_by = ""  # which data the target had when the first of them was
        self._sizes = True  # whether the source tells how large a key is

    async def fetch_former(self) -> None:
        """Of a move that is rolled back: what it had brought may be gone here, and still lie about at the target."""
        walk = self._carrier.former()
        if walk is None:
            return
        self._step("former")
        while not walk.over:
            await self.bring([key for key in await walk.page() if not is_local(self._topology, key)])
        await self.settle()

    async def empty(self) -> None:
        """Go through the source until a whole pass finds nothing."""
        passes = 0
        while True:
            self._step(f"pass {passes + 1}")
            found = await self._pass()
            passes += 1
            if not found and passes >= _PASSES:
                return
            if passes > 20:
                raise CoordError(
                    self._source.shard,
                    f"after {passes} passes it still has {found} keys of slots that move to {self._target.shard!r}: "
                    "somebody writes them there who does not know the topology; find it in CLIENT LIST",
                )

    async def _pass(self) -> int:
        found, walk = 0, Walk(partial(self._carrier.replies, self._source), b"SCAN")
        while not walk.over:
            listed = await walk.page()
            check_foreign(self._source.shard, self._topology, listed)
            mine = [key for key in listed if slot_of(key) in self._slots and not is_local(self._topology, key)]
            found += len(mine)
            await self.bring(mine)
        await self.settle()
        return found

    async def settle(self) -> None:
        """Remove at the source what was brought, once all replicas of the target have it, and its disk.

        The wait is for many keys at once: a file that is written out each second costs up to two.
        """
        if not self._taken:
            return
        await self._secure()
        if await data_of(self._runtime, self._target) != self._taken_by:
            self._taken, self._taken_size = [], 0
            raise StoreUnavailable(
                self._target.shard,
                "it was restarted or failed over, and may lack what was brought last; nothing of that was removed at "
                f"{self._source.shard!r}, and it is brought again",
            )
        for at in range(0, len(self._taken), _REMOVED_AT_ONCE):
            await self._carrier.remove(self._taken[at : at + _REMOVED_AT_ONCE])
        self._taken, self._taken_size = [], 0

    async def bring(self, keys: Sequence[bytes]) -> None:
        """Bring keys of these slots, and remove them with others by and by."""
        await self._tell_big(keys)
        width = self._pace.keys_at_once(AT_ONCE)
        for at in range(0, len(keys), width):
            self._step("bring")
            if not self._taken:
                self._taken_by = await data_of(self._runtime, self._target)
            some = keys[at : at + width]
            brought = await self._carrier.bring(some, remove=False)
            if brought.over:
                number = self._carrier.move.number
                raise CoordError(self._target.shard, f"move {number} was closed by another rebalancer; read it again")
            self._taken += some  # those that were marked as well: whoever brought them has left them
            self._taken_size += brought.size
            await self._count(len(some), brought)
        if len(self._taken) >= _TAKEN_AT_ONCE or self._taken_size >= _BYTES_AT_ONCE:
            await self.settle()

    async def _count(self, handled: int, brought: Brought) -> None:
        progress, now = self._progress, self._runtime.now()
        progress.seen += handled
        progress.count(now, brought.keys, brought.size)
        if brought.largest > progress.largest:
            progress.largest, progress.largest_key = brought.largest, brought.largest_key
        pause = self._pace.pause(now, handled, brought.size)
        while pause > 0:
            await self._runtime.sleep(min(pause, _LOOK))
            pause -= _LOOK
            if pause > 0:
                self._step("pause")

    async def _tell_big(self, keys: Sequence[bytes]) -> None:
        """Warn of keys for which both servers stand still, before they are moved."""
        if not keys or not self._sizes:
            return
        for key, size in zip(keys, await self._source.ask([(b"MEMORY", b"USAGE", key) for key in keys]), strict=True):
            if isinstance(size, Exception):  # not allowed to: what it says of its memory is no condition
                self._sizes = False
                return
            if size is not None and size >= self._big:
                self._progress.big_keys += 1
                _log.warning(
                    "moving %r, which takes %s bytes at %s: DUMP and RESTORE keep both servers busy meanwhile",
                    key.decode("utf-8", "backslashreplace"),
                    f"{size:,}",
                    self._source.shard,
                )
