"""Leases that change hands, run through seeded histories; and the proof that these can fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sim.hands import BROKEN, MUTANTS, NOTHING_LATE, STORMY, Changing
from sim.histories import Settings
from sim.world import broken

WEATHERS = {
    "stormy": STORMY,
    "nothing comes late": NOTHING_LATE,
    "an operator breaks it": BROKEN,
    "the server forgets": Settings(wipes=True),
}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand histories full of warnings help nobody."""
    caplog.set_level(logging.CRITICAL, "coordkit")


@pytest.mark.parametrize("weather", WEATHERS)
def test_no_history_breaks_a_promise(weather: str) -> None:
    """One adopts, the token goes with it, no one is evicted twice by one order, and all that held before holds on."""
    broken = [
        f"seed {seed}: {line}" for seed in range(120) for line in Changing(seed, WEATHERS[weather]).run().violations
    ]
    assert broken == []


def test_the_histories_are_eventful() -> None:
    runs = [Changing(seed, BROKEN).run() for seed in range(40)]

    assert sum(run.adoptions for run in runs) > 30
    assert sum(run.late for run in runs) > 20
    assert sum(len(run.breaks) for run in runs) > 30


@pytest.mark.parametrize(("mutant", "settings"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_the_simulator_kills(
    mutant: Callable[[pytest.MonkeyPatch], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)

    assert any(broken(Changing(seed, settings).run().violations) for seed in range(600))
