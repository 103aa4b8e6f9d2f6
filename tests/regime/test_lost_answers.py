"""W5: every request and every answer of every operation is lost, cut off or repeated, once each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from regime.lost_answers import enumerate_faults, every

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("flavour", "operation"), every())
def test_what_the_caller_is_told_is_so(flavour: str, operation: str, coordkit_redis_server: object) -> None:
    url = coordkit_redis_server.url  # type: ignore[attr-defined]

    assert enumerate_faults(flavour, operation, url) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mutant", "flavour", "operation"),
    [
        ("acquire_is_not_idempotent", "blocking", "acquire"),
        ("acquire_is_not_idempotent", "asyncio", "once"),
        ("keeps_what_it_may_have_got", "blocking", "once"),
        ("keeps_what_it_may_have_got", "asyncio", "cancel"),
    ],
)
def test_a_wrong_lock_is_found(mutant: str, flavour: str, operation: str, coordkit_redis_server: object) -> None:
    url = coordkit_redis_server.url  # type: ignore[attr-defined]
    command = [sys.executable, "-m", "regime.lost_answers", flavour, operation, url, mutant]
    said = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=100, check=True).stdout

    assert json.loads(said) != []
