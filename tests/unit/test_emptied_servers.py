"""Tests that empty whole databases keep off servers that somebody has named: their marker skips them there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
EMPTIES = re.compile(r"\.(flushall|flushdb)\(|[\"']FLUSH(ALL|DB)[\"']\)|import reshard_cluster|from reshard_cluster")
MARKED = re.compile(r"^pytestmark = pytest\.mark\.empties_servers$", re.MULTILINE)
NEED_NO_MARKER = {
    "contract/test_epoch_fence.py": "starts its server",
    "faults/test_abandon.py": "starts its servers",
    "faults/test_epoch_on_disk.py": "starts its servers",
    "faults/test_quorum.py": "starts its servers",
    "regime/stateful.py": "starts its server",
    "regime/test_lost_seats.py": "starts its servers",
    "reshard_cluster.py": "is searched for in those that import it",
    "test_readme.py": "skips its one example that does, unless it started the servers",
}


def test_each_test_that_empties_a_server_is_marked() -> None:
    emptying = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if path.parent.name not in {"unit", "typing"}
        and EMPTIES.search(text := path.read_text())
        and not MARKED.search(text)
    }
    assert emptying == NEED_NO_MARKER.keys()


def test_those_that_start_their_servers_do() -> None:
    for name, why in NEED_NO_MARKER.items():
        if why.startswith("starts"):
            assert "start_redis" in (TESTS / name).read_text()
            assert "coordkit_redis_server:" not in (TESTS / name).read_text()
