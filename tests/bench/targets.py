"""What a benchmark has to reach: printed beside what was measured; with ``--check`` it decides the exit status.

A machine that is busy with other things may ask for less: ``--check 1.3`` lets each target be missed by three tenths.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Judged(NamedTuple):
    """One target, and what was measured."""

    what: str
    value: float
    least: bool
    target: float

    def met(self, slack: float = 1.0) -> bool:
        """Whether it is reached; what was not measured (nan) is not."""
        return self.value >= self.target / slack if self.least else self.value <= self.target * slack


class Targets:
    """The targets of one run."""

    def __init__(self, arguments: argparse.ArgumentParser) -> None:
        self._judged: list[Judged] = []
        arguments.add_argument(
            "--check",
            type=_slack,
            nargs="?",
            const=1.0,
            metavar="SLACK",
            help="exit with 1 if a target is missed, by more than this factor (1)",
        )

    def at_most(self, what: str, value: float, target: float) -> None:
        self._judge(Judged(what, value, least=False, target=target))

    def at_least(self, what: str, value: float, target: float) -> None:
        self._judge(Judged(what, value, least=True, target=target))

    def _judge(self, one: Judged) -> None:
        self._judged.append(one)
        bound, verdict = "at least" if one.least else "at most", "met" if one.met() else "NOT MET"
        print(f"target: {one.what} {bound} {one.target:g}: {one.value:.3g}: {verdict}")

    def status(self, slack: float | None) -> int:
        """Return the exit status: 1 if they are checked and one is missed, or none was measured."""
        if slack is None:
            return 0
        missed = [one.what for one in self._judged if not one.met(slack)]
        if missed:
            print(f"missed, with a slack of {slack:g}: {'; '.join(missed)}")
        elif not self._judged:
            print("no target was measured")
        return int(bool(missed) or not self._judged)


def _slack(text: str) -> float:
    slack = float(text)
    if not 1 <= slack < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return slack
