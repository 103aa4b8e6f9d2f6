"""Where coordkit's znodes are and what their names say; ``records`` has what is in them. Pure code.

::

    <election>              persistent
    ├── epoch               persistent; JSON: who leads, or who resigned last; its mzxid is the token
    └── candidates          container; its version rises when somebody gets in before those who wait, and it says so
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

Names of another form are not in the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

from coordkit.core.records import Record

_CANDIDATE = re.compile(r"[0-9a-f]{32}(?:-p(\d{1,9}))?-(-?\d{10,})", re.ASCII)
_ENTRY = re.compile(r"[0-9a-f]{32}-(r|w|[1-9]\d{0,9})-(-?\d{10,})", re.ASCII)
_SLOT = re.compile(r"(\d{1,10})-([1-9]\d{0,9})-[0-9a-f]{32}", re.ASCII)

LAST_SEQUENCE = 2_000_000_000
"""ZooKeeper's counter sticks at 2**31 - 1, where all contenders would get one number: stop well before."""


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


def claims(group: str) -> str:
    """Return the parent of the claims on a group's partitions."""
    return f"{group}/%claims"


def claim_node(group: str, partition: str) -> str:
    return f"{claims(group)}/{member_name(partition)}"


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
