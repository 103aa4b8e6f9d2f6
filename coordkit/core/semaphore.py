"""A semaphore on one Redis: n permits, each a lease with a token and a slot of its own.

A slot (0 to n-1) is had by one holder at a time, and its tokens rise from holder to holder: a resource that each permit
has for itself (a licence, a connection, a shard of the work) is fenced per slot. Tokens rise over all grants of a name,
but holders of different slots are there at once, so one fence for all of them would refuse the earlier ones.

Time is the server's alone: a contender whose clock is wrong changes nothing. How many permits there are is agreed by
those who hold and wait; whoever thinks otherwise is refused, and may change it once nobody does either.

Not promised: that a failover keeps the permits, as with a lock.
"""

from __future__ import annotations

from coordkit._ports import Call, Confirm, Store
from coordkit.core.grantor import RETURNED, Granted, Refused, Returned, Spot
from coordkit.core.keeper import Keeper
from coordkit.core.lock import keep_counter, milliseconds, refused
from coordkit.core.waiting import claim_of
from coordkit.errors import StoreRefused
from coordkit.scripts import load

_ACQUIRE = load("token", "queue", "semaphore_queue", "semaphore_acquire")
_RENEW = load("token", "queue", "semaphore_queue", "semaphore_renew")
_RELEASE = load("token", "queue", "semaphore_queue", "semaphore_release")

_DISAGREE = -1


class Permits:
    """The questions of a semaphore, put to one Redis."""

    def __init__(self, store: Store, keeper: Keeper, name: str, permits: int) -> None:
        self.name = name
        self.keeper = keeper
        self.inbox = store.inbox
        self.confirm: Confirm | None = None
        self._store = store
        self._permits = permits
        tag = f"coordkit:1:{{{name}}}:semaphore:"
        self.key = tag + "permits"
        self._keys = tuple((tag + part).encode() for part in ("permits", "holders", "token", "queue"))

    def entry(self, holder: str, ttl: float, address: str) -> str:
        verb, channel = address.split(" ", 1)
        return f"s {milliseconds(claim_of(ttl))} {verb} {holder} {channel}"

    async def grant(self, holder: str, ttl: float, spot: Spot | None = None) -> Granted | Refused:
        waiting = (spot.entry, spot.place) if spot else ("", "")
        args = (holder, milliseconds(ttl), keep_counter(ttl), *waiting, self._permits)
        said, *rest = await self._store.run(self.name, Call(_ACQUIRE, self._keys, args))
        if said == _DISAGREE:
            raise StoreRefused(
                self.name,
                f"permits={self._permits} was asked for, but those who hold it or wait for it use permits={rest[0]}; "
                "give all of them the same number, or change it while nobody does",
            )
        return Granted(int(rest[0]), int(rest[1])) if said else refused(*rest)

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
