"""Readers, writers and permits, run through seeded histories; and the proof that these can fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sim.histories import CALM, Settings
from sim.kinds import Counting, Reading, violations
from sim.mutants_kinds import MUTANTS
from sim.world import broken

STORMY = Settings()
WEATHERS = {
    "stormy": (STORMY, 140),
    "calm": (CALM, 40),
    "the server forgets": (Settings(wipes=True), 40),
    "the server's clock is set back": (Settings(clock_steps=True), 40),
    "keys vanish under their holders": (Settings(evictions=True), 40),
}
Kind = type[Reading | Counting]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every history is full of warnings that a person would want; hundreds of histories are not."""
    caplog.set_level(logging.CRITICAL, "coordkit")


@pytest.mark.parametrize("kind", [Reading, Counting])
@pytest.mark.parametrize("weather", WEATHERS)
def test_no_history_breaks_a_promise(kind: Kind, weather: str) -> None:
    """Readers or one writer, never more than n permits, rising tokens, nobody overtaken, forgotten or left behind."""
    settings, histories = WEATHERS[weather]

    assert violations(kind, range(histories), settings) == []


def test_the_histories_are_eventful() -> None:
    """A quiet history would prove nothing: readers share, permits are all held, leases are lost."""
    reading = [Reading(seed, STORMY).run() for seed in range(30)]
    counting = [Counting(seed, STORMY).run() for seed in range(30)]

    for runs in (reading, counting):
        assert sum(run.granted for run in runs) > 200
        assert sum(lease.lost.is_set() for run in runs for _, lease in run.leases) > 10
        assert sum(run.acknowledged for run in runs) > 50
    assert sum(run.lookups for run in reading) > 100
    tokens = [[token for _, _, token in run.server.grants] for run in reading]
    assert sum(len(each) - len(set(each)) for each in tokens) > 100
    assert {run.most for run in counting} >= {1, 2, 3}


@pytest.mark.parametrize(("mutant", "kind", "settings"), MUTANTS, ids=[mutant.__name__ for mutant, *_ in MUTANTS])
def test_the_simulator_kills(
    mutant: Callable[[pytest.MonkeyPatch], None], kind: Kind, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put in a bug, and a history breaks."""
    mutant(monkeypatch)

    assert any(broken(kind(seed, settings).run().violations) for seed in range(200))
