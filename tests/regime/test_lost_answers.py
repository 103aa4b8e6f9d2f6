"""W5: every request and every answer of every operation of every kind is lost, cut off or repeated, once each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from regime.environment import ENVIRONMENT
from regime.lost_answers import enumerate_faults, every
from regime.subjects import SUBJECTS

import coordkit
from coordkit.testing.processes import start_redis

TESTS = Path(__file__).resolve().parents[1]
SIDE_BY_SIDE = 2
TRIES = 3  # a fault hits what it is meant for unless the machine is too busy
VOID = "these faults did not happen", "nothing was sent"  # says nothing of the lock
PARAMETERS = ("flavour", "kind", "operation", "mutant")


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    """Give three servers that are a quorum; the first of them serves all other kinds."""
    with ExitStack() as stack:
        servers = [stack.enter_context(start_redis()) for _ in range(3)]
        clients = [stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]
        coordkit.Quorum(clients).initialise()
        yield [server.url for server in servers]


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
@pytest.mark.parametrize(
    PARAMETERS,
    [
        ("blocking", "lock", "acquire", "acquire_is_not_idempotent"),
        ("asyncio", "lock", "once", "acquire_is_not_idempotent"),
        ("blocking", "lock", "once", "keeps_what_it_may_have_got"),
        ("asyncio", "lock", "cancel", "keeps_what_it_may_have_got"),
        ("blocking", "lock", "break", "breaks_again"),
        ("asyncio", "lock", "adopt", "adopts_once"),
        ("asyncio", "reentrant", "acquire", "acquire_is_not_idempotent"),
        ("blocking", "redis-py", "acquire", "acquire_is_not_idempotent"),
        ("blocking", "read", "acquire", "reader_waits_for_itself"),
        ("asyncio", "write", "acquire", "writer_waits_for_itself"),
        ("blocking", "permit", "acquire", "takes_another_permit"),
        ("asyncio", "several", "cancel a wait", "keeps_the_first_of_several"),
        ("blocking", "bare quorum", "once", "refused_by_its_own_vote"),
        ("blocking", "fence", "run", "runs_again"),
        ("asyncio", "fence", "set", "no_fence"),
    ],
)
def test_a_wrong_lock_is_found(
    flavour: str, kind: str, operation: str, mutant: str, found: Found, urls: list[str]
) -> None:
    wrong, tries = found(flavour, kind, operation, mutant), 1
    while not wrong and tries < TRIES:
        wrong, tries = _find(flavour, kind, operation, mutant, urls), tries + 1

    assert wrong != []
