"""What passes between the two ends of a move: which move it is, what was seen, read and brought."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Moved(Protocol):
    """What moving needs to know of a move: `coordkit.routing.Move` has it."""

    @property
    def number(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def undoes(self) -> int:
        """The number of the move that this one rolls back, or 0."""
        ...


class Brought(NamedTuple):
    """What one call brought: how many keys it took, their bytes as DUMP gives them, and the largest of them."""

    keys: int = 0
    size: int = 0
    largest: int = 0
    largest_key: bytes = b""
    over: bool = False  # the move is over: everything is at the target

    def plus(self, other: Brought) -> Brought:
        """Return the sum of both."""
        largest = max((self, other), key=lambda each: each.largest)
        total = self.keys + other.keys, self.size + other.size
        return Brought(*total, largest.largest, largest.largest_key, self.over or other.over)


class Looked(NamedTuple):
    """What a look at the target told."""

    sent: float  # when we asked
    time: int  # of the target then or later, in ms
    marks: list[int]


class Read(NamedTuple):
    """A key as it was read at the source."""

    key: bytes
    value: bytes
    ends: int  # in so many ms, negative if never; then when, by the target's clock, 0 if never
    kept: bool
