"""A benchmark that misses a target says so, and fails where it is asked to."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
from bench.targets import Targets

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Give a way to judge ``("most" or "least", value, target)``s; it returns the exit status and what was printed."""

    def run(options: list[str], *judged: tuple[str, float, float]) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        targets = Targets(parser)
        parsed = parser.parse_args(options)
        for kind, value, target in judged:
            getattr(targets, f"at_{kind}")("ratio", value, target)
        return targets.status(parsed.check), capsys.readouterr().out

    return run


MET = (("most", 0.5, 0.5), ("least", 0.99, 0.99))


def test_what_is_met_passes(run: Any) -> None:
    assert run(["--check"], *MET) == (
        0,
        "target: ratio at most 0.5: 0.5: met\ntarget: ratio at least 0.99: 0.99: met\n",
    )


@pytest.mark.parametrize(
    "missed", [("most", 0.51, 0.5), ("least", 0.98, 0.99), ("most", math.nan, 1), ("least", math.nan, 1)]
)
def test_one_that_is_missed_fails_where_it_is_checked(run: Any, missed: tuple[str, float, float]) -> None:
    status, said = run([], missed, *MET)
    assert status == 0
    assert said.splitlines()[0].endswith("NOT MET")
    status, said = run(["--check"], missed, *MET)
    assert status == 1
    assert said.splitlines()[-1] == "missed, with a slack of 1: ratio"


def test_slack_lets_a_target_be_missed_by_so_much(run: Any) -> None:
    assert run(["--check", "1.3"], ("most", 0.64, 0.5), ("least", 0.8, 1.0))[0] == 0
    assert run(["--check", "1.3"], ("most", 0.66, 0.5))[0] == 1
    assert run(["--check", "1.3"], ("least", 0.76, 1.0))[0] == 1


def test_a_run_that_measured_nothing_proves_nothing(run: Any) -> None:
    assert run(["--check"]) == (1, "no target was measured\n")
    assert run([]) == (0, "")


@pytest.mark.parametrize("slack", ["0.5", "nan", "inf", "much"])
def test_slack_is_a_number_of_at_least_one(run: Any, slack: str) -> None:
    with pytest.raises(SystemExit):
        run(["--check", slack])


NO_TARGETS = {"targets", "zk_lock"}  # the checking itself, and a comparison for which no figure was asked
CHECKED = sorted({path.stem for path in BENCH.glob("*.py")} - NO_TARGETS)


@pytest.mark.parametrize("name", CHECKED)
def test_every_benchmark_that_prints_a_target_can_be_checked(name: str) -> None:
    text = (BENCH / f"{name}.py").read_text()
    assert "--check" in text.split('"""')[1]
    assert "sys.exit(targets.status(options.check))" in text
