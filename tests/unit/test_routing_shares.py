"""Shares of work: even, the same for all, and little moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.routing.shares import share_out

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


def test_nobody_and_nothing() -> None:
    assert share_out(["p"], []) == {}
    assert share_out([], ["a"]) == {}
    assert share_out(["p"], ["a", "b"]).keys() == {"p"}


def test_it_is_the_same_in_every_version() -> None:
    """Members of two versions of coordkit must agree in a rolling upgrade."""
    owners = share_out([f"p{i}" for i in range(9)], ["a", "b", "c"])
    assert "".join(owners[f"p{i}"] for i in range(9)) == "accabcabb"
