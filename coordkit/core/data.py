"""Members' data as JSON: the same value always gives the same bytes, so that it is no update."""

from __future__ import annotations

import json
from typing import Any


def to_json(value: object) -> bytes:
    """Return ``value`` as JSON in UTF-8, keys sorted. Raises ``ValueError`` or ``TypeError`` for what JSON has not."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(data: bytes) -> Any:
    """Return the value of a member's data. Raises ``ValueError`` for what is no JSON: another program may write it."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"data must be JSON, got {data[:80]!r}: {error}") from None
