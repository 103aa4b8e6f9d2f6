"""What a run found is kept, and shown, or nobody can explain it: the load that made it does not come again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regime import campaign, zoo_campaign
from regime.verdict import IN_FULL, Verdict

FOUND = ["lease_model: no order\n  around it\n    a acquire"] * 4


def a_run(found: list[str]) -> Callable[..., Any]:
    """Stand for a run that writes one log and finds this."""

    class Run:
        def __init__(self, _what: Any, verdict: Verdict, directory: Path, _stack: Any) -> None:
            self._verdict, self._directory = verdict, directory

        def go(self) -> None:
            (self._directory / "w0.1.log").write_text("a log")
            self._verdict.found += found

    return Run


RUNS = [(campaign, "W2", "random_token"), (campaign, "W4-beyond", ""), (zoo_campaign, "W6", "runs_again")]


@pytest.mark.parametrize(("where", "workload", "mutant"), RUNS)
def test_what_was_found_is_kept_where_nothing_should_be(
    where: Any, workload: str, mutant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(where, "_Run", a_run(FOUND))

    expected = where.run(workload, 7, 0.0, mutant=mutant)
    assert expected.found
    assert expected.kept is None
    assert "    a acquire" not in str(expected)
    assert list(tmp_path.iterdir()) == []

    if workload != "W4-beyond":
        verdict = where.run(workload, 7, 0.0)
        assert [path.name for path in verdict.kept.iterdir()] == ["w0.1.log"]
        assert str(verdict).split("\n")[1] == f"  kept: {verdict.kept}"
        assert verdict.kept.parent == tmp_path
        assert f"{workload}-7" in verdict.kept.name
        assert str(verdict).split("\n").count("      a acquire") == IN_FULL


@pytest.mark.parametrize("where", [campaign, zoo_campaign])
def test_what_passed_is_kept_where_one_asks_for_it(where: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(where, "_Run", a_run([]))
    workload = "W2" if where is campaign else "W6"

    assert where.run(workload, 7, 0.0).kept is None
    assert list(tmp_path.iterdir()) == []
    assert where.run(workload, 7, 0.0, keep=tmp_path / "asked").passed
    assert (tmp_path / "asked" / "w0.1.log").exists()
