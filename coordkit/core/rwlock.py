"""A readers-writer lock on one Redis: readers share it, a writer has it alone, all wait in one queue.

Who comes after a waiting writer waits behind it, so that writers do not starve. Giving it back lets in whoever is first
in the queue: a writer, or every reader up to the next writer, in one script with one message to each.

From the first reader that enters to the last that leaves is one *phase*; its readers share one token, signed by all of
them (``token.holder`` is ``readers:<token>``), so that a fence takes it from each. Tokens rise from phase to phase.
Each reader's lease has an end of its own by the server's clock, in a sorted set; the writer is a plain ``SET NX PX``.

Not promised: that a failover keeps either of them, as with a lock; and nobody who reads becomes the writer without
leaving first, which two readers at once could only wait for in vain. A replica that is promoted may not know yet that a
phase was over: readers who come then join it, under its token, which a fence that a later writer has claimed refuses.
"""

from __future__ import annotations

from coordkit._ports import Call, Confirm, Script, Store
from coordkit.core.grantor import RETURNED, Granted, Refused, Returned, Spot
from coordkit.core.keeper import Keeper
from coordkit.core.lock import keep_counter, milliseconds, refused, text
from coordkit.core.token import Token
from coordkit.core.waiting import claim_of
from coordkit.scripts import load

_READ = load("token", "queue", "rw_queue", "rw_read")
_WRITE = load("token", "queue", "rw_queue", "rw_write")
_RENEW = load("token", "queue", "rw_queue", "rw_renew")
_RELEASE = load("token", "queue", "rw_queue", "rw_release")


class Side:
    """The questions of a reader, or of a writer, put to one Redis."""

    def __init__(self, store: Store, keeper: Keeper, name: str, mode: str, enter: Script) -> None:
        self.name = name
        self.keeper = keeper
        self.inbox = store.inbox
        self.confirm: Confirm | None = None
        self._store = store
        self._mode = mode
        self._enter = enter
        tag = f"coordkit:1:{{{name}}}:rw:"
        self.key = tag + ("readers" if mode == "r" else "writer")
        self._keys = tuple((tag + part).encode() for part in ("writer", "readers", "token", "queue"))

    def entry(self, holder: str, ttl: float, address: str) -> str:
        verb, channel = address.split(" ", 1)
        return f"{self._mode} {milliseconds(claim_of(ttl))} {verb} {holder} {channel}"

    async def grant(self, holder: str, ttl: float, spot: Spot | None = None) -> Granted | Refused:
        waiting = (spot.entry, spot.place) if spot else ("", "")
        call = Call(self._enter, self._keys, (holder, milliseconds(ttl), keep_counter(ttl), *waiting))
        granted, *rest = await self._store.run(self.name, call)
        if not granted:
            return refused(*rest)
        token, *by = rest
        return Granted(Token(int(token), text(by[0]) if by else holder))

    def renewal(self, holder: str, ttl: float) -> Call:
        return Call(_RENEW, self._keys, (holder, milliseconds(ttl), keep_counter(ttl)))

    async def renew(self, holder: str, ttl: float) -> bool:
        return bool(await self._store.run(self.name, self.renewal(holder, ttl)) == 1)

    async def revoke(self, holder: str, entry: str = "") -> Returned:
        call = Call(_RELEASE, self._keys, (holder, keep_counter(), entry))
        said = await self._store.run(self.name, call)
        if isinstance(said, list):
            said, claim = said
            self.keeper.look_after(self, claim / 1000)
        return RETURNED[said]


def reading(store: Store, keeper: Keeper, name: str) -> Side:
    """Return the side that is shared."""
    return Side(store, keeper, name, "r", _READ)


def writing(store: Store, keeper: Keeper, name: str) -> Side:
    """Return the side that one has alone."""
    return Side(store, keeper, name, "w", _WRITE)
