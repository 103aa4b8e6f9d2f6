"""``--layouts once``: what a version of a server, of a client or of Python cannot change is not tested once per layout.

Most contract tests run on every layout of Redis (``deployment``) or of ZooKeeper (``zk_servers``). Whether a layout is
reached, and asked in its way, depends on what ``WIRES`` test on every layout all the same: connections, scripts,
subscriptions, sessions. All other tests then add what they are about, which is the same on each layout: it is tested on
the first one. A test that has no case on the first one keeps those it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

FIRST = {"deployment": "standalone", "zk_servers": "one"}
WIRES = ("test_lock.py", "test_waiting.py", "test_fence.py", "test_election.py", "test_sharded_layouts.py")


def repeated(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that another one does on the first layout."""
    found: set[pytest.Item] = set()
    for fixture, first in FIRST.items():
        on_first = {_function(item) for item in items if _parameters(item).get(fixture) == first}
        found |= {
            item
            for item in items
            if item.path.name not in WIRES
            and _parameters(item).get(fixture, first) != first
            and _function(item) in on_first
        }
    return found


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def _function(item: pytest.Item) -> tuple[Any, ...]:
    return item.path, getattr(item, "originalname", item.name)
