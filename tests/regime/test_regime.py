"""W1 to W4 at their short length: one seed of each workload, and one of each mutant that it must find.

Any length, any number of seeds: ``python tests/regime --help``. The runs are mostly waiting, so a few go side by side;
only those whose tests were selected are done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from regime import clock_shim
from regime.campaign import run
from regime.kinds import KINDS
from regime.verdict import Verdict
from regime.workloads import WORKLOADS

from coordkit.testing.backends import Settings

SECONDS = 6.0  # longer where it takes longer until each fault fired three times
SEED = 0
SIDE_BY_SIDE = 2
TRIES = 3  # seeds: what kills a mutant comes by chance, and on a slow machine too few faults fit into a run

GOOD = [(name, "") for name, workload in WORKLOADS.items() if not workload.control]
BAD = [(name, mutant) for name, workload in WORKLOADS.items() for mutant in workload.mutants]
BAD += [(name, "") for name, workload in WORKLOADS.items() if workload.control]

OTHERS = [kind for kind in KINDS if kind != "lock"]
NO_CASE = SimpleNamespace(params={})

Verdicts = Callable[[str, str], Verdict]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[Verdicts]:
    """Give the verdict of a run; all runs of the session are begun at the first demand."""
    missing = clock_shim.missing()
    required = Settings.read(request.config.getoption, os.environ, request.config.getini).require
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        begun: dict[tuple[str, str], Future[Verdict]] = {}
        for item in request.session.items:
            if item.path == request.path and "workload" in getattr(item, "callspec", NO_CASE).params:
                workload, mutant = item.callspec.params["workload"], item.callspec.params["mutant"]
                if WORKLOADS[workload].clock is None or missing is None:
                    begun[workload, mutant] = pool.submit(run, workload, SEED, SECONDS, mutant=mutant)

        def verdict(workload: str, mutant: str) -> Verdict:
            if (workload, mutant) not in begun:
                (pytest.fail if required else pytest.skip)(str(missing))
            return begun[workload, mutant].result()

        yield verdict
        for each in begun.values():
            each.cancel()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workload", "mutant"), GOOD)
def test_nothing_is_found(workload: str, mutant: str, verdicts: Verdicts) -> None:
    verdict, seed = verdicts(workload, mutant), SEED
    while verdict.void and not verdict.found and seed + 1 < SEED + TRIES:
        seed += 1
        verdict = run(workload, seed, SECONDS, mutant=mutant)

    assert verdict.passed, str(verdict)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workload", "mutant"), BAD)
def test_what_is_wrong_is_found(workload: str, mutant: str, verdicts: Verdicts) -> None:
    verdict, seed = verdicts(workload, mutant), SEED
    while not verdict.killed and seed + 1 < SEED + TRIES:
        seed += 1
        verdict = run(workload, seed, SECONDS, mutant=mutant)

    assert verdict.killed, str(verdict)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("kind", "mutant"), WORKLOADS["W1"].others)
def test_racers_that_are_let_in_wrongly_are_seen(kind: str, mutant: str) -> None:
    """By what they race for, whatever they believe."""
    verdict = run("W1", SEED, 1.0, kind=kind, mutant=mutant)

    assert [line for line in verdict.found if line.startswith("turnstile")], str(verdict)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", OTHERS)
def test_racers_for_what_is_no_lock(kind: str) -> None:
    verdict = run("W1", SEED, 4.0, kind=kind)

    assert verdict.passed, str(verdict)
