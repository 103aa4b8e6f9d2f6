"""P2: of two grants of one name no two have one token, and the later one in real time has the greater one.

Those who share (readers of one phase) have one token together; nobody else has it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from regime.history import Op


def token_regressions(ops: Iterable[Op]) -> list[str]:
    """Return the tokens that repeat, and those below one whose grant had returned before they were asked for."""
    grants = sorted((op for op in ops if op.what == "acquire" and op.token), key=lambda op: op.call)
    wrong: list[str] = []
    seen: dict[int, bool] = {}  # whether it was shared
    returned: list[tuple[float, int]] = []  # a heap: when a grant returned, and its token
    highest = 0
    for grant in grants:
        while returned and returned[0][0] < grant.call:
            highest = max(highest, heapq.heappop(returned)[1])
        if grant.token in seen and not (grant.shared and seen[grant.token]):
            wrong.append(f"token_regressions: {grant.token} was given out twice, again to {grant.actor}")
        elif grant.token < highest:
            wrong.append(f"token_regressions: {grant.token} to {grant.actor}, after {highest} had been given out")
        seen[grant.token] = bool(grant.shared)
        heapq.heappush(returned, (grant.end, grant.token))
    return wrong
