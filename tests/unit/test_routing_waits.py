"""Who waits at a shard, and is ended just when its wait is over anyway."""

from __future__ import annotations

import math

import pytest

from coordkit.routing.ways.errors import Outdated
from coordkit.routing.ways.waits import Waits

MADE = 5.0


class Wire:
    made = MADE


def test_one_that_is_over_by_itself_is_used_again() -> None:
    waits, wire = Waits[Wire]("a", lambda _: pytest.fail("nobody waits")), Wire()
    for _ in range(2):
        waits.begin(wire, 1)
        waits.over(wire)
    waits.end(2)
    assert wire.made == MADE


@pytest.mark.parametrize("fails", [None, OSError, ValueError])
def test_one_that_is_ended_is_used_by_nobody(fails: type[Exception] | None) -> None:
    made: list[float] = []

    def end_of(wire: Wire) -> None:
        made.append(wire.made)
        if fails is not None:
            raise fails

    waits, wires = Waits("a", end_of), [Wire(), Wire()]
    for wire in wires:
        waits.begin(wire, 1)
    waits.end(2)
    assert made == [-math.inf] * 2, "it is known when its end is seen"
    for wire in wires:
        waits.over(wire)
        assert wire.made == -math.inf


def test_one_that_is_over_just_when_it_is_ended_is_used_by_nobody() -> None:
    """Its owner has its reply, and gives it back: before whoever ends the waits comes to say that it is no good."""
    given_back: list[float] = []

    class Slow(set[Wire]):
        def pop(self) -> Wire:
            wire = super().pop()
            waits.over(wire)  # in another thread
            given_back.append(wire.made)
            return wire

    waits = Waits[Wire]("a", lambda _: None)
    waits._waiting = Slow()
    waits.begin(Wire(), 1)
    waits.end(2)
    assert given_back == [-math.inf]


def test_who_decided_before_does_not_begin() -> None:
    waits, late, wire = Waits[Wire]("a", lambda _: None), Wire(), Wire()
    waits.end(2)
    with pytest.raises(Outdated) as outdated:
        waits.begin(late, 1)
    assert (outdated.value.seen, outdated.value.decided) == (2, 1)
    assert (late.made, waits._waiting) == (MADE, set())
    waits.begin(wire, 2)
    waits.over(wire)
