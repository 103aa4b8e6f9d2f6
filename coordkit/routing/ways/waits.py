"""Who waits at a shard for what may come later (BLPOP), and has to leave when slots move away from it.

The fence drops whoever waits at an old owner. Where CLIENT KILL is forbidden nobody does that, and what comes later
comes to another shard: so the client that waits sees to it itself, as soon as it has adopted the change. It ends its
half of the connection. The server then closes the other half, and gives what it takes to somebody else; what it had
given before is still read here. (Not what it was just giving in the same turn: of that the outcome is unknown, as it is
when the fence drops a connection. Nor, in asyncio over TLS, what comes together with the server's farewell, an alert
for the goodbye that it missed: asyncio's own TLS then hands on neither.)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

from redis.exceptions import ConnectionError  # noqa: A004  redis-py's own

from coordkit.routing.commands import table
from coordkit.routing.ways.errors import Outdated

_NAMES = table.BLOCKING.split()

WAITING = frozenset({*_NAMES, *(name.encode() for name in _NAMES)})
"""Commands that may wait until somebody else writes, as the router writes them: in capitals."""


def waits(batch: Sequence[tuple[tuple[Any, ...], Any]]) -> bool:
    """Return whether a command of a batch may."""
    return not WAITING.isdisjoint(map(_first, map(_first, batch)))


_first = itemgetter(0)


_NEVER_AGAIN = -math.inf  # when a connection was made that is so old that nobody uses it


class Made(Protocol):
    """A connection, and when it was made."""

    made: float


W = TypeVar("W", bound=Made)


class Waits(Generic[W]):
    """The connections to one shard that wait; ``end_of`` ends our half of one, from any thread."""

    def __init__(self, shard: str, end_of: Callable[[W], None]) -> None:
        self._shard = shard
        self._end_of = end_of
        self._waiting: set[W] = set()
        self._ended = 0  # the last epoch that took slots away

    def begin(self, wire: W, decided: int) -> None:
        """Take note of one that is about to wait; Outdated if slots have moved away since that was decided."""
        self._waiting.add(wire)
        if decided < self._ended:
            self.over(wire)
            raise Outdated(self._shard, self._ended, decided)

    def over(self, wire: W) -> None:
        """Take note that one that has begun waits no more; before it is given back."""
        try:
            self._waiting.remove(wire)
        except KeyError:  # `end` has it, and may not have come to say so: nobody may use it between
            wire.made = _NEVER_AGAIN

    def end(self, epoch: int) -> None:
        """End the waits of those that were decided by an earlier epoch."""
        self._ended = epoch  # before anybody is looked for: who comes later finds it
        while self._waiting:
            try:
                wire = self._waiting.pop()
            except KeyError:
                return
            wire.made = _NEVER_AGAIN
            with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
                self._end_of(wire)


def ended(shard: str, wire: Made, error: BaseException) -> BaseException:
    """Return what it means that a connection was lost, if we have ended it ourselves."""
    if wire.made != _NEVER_AGAIN or not isinstance(error, (ConnectionError, OSError)):
        return error
    meant = ConnectionError(
        f"slots of {shard!r} move to another shard, so nobody waits there any more; ask again. If it was just handing "
        "something over, that may be lost"
    )
    meant.__cause__ = error
    return meant
