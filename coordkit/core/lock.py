"""A mutex on one Redis: three scripts.

Its keys share a hash tag, so that Redis Cluster keeps them on one slot. The lock itself is a plain ``SET NX PX`` whose
value is the holder, so that ``redis-cli GET`` shows who holds it. Beside it stands the last token given out:
``max(last + 1, server time in microseconds)``, which keeps rising through eviction, FLUSHALL and a failover that lost
the last write, as long as the servers' clocks differ by less than the outage took.

Not promised: that a failover keeps the lock. An asynchronous replica may be promoted without it; two holders then
believe they hold, and only their tokens tell them apart.
"""

from __future__ import annotations

import math
from typing import Any

from coordkit._ports import Call, Store
from coordkit.core.grantor import Granted, Refused, Returned
from coordkit.core.keeper import Keeper
from coordkit.scripts import load

_ACQUIRE = load("lock_acquire")
_RENEW = load("lock_renew")
_RELEASE = load("lock_release")

_KEEP_COUNTER = 7 * 24 * 3600 * 1000
"""Milliseconds an idle counter is kept: locks named once do not fill the server, and the clock floors what follows."""


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up: never shorter than what the lease counts on, and never zero."""
    return max(1, math.ceil(seconds * 1000))


def text(value: Any) -> str:
    """Return a script's reply as text, whether or not the client decodes."""
    return value.decode() if isinstance(value, bytes) else str(value)


class Mutex:
    """The questions of a lease, put to one Redis."""

    def __init__(self, store: Store, keeper: Keeper, name: str) -> None:
        self.name = name
        self.keeper = keeper
        self._store = store
        lock = f"coordkit:1:{{{name}}}:lock"
        self.key = lock
        self._lock = lock.encode()
        self._both = (self._lock, f"coordkit:1:{{{name}}}:token".encode())

    async def grant(self, holder: str, ttl: float) -> Granted | Refused:
        call = Call(_ACQUIRE, self._both, (holder, milliseconds(ttl), self._keep(ttl)))
        granted, *rest = await self._store.run(self.name, call)
        if granted:
            return Granted(int(rest[0]))
        return Refused(text(rest[0]), rest[1] / 1000 if rest[1] >= 0 else math.inf)

    def renewal(self, holder: str, ttl: float) -> Call:
        return Call(_RENEW, self._both, (holder, milliseconds(ttl), self._keep(ttl)))

    async def renew(self, holder: str, ttl: float) -> bool:
        return bool(await self._store.run(self.name, self.renewal(holder, ttl)) == 1)

    async def revoke(self, holder: str) -> Returned:
        return Returned(await self._store.run(self.name, Call(_RELEASE, (self._lock,), (holder,))))

    @staticmethod
    def _keep(ttl: float) -> int:
        return max(_KEEP_COUNTER, milliseconds(ttl * 2))
