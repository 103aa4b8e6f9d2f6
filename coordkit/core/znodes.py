"""What coordkit writes into ZooKeeper: paths, names and records. Pure code.

::

    <election>              persistent
    ├── epoch               persistent; JSON: who leads, or who resigned last; its mzxid is the token
    └── candidates          container; its version rises when somebody gets in before those who wait
        └── <guid>-<seq>    ephemeral, sequential; JSON: who stands; <guid>-p<priority>-<seq> with a priority
    <lock>                  container
    ├── lock, rw, semaphore container: the line of a Lock, a ReadWriteLock, a Semaphore
    │   └── <guid>-<seq>    ephemeral, sequential; JSON: the holder. <guid>-r-<seq> for readers, -w- for writers,
    │                       -<n>- for a semaphore of n. The czxid is a Lock's token, the mzxid of rw a writer's
    ├── slots               container
    │   └── <slot>-<n>-<guid>   ephemeral; a permit that is held; its czxid is the token
    ├── barrier             persistent; while it is there, Barrier.wait waits
    └── double              container; JSON: the number of the last that was let in
        └── <guid>-<n>-<seq>    ephemeral, sequential; JSON: with whom it was let in, once it was
    <group>                 container
    ├── <identity>          ephemeral; the member's own bytes; the name is percent-encoded where it must be
    ├── <identity>%         ephemeral, where a member was made anew: the token of its joining, JSON
    └── %claims             container
        └── <partition>     ephemeral; JSON: who works on it; its czxid is the token

Records carry ``"v": 1``; what a later version adds is ignored here, and names of another form are not in the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from coordkit.core.token import Token

_CANDIDATE = re.compile(r"[0-9a-f]{32}(?:-p(\d{1,9}))?-(-?\d{10,})", re.ASCII)
_ENTRY = re.compile(r"[0-9a-f]{32}-(r|w|[1-9]\d{0,9})-(-?\d{10,})", re.ASCII)
_SLOT = re.compile(r"(\d{1,10})-([1-9]\d{0,9})-[0-9a-f]{32}", re.ASCII)

LAST_SEQUENCE = 2_000_000_000
"""ZooKeeper's counter sticks at 2**31 - 1, where all contenders would get one number: stop well before."""

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]")
_MAX_IDENTITY = 1024


class Leader(NamedTuple):
    """Who leads, and by which token."""

    identity: str
    token: Token


class Record(NamedTuple):
    """The epoch record: who took over last, whether it has resigned since, and in favour of which candidate."""

    candidate: str
    identity: str
    holder: str
    resigned: bool = False
    successor: str = ""


def check_path(value: object) -> str:
    """Return ``value`` if it is the path of a znode below the root."""
    if not isinstance(value, str):
        raise TypeError(f"path must be a str, got {value!r}")
    parts = value.split("/")
    if parts[0] or len(parts) < 2 or not all(parts[1:]):
        raise ValueError(f"path must be absolute, without empty parts or a slash at its end, got {value!r}")
    if "." in parts or ".." in parts:
        raise ValueError(f"path must not have the parts '.' or '..', got {value!r}")
    if _FORBIDDEN.search(value):
        raise ValueError(f"path must not have characters that ZooKeeper forbids (control, surrogate), got {value!r}")
    return value


def check_identity(value: object) -> str:
    """Return ``value`` if it can name a contender or a member."""
    if not isinstance(value, str):
        raise TypeError(f"identity must be a str, got {value!r}")
    if not value:
        raise ValueError("identity must not be empty")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"identity must be text that UTF-8 can encode, got {value!r}") from None
    if length > _MAX_IDENTITY:
        raise ValueError(f"identity must be at most {_MAX_IDENTITY} bytes of UTF-8, got {length}: {value[:40]!r}...")
    return value


def check_data(value: object) -> bytes:
    """Return ``value`` if it can be a member's data: bytes, under ZooKeeper's limit of 1 MiB."""
    if not isinstance(value, bytes):
        raise TypeError(f"data must be bytes, got {value!r}")
    if len(value) > 1_000_000:
        raise ValueError(f"data must be at most 1,000,000 bytes, got {len(value)}")
    return value


def check_version(value: object) -> int:
    """Return ``value`` if it can be the version of a znode; -1 stands for any."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"version must be an int, got {value!r}")
    if not -1 <= value < 1 << 31:
        raise ValueError(f"version must be -1 (any) or the version of a znode, got {value!r}")
    return value


def check_priority(value: object) -> int:
    """Return ``value`` if it can be the priority of a contender."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be an int, got {value!r}")
    if not 0 <= value < 10**9:
        raise ValueError(f"priority must be between 0 and 999,999,999, got {value!r}")
    return value


