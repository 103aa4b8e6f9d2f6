"""The state machine of a shard's breaker, by a clock of the test's own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis.exceptions

from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.errors import is_unreached


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock, **options: Any) -> Breaker:
    breaker = Breaker(failure_threshold=3, reset_timeout=2.0, clock=clock, **options)
    for _ in range(3):
        assert (breaker.state, breaker.is_open) == ("closed", False)
        breaker.failed("refused")
    return breaker


def test_it_opens_after_so_many_failures_in_a_row(clock: Clock) -> None:
    breaker = opened(clock)
    assert (breaker.state, breaker.is_open, breaker.why) == ("open", True, "refused")


def test_any_answer_ends_the_row(clock: Clock) -> None:
    breaker = Breaker(failure_threshold=3, reset_timeout=2.0, clock=clock)
    for _ in range(5):
        breaker.failed("refused")
        breaker.failed("refused")
        breaker.worked()
        assert breaker.state == "closed"
        assert breaker.failures == 0


def test_one_probe_at_a_time_and_not_before_the_time_is_up(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 1.9
    assert not breaker.begin_probe()
    clock.now += 0.2
    assert breaker.begin_probe()
    assert breaker.state == "half-open"
    assert breaker.is_open
    clock.now += 30
    assert not breaker.begin_probe()


def test_a_probe_that_failed_opens_it_anew_and_one_that_worked_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    for _ in range(3):
        clock.now += 2.1
        assert breaker.begin_probe()
        breaker.probe_failed("still refused")
        assert (breaker.state, breaker.why) == ("open", "still refused")
        assert not breaker.begin_probe()
    clock.now += 2.1
    assert breaker.begin_probe()
    breaker.worked()
    assert breaker.state == "closed"
    assert not breaker.begin_probe()
    breaker.failed("refused")
    assert breaker.state == "closed"  # the row began anew


def test_a_late_failure_of_an_earlier_command_ends_no_probe(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 2.1
    assert breaker.begin_probe()
    breaker.failed("too late")
    assert breaker.state == "half-open"
    assert not breaker.begin_probe()


def test_an_answer_that_comes_after_all_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    breaker.worked()
    assert breaker.state == "closed"


def test_a_probe_that_never_told_is_taken_for_lost(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 2.1
    assert breaker.begin_probe()
    clock.now += 61
    assert breaker.state == "open"
    assert breaker.begin_probe()


def test_many_threads_get_one_probe(clock: Clock) -> None:
    breaker, got = opened(clock), list[bool]()
    clock.now += 2.1
    gate = threading.Barrier(16)

    def ask() -> None:
        gate.wait(10)
        got.append(breaker.begin_probe())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(got) == [False] * 15 + [True]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"failure_threshold": 0}, ValueError, "failure_threshold=0; a whole number above 0"),
        ({"failure_threshold": 1.5}, TypeError, "failure_threshold=1.5"),
        ({"failure_threshold": True}, TypeError, "failure_threshold=True"),
        ({"reset_timeout": 0}, ValueError, "reset_timeout=0; a finite number of seconds above 0"),
        ({"reset_timeout": float("inf")}, ValueError, "reset_timeout=inf"),
        ({"reset_timeout": "1"}, TypeError, "reset_timeout='1'"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Breaker(**options)


@pytest.mark.parametrize(
    ("error", "sent", "quick", "counts"),
    [
        (redis.exceptions.ConnectionError("Error 111 connecting"), False, True, True),
        (redis.exceptions.TimeoutError("no connection"), False, False, True),
        (OSError("no route"), False, True, True),
        (redis.exceptions.TimeoutError("no answer in time"), True, True, True),
        (redis.exceptions.TimeoutError("no answer in time"), True, False, False),  # a slow command
        (redis.exceptions.ConnectionError("Connection closed by server."), True, True, False),  # to connect will tell
        (redis.exceptions.AuthenticationError("WRONGPASS"), False, True, False),  # up, and refuses
        (redis.exceptions.AuthenticationError("NOAUTH Authentication required."), True, True, False),
        (redis.exceptions.BusyLoadingError("Redis is loading"), False, True, False),
        (redis.exceptions.MaxConnectionsError("Too many connections"), False, True, False),  # the client's own pool
        (redis.exceptions.ConnectionError("No connection available."), False, True, False),
        (redis.exceptions.ResponseError("WRONGTYPE"), True, True, False),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), True, True, False),
    ],
)
def test_only_what_speaks_for_a_shard_out_of_reach_counts(
    error: Exception, sent: bool, quick: bool, counts: bool
) -> None:
    assert is_unreached(error, sent=sent, quick=quick) is counts
