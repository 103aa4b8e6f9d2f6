"""A readers-writer lock on ZooKeeper: one line, in which a reader waits for writers only.

Each waits for those before it: a writer for all of them, a reader for the writers. It watches the last of those only,
so that a hand-over wakes one writer, or the readers that come in together. Who comes after a waiting writer waits
behind it, so that writers do not starve.

A writer takes over by a transaction that checks its own znode and writes the line's; the zxid of that is its token. The
readers between two writers share one token, the zxid after the first writer's: each of them reads it off the line's
znode, which nobody writes while a reader is in. It is less than the next writer's, because at least one transaction
came between the two: the entry of a reader, or the leaving of the writer it waited for. The token is signed by all of
them (``token.holder`` is ``readers:<token>``), so that a fence takes it from each.

The line's znode is a container: the servers remove it when it has been empty for a while, and tokens rise all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._ports_zookeeper import Check, Create, GetData, Kind, Multi, Request, SetData
from coordkit.core import znodes
from coordkit.core.place import Entry
from coordkit.core.token import Token
from coordkit.core.turn import Ticket, Turn


class _Ticket(Ticket):
    kind = "rw"
    side = ""

    def entry(self) -> Sequence[Request]:
        return Create(f"{self.parent}/{self.guid}-{self.side}-", self.data(), Kind.SEQUENTIAL), self.listing()

    def number(self, name: str) -> int | None:
        entry = znodes.entry_of(name)
        return entry[1] if entry is not None and entry[0] in ("r", "w") else None


class Reader(_Ticket):
    """A reader's place in the line."""

    side = "r"

    def entry(self) -> Sequence[Request]:
        return *super().entry(), *self.also()

    def also(self) -> Sequence[Request]:
        return (GetData(self.parent),)

    def before(self, line: list[str], own: int) -> list[str]:
        return [name for name in line[:own] if _is_writer(name)]

    def taken(self, ahead: int) -> str:
        return f"a writer holds it or waits for it; writers ahead of us: {ahead}"

    def token_at_once(self, entry: Entry) -> int | None:
        self.unwatched = self.watched_at_once
        return _shared(entry.seen)

    def token(self, answers: list[Any], own: Any, seen: Sequence[Any]) -> int | None:  # noqa: ARG002  one kind of several
        self.unwatched = False
        return _shared(seen)

    def hold(self, token: int, asked: float) -> Turn:
        return super().hold(Token(token, f"readers:{token}"), asked)


class Writer(_Ticket):
    """A writer's place in the line."""

    side = "w"
    eager = False

    def take_over(self) -> Multi:
        return Multi((Check(self.node), SetData(self.parent, self.data())))

    def token_at_once(self, entry: Entry) -> int | None:  # noqa: ARG002  readers must know of it first
        return None

    def token(self, answers: list[Any], own: Any, seen: Sequence[Any]) -> int | None:  # noqa: ARG002  one kind of several
        modified: int = answers[1].modified
        return modified


def _is_writer(name: str) -> bool:
    entry = znodes.entry_of(name)
    return entry is not None and entry[0] == "w"


def _shared(seen: Sequence[Any]) -> int | None:
    """Return the token of the readers that are in now, from a look at the line's znode."""
    if isinstance(seen[0], Exception):
        return None
    modified: int = seen[0][1].modified
    return modified + 1
