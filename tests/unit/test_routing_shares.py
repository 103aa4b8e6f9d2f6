"""Shares of work: by weight, the same for all, and little moves."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.routing.placement.shares import share_out

MEMBERS = [f"node-{i}" for i in range(6)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 6))
def test_parts_are_even_and_do_not_depend_on_the_order(partitions: int, members: int) -> None:
    keys, names = [f"p{i}" for i in range(partitions)], MEMBERS[:members]
    owners = share_out(keys, names)
    assert set(owners) == set(keys)
    counts = Counter(dict.fromkeys(names, 0)) + Counter(owners.values())
    parts = [counts[name] for name in names]
    assert max(parts) - min(parts) <= 1
    assert share_out(reversed(keys), reversed(names)) == owners


@pytest.mark.parametrize("partitions", [16, 64, 256])
def test_little_moves_when_a_member_comes_or_goes(partitions: int) -> None:
    """At most twice what must: of 5 members, a fifth when one goes and a sixth when one comes."""
    keys = [f"p{i}" for i in range(partitions)]
    five = share_out(keys, MEMBERS[:5])
    six, four = share_out(keys, MEMBERS), share_out(keys, MEMBERS[1:5])
    assert sum(five[key] != six[key] for key in keys) <= 2 * partitions / 6 + 1
    assert sum(five[key] != four[key] for key in keys) <= 2 * partitions / 5 + 1


WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), WEIGHTS)
def test_parts_are_exact_by_weight(partitions: int, weights: list[int]) -> None:
    """Each the share that is due, rounded down or up."""
    keys, weighed = [f"p{i}" for i in range(partitions)], dict(zip(MEMBERS, weights, strict=False))
    owners = share_out(keys, weighed, weighed)
    counts = Counter(owners.values())
    assert set(owners) == set(keys)
    for name, weight in weighed.items():
        assert abs(Fraction(partitions * weight, sum(weights)) - counts[name]) < 1
    assert share_out(reversed(keys), reversed(weighed), weighed) == owners


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 1000))
def test_equal_weights_are_none(partitions: int, members: int, weight: int) -> None:
    """Members of which one does not know of weights agree with it as long as all weigh the same."""
    keys, names = [f"p{i}" for i in range(partitions)], MEMBERS[:members]
    assert share_out(keys, names, dict.fromkeys(names, weight)) == share_out(keys, names)
    assert share_out(keys, names, {}) == share_out(keys, names)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=6), st.integers(0, 5), st.integers(0, 9))
def test_little_moves_when_weights_change(weights: list[int], which: int, weight: int) -> None:
    """At most twice what must, and a few; 0 stands for leaving, so this is about coming and going, too."""
    keys, which = [f"p{i}" for i in range(200)], which % len(weights)
    before = dict(zip(MEMBERS, weights, strict=False))
    after = {name: new for name, new in {**before, MEMBERS[which]: weight}.items() if new}
    old, new = share_out(keys, before, before), share_out(keys, after, after)
    was, now = Counter(old.values()), Counter(new.values())
    must = sum((now - was).values())
    assert sum(old[key] != new[key] for key in keys) <= 2 * must + 12


def test_nobody_and_nothing() -> None:
    assert share_out(["p"], []) == {}
    assert share_out([], ["a"]) == {}
    assert share_out(["p"], ["a", "b"]).keys() == {"p"}


def test_it_is_the_same_in_every_version() -> None:
    """Members of two versions of coordkit must agree in a rolling upgrade."""
    owners = share_out([f"p{i}" for i in range(9)], ["a", "b", "c"])
    assert "".join(owners[f"p{i}"] for i in range(9)) == "accabcabb"
    owners = share_out([f"p{i}" for i in range(9)], ["a", "b", "c"], {"a": 4, "c": 2})
    assert "".join(owners[f"p{i}"] for i in range(9)) == "accaaaaab"
