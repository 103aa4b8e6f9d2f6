"""Run the loss experiment at any length: ``python tests/regime loss --operations 500000 --runs 10``.

Prints one line per run and a sum. Its status is 0 only if no run of the subject lost anything or was void, so many
operations were acknowledged, and every run of a control, or with a mutant, did lose.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from regime.loss import run
from regime.loss_subjects import CONTROLS, SUBJECT, SUBJECTS
from regime.shard_mutants import OF_LOSS


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seeds = [options.seed] if options.seed is not None else list(range(options.runs))
    good = True
    rows: list[str] = []
    for subject in options.subjects:
        verdicts = []
        for seed in seeds:
            operations = options.operations // len(seeds)
            how = {"pause": options.pause, "mutant": options.mutant, "keep": options.keep}
            verdicts.append(run(subject, seed, operations, **how))
            print(verdicts[-1], flush=True)
        must_lose = subject in CONTROLS or bool(options.mutant)
        reached = sum(bool(v.found) if must_lose else v.passed for v in verdicts)
        good &= reached == len(seeds)
        acknowledged, lost = sum(v.acknowledged for v in verdicts), sum(v.lost for v in verdicts)
        good &= must_lose or acknowledged >= options.operations
        rows.append(
            f"{subject:12} {'found' if must_lose else 'passed'} {reached} of {len(seeds)}: {lost} lost of "
            f"{acknowledged} acknowledged, {sum(v.unknown for v in verdicts)} unknown, "
            f"{sum(v.in_motion for v in verdicts)} in motion, {sum(v.across for v in verdicts)} stopped across, "
            f"{sum(v.fired.total() for v in verdicts)} faults"
        )
    print("\n" + "\n".join(rows))
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/regime loss", description=__doc__)
    parser.add_argument("--operations", type=int, default=500_000, help="in all runs of a subject together (500000)")
    parser.add_argument("--runs", type=int, default=10, help="so many, with the seeds from 0 on (10)")
    parser.add_argument("--seed", type=int, help="one run, with this seed")
    parser.add_argument(
        "--subject", dest="subjects", action="append", choices=list(SUBJECTS), help=f"instead of {SUBJECT}; repeatable"
    )
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that each actor waits after each operation")
    parser.add_argument(
        "--mutant",
        choices=[mutant.__name__ for mutant in OF_LOSS],
        default="",
        help="with this bug, which must lose something",
    )
    parser.add_argument("--keep", type=Path, help="directory that takes the logs")
    options = parser.parse_args(arguments)
    options.subjects = options.subjects or [SUBJECT]
    return options
