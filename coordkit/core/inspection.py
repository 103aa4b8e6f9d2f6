"""Look at who holds and who waits, and break a lease: for operators, written once for whatever can be inspected."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from coordkit._ports import Runtime
from coordkit.core.answer import answered
from coordkit.core.holder import Holder, read
from coordkit.core.token import Token
from coordkit.errors import CoordError


class Seen(NamedTuple):
    """What a server knew of a resource at one moment."""

    holder: Holder | None
    left: float | None  # seconds until it ends unless renewed: None if nobody holds it, infinity if it never does
    waiters: list[Holder]  # in the order in which they came


class Inspectable(Protocol):
    """A grantor that can be looked into."""

    name: str

    async def inspect(self) -> Seen: ...
    async def evict(self, request: str, holder: str) -> int | str:
        """Take it from ``holder`` ("": from whoever has it); return the raised token, or who has it instead."""
        ...


def queued(entries: Iterable[Any]) -> list[Holder]:
    """Return who waits, from a queue's entries and places in turn (``scripts/queue.lua`` has their form)."""
    flat = list(entries)
    return [
        read(str(entry).split(" ", 4)[3], since=float(place) / 1e6)
        for entry, place in zip(flat[::2], flat[1::2], strict=True)
    ]


def seen(left: int, holder: str, last: str, entries: Iterable[Any]) -> Seen:
    """Return what a look at one lock means; ``left`` is in milliseconds, -1 without expiry, -2 if it is free."""
    token = int(last) if last.isdecimal() and last != "0" else None
    since = token / 1e6 if token is not None else None
    return Seen(
        None if left == -2 else read(holder, since=since, token=token),
        None if left == -2 else left / 1000 if left >= 0 else math.inf,
        queued(entries),
    )


class Inspector:
    """Asks one resource who holds it."""

    def __init__(self, runtime: Runtime, grantor: Inspectable) -> None:
        self._runtime = runtime
        self._grantor = grantor

    async def look(self) -> Seen:
        return await answered(self._runtime, self._grantor.inspect, self._runtime.now())

    async def break_lease(self, holder: str | None) -> Token:
        """Evict the holder; return the token that fences it off."""
        if holder is not None and not isinstance(holder, str):
            raise TypeError(f"holder must be None or the id of a holder, as holder() tells it, got {holder!r}")
        request = self._runtime.new_holder()
        answer = await answered(self._runtime, lambda: self._grantor.evict(request, holder or ""), self._runtime.now())
        if isinstance(answer, int):
            return Token(answer, request)
        by = f"held by {answer} by now" if answer else "free by now"
        raise CoordError(self._grantor.name, f"{by}, and not held by {holder}: nothing was broken; look again")
