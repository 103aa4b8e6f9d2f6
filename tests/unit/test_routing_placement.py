"""The default placement: exact quotas, the same table in every process, and no more moves than promised."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.errors import NoNodes
from coordkit.routing import SLOTS, SlotMap, rendezvous, slot_of
from coordkit.routing.placement.rendezvous import _scores

names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=8, unique=True)
weight = st.one_of(st.integers(1, 20), st.floats(0.1, 20))
few = settings(
    max_examples=8, deadline=None
)  # each example hashes a table or two; a deadline would measure the machine


def needless(before: SlotMap, after: SlotMap) -> float:
    """Return the share of slots that moved between two shards that are in both."""
    kept = set(before.shards) & set(after.shards)
    return sum(a != b and {a, b} <= kept for a, b in zip(before.table, after.table, strict=True)) / SLOTS


@few
@given(names, st.randoms(), st.data())
def test_the_order_of_names_and_weights_does_not_matter(shards: list[str], random: Any, data: st.DataObject) -> None:
    weights = data.draw(st.fixed_dictionaries(dict.fromkeys(shards, weight)))
    placement = rendezvous(shards, weights)
    shuffled = random.sample(shards, len(shards))
    assert rendezvous(shuffled, {name: weights[name] for name in shuffled}) == placement
    assert rendezvous(shuffled, weights).checksum() == placement.checksum()


@few
@given(names, st.data())
def test_each_shard_gets_its_quota_to_within_one_slot(shards: list[str], data: st.DataObject) -> None:
    weights = data.draw(st.fixed_dictionaries(dict.fromkeys(shards, weight)))
    counts = rendezvous(shards, weights).counts()
    total = math.fsum(weights.values())
    assert sum(counts.values()) == SLOTS
    for name in shards:
        assert abs(counts[name] - SLOTS * weights[name] / total) < 1.001


@few
@given(names.filter(lambda shards: len(shards) > 1))
def test_history_does_not_matter_and_what_comes_back_finds_its_slots(shards: list[str]) -> None:
    placement = rendezvous(shards)
    without = rendezvous(shards[:-1])
    assert rendezvous([*without.shards, shards[-1]]) == placement


@few
@given(names, names)
def test_diff_is_the_share_that_brute_force_counts(some: list[str], others: list[str]) -> None:
    one, other = rendezvous(some), rendezvous(others)
    moved = sum(one.owner(slot) != other.owner(slot) for slot in range(SLOTS))
    assert one.diff(other) == other.diff(one) == moved / SLOTS
    assert one.diff(one) == 0.0


def test_equal_weights_of_any_size_are_no_weights() -> None:
    shards = ["a", "b", "c"]
    assert rendezvous(shards, dict.fromkeys(shards, 7.5)) == rendezvous(shards)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 16])
def test_one_more_shard_moves_hardly_more_than_its_share(n: int) -> None:
    """The ideal is that all that moves goes to the new shard; exact quotas cost about 0.4 % more, and never 1 %."""
    extra = []
    for run in range(6):
        shards = [f"redis-{run}-{i}" for i in range(n)]
        before, after = rendezvous(shards), rendezvous([*shards, f"new-{run}"])
        extra.append(needless(before, after))
        assert abs(before.diff(after) - 1 / (n + 1)) < 0.01
    assert median(extra) <= 0.006
    assert max(extra) < 0.01


@pytest.mark.parametrize(("bound", "allowed"), [(1.05, 0.002), (1.1, 0.0005)])
def test_with_room_to_spare_hardly_a_slot_moves_needlessly(bound: float, allowed: float) -> None:
    for run in range(3):
        shards = [f"redis-{run}-{i}" for i in range(10)]
        before, after = rendezvous(shards, bound=bound), rendezvous([*shards, "new"], bound=bound)
        assert needless(before, after) <= allowed
        assert max(before.counts().values()) <= bound * SLOTS / 10 + 1
        assert rendezvous(reversed(shards), bound=bound) == before
    weights = {"a": 1, "b": 2, "c": 4}
    counts = rendezvous(weights, weights, bound=bound).counts()
    assert all(counts[name] <= bound * SLOTS * weight / 7 + 1 for name, weight in weights.items())
    assert rendezvous(shards, bound=1) == rendezvous(shards)


@pytest.mark.parametrize("weights", [(1, 1, 10), (1, 2, 3, 4), (5, 1, 1, 1), (0.5, 0.25, 0.25)])
def test_one_more_shard_of_another_weight_moves_hardly_more_than_its_share(weights: tuple[float, ...]) -> None:
    """Quotas over unweighted scores would move up to 4 % needlessly."""
    shards = {f"redis-{i}": weight for i, weight in enumerate(weights)}
    grown = {**shards, "new": 2}
    before, after = rendezvous(shards, shards), rendezvous(grown, grown)
    assert needless(before, after) < 0.01
    assert abs(before.diff(after) - 2 / (sum(weights) + 2)) < 0.01


def test_ten_shards_are_balanced_to_one_part_in_two_thousand() -> None:
    counts = rendezvous(f"redis-{i}" for i in range(10)).counts()
    assert max(counts.values()) / (SLOTS / 10) < 1.0005


def test_the_table_is_the_same_in_every_process_and_for_ever() -> None:
    """PYTHONHASHSEED must not matter, and a later version of coordkit must not move anybody's data."""
    program = (
        "from coordkit.routing import rendezvous;"
        "print(rendezvous({'users-a', 'users-b', 'users-c', 'é'}).checksum(),"
        "rendezvous({'a', 'b', 'c'}, {'a': 1, 'b': 2.5, 'c': 0.3}).checksum())"
    )
    printed = set()
    for seed in ("0", "1", "4294967295"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        printed.add(done.stdout.strip())
    assert printed == {"bff54f9a1ba42f5e 9ca96ac515354fc9"}


@pytest.mark.parametrize("weighted", [False, True])
def test_of_many_shards_a_slot_asks_all_if_it_must(weighted: bool) -> None:
    """Above 24 shards only the best scores are kept: the table must be the one that all scores give."""
    shards = [f"redis-{i}" for i in range(30)]
    weights = {name: 1 + i % 5 for i, name in enumerate(shards)} if weighted else None
    placement = rendezvous(shards, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordkit.routing.placement.rendezvous._DOZEN", 1)
        assert rendezvous(shards, weights) == placement
        patch.setattr("coordkit.routing.placement.rendezvous._DOZEN", 30)
        assert rendezvous(shards, weights) == placement


def test_the_matching_is_stable() -> None:
    """No slot and shard would both rather have each other: the definition, checked by brute force."""
    placement = rendezvous(["a", "b", "c", "d"])
    scores = {name: _scores(name.encode()) for name in placement.shards}
    worst = {
        name: min(score for score, owner in zip(scores[name], placement.table, strict=True) if owner == name)
        for name in placement.shards
    }
    for name in placement.shards:
        for slot, owner in enumerate(placement.table):
            if owner != name and scores[name][slot] > scores[owner][slot]:
                assert scores[name][slot] < worst[name]


def test_owners_are_distinct_and_begin_with_the_owner() -> None:
    placement = rendezvous(["a", "b", "c", "d"])
    firsts, seconds = Counter[str](), Counter[str]()
    for i in range(2000):
        key = f"key:{i}"
        owners = placement.owners(key, 4)
        assert sorted(owners) == ["a", "b", "c", "d"]
        assert owners[0] == placement.lookup(key) == placement.owners(key)[0] == placement.owners(key.encode(), 1)[0]
        assert placement.owners(key, 2) == owners[:2]
        firsts[owners[0]] += 1
        seconds[owners[1]] += 1
    assert min(firsts.values()) > 350  # of 500 expected: 8 standard deviations
    assert min(seconds.values()) > 350


@pytest.mark.parametrize("n", [0, -1, 4])
def test_owners_refuses_a_number_that_there_is_not(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n={n}; 1 to 3"):
        rendezvous(["a", "b", "c"]).owners("key", n)


def test_batch_lookups_equal_single_ones() -> None:
    placement = rendezvous(["a", "b", "c"])
    keys: list[str | bytes] = [f"user:{i}" for i in range(200)]
    keys += [key.encode() for key in keys if isinstance(key, str)]
    owners = [placement.lookup(key) for key in keys]
    assert placement.lookup_many(iter(keys)) == owners == [placement.owner(slot_of(key)) for key in keys]
    assert placement.lookup_many(reversed(keys)) == owners[::-1]
    assert placement.lookup_many([]) == []
    for strange in ([5], ["a", None], [b"a", 5]):
        with pytest.raises((TypeError, AttributeError)):
            placement.lookup_many(strange)  # type: ignore[arg-type]  # this is the point


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_that_there_is_not_is_refused(slot: int) -> None:
    """A negative one would be counted from the end of the table."""
    with pytest.raises(ValueError, match=rf"slot={slot}; 0 to 16383 is allowed"):
        rendezvous(["a", "b", "c"]).owner(slot)


def test_a_placement_is_shown_in_one_line() -> None:
    placement = rendezvous(["a", "b"], {"b": 3})
    assert repr(placement) == f"<SlotMap {placement.checksum()} of 16384 slots: a: 4096, b: 12288>"
    assert len(repr(rendezvous(f"redis-{i}" for i in range(40)))) < 300


def test_a_placement_cannot_be_changed() -> None:
    placement = rendezvous(["a", "b"])
    with pytest.raises(FrozenInstanceError):
        placement.shards = ("a",)  # type: ignore[misc]  # this is the point


def test_checksums_tell_placements_apart() -> None:
    tables = [rendezvous(["a", "b"]), rendezvous(["a", "c"]), rendezvous(["a", "b", "c"]), rendezvous(["ab"])]
    tables.append(rendezvous(["a", "b"], {"a": 2}))
    assert len({placement.checksum() for placement in tables}) == len(tables)


@pytest.mark.parametrize(
    ("shards", "weights", "error", "message"),
    [
        ([], None, NoNodes, "at least one shard"),
        (["a", "b", "a"], None, ValueError, r"\['a'\] more than once"),
        (["a", b"a"], None, TypeError, "shard name b'a' is bytes"),
        ([1, "1"], None, TypeError, "shard name 1 is int"),
        (["a", ""], None, ValueError, "shard name ''"),
        ("abc", None, TypeError, "shards='abc'; an iterable of names"),
        (b"abc", None, TypeError, "shards=b'abc'; an iterable"),
        (5, None, TypeError, "shards=5; an iterable"),
        (["a", "b"], [1, 2], TypeError, r"weights=\[1, 2\]; a mapping of shard names to positive finite numbers"),
        (["a", "b"], 5, TypeError, "weights=5; a mapping"),
        (["a", "b"], [], TypeError, r"weights=\[\]; a mapping"),
        (["a"], {"b": 1}, ValueError, r"weights has \['b'\]"),
        (["a"], {"a": 0}, ValueError, r"weights\['a'\]=0; a positive finite number"),
        (["a"], {"a": -1.5}, ValueError, r"weights\['a'\]=-1.5"),
        (["a"], {"a": math.nan}, ValueError, r"weights\['a'\]=nan"),
        (["a"], {"a": math.inf}, ValueError, r"weights\['a'\]=inf"),
        (["a"], {"a": True}, TypeError, r"weights\['a'\]=True"),
        (["a"], {"a": "2"}, TypeError, r"weights\['a'\]='2'"),
        (["a", "b"], {"a": 1e-9}, ValueError, r"weights\['a'\]=1e-09 is too small for one of 16384 slots"),
    ],
)
def test_bad_shards_and_weights_are_refused_by_name(
    shards: Iterable[Any], weights: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rendezvous(shards, weights)


def test_a_stored_table_is_checked() -> None:
    with pytest.raises(ValueError, match="table=3 owners"):
        SlotMap(("a",), ("a", "a", "a"))
    with pytest.raises(ValueError, match=r"table names \['b'\]"):
        SlotMap(("a",), ("b",) * SLOTS)
