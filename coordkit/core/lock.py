"""A mutex on one Redis: three scripts, and a queue.

Its keys share a hash tag, so that Redis Cluster keeps them on one slot. The lock itself is a plain ``SET NX PX`` whose
value is the holder, so that ``redis-cli GET`` shows who holds it. Beside it stands the last token given out:
``max(last + 1, server time in microseconds)``, which keeps rising through eviction, FLUSHALL and a failover that lost
the last write, as long as the servers' clocks differ by less than the outage took.

Whoever is refused and willing to wait stands in a queue at the server. Giving the lock back hands it to the first of
them that listens, in the same script, with its token; see ``core/waiting.py`` for the waiter's side.

Not promised: that a failover keeps the lock. An asynchronous replica may be promoted without it; two holders then
believe they hold, and only their tokens tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from coordkit._ports import Call, Confirm, Form, Inbox, Store
from coordkit.core.grantor import RETURNED, Granted, Queued, Refused, Returned, Spot
from coordkit.core.inspection import Seen, seen
from coordkit.core.keeper import Keeper
from coordkit.core.waiting import claim_of
from coordkit.errors import StoreUnavailable
from coordkit.scripts import load

_ACQUIRE = load("lock_acquire_free", "token", "queue", "lock_queue", "lock_acquire")
_RENEW = load("lock_renew")
_RELEASE = load("lock_release_free", "token", "queue", "lock_queue", "lock_release")
_INSPECT = load("lock_inspect")
_BREAK = load("token", "queue", "lock_queue", "lock_break")
_HANDOVER = load("lock_handover")
_ADOPT = load("token", "lock_adopt")

_KEEP_COUNTER = 7 * 24 * 3600 * 1000
"""Milliseconds an idle counter is kept: locks named once do not fill the server, and the clock floors what follows."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up: never shorter than what the lease counts on, and never zero."""
    return max(1, math.ceil(seconds * 1000))


def keep_counter(ttl: float = 0.0) -> int:
    """Return for how many milliseconds a counter is kept: at least while the leases it counts may be renewed."""
    return max(_KEEP_COUNTER, milliseconds(ttl * 2))


def text(value: Any) -> str:
    """Return a script's reply as text, whether or not the client decodes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def refused(holder: Any, left: int, *queued: Any) -> Refused:
    """Return what a script's refusal says; ``left`` is in milliseconds, negative if there is no end."""
    seconds = left / 1000 if left >= 0 else math.inf
    if not queued:
        return Refused(text(holder), seconds)
    at, place, ahead, heard = queued
    return Refused(text(holder), seconds, Queued(int(at), text(place), ahead, bool(heard)))


