"""P3, first half: the resource's own log never accepted a lower token after a higher one."""

from __future__ import annotations

from collections.abc import Iterable

from regime.resource import Entry


def resource_violations(log: Iterable[Entry]) -> list[str]:
    """Return the entries of the resource's log whose token is below that of an earlier entry."""
    wrong: list[str] = []
    highest = 0
    for entry in log:
        if entry.token < highest:
            wrong.append(f"resource_violations: accepted {entry.what} with {entry.token} after {highest}")
        highest = max(highest, entry.token)
    return wrong
