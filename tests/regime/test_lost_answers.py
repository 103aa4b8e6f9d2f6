"""W5: every request and every answer of every operation of every kind is lost, cut off or repeated, once each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from regime.environment import ENVIRONMENT
from regime.lost_answers import WRONG, enumerate_faults, every, servers_of_all_kinds
from regime.subjects import SUBJECTS

TESTS = Path(__file__).resolve().parents[1]
SIDE_BY_SIDE = 2
TRIES = 3  # a fault hits what it is meant for unless the machine is too busy
VOID = "these faults did not happen", "nothing was sent"  # says nothing of the lock
PARAMETERS = ("flavour", "kind", "operation", "mutant")


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Give the servers that all kinds need."""
    with servers_of_all_kinds() as urls:
        yield urls


Found = Callable[..., list[str]]


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, urls: list[str]) -> Iterator[Found]:
    """Give what is found wrong in one enumeration; those that were selected go side by side: they mostly wait."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        begun: dict[tuple[str, ...], Future[list[str]]] = {}
        for item in request.session.items:
            if item.path == request.path and hasattr(item, "callspec"):
                case = tuple(item.callspec.params[each] for each in PARAMETERS)
                begun[case] = pool.submit(_find, *case, urls)
        yield lambda *case: begun[case].result()
        for each in begun.values():
            each.cancel()


def _find(flavour: str, kind: str, operation: str, mutant: str, urls: list[str]) -> list[str]:
    urls = urls[: SUBJECTS[kind].servers]
    if not mutant:
        for _ in range(TRIES):
            wrong = enumerate_faults(flavour, kind, operation, urls)
            if not wrong or not all(line.startswith(VOID) for line in wrong):
                break
        return wrong
    command = [sys.executable, "-m", "regime.lost_answers", flavour, kind, operation, ",".join(urls), mutant]
    done = subprocess.run(command, cwd=TESTS, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(PARAMETERS, [(*each, "") for each in every(short=True)])
def test_what_the_caller_is_told_is_so(flavour: str, kind: str, operation: str, mutant: str, found: Found) -> None:
    assert found(flavour, kind, operation, mutant) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(PARAMETERS, WRONG)
def test_a_wrong_lock_is_found(
    flavour: str, kind: str, operation: str, mutant: str, found: Found, urls: list[str]
) -> None:
    wrong, tries = found(flavour, kind, operation, mutant), 1
    while not wrong and tries < TRIES:
        wrong, tries = _find(flavour, kind, operation, mutant, urls), tries + 1

    assert wrong != []
