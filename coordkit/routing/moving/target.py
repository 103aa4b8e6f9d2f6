"""The target of a move: whether the move is open there, which keys were brought, and how they are taken.

`moving` says why each step stands being repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any

from coordkit._ports import Call, Runtime
from coordkit.core.answer import answered
from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing.fence.fence import local_key
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import replies
from coordkit.routing.moving.parts import Brought, Looked, Moved, Read
from coordkit.scripts import load

_BEGIN = load("move_begin")
_CLOSE = load("move_close")
_LOOK = load("move_look")
_TAKE = load("move_take")

_LEAST_BULK = 1 << 20  # bytes in one piece that every server takes
_PAUSE, _LONGEST = 0.005, 0.2  # seconds between two looks whether a move has begun


class Target:
    """One move on its target. ``patience`` (seconds) is how long to wait for it to be opened."""

    def __init__(self, runtime: Runtime, topology: str, move: Moved, port: ShardPort, patience: float) -> None:
        self._runtime = runtime
        self._topology = topology
        self._move = move
        self._port = port
        self._patience = patience
        self._moves = local_key(topology, "moves")
        self._marks = local_key(topology, f"moved:{move.number}")

    # -- for whoever brings keys

    async def look(self, keys: Sequence[bytes], meanwhile: Callable[[], Awaitable[object]]) -> Looked | None:
        """Return when we asked, the target's time in ms, and which keys are marked; None if the move is over.

        ``meanwhile`` is awaited now and then as long as it has not begun.
        """
        until = self._runtime.now() + self._patience
        pause = _PAUSE
        call = Call(_LOOK, (self._moves, self._marks), (self._move.number, *keys))
        while True:
            sent = self._runtime.now()
            state, time, *marked = await self._asked(call)
            if state == b"open":
                return Looked(sent, int(time), [int(mark) for mark in marked])
            if state == b"over":
                return None
            if self._runtime.now() >= until:
                raise self._not_begun()
            if pause >= _LONGEST:
                await meanwhile()
            await self._runtime.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    def _not_begun(self) -> StoreUnavailable:
        return StoreUnavailable(
            self._port.shard,
            f"move {self._move.number} from {self._move.source!r} was announced {self._patience:.0f} s ago and has not "
            "begun: who announced it has stopped, and nobody resumed it; the command was not sent. Let the rebalancer "
            "run (`coordkit reshard resume`)",
        )

    async def take(self, batch: Sequence[Read]) -> Brought:
        """Take keys that were read, those that are not marked; return what this call itself took."""
        args: list[bytes | str | int] = [self._move.number]
        for each in batch:
            args += [each.value, each.ends, "keep" if each.kept else "take"]
        call = Call(_TAKE, (self._moves, self._marks, *(each.key for each in batch)), args)
        try:
            state, *taken = await self._asked(call)
        except (StoreRefused, StoreUnavailable) as error:
            large = max(batch, key=lambda each: len(each.value))
            if not await self._is_too_large(large, error):
                raise
            raise StoreRefused(
                self._port.shard,
                f"{large.key!r} is {len(large.value):,} bytes as DUMP gives it, more than it takes in one piece "
                f"({error.why}): raise its proto-max-bulk-len, or remove the key, and resume",
            ) from error
        if state == b"over":  # it was open when we looked
            return Brought(over=True)
        if state != b"open":  # somebody removed what says so
            raise self._not_begun()
        total = Brought()
        for each, fresh in zip(batch, taken, strict=True):
            if fresh and each.value:
                total = total.plus(Brought(1, len(each.value), len(each.value), each.key))
        return total

    async def _is_too_large(self, one: Read, error: StoreRefused | StoreUnavailable) -> bool:
        """Return whether a take failed because the server does not take so much in one piece."""
        if isinstance(error, StoreRefused):
            return "bulk length" in error.why
        # It says so and hangs up: who is still sending meets that first, and would send it all again.
        if len(one.value) <= _LEAST_BULK:
            return False
        try:
            [said] = await self._port.ask([(b"CONFIG", b"GET", b"proto-max-bulk-len")])
        except StoreUnavailable:
            return False
        if isinstance(said, Exception):  # it does not let us ask
            return False
        words = [*chain.from_iterable(said.items())] if isinstance(said, dict) else said
        return len(words) == 2 and len(one.value) > int(words[1])

    # -- for the mover

    async def state(self) -> str:
        """Return "open", "over", or "" if it has not begun."""
        state, _ = await self._asked(Call(_LOOK, (self._moves, self._marks), (self._move.number,)))
        return bytes(state).decode()

    async def begin(self) -> None:
        """Open the move on its target. Both shards must have been fenced: what is left of its past is forgotten."""
        await self._asked(Call(_BEGIN, (self._moves, self._marks), (self._move.number,)))

    async def close(self, *, begun: bool = True) -> int:
        """Close it; return how many keys it touched."""
        args = self._move.number, "1" if begun else ""
        return int(await self._asked(Call(_CLOSE, (self._moves, self._marks), args)))

    async def close_all(self) -> None:
        """Close each move that is still open on the target: of one that was turned round, nobody else does."""
        [found] = await replies(self._runtime, self._port, [(b"HGETALL", self._moves)])
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        for number in [int(number) for number, state in pairs if state == b"open"]:
            marks = local_key(self._topology, f"moved:{number}")
            await self._asked(Call(_CLOSE, (self._moves, marks), (number, "")))

    async def _asked(self, call: Call) -> Any:
        """Ask what stands being asked twice: the fence may just have dropped our connection."""
        return await answered(self._runtime, lambda: self._port.run(call), self._runtime.now())
