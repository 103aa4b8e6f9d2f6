"""What a member weighs, by a function of the program that reads the member's data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("coordkit")

Weigh = Callable[[bytes], int]
"""Says from a member's data how often it is to be picked, or how large its part of the work is."""


def weight_of(weigh: Callable[[bytes], Any], group: str, identity: str, data: bytes) -> int:
    """Return a member's weight; data that cannot be weighed must not cost us the others, and count 1."""
    try:
        weight = weigh(data)
    except Exception as error:  # noqa: BLE001  whatever the program's own function makes of another's data
        weight = error
    if isinstance(weight, int) and not isinstance(weight, bool) and weight > 0:
        return weight
    _log.warning("%s: member %s has weight 1, not %r: a positive int is allowed", group, identity, weight)
    return 1
