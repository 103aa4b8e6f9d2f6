"""A stored map and its next one: exact shares, no needless move, and the form in which it is stored."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordkit.errors import NoNodes
from coordkit.routing import SLOTS, SlotMap, rendezvous, slot_map
from coordkit.routing.placement.quotas import quotas

some = settings(max_examples=25, deadline=None)  # a deadline would measure the machine
shards = st.dictionaries(st.sampled_from("abcdefghij"), st.one_of(st.integers(1, 9), st.floats(0.1, 9)), min_size=1)


def moved(before: SlotMap, after: SlotMap) -> int:
    return sum(map(len, before.moves(after).values()))


@some
@given(st.lists(shards, min_size=2, max_size=5))
def test_every_step_moves_only_what_is_above_a_share(steps: list[dict[str, float]]) -> None:
    """Add, drain and reweight in any sequence: never a slot between two shards of which none had to give or take."""
    current = slot_map(steps[0], steps[0])
    for weights in steps[1:]:
        following = current.rebalance(weights, weights)
        before, after = current.counts(), following.counts()
        total = sum(weights.values())
        assert list(following.shards) == sorted(weights)
        for name, weight in weights.items():
            assert abs(after[name] - SLOTS * weight / total) < 1.001
        for (source, target), slots in current.moves(following).items():
            assert before[source] > after.get(source, 0), f"{source} gave {len(slots)} and took others"
            assert after[target] > before.get(target, 0)
        lost = sum(max(0, count - after.get(name, 0)) for name, count in before.items())
        assert moved(current, following) == lost
        assert current.diff(following) == lost / SLOTS
        current = following


@some
@given(shards, shards)
def test_no_other_allotment_of_the_remainder_moves_less(one: dict[str, float], other: dict[str, float]) -> None:
    """Brute force over who gets the slots that are left when shares are rounded down."""
    before = slot_map(one, one)
    owned = before.counts()
    after = before.rebalance(other, other)
    total = sum(other.values())
    whole = {name: int(SLOTS * weight / total) for name, weight in other.items()}
    left = SLOTS - sum(whole.values())
    takers = [name for name, weight in other.items() if SLOTS * weight / total != whole[name]]
    assume(len(takers) >= left)  # where floats see what fractions see
    best = min(
        sum(max(0, count - whole.get(name, 0) - (name in chosen)) for name, count in owned.items())
        for chosen in combinations(takers, left)
    )
    assert moved(before, after) == best


@settings(max_examples=8, deadline=None)
@given(shards)
def test_what_is_in_balance_stays(weights: dict[str, float]) -> None:
    placement = slot_map(weights, weights)
    assert placement.rebalance(weights, weights) == placement
    assert placement.rebalance(reversed(list(weights)), weights).checksum() == placement.checksum()
    spread = rendezvous(weights, weights)
    assert spread.rebalance(weights, weights) == spread


def test_one_more_shard_moves_exactly_its_share() -> None:
    """The figures of ten shards and an eleventh: 9.09 %, none needless, and no shard above 1.0005 times the mean."""
    ten = rendezvous(f"redis-{i}" for i in range(10))
    eleven = ten.rebalance([*ten.shards, "new"])
    assert ten.diff(eleven) == pytest.approx(1 / 11, abs=1 / SLOTS)
    assert {target for _, target in ten.moves(eleven)} == {"new"}
    for placement in (ten, eleven):
        counts = placement.counts()
        assert max(counts.values()) / (SLOTS / len(counts)) < 1.0005
    back = eleven.rebalance(ten.shards)
    assert {source for source, _ in eleven.moves(back)} == {"new"}
    assert max(back.counts().values()) / (SLOTS / 10) < 1.0005


def test_a_hundred_shards_come_and_go_and_the_map_stays_even_and_short() -> None:
    placement = slot_map(["0"])
    history = [placement]
    for i in range(1, 40):
        placement = placement.rebalance([*placement.shards, str(i)])
        history.append(placement)
    for i in range(35):
        placement = placement.rebalance([name for name in placement.shards if name != str(i)])
        history.append(placement)
    for before, after in pairwise(history):
        counts = after.counts()
        assert max(counts.values()) - min(counts.values()) <= 1
        assert moved(before, after) == sum(max(0, n - counts.get(name, 0)) for name, n in before.counts().items())
    assert len(placement.shards) == 5
    assert len(placement.runs()) < 2000


def test_an_empty_shard_is_there_and_is_filled() -> None:
    placement = SlotMap(("a", "b"), ("a",) * SLOTS)
    assert placement.counts() == {"a": SLOTS, "b": 0}
    assert placement.shares() == {"a": 1.0, "b": 0.0}
    assert placement.owners("key", 2) == ["a", "b"]
    even = placement.rebalance(["a", "b"])
    assert even.counts() == {"a": 8192, "b": 8192}
    assert even.rebalance(["b"]).table == ("b",) * SLOTS


@some
@given(shards, shards)
def test_runs_are_the_whole_map(one: dict[str, float], other: dict[str, float]) -> None:
    placement = slot_map(one, one).rebalance(other, other)
    runs = placement.runs()
    assert SlotMap.of_runs(other, runs) == SlotMap.of_runs(reversed(list(other)), [list(run) for run in runs])
    assert SlotMap.of_runs(other, runs) == placement
    assert [(first, last) for first, last, _ in runs] == sorted((first, last) for first, last, _ in runs)
    assert all(left[2] != right[2] for left, right in pairwise(runs))
    assert len(slot_map(one, one).runs()) == len(one)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(0, 5, "a"), (7, 16383, "a")], r"run \(7, 16383, 'a'\) after slot 5"),
        ([(0, 5, "a"), (5, 16383, "a")], r"run \(5, 16383, 'a'\) after slot 5"),
        ([(0, 16384, "a")], r"run \(0, 16384, 'a'\) after slot -1"),
        ([(0, 5, "a"), (6, 5, "a")], r"run \(6, 5, 'a'\)"),
        ([(0, 5, "a")], "table=6 owners; exactly 16384"),
        ([(0, 16383, "x")], r"table names \['x'\]; only the shards \['a'\]"),
    ],
)
def test_runs_that_are_no_map_are_refused(runs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlotMap.of_runs(["a"], runs)


def test_bad_shards_and_weights_are_refused_by_name() -> None:
    placement = slot_map(["a", "b"])
    with pytest.raises(NoNodes, match="at least one shard"):
        placement.rebalance([])
    with pytest.raises(ValueError, match=r"weights has \['c'\]"):
        placement.rebalance(["a"], {"c": 1})
    with pytest.raises(ValueError, match=r"weights\['a'\]=1e-09 is too small for one of 16384 slots"):
        placement.rebalance(["a", "b"], {"a": 1e-9})


def test_quotas_are_exact_and_prefer_who_has_it() -> None:
    thirds = dict.fromkeys("abc", 1)
    assert quotas("abc", thirds, SLOTS) == {"a": 5462, "b": 5461, "c": 5461}
    assert quotas("abc", thirds, SLOTS, {"a": 5461, "b": 5461, "c": 5462}) == {"a": 5461, "b": 5461, "c": 5462}
    tiny = {"a": 1, "b": 16383, "c": 0.7}  # a and c have less than one slot, but rounded one
    assert quotas("abc", tiny, SLOTS, {"b": SLOTS}) == {"a": 1, "b": 16382, "c": 1} == quotas("abc", tiny, SLOTS)
    halves = {"a": 1, "b": 1}
    assert quotas("ab", halves, SLOTS, {"a": SLOTS}) == {"a": 8192, "b": 8192}
