"""Look at who holds and who waits, and break a lease, for asyncio."""

from __future__ import annotations

from coordkit.core.holder import Holder
from coordkit.core.inspection import Inspector
from coordkit.core.token import Token


class Inspected:
    """What can be looked into, by one request that writes nothing: a replica may answer it, a full server as well.

    A ``Lock`` can, for it has one holder. Of the names of a ``MultiLock`` ask the ``Lock`` of each: they are the same.
    Several have a ``Semaphore`` or the reading side of a ``ReadWriteLock`` at once, and whom a ``QuorumLock`` belongs
    to is what a majority says: none has a holder that one request to one server could name, or evict.
    """

    _inspector: Inspector

    async def holder(self) -> Holder | None:
        """Ask who holds it: None if nobody does. Of a key that is not coordkit's only its value is known."""
        return (await self._inspector.look()).holder

    async def waiters(self) -> list[Holder]:
        """Ask who waits to be handed it, in their order. Those that ask again and again instead are not among them."""
        return (await self._inspector.look()).waiters

    async def remaining(self) -> float | None:
        """Ask how many seconds the server keeps it for its holder without news; None if it is free.

        Infinity for a key that never expires, which is not coordkit's.
        """
        return (await self._inspector.look()).left

    async def break_lease(self, holder: str | None = None) -> Token:
        """Take it from its holder, or from nobody else than ``holder`` (an id); return a token higher than theirs.

        Claim your ``Fence`` with the token, and it refuses the evicted holder from then on; the lock itself goes on to
        the first that waits, with a still higher token. The holder is told by its next renewal, after a third of its
        ttl and the time of a request at most; one that does not renew is not told before its ttl has run out. It works
        if nobody holds it, too. Raises ``CoordError`` if it is not held by ``holder`` any more, ``StoreUnavailable`` if
        no answer came: it may have been broken, and whoever holds it then is the next.
        """
        return await self._inspector.break_lease(holder)
