"""Pickers: nginx's sequence, even shares, bounded when the list shrinks, safe for threads."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.errors import NoNodes
from coordkit.routing import Random, RoundRobin, SmoothWeightedRoundRobin

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "ring_vectors.json").read_text())[
    "smooth_wrr"
]


def evenly(nodes: list[str]) -> SmoothWeightedRoundRobin[str]:
    return SmoothWeightedRoundRobin(dict.fromkeys(nodes, 1))


def test_smooth_weighted_round_robin_is_nginx_s() -> None:
    weights = dict(zip("abc", VECTORS["weights"], strict=True))
    picker = SmoothWeightedRoundRobin(weights)
    turn = "".join(picker.pick() for _ in VECTORS["sequence"])
    assert turn == VECTORS["sequence"]
    # nginx's own account of it: the node that is ahead is picked, and pays for all.
    present = [0] * len(weights)
    for before, index, after in VECTORS["before_pick_after_current_weights"]:
        present = [weight + more for weight, more in zip(present, weights.values(), strict=True)]
        assert (present, present.index(max(present))) == (before, index)
        present[index] -= sum(weights.values())
        assert present == after
    assert ["abc"[index] for _, index, _ in VECTORS["before_pick_after_current_weights"]] == list(turn)
    assert Counter(turn) == Counter(VECTORS["old_non_smooth_sequence"])
    assert turn != VECTORS["old_non_smooth_sequence"]
    assert "".join(picker.pick() for _ in VECTORS["sequence"]) == turn  # and so on for ever


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_smooth_weighted_round_robin_follows_the_definition_and_the_weights(weights: list[int]) -> None:
    """The precomputed turn equals the algorithm run live, and each node is picked as often as its weight says."""
    picker = SmoothWeightedRoundRobin(dict(enumerate(weights)))
    current = [0] * len(weights)
    picked = Counter[int]()
    for _ in range(sum(weights)):
        current = [have + more for have, more in zip(current, weights, strict=True)]
        best = current.index(max(current))
        current[best] -= sum(weights)
        node = picker.pick()
        assert node == best
        picked[node] += 1
    assert picked == dict(enumerate(weights))


def test_round_robin_goes_in_the_order_given() -> None:
    picker = RoundRobin(["b", "a", "c"])
    assert [picker.pick() for _ in range(7)] == ["b", "a", "c", "b", "a", "c", "b"]


def test_random_is_even_and_repeatable_by_seed() -> None:
    nodes = ["a", "b", "c", "d"]
    one, same, another = (Random(nodes, seed=seed) for seed in (7, 7, 8))
    picks = [one.pick() for _ in range(4000)]
    assert picks == [same.pick() for _ in range(4000)]
    assert picks != [another.pick() for _ in range(4000)]
    assert all(850 < times < 1150 for times in Counter(picks).values())  # 5 standard deviations


@pytest.mark.parametrize("make", [Random, RoundRobin, evenly])
def test_a_picker_without_nodes_says_so(make: Callable[[list[str]], Any]) -> None:
    with pytest.raises(NoNodes, match="no node to pick"):
        make([]).pick()
    with pytest.raises(LookupError, match=r"beside the excluded \['a'\]"):
        make(["a"]).pick(exclude=["a"])


@pytest.mark.parametrize("make", [Random, RoundRobin, evenly])
def test_a_retry_goes_to_another_node(make: Callable[[list[str]], Any]) -> None:
    picker = make(["a", "b", "c"])
    for _ in range(50):
        assert picker.pick(exclude={picker.pick(), "a"}) in {"b", "c"}
        assert picker.pick(exclude={"a", "c"}) == "b"


@pytest.mark.parametrize("make", [Random, RoundRobin, evenly])
def test_threads_that_pick_while_the_list_shrinks_get_nodes_of_the_list_or_the_old_one(
    make: Callable[[list[str]], Any],
) -> None:
    """The trap of redis-py's own balancer: an index kept from a longer list."""
    lists = [["a", "b", "c", "d"], ["a", "b"], ["a"]]
    picker = make(lists[0])

    def pick() -> set[str]:
        return {picker.pick() for _ in range(3000)}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            picks = [threads.submit(pick) for _ in range(4)]
            for turn in range(300):
                nodes = lists[turn % 3]
                picker.update(dict.fromkeys(nodes, 1) if make is evenly else nodes)
            assert set[str]().union(*(picked.result(timeout=30) for picked in picks)) <= set(lists[0])
    finally:
        sys.setswitchinterval(interval)
    picker.update({"z": 1} if make is evenly else ["z"])
    assert {picker.pick() for _ in range(10)} == {"z"}


@pytest.mark.parametrize("make", [RoundRobin, evenly])
def test_threads_share_the_turns_exactly(make: Callable[[list[str]], Any]) -> None:
    picker = make(["a", "b", "c", "d"])
    with ThreadPoolExecutor(4) as threads:
        picks = [threads.submit(lambda: Counter(picker.pick() for _ in range(1000))) for _ in range(4)]
        assert sum((picked.result(timeout=30) for picked in picks), Counter()) == dict.fromkeys("abcd", 1000)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a": 0}, ValueError, r"weights\['a'\]=0; a positive int"),
        ({"a": -2}, ValueError, r"weights\['a'\]=-2"),
        ({"a": 1.5}, TypeError, r"weights\['a'\]=1.5"),
        ({"a": True}, TypeError, r"weights\['a'\]=True"),
        (["a"], TypeError, r"weights=\['a'\]; a mapping of nodes to positive ints is allowed"),
        ("a", TypeError, "weights='a'; a mapping"),
        (5, TypeError, "weights=5; a mapping"),
        ({"a": 1, "b": 10_000}, ValueError, "a turn of 10001 picks; at most 10000"),
    ],
)
def test_bad_weights_are_refused_by_name(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SmoothWeightedRoundRobin(weights)
    with pytest.raises(error, match=message):
        SmoothWeightedRoundRobin({"a": 1}).update(weights)


@pytest.mark.parametrize("make", [Random, RoundRobin])
def test_a_node_named_twice_is_refused(make: Callable[[list[str]], Any]) -> None:
    with pytest.raises(ValueError, match="more than once"):
        make(["a", "b", "a"])


@pytest.mark.parametrize("make", [Random, RoundRobin])
@pytest.mark.parametrize("nodes", ["abc", b"abc", 5, None])
def test_nodes_that_are_no_list_of_them_are_refused_by_name(make: Callable[[Any], Any], nodes: Any) -> None:
    """One str would be taken for a node per character."""
    message = re.escape(f"nodes={nodes!r}; an iterable of nodes")
    with pytest.raises(TypeError, match=message):
        make(nodes)
    with pytest.raises(TypeError, match=message):
        make(["a"]).update(nodes)
