"""What a run found is kept, and shown, or nobody can explain it: the load that made it does not come again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regime import campaign, shard_locks, zoo_campaign
from regime.verdict import IN_FULL, Verdict

FOUND = ["lease_model: no order\n  around it\n    a acquire"] * 4


def a_run(found: list[str]) -> Callable[..., Any]:
    """Stand for a run that writes one log and finds this."""

    class Run:
        def __init__(self, *given: Any) -> None:
            *_, self._verdict, self._directory, _stack = given

        def go(self) -> None:
            (self._directory / "w0.1.log").write_text("a log")
            (self._directory / "dump.rdb").write_text("a server's")
            self._verdict.found += found

    return Run


def w8(_workload: str, *given: Any, **named: Any) -> Verdict:
    return shard_locks.run(*given, **named)


RUNS = [
    (campaign, campaign.run, "W2", "random_token"),
    (zoo_campaign, zoo_campaign.run, "W6", "runs_again"),
    (shard_locks, w8, "W8", "no_fence"),
]


@pytest.mark.parametrize(("where", "run", "workload", "mutant"), RUNS)
def test_what_was_found_is_kept_where_nothing_should_be(
    where: Any, run: Callable[..., Verdict], workload: str, mutant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(where, "_Run", a_run(FOUND))

    verdict = run(workload, 7, 0.0)
    assert verdict.kept is not None
    assert [path.name for path in verdict.kept.iterdir()] == ["w0.1.log"]
    assert str(verdict).split("\n")[1] == f"  kept: {verdict.kept}"
    assert verdict.kept.parent == tmp_path
    assert f"{workload}-7" in verdict.kept.name
    assert str(verdict).split("\n").count("      a acquire") == IN_FULL

    expected = run(workload, 7, 0.0, mutant=mutant)
    assert expected.found
    assert expected.kept is None
    assert "    a acquire" not in str(expected)
    assert list(tmp_path.iterdir()) == [verdict.kept]


def test_what_a_control_finds_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(campaign, "_Run", a_run(FOUND))

    assert campaign.run("W4-beyond", 7, 0.0).found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("where", "run", "workload", "_mutant"), RUNS)
def test_what_passed_is_kept_where_one_asks_for_it(
    where: Any,
    run: Callable[..., Verdict],
    workload: str,
    _mutant: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(where, "_Run", a_run([]))

    assert run(workload, 7, 0.0).kept is None
    assert list(tmp_path.iterdir()) == []
    assert run(workload, 7, 0.0, keep=tmp_path / "asked").passed
    assert (tmp_path / "asked" / "w0.1.log").exists()
