"""How far resharding has come: what is counted, what is guessed, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_WINDOW = 10.0  # seconds over which the rate is taken


@dataclass(slots=True)
class Progress:
    """How far it has come. Counts are of this process alone: what clients brought, or another mover, is not in them.

    ``expected`` is a guess, from the size of the source and the share of its slots that move.
    """

    phase: str = "planning"  # planning, fencing, waiting, moving, closing, giving up, done, stopped
    source: str = ""
    target: str = ""
    slots: int = 0  # of this batch
    slots_done: int = 0  # of batches that are complete
    slots_left: int = 0  # of all that is to be moved, this batch included
    seen: int = 0  # keys of this batch that are off the source: moved by us, or found there and moved meanwhile
    expected: int = 0  # keys in this batch
    keys: int = 0  # moved by this process, in all batches
    size: int = 0  # their bytes, as DUMP gives them
    rate: float = 0.0  # keys per second, lately
    size_rate: float = 0.0  # bytes per second, lately
    largest: int = 0  # bytes of the largest key that was moved
    largest_key: bytes = b""
    big_keys: int = 0
    weaker: bool = False  # whether a server forbade CLIENT KILL
    slots_lost: int = 0  # of shards that were given up, and so began empty at others
    _past: list[tuple[float, int, int]] = field(default_factory=list, repr=False)

    def count(self, now: float, keys: int, size: int) -> None:
        """Add what was moved by ``now`` (seconds)."""
        if not self._past:
            self._past.append((now, self.keys, self.size))
        self.keys += keys
        self.size += size
        self._past.append((now, self.keys, self.size))
        while len(self._past) > 2 and self._past[1][0] <= now - _WINDOW:
            self._past.pop(0)
        began, before, size_before = self._past[0]
        if now > began:
            self.rate = (self.keys - before) / (now - began)
            self.size_rate = (self.size - size_before) / (now - began)

    @property
    def share(self) -> float:
        """The share (0.0 to 1.0) that is done: of slots in whole batches, of keys in the present one."""
        whole = self.slots_done + self.slots_left
        if not whole:
            return 1.0
        part = min(1.0, self.seen / self.expected) if self.expected else 0.0
        return min(1.0, (self.slots_done + part * self.slots) / whole)

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at the present rate; None while that is unknown."""
        if not self.slots_left:
            return 0.0
        if self.rate <= 0 or not self.slots:
            return None
        keys = self.expected * self.slots_left / self.slots - self.seen
        return max(0.0, keys / self.rate)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        return {
            "phase": self.phase,
            "source": self.source,
            "target": self.target,
            "slots_done": self.slots_done,
            "slots_left": self.slots_left,
            "share": round(self.share, 4),
            "keys": self.keys,
            "bytes": self.size,
            "keys_per_second": round(self.rate, 1),
            "bytes_per_second": round(self.size_rate, 1),
            "seconds_left": None if (left := self.seconds_left()) is None else round(left, 1),
            "largest_bytes": self.largest,
            "largest_key": self.largest_key.decode("utf-8", "backslashreplace"),
            "big_keys": self.big_keys,
            "weaker_barrier": self.weaker,
            "slots_lost": self.slots_lost,
        }

    def line(self) -> str:
        """Return it as one line for a person."""
        left = self.seconds_left()
        lost = f"  {self.slots_lost:,} SLOTS GIVEN UP" if self.slots_lost else ""
        return (
            f"{self.share:6.1%}  {self.source or '-'} -> {self.target or '-'}  {self.phase}  "
            f"{self.keys:,} keys  {readable(self.size)}  {self.rate:,.0f} keys/s  {readable(self.size_rate)}/s  "
            f"{'time left unknown' if left is None else f'{duration(left)} left'}{lost}"
        )


def readable(size: float) -> str:
    """Return a number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Return seconds for a person."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"
