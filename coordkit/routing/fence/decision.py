"""By what a command was decided, where that holds for some connections only: keys were brought to a shard first.

That a key is there is known of one life of the server: a restart that loses its last writes, or a failover, may take it
back to the source. No connection outlives the server, so the knowledge is good for those that were made before it was
asked for, and for no later one. They are numbered: ``made`` had been made before the target was asked. A command that
would go over a later one is not sent; its keys are looked for again. (A primary that is made a replica and a primary
again, by hand and without a restart, keeps its connections: drop them, as Sentinel does.)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class Numbered(Protocol):
    """A connection: the epoch that it has seen, and how many had been made to this server with it."""

    epoch: int
    number: int


class Decision(int):
    """The epoch by which a command was routed, and how many connections had been ``made`` when its keys were there."""

    made: int

    def __new__(cls, epoch: int, made: int) -> Self:
        """Return an epoch that says more."""
        self = super().__new__(cls, epoch)
        self.made = made
        return self


def is_too_new(wire: Numbered, decided: int) -> bool:
    """Return whether a connection must not carry what was decided so."""
    return wire.epoch > decided or wire.number > getattr(decided, "made", sys.maxsize)
