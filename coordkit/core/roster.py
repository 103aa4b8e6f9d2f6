"""Who votes: one number per seat of the set, drawn by the instance when it was seated last.

An instance that forgets draws a new, greater number before it votes again, and a majority learns of it first. Rosters
are joined by taking the greater number of each seat, so it does not matter in which order instances and clients hear
of them, and two who seat different instances at the same time do not disturb each other.
"""

from __future__ import annotations

from typing import NamedTuple


class Roster(NamedTuple):
    """The numbers by seat; ``changed`` is 0 as long as nobody was seated anew."""

    changed: int
    seats: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join(map(str, (self.changed, *self.seats)))

    @staticmethod
    def read(text: str) -> Roster | None:
        """Return the roster that an instance keeps, or None if it keeps none that can be read."""
        try:
            changed, *seats = map(int, text.split(":"))
        except ValueError:
            return None
        return Roster(changed, tuple(seats))

    def joined(self, other: Roster) -> Roster:
        """Return the newest of both, seat by seat."""
        return Roster(
            max(self.changed, other.changed),
            tuple(max(pair) for pair in zip(self.seats, other.seats, strict=True)),
        )

    def with_seat(self, seat: int, number: int) -> Roster:
        """Return this roster with one instance seated anew."""
        return Roster(1, (*self.seats[:seat], number, *self.seats[seat + 1 :]))
