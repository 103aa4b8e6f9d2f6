"""``python tests/regime``: what it runs again and again must run at all, and must find what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from regime import repeated, stateful
from regime.mutants import MUTANTS
from regime.run import ALL, main


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workload", "mutant"),
    [("W5", ""), ("W5", "no_fence"), ("W9", ""), ("W9", "token_without_the_clock"), ("W10", ""), ("W1", "")],
)
def test_it_runs_and_says_what_came_of_it(
    workload: str, mutant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W5 had not run since it was given kinds: nobody asked."""

    def one(*, short: bool) -> list[tuple[str, str, str]]:
        del short
        return [("blocking", "fence", "set")]

    def a_few(flavour: str, _examples: int, phases: Sequence[Any], number: int) -> None:
        stateful.play(flavour, 3, phases, number)

    monkeypatch.setattr(repeated, "every", one)
    monkeypatch.setattr(repeated, "MODES", ("no",))
    monkeypatch.setattr(repeated, "play", a_few)
    words = [workload, "--seeds", "1", "--seconds", "0.5", *(["--mutant", mutant] if mutant else [])]

    assert main(words) == 0, capsys.readouterr().out
    assert ("found 1 of 1" if mutant else "passed 1 of 1") in capsys.readouterr().out


def test_every_mutant_is_somebodys() -> None:
    """One that no workload and no test must find proves nothing."""
    here = {mutant for mutants in ALL.values() for mutant in mutants}
    text = "".join(path.read_text() for path in repeated._TESTS.glob("regime/test_*.py"))
    assert [mutant for mutant in MUTANTS if mutant not in here and f'"{mutant}"' not in text] == []
