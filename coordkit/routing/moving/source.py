"""The source of a move: what its keys are there and how long they live, and which of them the move leaves alone.

`moving` says what is read when.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._ports import Call, Runtime
from coordkit.core.answer import answered
from coordkit.errors import StoreRefused
from coordkit.routing.fence.fence import local_key
from coordkit.routing.fence.port import Command, ShardPort
from coordkit.routing.fence.walk import Walk, replies
from coordkit.routing.moving.parts import Moved, Read
from coordkit.scripts import load

_CLOSE = load("move_close")

_READ_AT_ONCE = 4 << 20  # bytes of memory of keys that are read in one pipeline; a single key may have more
_FEW = 8  # keys in one pipeline where the source does not tell how large they are
_GONE = -2  # what PTTL says of a key that is not there


class Source:
    """The keys of one move on its source."""

    def __init__(self, runtime: Runtime, topology: str, move: Moved, port: ShardPort) -> None:
        self._runtime = runtime
        self._move = move
        self._port = port
        self._moves = local_key(topology, "moves")
        self._former = local_key(topology, f"moved:{move.undoes}") if move.undoes else None
        self._sizes = True  # whether it tells how large a key is

    # -- for whoever brings keys

    async def portions(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """Return which keys to read together: so many that no server, nor we, have to hold or send too much at once."""
        if len(keys) > 1 and self._sizes:
            sizes = await self._port.ask([(b"MEMORY", b"USAGE", key) for key in keys])
            self._sizes = not any(isinstance(size, Exception) for size in sizes)  # else it is not allowed to
            if self._sizes:
                return _portioned(keys, [int(size or 0) for size in sizes])
        return [list(keys[at : at + _FEW]) for at in range(0, len(keys), _FEW)]

    async def read(self, keys: Sequence[bytes]) -> list[Read]:
        """Return what keys are, and how long they live."""
        if not keys:
            return []
        kept = await self.kept(keys)
        read = await self._replies([command for key in keys for command in ((b"DUMP", key), (b"PTTL", key))])
        found = []
        for key, value, left in zip(keys, read[::2], read[1::2], strict=True):
            gone = left == _GONE or key in kept  # between the two it may have ended
            found.append(Read(key, b"" if gone or value is None else bytes(value), int(left), kept=key in kept))
        return found

    async def timed(self, read: Sequence[Read]) -> list[Read]:
        """Return the same, asked anew how long they live."""
        lefts = await self._replies([(b"PTTL", each.key) for each in read])
        return [
            each._replace(ends=int(left), value=b"" if left == _GONE else each.value)
            for each, left in zip(read, lefts, strict=True)
        ]

    async def kept(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return those that the move which is rolled back had not brought: they never left."""
        if self._former is None:
            return set()
        commands: list[Command] = [(b"SISMEMBER", self._former, key) for key in keys]
        state, marks, *brought = await self._replies([*self._of_former(self._former), *commands])
        self._check_former(state, marks)
        if state == b"over":
            return set()
        return {key for key, mark in zip(keys, brought, strict=True) if not mark}

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Remove keys at the source, which are at the target."""
        await self._replies([(b"UNLINK", *keys)])

    async def ping(self) -> None:
        """Ask whether it is there."""
        await self._replies([(b"PING",)])

    # -- for the mover

    async def close_former(self) -> None:
        """Close the move that is rolled back."""
        if self._former is not None:
            call = Call(_CLOSE, (self._moves, self._former), (self._move.undoes, ""))
            await self._asked(call)

    def former(self) -> Walk | None:
        """Return the way through the keys that the move which is rolled back had brought; None if this one is none."""
        if self._former is None:
            return None
        also, heard = self._of_former(self._former), self._check_former
        return Walk(self._replies, b"SSCAN", self._former, also=also, heard=heard)

    def _of_former(self, marks: bytes) -> list[Command]:
        return [(b"HGET", self._moves, self._move.undoes), (b"EXISTS", marks)]

    def _check_former(self, state: Any, marks: int) -> None:
        """Raise if what the former move had brought is not known any more: it would be taken for never brought."""
        if (state == b"open") != bool(marks):
            raise StoreRefused(
                self._port.shard,
                f"it does not know any more what move {self._move.undoes} had brought (an eviction, a hand, a copy "
                "that is older): nobody can tell whether a key is newer here or at "
                f"{self._move.target!r}; nothing was removed. Bring back its data as it was (a replica, the file), or "
                "compare both shards by hand",
            )

    # -- asking: all of it stands being asked twice, and the fence may just have dropped our connection

    async def _asked(self, call: Call) -> Any:
        return await answered(self._runtime, lambda: self._port.run(call), self._runtime.now())

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        return await replies(self._runtime, self._port, commands)


def _portioned(keys: Sequence[bytes], sizes: Sequence[int]) -> list[list[bytes]]:
    """Return keys in portions of limited size."""
    portions: list[list[bytes]] = []
    total = 0
    for key, size in zip(keys, sizes, strict=True):
        total += size
        if not portions or total > _READ_AT_ONCE:
            portions.append([])
            total = size
        portions[-1].append(key)
    return portions
