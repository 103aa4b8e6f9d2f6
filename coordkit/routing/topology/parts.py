"""What a topology is made of: shards with addresses, moves of slots, and what may be said of one slot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from coordkit.routing.placement.quotas import checked_weights
from coordkit.routing.placement.slots import SLOTS

ShardState = Literal["up", "draining"]
MoveState = Literal["moving", "rolling back", "abandoning"]

# user:password@ or :password@ before the host, or as a parameter; a user alone is no secret.
_PASSWORD = re.compile(r"://[^@]*:[^@]*@|[?&]password=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shard:
    """Describe one shard: the addresses of its primary and replicas, its weight, and whether it is to be emptied.

    ``primary`` and each of ``replicas`` is a text that your ``connect`` understands, as ``"redis://10.0.0.1:6379/0"``
    or ``"10.0.0.1:6379"``; it goes into a document that others read, so a password in it is refused. ``weight`` is a
    positive number, by which slots are shared out; ``state`` is "up", or "draining": to own nothing in the end.
    ``fenced`` is the least epoch that its servers must know, that of the last move that is complete; 0 at first.
    Raise ValueError or TypeError, naming the argument, for anything else.
    """

    primary: str
    replicas: tuple[str, ...] = ()
    weight: float = 1
    state: ShardState = "up"
    fenced: int = 0

    def __post_init__(self) -> None:
        checked_address("primary", self.primary)
        object.__setattr__(self, "replicas", checked_addresses(self.replicas))
        checked_weights(["weight"], {"weight": self.weight})
        if self.state not in ("up", "draining"):
            raise ValueError(f"state={self.state!r}; 'up' or 'draining' is allowed")


@dataclass(frozen=True, slots=True)
class Move:
    """Slots on their way from one shard to another: what is still at the source is fetched before it is touched.

    ``number`` is the epoch in which this direction began, and so its own: a move that is rolled back has another one,
    with source and target changed over, and ``undoes`` is what it was before (else 0). ``slots`` are in order.
    One that is "abandoning" has a source that is gone for good: nothing is fetched from there (`loss`).
    """

    number: int
    slots: tuple[int, ...]
    source: str
    target: str
    state: MoveState = "moving"
    undoes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", checked_slots(self.slots))
        if self.target == self.source:
            raise ValueError(f"target={self.target!r} is the source as well; another shard is allowed")
        if self.state not in ("moving", "rolling back", "abandoning"):
            raise ValueError(f"state={self.state!r}; 'moving', 'rolling back' or 'abandoning' is allowed")


class Stable(NamedTuple):
    """A slot that stays: ``owner`` has its keys."""

    owner: str

    @property
    def serving(self) -> str:
        """The shard where commands on the slot's keys run."""
        return self.owner


class Moving(NamedTuple):
    """A slot on its way: each key is brought from ``source`` to ``target`` before a command touches it there."""

    source: str
    target: str

    @property
    def serving(self) -> str:
        """The shard where commands on the slot's keys run."""
        return self.target


class Step(NamedTuple):
    """One batch of a plan: what `Topology.begin_move` takes."""

    slots: tuple[int, ...]
    source: str
    target: str


def checked_address(argument: str, value: Any) -> str:
    """Return an address; ValueError or TypeError names what is wrong with it."""
    if not isinstance(value, str):
        raise TypeError(f"{argument}={value!r}; an address, as 'redis://10.0.0.1:6379/0', is allowed")
    if not value or not value.isprintable() or " " in value:
        raise ValueError(f"{argument}={value!r}; an address without spaces, as 'redis://10.0.0.1:6379/0', is allowed")
    if _PASSWORD.search(value):
        # The value is not shown: errors are logged.
        raise ValueError(f"{argument} has a password in it; an address without one is allowed: give it in connect")
    return value


def checked_addresses(value: Any) -> tuple[str, ...]:
    """Return the addresses of replicas; ValueError or TypeError names what is wrong with them."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"replicas={value!r}; an iterable of addresses, each a str, is allowed")
    return tuple(checked_address("replicas", address) for address in value)


def checked_slots(slots: Any) -> tuple[int, ...]:
    """Return slots in order, each once; ValueError or TypeError if one is none, is there twice, or there is none."""
    if isinstance(slots, (str, bytes)) or not isinstance(slots, Iterable):
        raise TypeError(f"slots={slots!r}; an iterable of slots, each an int from 0 to {SLOTS - 1}, is allowed")
    listed = list(slots)
    for slot in listed:
        if isinstance(slot, bool) or not isinstance(slot, int):
            raise TypeError(f"slot {slot!r}; an int from 0 to {SLOTS - 1} is allowed")
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot {slot!r}; 0 to {SLOTS - 1} is allowed")
    if not listed:
        raise ValueError("slots is empty; at least one slot is allowed")
    if len(set(listed)) < len(listed):
        raise ValueError(
            f"slots names {sorted({slot for slot in listed if listed.count(slot) > 1})[:9]} more than once"
        )
    return tuple(sorted(listed))


def runs_of(slots: Sequence[int]) -> list[list[int]]:
    """Return ordered slots as runs of [first, last]."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    return runs


def of_runs(runs: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the slots of such runs; ValueError unless each is within 0 to 16383 and after the one before."""
    slots: list[int] = []
    for first, last in runs:
        if not (slots[-1] if slots else -1) < first <= last < SLOTS:
            raise ValueError(f"run [{first!r}, {last!r}] of slots; runs in order, within 0 to {SLOTS - 1}, are allowed")
        slots.extend(range(first, last + 1))
    return tuple(slots)
