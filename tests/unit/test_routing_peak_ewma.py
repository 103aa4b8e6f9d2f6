"""Power of two choices by peak-EWMA: quicker nodes are picked more often, and no node is left idle for ever."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coordkit.errors import NoNodes
from coordkit.routing import LeastOutstanding, PeakEwma, Random, RoundRobin


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def used(picker: PeakEwma[str], clock: Clock, took: dict[str, float], times: int) -> Counter[str]:
    """Use the picker by one caller, one request after the other."""
    picks: Counter[str] = Counter()
    for _ in range(times):
        node = picker.pick()
        clock.now += took[node]
        picker.took(node, took[node])
        picker.done(node)
        picks[node] += 1
    return picks


def test_of_two_that_are_nearly_equal_none_is_left_idle() -> None:
    """A strict minimum gives the one that is a hair slower a pick in hundreds (go-redis 3974)."""
    clock = Clock()
    picks = used(PeakEwma(["a", "b"], seed=1, clock=clock), clock, {"a": 100e-6, "b": 102e-6}, 5000)
    assert 0.4 < picks["b"] / picks["a"] < 1.1


def test_a_slower_one_is_picked_less_and_not_never() -> None:
    clock = Clock()
    picks = used(PeakEwma(["a", "b"], seed=1, clock=clock), clock, {"a": 100e-6, "b": 400e-6}, 20_000)
    assert 0.0005 < picks["b"] / 20_000 < 0.02


def test_one_that_was_very_slow_once_comes_back_by_time_alone() -> None:
    clock, took = Clock(), {"a": 100e-6, "b": 100e-6}
    picker = PeakEwma(["a", "b"], decay=1.0, seed=1, clock=clock)
    used(picker, clock, took, 100)
    picker.took("b", 1.0)
    assert used(picker, clock, took, 1000)["b"] == 0
    clock.now += 15.0  # nobody asks meanwhile
    assert 300 < used(picker, clock, took, 1000)["b"] < 700


def test_one_that_is_slow_is_asked_now_and_then_and_so_found_to_be_quick_again() -> None:
    clock = Clock()
    picker = PeakEwma(["a", "b"], decay=1.0, seed=1, clock=clock)
    slow = used(picker, clock, {"a": 100e-6, "b": 0.1}, 60_000)
    assert 3 < slow["b"] < 30, "about every half second, of six"
    used(picker, clock, {"a": 100e-6, "b": 100e-6}, 120_000)  # twelve seconds
    assert 400 < used(picker, clock, {"a": 100e-6, "b": 100e-6}, 1000)["b"] < 600


def test_a_slower_answer_counts_at_once_and_a_quicker_one_by_and_by() -> None:
    picker = PeakEwma(["a", "b"], seed=1, clock=Clock())
    picker.took("a", 1e-4)
    picker.took("b", 1e-3)
    assert used(picker, Clock(), {"a": 0.0, "b": 0.0}, 500)["b"] < 5
    picker.took("b", 1e-4)  # in the same moment
    assert used(picker, Clock(), {"a": 0.0, "b": 0.0}, 500)["b"] < 5
    picker.took("a", 1e-2)
    assert used(picker, Clock(), {"a": 0.0, "b": 0.0}, 500)["a"] < 5


def test_what_is_under_way_weighs() -> None:
    picker = PeakEwma(["a", "b"], seed=1, clock=Clock())
    assert Counter(picker.pick() for _ in range(100))["a"] == pytest.approx(50, abs=5)
    for _ in range(50):
        picker.done("a")
    assert Counter(picker.pick() for _ in range(30))["a"] > 27
    for _ in range(200):
        picker.done("a")  # more than were picked: it is not less than idle
        picker.done("b")
    assert Counter(picker.pick() for _ in range(100))["a"] == pytest.approx(50, abs=5)


def test_nodes_come_and_go() -> None:
    picker = PeakEwma(["a", "b", "c"], seed=1)
    assert {picker.pick(exclude=["a"]) for _ in range(30)} == {"b", "c"}
    picker.update(["b"])
    assert [picker.pick() for _ in range(3)] == ["b"] * 3
    picker.took("a", 1.0)
    picker.done("a")
    with pytest.raises(NoNodes, match="peak EWMA: there is no node to pick beside"):
        picker.pick(exclude=["b"])
    with pytest.raises(NoNodes):
        PeakEwma[str]().pick()


def test_extremes_are_no_error() -> None:
    clock = Clock()
    picker = PeakEwma(["a", "b"], decay=1e-3, seed=1, clock=clock)
    picker.took("a", 1e300)
    picker.took("b", 1e-300)
    assert {picker.pick() for _ in range(10)} <= {"a", "b"}
    clock.now += 1e6
    assert {picker.pick() for _ in range(10)} == {"a", "b"}


@pytest.mark.parametrize(("decay", "error"), [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError)])
def test_arguments(decay: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="decay="):
        PeakEwma(["a"], decay=decay)
    with pytest.raises(TypeError, match="decay="):
        PeakEwma(["a"], decay=True)
    with pytest.raises(ValueError, match="more than once"):
        PeakEwma(["a", "a"])


def test_threads_share_it() -> None:
    picker = PeakEwma(["a", "b", "c"])

    def use(_: int) -> None:
        node = picker.pick()
        picker.took(node, 1e-4)
        picker.done(node)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(3000)))
    assert {load.busy for load in picker._loads.values()} == {0}


# The simulation of the notes: four replicas, each serving one request after the other in times of an exponential
# distribution with the mean ``means``; requests come by chance at ``load`` times what all can do. Times are in units
# of the quick replicas' mean.

Make = Callable[[list[int], Clock], Any]


def simulated(make: Make, means: list[float], load: float, stall: tuple[float, float] | None = None) -> list[float]:
    """Return the times that requests took, sorted, and in the end the least share of picks that a replica had."""
    clock, chance, requests = Clock(), random.Random(1), 40_000
    picker = make(list(range(len(means))), clock)
    rate = load * sum(1 / mean for mean in means)
    free, share = [0.0] * len(means), [0] * len(means)
    under_way: list[tuple[float, int, float]] = []
    took: list[float] = []
    now = 0.0
    for _ in range(requests):
        now += chance.expovariate(rate)
        while under_way and under_way[0][0] <= now:
            end, node, began = heapq.heappop(under_way)
            clock.now = end
            if hasattr(picker, "took"):
                picker.took(node, end - began)
            if hasattr(picker, "done"):
                picker.done(node)
        clock.now = now
        node = picker.pick()
        share[node] += 1
        start = max(now, free[node])
        if stall and node == 0 and stall[0] <= start < stall[1]:
            start = stall[1]
        free[node] = end = start + chance.expovariate(1 / means[node])
        heapq.heappush(under_way, (end, node, now))
        took.append(end - now)
    took.sort()
    return [took[round(requests * part)] for part in (0.5, 0.99, 0.999)] + [min(share) / requests]


def ewma(nodes: list[int], clock: Clock) -> PeakEwma[int]:
    return PeakEwma(nodes, decay=1000.0, seed=3, clock=clock)


EQUAL, ONE_SLOW = [1.0] * 4, [1.0, 1.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("means", "load", "stall", "figures", "least"),
    [
        (EQUAL, 0.6, None, (1.14, 7.0, 10.6), 0.2),
        (ONE_SLOW, 0.55, None, (1.27, 10.2, 26.0), 0.03),
        (EQUAL, 0.6, (3000.0, 3200.0), (1.2, 7.7, 12.8), 0.15),
    ],
    ids=["equal", "one is 4 times slower", "one stalls"],
)
def test_the_simulation(means: list[float], load: float, stall: Any, figures: tuple[float, ...], least: float) -> None:
    """The figures are those of notes/routing.md 7.6 for peak-EWMA: p50, p99 and p99.9."""
    *quantiles, share = simulated(ewma, means, load, stall)
    for quantile, figure in zip(quantiles, figures, strict=True):
        assert quantile < figure * 1.15
    assert share > least


def test_the_simulation_tells_pickers_apart() -> None:
    """At random or in turn, one slow replica's queue grows without bound; by what is under way alone, p99 is worse."""
    for make in (lambda nodes, _: Random(nodes, seed=3), lambda nodes, _: RoundRobin(nodes)):
        assert simulated(make, ONE_SLOW, 0.55)[1] > 1000
    least = simulated(lambda nodes, _: LeastOutstanding(nodes), ONE_SLOW, 0.55)
    assert least[1] > simulated(ewma, ONE_SLOW, 0.55)[1]
