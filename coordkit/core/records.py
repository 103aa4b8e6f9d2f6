"""What coordkit's znodes say: JSON records, written and read. Which znode says what: see ``znodes``. Pure code.

Records carry ``"v": 1``; what a later version adds is ignored here, and data of another form say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from coordkit.core.token import Token


class Leader(NamedTuple):
    """Who leads, and by which token."""

    identity: str
    token: Token


REORDERED = b'{"v": 1, "order": "changed"}'
"""What the znode of a line says once its order is another than that of arrival; it says nothing before."""


class Record(NamedTuple):
    """The epoch record: who took over last, whether it has resigned since, and in favour of which candidate."""

    candidate: str
    identity: str
    holder: str
    resigned: bool = False
    successor: str = ""


def pack_record(record: Record) -> bytes:
    values = {"candidate": record.candidate, "identity": record.identity, "holder": record.holder}
    values["state"] = "resigned" if record.resigned else "leading"
    return _pack({**values, **({"successor": record.successor} if record.successor else {})})


def unpack_record(data: bytes) -> Record | None:
    """Return the epoch record, or None before the first leader."""
    values = _unpack(data)
    if "candidate" not in values:
        return None
    return Record(
        str(values["candidate"]),
        str(values.get("identity", "?")),
        str(values.get("holder", "")),
        values.get("state") == "resigned",
        str(values.get("successor", "")),
    )


def candidate_data(identity: str, evicted: str = "") -> bytes:
    """Return what a candidate's znode says: who stands, and why it is asked to step down, if it is."""
    return _pack({"identity": identity, **({"evicted": evicted} if evicted else {})})


def candidate_identity(data: bytes) -> str:
    """Return who stands, '?' where the data is none of ours."""
    return str(_unpack(data).get("identity", "?"))


def candidate_evicted(data: bytes) -> str:
    """Return why the candidate is asked to step down, "" if it is not."""
    return str(_unpack(data).get("evicted", ""))


def ticket_data(holder: str) -> bytes:
    return _pack({"holder": holder})


def ticket_holder(data: bytes) -> str:
    """Return the id of who holds or waits, '?' where the data is none of ours."""
    return str(_unpack(data).get("holder", "?"))


def mark_data(token: int) -> bytes:
    return _pack({"joined": str(token)})


def marked(data: bytes) -> int:
    """Return the token of joining that a mark tells, 0 where the data is none of ours."""
    joined = str(_unpack(data).get("joined", ""))
    return int(joined) if joined.isdecimal() and joined.isascii() else 0


def claim_data(identity: str, holder: str, epoch: int) -> bytes:
    return _pack({"identity": identity, "holder": holder, "epoch": str(epoch)})


def claim_holder(data: bytes) -> str:
    """Return which claim made the znode, "" where the data is none of ours."""
    return str(_unpack(data).get("holder", ""))


def pack_round(numbers: Iterable[int]) -> bytes:
    """Return what the znodes of a double barrier say once they are let in: the numbers of all of them, as ranges."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return json.dumps({"v": 1, "round": ranges}).encode()


def unpack_round(data: bytes) -> list[range]:
    """Return the numbers that were let in together with a znode; none before that."""
    return [range(int(first), int(last) + 1) for first, last in _unpack(data).get("round", ())]


def pack_last(number: int) -> bytes:
    return json.dumps({"v": 1, "last": number}).encode()


def unpack_last(data: bytes) -> int:
    """Return the number of the last znode of a double barrier that was let in; -1 before any was."""
    return int(_unpack(data).get("last", -1))


def _pack(values: dict[str, str]) -> bytes:
    return json.dumps({"v": 1, **values}).encode()


def _unpack(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError:  # empty, or written by somebody else
        return {}
    return values if isinstance(values, dict) else {}
