"""What fails is set aside, and one pick at a time tries it again; the least busy; what sticks to a key."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coordkit.errors import NoNodes
from coordkit.routing import LeastOutstanding, Random, RoundRobin, SetAside, SmoothWeightedRoundRobin, Sticky


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def aside(picker: Any, **options: Any) -> tuple[SetAside[str], Clock]:
    clock = Clock()
    picker = SetAside(picker, clock=clock, **options)
    picker.update({"a": 1, "b": 1, "c": 1} if isinstance(picker.picker, SmoothWeightedRoundRobin) else ["a", "b", "c"])
    return picker, clock


PICKERS = [Random, RoundRobin, LeastOutstanding, SmoothWeightedRoundRobin]


@pytest.mark.parametrize("make", PICKERS)
def test_what_failed_is_not_picked_for_a_while_and_then_tried_by_one(make: Any) -> None:
    picker, clock = aside(make())
    picker.failed("a")
    assert picker.aside() == {"a"}
    assert set(_use(picker, 30)) == {"b", "c"}
    clock.now += 1.0
    tries = [picker.pick() for _ in range(30)]
    assert tries.count("a") == 1, "while one tries, nobody else does"
    for node in tries:
        if node != "a":
            picker.given_up(node)
    picker.worked("a")
    assert picker.aside() == set()
    assert set(_use(picker, 60)) == {"a", "b", "c"}


def _use(picker: SetAside[str], times: int) -> list[str]:
    nodes = []
    for _ in range(times):
        nodes.append(picker.pick())
        picker.worked(nodes[-1])
    return nodes


def test_each_failure_sets_aside_for_longer() -> None:
    picker, clock = aside(RoundRobin(), pause=1.0, longest=5.0)
    for pause in (1.0, 2.0, 4.0, 5.0, 5.0):
        picker.failed("a")
        clock.now += pause - 0.01
        assert "a" not in _use(picker, 6)
        clock.now += 0.01
        assert [picker.pick() for _ in range(3)].count("a") == 1
    picker.worked("a")
    picker.failed("a")
    clock.now += 1.0
    assert "a" in [picker.pick() for _ in range(3)], "one that worked begins anew"


def test_a_try_that_is_never_given_back_does_not_keep_others_from_trying() -> None:
    picker, clock = aside(RoundRobin(), pause=1.0)
    picker.failed("a")
    for _ in range(3):
        clock.now += 1.0
        assert "a" in [picker.pick() for _ in range(3)]


def test_a_try_that_says_nothing_is_made_again_at_once() -> None:
    picker, clock = aside(RoundRobin())
    picker.failed("a")
    clock.now += 1.0
    assert "a" in [picker.pick() for _ in range(3)]
    picker.given_up("a")
    assert picker.aside() == {"a"}
    assert "a" in [picker.pick() for _ in range(3)]


@pytest.mark.parametrize("make", PICKERS)
def test_where_all_are_set_aside_all_are_tried(make: Any) -> None:
    picker, _ = aside(make())
    for node in "abc":
        picker.failed(node)
    assert {picker.pick() for _ in range(60)} == {"a", "b", "c"}
    assert picker.pick(exclude={"a", "b"}) == "c"
    with pytest.raises(NoNodes):
        picker.pick(exclude={"a", "b", "c"})


def test_what_is_gone_is_forgotten() -> None:
    picker, _ = aside(RoundRobin())
    picker.failed("a")
    picker.update(["b", "c"])
    picker.failed("a")  # from a call that was under way
    assert picker.aside() == set()
    picker.update(iter(["a", "b"]))
    assert set(_use(picker, 4)) == {"a", "b"}


def test_the_least_busy_is_picked_and_equals_in_turn() -> None:
    picker = LeastOutstanding(["a", "b", "c"])
    assert Counter(picker.pick() for _ in range(30)) == {"a": 10, "b": 10, "c": 10}
    for _ in range(5):
        picker.done("b")
    assert [picker.pick() for _ in range(5)] == ["b"] * 5
    picker.done("a")
    picker.update(["a", "b"])
    assert picker.pick() == "a", "those that stay are as busy as they were"
    picker.done("gone")
    assert [picker.pick(exclude=["a"]) for _ in range(3)] == ["b"] * 3
    with pytest.raises(NoNodes, match="no node to pick"):
        LeastOutstanding[str]().pick()


def test_the_least_busy_among_threads() -> None:
    picker, most = LeastOutstanding(["a", "b"]), [0]

    def use(_: int) -> None:
        node = picker.pick()
        most[0] = max(most[0], *picker._busy.values())
        picker.done(node)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(2000)))
    assert set(picker._busy.values()) == {0}
    assert most[0] <= 3, "four at once on two nodes: half, and one more where one was just given back"


def test_a_key_sticks_to_its_node() -> None:
    keys = [f"user:{i}" for i in range(2000)]
    picker = Sticky(["a", "b", "c", "d"])
    first = {key: picker.pick(key) for key in keys}
    assert all(400 < count < 600 for count in Counter(first.values()).values())
    assert picker.pick("{user:7}:cart") == picker.pick(b"user:7") == first["user:7"]
    assert all(picker.pick(key, exclude=["c"]) == node for key, node in first.items() if node != "c")
    picker.update(["d", "e", "a", "b", "c"])
    moved = {key for key in keys if picker.pick(key) != first[key]}
    assert {picker.pick(key) for key in moved} == {"e"}, "who comes takes its part from all, and nothing else moves"
    assert 300 < len(moved) < 500
    with pytest.raises(NoNodes):
        Sticky().pick("a")


def test_a_key_sticks_though_its_node_is_set_aside_for_a_while() -> None:
    picker, clock = aside(Sticky())
    home = picker.pick("k")
    picker.failed(home)
    away = picker.pick("k")
    assert away != home
    picker.worked(away)
    clock.now += 1.0
    assert picker.pick("k") == home
    picker.worked(home)
    assert picker.pick("k") == home


@pytest.mark.parametrize(
    ("option", "error"), [(0, ValueError), (-1.0, ValueError), (float("inf"), ValueError), ("1", TypeError)]
)
def test_bad_pauses_are_refused_by_name(option: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="pause="):
        SetAside(RoundRobin(), pause=option)
