"""The weaker barrier: whom it waits for, for how long, and what it says; with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordkit._run import run
from coordkit.errors import StoreUnavailable
from coordkit.routing.fence.barrier import Barrier

LEASE, PATIENCE = 3.0, 8.0


class Clock:
    """A runtime, as far as the barrier needs one."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


def waited(behind: Callable[[float], list[str]], *, lease: float = LEASE) -> float:
    """Return how long it waits, if ``behind`` says who has not adopted the epoch so many seconds after the start."""
    clock, steps = Clock(), []

    async def asked(epoch: int) -> list[str]:
        assert epoch == 7
        return behind(clock.time - 100.0)

    runtime: Any = clock
    barrier = Barrier(runtime, asked, lease=lease, patience=PATIENCE, step=steps.append)
    run(barrier.wait(7, ["a"]))
    assert set(steps) == {"barrier"}
    return clock.time - 100.0


def test_a_lease_is_waited_for_in_any_case() -> None:
    assert waited(lambda _: []) == pytest.approx(LEASE)
    assert waited(lambda _: [], lease=0) == 0


def test_it_begins_when_the_last_one_has_adopted() -> None:
    assert waited(lambda t: ["slow"] * (t < 2)) == pytest.approx(2 + LEASE, abs=0.11)


def test_who_comes_back_with_an_older_epoch_is_waited_for() -> None:
    """It was stopped or cut off, so it was not registered for a while."""
    assert waited(lambda t: ["back"] * (1.5 < t < 2.5)) == pytest.approx(2.5 + LEASE, abs=0.11)


def test_it_does_not_wait_for_ever_and_says_for_whom() -> None:
    with pytest.raises(StoreUnavailable, match=r"one, two \(2 in all\) have not adopted epoch 7 within 8 s"):
        waited(lambda _: ["one", "two"])


def test_each_shard_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    clock: Any = Clock()

    async def nobody(_: int) -> list[str]:
        return []

    barrier = Barrier(clock, nobody, lease=LEASE, patience=PATIENCE, step=lambda _: None)
    for shards in (["a", "b"], ["b", "a"], ["b", "c"]):
        run(barrier.wait(7, shards))
    said = [record.getMessage().partition(",")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["CLIENT KILL is forbidden on a and b", "CLIENT KILL is forbidden on c"]
