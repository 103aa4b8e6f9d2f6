"""How fast keys are moved, how far it has come, and how that is said."""

from __future__ import annotations

import json

import pytest

from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.progress import Progress, duration, readable


def simulated(pace: Pace, work: list[tuple[int, int]], took: float = 0.0) -> float:
    """Return how long some work takes; each piece itself takes ``took`` seconds."""
    now = 100.0
    for keys, size in work:
        now += took
        now += pace.pause(now, keys, size)
    return now - 100.0


def test_rates_are_kept() -> None:
    assert simulated(Pace(keys_per_second=1000), [(50, 10)] * 100) == pytest.approx(5.0, abs=0.1)
    assert simulated(Pace(bytes_per_second=1e6), [(50, 100_000)] * 100) == pytest.approx(10.0, abs=0.1)
    assert simulated(Pace(1000, 1e6), [(50, 100_000)] * 100) == pytest.approx(10.0, abs=0.1)
    assert simulated(Pace(), [(50, 100_000)] * 100) == 0.0


def test_what_is_slow_by_itself_is_not_paused_for() -> None:
    assert simulated(Pace(keys_per_second=1000), [(50, 10)] * 100, took=0.2) == pytest.approx(20.0)


def test_time_that_was_not_used_is_not_made_up_for() -> None:
    """After a pause of a minute it does not move a minute's keys at once."""
    pace = Pace(keys_per_second=1000)
    pace.pause(0.0, 10, 0)
    assert sum(pace.pause(60.0, 50, 0) for _ in range(20)) > 0.5


def test_one_large_key_is_paid_for_afterwards() -> None:
    assert Pace(bytes_per_second=1e6).pause(0.0, 1, 10_000_000) == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize(("rate", "most", "width"), [(10, 64, 1), (1000, 64, 50), (1e6, 64, 64), (None, 64, 64)])
def test_how_many_keys_at_once(rate: float | None, most: int, width: int) -> None:
    assert Pace(rate).keys_at_once(most) == width


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match=f"keys_per_second={rate!r}"):
        Pace(keys_per_second=rate)
    with pytest.raises(TypeError, match="bytes_per_second='1'"):
        Pace(bytes_per_second="1")  # type: ignore[arg-type]  # that is the test


def test_progress() -> None:
    progress = Progress(
        phase="moving", source="a", target="b", slots=100, slots_done=100, slots_left=200, expected=1000
    )
    assert progress.share == pytest.approx(1 / 3)
    assert progress.seconds_left() is None
    assert "time left unknown" in progress.line()
    progress.seen = 500
    progress.count(0.0, 0, 0)
    progress.count(5.0, 500, 50_000)
    assert progress.share == pytest.approx(0.5)
    assert progress.rate == pytest.approx(100)
    assert progress.size_rate == pytest.approx(10_000)
    assert progress.seconds_left() == pytest.approx(15)  # 500 of this batch, 1000 of the next one
    assert progress.line() == (" 50.0%  a -> b  moving  500 keys  48.8 KiB  100 keys/s  9.8 KiB/s  15 s left")
    assert json.loads(json.dumps(progress.as_dict()))["seconds_left"] == 15.0
    progress.count(100.0, 10, 0)
    assert progress.rate == pytest.approx(10 / 95), "the rate is the recent one"


def test_more_keys_than_expected_are_no_more_than_all() -> None:
    progress = Progress(slots=10, slots_left=10, expected=5, seen=50, rate=1.0)
    assert progress.share == 1.0
    assert progress.seconds_left() == 0.0
    assert Progress().share == 1.0


def test_words_for_people() -> None:
    assert [readable(size) for size in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
    assert [duration(seconds) for seconds in (0.4, 59.6, 125, 3720)] == [
        "0 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 02 min",
    ]
