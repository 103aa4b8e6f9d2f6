"""W5, W9 and W10 as runs of the one command: what each does once is done again until the time is over."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hypothesis import Phase
from regime.durability import MODES, tokens_over_a_death
from regime.history import now
from regime.lost_answers import WRONG, every, servers_of_all_kinds
from regime.mutants import MUTANTS
from regime.scripts import restored
from regime.stateful import play
from regime.subjects import SUBJECTS
from regime.verdict import Verdict

from coordkit.core import lock

_TESTS = Path(__file__).resolve().parents[1]
_LONG = 600  # seconds that one enumeration may take


def lost_answers(verdict: Verdict) -> None:
    """W5: every operation in every flavour, in a process of its own, because a mutant stays in one.

    A mutant, by the operations that must find it.
    """
    wanted = [each[:3] for each in WRONG if each[3] == verdict.mutant] or every(short=bool(verdict.mutant))
    with servers_of_all_kinds() as servers:
        for flavour, kind, operation in wanted:
            urls = ",".join(servers[: SUBJECTS[kind].servers])
            command = [sys.executable, "-m", "regime.lost_answers", flavour, kind, operation, urls]
            command += [verdict.mutant] * bool(verdict.mutant)
            done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=_LONG, check=False)
            if done.returncode:
                verdict.void.append(f"{flavour} {kind} {operation}: {done.stderr[-500:]}")
                continue
            verdict.found += [f"{flavour} {kind} {operation}: {line}" for line in json.loads(done.stdout)]
            verdict.fired["operation"] += 1


def durability(verdict: Verdict) -> None:
    """W9: one death in each mode."""
    for mode in MODES:
        with tempfile.TemporaryDirectory(prefix="coordkit-regime-") as directory, ExitStack() as stack:
            _apply(verdict.mutant, stack)
            wrong, grants = tokens_over_a_death(mode, 1, Path(directory))
        verdict.found += [f"{mode}: {line}" for line in wrong]
        verdict.grants += grants
        verdict.fired[f"death ({mode})"] += 1


def stateful(verdict: Verdict) -> None:
    """W10: 200 games in each flavour; how many were played before tells them apart."""
    for flavour in ("blocking", "asyncio"):
        with ExitStack() as stack:
            _apply(verdict.mutant, stack)
            try:
                number = verdict.seed * 1_000_000 + verdict.fired["200 games"]
                play(flavour, 200, [Phase.generate], number)
            except AssertionError as error:
                verdict.found.append(f"{flavour}: {error} {' '.join(getattr(error, '__notes__', []))}")
        verdict.fired["200 games"] += 1


def _apply(mutant: str, stack: ExitStack) -> None:
    if mutant:
        stack.enter_context(restored(lock))
        MUTANTS[mutant](None)  # type: ignore[arg-type]  # those listed below ask nothing of a worker


REPEATED: dict[str, tuple[Callable[[Verdict], None], tuple[str, ...]]] = {
    "W5": (lost_answers, tuple(dict.fromkeys(mutant for *_, mutant in WRONG))),
    "W9": (durability, ("token_without_the_clock",)),
    "W10": (stateful, ("token_without_the_clock", "renewal_makes_it_again")),
}
"""What each does once, and the mutants that it must find."""


def run_again(workload: str, seed: int, seconds: float, *, mutant: str = "") -> Verdict:
    """Do a workload again and again for ``seconds``, once at least."""
    verdict = Verdict(workload, seed, seconds, mutant)
    began = now()
    while True:
        REPEATED[workload][0](verdict)
        verdict.took = now() - began
        if verdict.took >= seconds or verdict.found or verdict.void:
            return verdict
