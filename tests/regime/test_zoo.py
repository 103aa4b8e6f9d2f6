"""W6 and W7 at their short length: one seed of each workload, and one of each mutant that it must find.

Any length, any number of seeds: ``python tests/regime --help``. The runs are mostly waiting, so several go side by
side; only those whose tests were selected are done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from regime.verdict import Verdict
from regime.zoo_campaign import run
from regime.zoo_workloads import WORKLOADS

from coordkit.testing import processes
from coordkit.testing.backends import Settings

SECONDS = 0.0  # as long as it takes until each fault fired three times
SEED = 0
SIDE_BY_SIDE = 3
TRIES = 3  # seeds: what kills a mutant comes by chance, and on a slow machine fewer faults hit

GOOD = [(name, "") for name in WORKLOADS]
BAD = [(name, mutant) for name, workload in WORKLOADS.items() for mutant in workload.mutants]
NO_CASE = SimpleNamespace(params={})

Verdicts = Callable[[str, str], Verdict]


def until_told(workload: str, mutant: str) -> Verdict:
    """Run with one seed after another until the mutant is found; until a run is not void, where nothing may be."""
    verdict = run(workload, SEED, SECONDS, mutant=mutant)
    for seed in range(SEED + 1, SEED + TRIES):
        if verdict.killed or (not mutant and not verdict.void):
            break
        verdict = run(workload, seed, SECONDS, mutant=mutant)
    return verdict


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[Verdicts]:
    """Give the verdict of a run; all runs of the session are begun at the first demand."""
    why = processes.missing("zookeeper") or processes.missing("redis")
    if why is not None:
        required = Settings.read(request.config.getoption, os.environ, request.config.getini).require
        (pytest.fail if required else pytest.skip)(f"the regime hurts local processes: {why}")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        begun: dict[tuple[str, str], Future[Verdict]] = {}
        for item in request.session.items:
            if item.path == request.path and "workload" in getattr(item, "callspec", NO_CASE).params:
                workload, mutant = item.callspec.params["workload"], item.callspec.params["mutant"]
                begun[workload, mutant] = pool.submit(until_told, workload, mutant)
        yield lambda workload, mutant: begun[workload, mutant].result()
        for each in begun.values():
            each.cancel()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workload", "mutant"), GOOD)
def test_nothing_is_found(workload: str, mutant: str, verdicts: Verdicts) -> None:
    verdict = verdicts(workload, mutant)

    assert verdict.passed, str(verdict)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workload", "mutant"), BAD)
def test_what_is_wrong_is_found(workload: str, mutant: str, verdicts: Verdicts) -> None:
    verdict = verdicts(workload, mutant)

    assert verdict.killed, str(verdict)
