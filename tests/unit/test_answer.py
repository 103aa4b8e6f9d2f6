"""How often a request is asked again when no answer came, on a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit._run import run
from coordkit.core.answer import answered
from coordkit.errors import StoreRefused, StoreUnavailable


class Server:
    """Takes so long for each request, and fails so often; its clock is everybody's."""

    def __init__(self, takes: float, fails: int, error: Exception | None = None) -> None:
        self.time, self.asked, self.pauses = 0.0, 0, 0.0
        self._takes, self._fails, self._error = takes, fails, error or StoreUnavailable("a", "no answer")

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.pauses += seconds

    async def ask(self) -> str:
        self.asked += 1
        self.time += self._takes
        if self.asked <= self._fails:
            raise self._error
        return "answer"

    def answer(self, deadline: float, **known: Any) -> Any:
        runtime: Any = self
        return run(answered(runtime, self.ask, deadline, **known))


@pytest.mark.parametrize("takes", [0.01, 5.0])
def test_before_the_deadline_three_times(takes: float) -> None:
    server = Server(takes, 2)
    assert server.answer(100.0) == "answer"
    assert server.asked == 3
    assert server.pauses > 0
    server = Server(takes, 3)
    with pytest.raises(StoreUnavailable, match="no answer"):
        server.answer(100.0)
    assert server.asked == 3


def test_after_the_deadline_only_if_the_failure_came_at_once() -> None:
    """A connection that died while it was idle costs nobody an error, a slow server nobody two of its timeouts."""
    dead, slow = Server(0.01, 1), Server(5.0, 1)
    dead.time = 50.0
    assert dead.answer(0.0) == "answer"
    with pytest.raises(StoreUnavailable):
        slow.answer(4.0)
    assert (dead.asked, slow.asked, slow.pauses) == (2, 1, 0.0)


def test_what_the_first_try_came_to_counts() -> None:
    failed = StoreUnavailable("a", "the first")
    server = Server(0.01, 0)
    server.time = 5.0
    with pytest.raises(StoreUnavailable, match="the first"):
        server.answer(4.0, failed=failed, began=0.0)
    assert server.asked == 0
    assert server.answer(4.0, failed=failed, began=4.95) == "answer"
    assert server.asked == 1
    server = Server(0.01, 9)
    with pytest.raises(StoreUnavailable, match="no answer"):
        server.answer(100.0, failed=failed, began=0.0)
    assert server.asked == 2


def test_what_was_answered_is_not_asked_again() -> None:
    server = Server(0.01, 9, StoreRefused("a", "no"))
    with pytest.raises(StoreRefused):
        server.answer(100.0)
    assert server.asked == 1
