"""How far a replica is behind its primary, by what both say of themselves in INFO replication.

Measured is the age of what a replica has. Each look notes the primary's ``master_repl_offset`` and when that was; a
replica whose ``slave_repl_offset`` has reached the offset of ten seconds ago is ten seconds behind at most. (The
replica's ``master_last_io_seconds_ago`` says less: an idle primary sends nothing for ``repl-ping-replica-period``, and
a replica that hears its primary may still be far behind.) While the primary cannot be asked, the state of the link
stands for it: ``master_link_down_since_seconds``, or ``master_last_io_seconds_ago`` where the link is up. So it does
where the link is down and what is remembered does not go back so far, as at the first look.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST = 1000  # looks that are remembered


class MaxLag(NamedTuple):
    """How far a replica may be behind and still be read from; infinity where it does not matter."""

    seconds: float = math.inf
    bytes: float = math.inf


class Progress:
    """What the primary has written by when, as far as it was asked."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=_MOST)  # when, and its offset then
        self._history = ""
        self._answered = False

    def primary_said(self, info: Mapping[str, Any] | None, at: float) -> None:
        """Take the primary's INFO replication of the time ``at``; None if it did not answer."""
        self._answered = info is not None and info.get("role") == "master"
        if info is None or not self._answered:
            return
        history = str(info.get("master_replid"))
        if history != self._history:  # offsets of another history mean nothing in this one
            self._history = history
            self._looks.clear()
        self._looks.append((at, int(info["master_repl_offset"])))

    def trouble(self, info: Mapping[str, Any], at: float, most: MaxLag) -> str:
        """Say why a replica with this INFO replication of the time ``at`` lags too far; empty if it does not."""
        if info.get("role") != "slave":
            return f"it is no replica, but a {info.get('role')}"
        if self._answered:
            if str(info.get("master_replid")) != self._history:
                return "it does not follow this primary: the two have different histories (master_replid)"
            seconds, missing = self._behind(info, at)
        else:
            seconds, missing = _unheard(info), 0
        if seconds > most.seconds:
            return f"it is {seconds:.1f} s behind its primary, and max_lag is {most.seconds:g} s"
        if missing > most.bytes:
            return f"it is {missing} bytes behind its primary, and max_lag_bytes is {most.bytes:g}"
        return ""

    def _behind(self, info: Mapping[str, Any], at: float) -> tuple[float, int]:
        offset = int(info.get("slave_repl_offset", 0))
        reached = next((when for when, written in reversed(self._looks) if written <= offset), None)
        # Nothing that is remembered is as old as what it has: it is that far behind at least.
        since = self._looks[0][0] if reached is None else reached
        latest, written = self._looks[-1]
        seconds = 0.0 if reached == latest else at - since
        if reached is None and info.get("master_link_status") != "up":
            seconds = max(seconds, _unheard(info))
        return seconds, max(0, written - offset)


def _unheard(info: Mapping[str, Any]) -> float:
    """Return for how long a replica has not heard from its primary, in seconds."""
    if info.get("master_link_status") == "up":
        return float(info.get("master_last_io_seconds_ago", 0))
    down = float(info.get("master_link_down_since_seconds", -1))
    return down if down >= 0 else math.inf
