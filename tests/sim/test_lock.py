"""The lock and the fence, run through thousands of seeded histories; and the proof that these can fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sim.histories import CALM, History, Settings, violations
from sim.mutants import MUTANTS
from sim.world import broken

STORMY = Settings()
WEATHERS = {
    "stormy": (STORMY, 1200),
    "calm": (CALM, 300),
    "the server forgets": (Settings(wipes=True), 300),
    "the server's clock is set back": (Settings(clock_steps=True), 300),
    "locks vanish under their holders": (Settings(evictions=True), 300),
}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every history is full of warnings that a person would want; a thousand histories are not."""
    caplog.set_level(logging.CRITICAL, "coordkit")


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("weather", WEATHERS)
def test_no_history_breaks_a_promise(weather: str, part: int) -> None:
    """Tokens rise, beliefs end in time and are nobody else's, nothing leaks, no acknowledged update is lost."""
    settings, histories = WEATHERS[weather]
    share = histories // 4

    assert violations(range(part * share, (part + 1) * share), settings) == []


def test_the_histories_are_eventful() -> None:
    """A quiet history would prove nothing: there are grants, losses, refusals and tokens in plenty."""
    runs = [History(seed, STORMY).run() for seed in range(40)]

    assert sum(run.granted for run in runs) > 200
    assert sum(lease.lost.is_set() for run in runs for _, lease in run.leases) > 10
    assert sum(run.acknowledged for run in runs) > 100


def test_a_seed_is_a_history() -> None:
    """The same seed gives the same grants at the same times, so that a failing seed can be looked at again."""
    first, again = History(7, STORMY).run(), History(7, STORMY).run()

    assert first.server.grants == again.server.grants


@pytest.mark.parametrize(("mutant", "settings"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_the_simulator_kills(
    mutant: Callable[[pytest.MonkeyPatch], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back a bug that somebody shipped, and a history breaks."""
    mutant(monkeypatch)

    assert any(broken(History(seed, settings).run().violations) for seed in range(600))