class Mutex:
    """The questions of a lock, put to one Redis."""

    def __init__(self, store: Store, keeper: Keeper, name: str, confirm: Confirm | None = None) -> None:
        self.name = name
        self.keeper = keeper
        self.confirm = confirm
        self._store = store
        self.key = f"coordkit:1:{{{name}}}:lock"
        self._keys = tuple(f"coordkit:1:{{{name}}}:{part}".encode() for part in ("lock", "token", "queue"))
        self._broken = f"coordkit:1:{{{name}}}:broken:"
        self._asking: dict[float, Form] = {}  # by ttl: for who does not wait, so nearly always
        self._leaving: Form | None = None  # the same
        self._staying: tuple[float, Form] | None = None  # to renew, with the ttl of the last time
        self.inbox: Callable[[], Inbox | None] = store.inbox

    def entry(self, holder: str, ttl: float, address: str) -> str:
        verb, channel = address.split(" ", 1)
        return f"x {milliseconds(claim_of(ttl))} {verb} {holder} {channel}"

    async def grant(self, holder: str, ttl: float, spot: Spot | None = None) -> Granted | Refused:
        form = self._asking.get(ttl) or self._form_of(ttl)
        if spot is None and self.confirm is None:
            reply = await self._store.run_form(self.name, form, holder)
        else:
            waiting = (spot.entry, spot.place) if spot else ()
            call = Call(_ACQUIRE, self._keys, (holder, *form.args[:2], *waiting))
            if self.confirm is None:
                reply = await self._store.run(self.name, call)
            else:
                reply = await self._confirmed(call, self.confirm)
        # As Granted(...), which is a function of Python's.
        return tuple.__new__(Granted, (int(reply[1]), None)) if reply[0] else refused(*reply[1:])

    def _form_of(self, ttl: float) -> Form:
        form = self._asking[ttl] = Form(_ACQUIRE, self._keys, milliseconds(ttl), self._keep(ttl))
        return form

    async def _confirmed(self, call: Call, confirm: Confirm) -> Any:
        """Ask, and raise ``StoreUnavailable`` if a grant has fewer copies than it should have."""
        reply, disks, copies = await self._store.run_confirmed(self.name, call, confirm)
        lacking = []
        if copies < confirm.replicas:
            lacking.append(f"{copies} of {confirm.replicas} replicas had it")
        if disks < confirm.fsync:
            lacking.append("the disk had it not")
        if (reply[0] if isinstance(reply, list) else reply == 1) and lacking:
            raise StoreUnavailable(
                self.name,
                f"granted, but {' and '.join(lacking)} after {confirm.within:.2f} s, so it is given back: look at the "
                "replicas of this server (INFO replication), or ask for fewer copies",
            )
        return reply

    def renewal(self, holder: str, ttl: float) -> Call:
        staying = self._staying
        if staying is None or staying[0] != ttl:
            staying = self._staying = ttl, Form(_RENEW, self._keys[:2], milliseconds(ttl), self._keep(ttl))
        return staying[1].call(holder)

    async def renew(self, holder: str, ttl: float) -> bool:
        return bool(await self._store.run(self.name, self.renewal(holder, ttl)) == 1)

    async def revoke(self, holder: str, entry: str = "") -> Returned:
        if entry:
            said = await self._store.run(self.name, Call(_RELEASE, self._keys, (holder, _KEEP_COUNTER, entry)))
        else:
            form = self._leaving
            if form is None:
                form = self._leaving = Form(_RELEASE, self._keys, _KEEP_COUNTER)
            # Whoever handed it on just now will probably do so again: who waits should hear of it first.
            said = await self._store.run_form(self.name, form, holder, yielding=self.key in self.keeper.claimed)
        if isinstance(said, list):
            said, claim = said
            self.keeper.look_after(self, claim / 1000)
        return RETURNED[said]

    # -- looking, breaking, changing hands

    async def inspect(self) -> Seen:
        left, holder, last, entries = await self._store.run(self.name, Call(_INSPECT, self._keys, ()))
        return seen(left, text(holder), text(last), [text(each) for each in entries])

    async def evict(self, request: str, holder: str) -> int | str:
        keys = (*self._keys, (self._broken + request).encode())
        done, said, *claim = await self._store.run(self.name, Call(_BREAK, keys, (_KEEP_COUNTER, holder)))
        if claim:
            self.keeper.look_after(self, claim[0] / 1000)
        return int(said) if done else text(said)

    async def prepare_handover(self, holder: str, ttl: float) -> int | None:
        """Renew; return the server's time in microseconds, None if ``holder`` has it no more."""
        call = Call(_HANDOVER, self._keys[:2], (holder, milliseconds(ttl), self._keep(ttl)))
        at = int(await self._store.run(self.name, call))
        return at if at > 0 else None

    async def adopt(self, before: str, holder: str, ttl: float) -> int | None:
        """Put ``holder`` in the place of ``before``; return its token, None if that was not there any more."""
        call = Call(_ADOPT, self._keys[:2], (before, holder, milliseconds(ttl), self._keep(ttl)))
        if self.confirm is None:
            adopted, *token = await self._store.run(self.name, call)
        else:
            adopted, *token = await self._confirmed(call, self.confirm)
        return int(token[0]) if adopted == 1 else None

    @staticmethod
    def _keep(ttl: float) -> int:
        return keep_counter(ttl)
