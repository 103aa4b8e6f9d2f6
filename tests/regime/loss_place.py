"""What the processes of the loss experiment agree on: where everything is, what moves, and what a subject can do."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from coordkit.routing.placement.slots import slot_of


class Move(NamedTuple):
    """Slots that are on their way from one shard to another."""

    source: str
    target: str
    slots: tuple[int, ...]
    since: int = 0  # the epoch at which it began

    @staticmethod
    def of(facts: Any) -> Move:
        source, target, slots, since = facts
        return Move(source, target, tuple(slots), since)


class Change(NamedTuple):
    """What is to be changed: by one move, or by several one after the other; ``what`` is the subject's own business."""

    slots: frozenset[int]
    what: Any


@dataclass(frozen=True)
class Place:
    """Where the experiment happens."""

    directory: str
    urls: dict[str, str]  # of the shards, by their names
    hosts: str = ""  # of ZooKeeper, where the subject needs it
    path: str = ""  # there


class State(NamedTuple):
    """What the map says: its epoch, who owns each slot of a counter in the end, and what moves."""

    epoch: int
    owners: Mapping[int, str] | Sequence[str]
    moves: tuple[Move, ...]


class Client(Protocol):
    """One process's way to the counters; its methods may be coroutines.

    ShardDown and StoreRefused mean that it was not done, StoreUnavailable that nobody knows.
    """

    def start(self) -> Any:
        """Connect, where its event loop is."""

    def incr(self, key: str) -> Any: ...

    def getdel(self, key: str) -> Any: ...

    def close(self) -> Any: ...


class Gaps(Protocol):
    """Where a client may stop itself."""

    def decided(self, key: str) -> None:
        """It has just been decided where a command on ``key`` goes, and nothing has been sent."""

    def bringing(self) -> None:
        """One step of bringing a key has just been done, and others are to follow."""


class Subject(Protocol):
    """A way to move counters under load: what the experiment is about."""

    name: str
    spared: tuple[str, ...]  # faults that it cannot suffer

    def prepare(self, place: Place, stack: ExitStack) -> Place:
        """Make the first map and what else is needed; return where all that is."""

    def state(self, place: Place) -> State:
        """Say what the map says now."""

    def client(self, place: Place, name: str, flavour: str, gaps: Gaps) -> Client:
        """Connect, and call ``gaps``."""

    def draw(self, place: Place, chance: random.Random) -> Change:
        """Draw the next change."""

    def carry_out(self, place: Place, what: Any, pace: float, slack: float) -> None:
        """Carry out a change, or go on with it: about ``pace`` seconds for each counter.

        ``slack`` is by how much slower than usual the machine seems to be: 1 or more.
        """


COUNTERS = 300


def counter(number: int) -> str:
    """Return the key of a counter."""
    return f"counter:{number}"


def slot(number: int) -> int:
    """Return the slot of a counter."""
    return slot_of(counter(number))