def check_partitions(value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple if it names partitions: distinct texts."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"partitions must be an iterable of texts, such as a list, got {value!r}")
    keys = tuple(value)
    for key in keys:
        try:
            check_identity(key)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("identity", "each of partitions", 1)) from None
    if len(set(keys)) != len(keys):
        raise ValueError(f"partitions must be distinct, got more than one {max(keys, key=keys.count)!r}")
    return keys


def member_name(identity: str) -> str:
    """Return the name of the znode of ``identity``; ``identity_of`` turns it back."""
    name = quote(identity, safe=" !#$&'()*+,:;=@[]")
    return name.replace(".", "%2E") if name in (".", "..") else name


def identity_of(name: str) -> str:
    return unquote(name)


def may_be_member(name: str) -> bool:
    """Return whether the name can be that of a member: coordkit's other names have a bare percent sign at an end."""
    return not name.startswith("%c") and not name.endswith("%")


def mark_of(node: str) -> str:
    """Return the path of the znode that says since when a member that was made anew has been one."""
    return f"{node}%"


def mark_data(token: int) -> bytes:
    return _pack({"joined": str(token)})


def marked(data: bytes) -> int:
    """Return the token of joining that a mark tells, 0 where the data is none of ours."""
    joined = str(_unpack(data).get("joined", ""))
    return int(joined) if joined.isdecimal() and joined.isascii() else 0


def claims(group: str) -> str:
    """Return the parent of the claims on a group's partitions."""
    return f"{group}/%claims"


def claim_node(group: str, partition: str) -> str:
    return f"{claims(group)}/{member_name(partition)}"


def claim_data(identity: str, holder: str, epoch: int) -> bytes:
    return _pack({"identity": identity, "holder": holder, "epoch": str(epoch)})


def claim_holder(data: bytes) -> str:
    """Return which claim made the znode, "" where the data is none of ours."""
    return str(_unpack(data).get("holder", ""))


def sequence_of(name: str) -> int | None:
    """Return the number that ZooKeeper gave to a candidate, or None for a name that is none of ours."""
    match = _CANDIDATE.fullmatch(name)
    return int(match[2]) if match else None


def candidate_prefix(guid: str, priority: int) -> str:
    """Return what the name of a candidate begins with; ZooKeeper adds the number."""
    return f"{guid}-p{priority}-" if priority else f"{guid}-"


def line(names: Iterable[str], record: Record | None = None) -> list[str]:
    """Return the candidates in order of succession: by priority, then by number, never by text.

    First, if it is there, comes whoever leads or was named as the successor, according to the epoch record.
    """
    first = "" if record is None else record.successor if record.resigned else record.candidate
    ranked = [
        (name != first, -int(match[1] or 0), int(match[2]), name)
        for name in names
        if (match := _CANDIDATE.fullmatch(name))
    ]
    return [name for *_, name in sorted(ranked)]


def entry_of(name: str) -> tuple[str, int] | None:
    """Return the kind and the number of an entry of a lock's line, or None for a name that is none of ours."""
    match = _ENTRY.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def slot_of(name: str) -> tuple[int, int] | None:
    """Return the slot and the number of permits that the name of a held permit says, or None for none of ours."""
    match = _SLOT.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def ancestors(path: str) -> list[str]:
    """Return ``path`` and every path above it, from the top."""
    parts = path.split("/")[1:]
    return ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]


def candidate_data(identity: str, evicted: str = "") -> bytes:
    """Return what a candidate's znode says: who stands, and why it is asked to step down, if it is."""
    return _pack({"identity": identity, **({"evicted": evicted} if evicted else {})})


def ticket_data(holder: str) -> bytes:
    return _pack({"holder": holder})


def ticket_holder(data: bytes) -> str:
    """Return the id of who holds or waits, '?' where the data is none of ours."""
    return str(_unpack(data).get("holder", "?"))


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


def candidate_identity(data: bytes) -> str:
    """Return who stands, '?' where the data is none of ours."""
    return str(_unpack(data).get("identity", "?"))


def candidate_evicted(data: bytes) -> str:
    """Return why the candidate is asked to step down, "" if it is not."""
    return str(_unpack(data).get("evicted", ""))


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


def _pack(values: dict[str, str]) -> bytes:
    return json.dumps({"v": 1, **values}).encode()


def _unpack(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError:  # empty, or written by somebody else
        return {}
    return values if isinstance(values, dict) else {}
