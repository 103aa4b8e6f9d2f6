"""The resource that W3 protects: one key behind a ``Fence``, which keeps a log of every access that it accepted.

The log is written in the very script that compares the tokens, so nothing can come between; a write says which write it
is based on. Reads are logged as well: they raise the fence.
"""

from __future__ import annotations

from typing import NamedTuple

from regime.scripts import edit

from coordkit.core import fence

KEY = "{ledger}:value"
LOG = "{ledger}:log"

_PUSH = f"redis.call('RPUSH', '{LOG}', ARGV[1] .."


class Entry(NamedTuple):
    """One access that the resource accepted."""

    token: int
    what: str  # get or set
    write: str
    parent: str


def keep_a_log() -> None:
    """Let the fence's scripts of this process log what they accept, in their last line before the answer."""
    edit(fence, "_GET", "return {1", f"{_PUSH} ' get')\nreturn {{1", last=True)
    edit(fence, "_SET", "return {1", f"{_PUSH} ' set ' .. ARGV[3])\nreturn {{1", last=True)


def value(write: str, parent: str) -> str:
    """Return what a write puts into the resource."""
    return f"{write} {parent}".strip()


def write_of(stored: bytes | None) -> str:
    """Return the write that put ``stored`` there; empty for nothing."""
    return (stored or b"").decode().partition(" ")[0]


def entries(lines: list[bytes]) -> list[Entry]:
    """Return the log as the resource wrote it."""
    found: list[Entry] = []
    for line in lines:
        token, what, *rest = line.decode().split(" ")
        found.append(Entry(int(token), what, *(*rest, "", "")[:2]))
    return found
