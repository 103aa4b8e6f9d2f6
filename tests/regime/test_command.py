"""``python tests/regime``: what it runs again and again must run at all, and must find what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from regime import repeated, run, stateful, zoo_campaign
from regime.mutants import MUTANTS
from regime.run import ALL, main
from regime.verdict import Verdict
from regime.workloads import WORKLOADS


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


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Have nothing run, and give what would: workload, mutant, seed."""
    runs: list[tuple[str, str, int]] = []

    def one(options: Any, workload: str, mutant: str, seed: int) -> Verdict:
        del options
        runs.append((workload, mutant, seed))
        return Verdict(workload, seed, 0.0, mutant, found=["it"] if mutant or workload in run.CONTROLS else [])

    monkeypatch.setattr(run, "_one", one)
    return runs


def test_each_mutant_is_run_under_its_own_workload(ran: list[tuple[str, str, int]]) -> None:
    """A survey ran one of W6-quorum's under W6, whose weather does not bring it to light."""
    assert main(["--only-mutants", "--seeds", "10"]) == 0
    wanted = {each: [*mutants, *(mutant for _, mutant in run._others(each))] for each, mutants in ALL.items()}
    assert ran == [(workload, mutant, seed) for workload in ALL for mutant in wanted[workload] for seed in range(10)]
    ran.clear()
    assert main(["--mutant", "lease_counted_from_the_reply", "--seed", "3"]) == 0
    assert ran == [("W6-quorum", "lease_counted_from_the_reply", 3)]
    ran.clear()
    assert main(["W6", "W6-quorum", "--mutants", "--seeds", "1"]) == 0
    assert ran == [(each, mutant, 0) for each in ("W6", "W6-quorum") for mutant in ("", *ALL[each])]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["W6", "--mutant", "lease_counted_from_the_reply"], "need not be found by W6, but by W6-quorum"),
        (["W6-quorum", "W7", "--mutant", "connected_is_proof"], "need not be found by W7, but by W6-quorum"),
        (["--mutants", "--mutant", "connected_is_proof"], "not allowed with"),
        (["W66"], "no such workload: W66"),
    ],
)
def test_what_would_prove_nothing_is_refused(
    words: list[str], said: str, ran: list[tuple[str, str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err
    assert ran == []


def test_a_mutant_of_another_workload_is_no_run() -> None:
    with pytest.raises(KeyError, match="lease_counted_from_the_reply"):
        zoo_campaign.run("W6", 0, 0.0, mutant="lease_counted_from_the_reply")


def test_every_mutant_is_somebodys() -> None:
    """One that no workload and no test must find proves nothing."""
    here = {mutant for mutants in ALL.values() for mutant in mutants}
    here |= {mutant for workload in WORKLOADS.values() for _, mutant in workload.others}
    text = "".join(path.read_text() for path in repeated._TESTS.glob("regime/test_*.py"))
    assert [mutant for mutant in MUTANTS if mutant not in here and f'"{mutant}"' not in text] == []
