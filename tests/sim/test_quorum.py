"""The quorum lock, run through seeded histories on three and five servers; and the proof that these can fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from sim.quorum import CALM, History, Settings, violations
from sim.world import broken

from coordkit.core import ballot, contend, majority, quorum, quorum_set
from coordkit.core.lease import Lease

STORMY = Settings()
FROZEN = Settings(wipes=True, frozen=True)
WEATHERS = {
    "stormy": (STORMY, 200),
    "calm": (CALM, 100),
    "servers forget, and clocks stand still": (FROZEN, 200),
    "votes vanish under their holders": (Settings(evictions=True, frozen=True), 100),
}
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every history is full of warnings that a person would want."""
    caplog.set_level(logging.CRITICAL, "coordkit")


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("weather", WEATHERS)
def test_no_history_breaks_a_promise(weather: str, part: int) -> None:
    """Tokens rise, no two believe, beliefs end in time, nothing leaks."""
    settings, histories = WEATHERS[weather]
    share = histories // 2

    assert violations(range(part * share, (part + 1) * share), settings) == []


def test_the_histories_are_eventful() -> None:
    runs = [History(seed, FROZEN).run() for seed in range(40)]

    assert sum(len(run.grants) for run in runs) > 150
    assert sum(lease.lost.is_set() for run in runs for _, lease in run.leases) > 4
    assert sum(run.wiped for run in runs) > 40
    assert sum(run.readmitted for run in runs) > 30


def ttl_counted_from_the_reply(patch: Patch) -> None:
    born = Lease.__init__

    def init(self: Lease, terms: Any, holder: str, token: int, _asked: float, *rest: Any) -> None:
        born(self, terms, holder, token, terms.runtime.now(), *rest)

    patch.setattr(Lease, "__init__", init)


def a_minority_renews(patch: Patch) -> None:
    was = majority.Majority.__init__

    def init(self: majority.Majority, panel: Any) -> None:
        was(self, panel)
        self._majority = 1

    patch.setattr(majority.Majority, "__init__", init)


def a_minority_grants(patch: Patch) -> None:
    was = ballot.agreed
    patch.setattr(ballot, "agreed", lambda won, needed: was(won, needed - 1))


def failed_attempts_keep_what_they_won(patch: Patch) -> None:
    async def keep(*_args: Any) -> None: ...

    patch.setattr(quorum.QuorumMutex, "_undo", keep)


def cancelled_attempts_keep_what_they_won(patch: Patch) -> None:
    async def keep(self: Any) -> None: ...

    patch.setattr(contend.Attempt, "_give_back", keep)


def seated_above_nothing(patch: Patch) -> None:
    was = quorum_set.QuorumSet._seat
    patch.setattr(
        quorum_set.QuorumSet, "_seat", lambda self, name, seat, roster, _floor: was(self, name, seat, roster, 0)
    )


MUTANTS: list[tuple[Callable[[Patch], None], Settings]] = [
    (ttl_counted_from_the_reply, STORMY),
    (a_minority_renews, Settings(evictions=True)),
    (a_minority_grants, STORMY),
    (failed_attempts_keep_what_they_won, CALM),
    (cancelled_attempts_keep_what_they_won, CALM),
    (seated_above_nothing, FROZEN),
]


@pytest.mark.parametrize(("mutant", "settings"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_the_simulator_kills(mutant: Callable[[Patch], None], settings: Settings, monkeypatch: Patch) -> None:
    """Put a mistake into the core, and a history breaks."""
    mutant(monkeypatch)

    assert any(broken(History(seed, settings).run().violations) for seed in range(300))
