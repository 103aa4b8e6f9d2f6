"""Readers-writer lock for asyncio."""

from __future__ import annotations

from tenacity.wait import wait_base

from coordkit._async.clients import RedisClient
from coordkit._async.hold import Holdable
from coordkit._asyncio.redis import store_for
from coordkit._asyncio.runtime import RUNTIME
from coordkit.core import checks, rwlock
from coordkit.core.contend import PAUSES, Contender


class Side(Holdable):
    """One side of a readers-writer lock, held like a ``Lock``. Made by ``ReadWriteLock``, never by hand."""

    def __init__(self, side: str, client: RedisClient, key: str, ttl: float, contender: Contender) -> None:
        super().__init__(contender.name, ttl, contender)
        self.client = client
        self.key = key
        self._side = side

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name} {self._side} ttl={self.ttl}s>"


class ReadWriteLock:
    """Describe a lock that readers share; ``async with lock.read`` or ``async with lock.write`` holds it.

    ``read`` and ``write`` are held like a ``Lock``: ``acquire``, ``try_acquire``, ``hold``, ``async with``. All wait in
    one queue, first come, first served; whoever comes after a waiting writer waits behind it, so that writers do not
    starve. When a writer leaves, all readers up to the next writer enter together.

    The readers who are in together, from the first that entered to the last that leaves, share one token;
    ``lease.token.holder`` is the same for all of them, so that a ``Fence`` takes it from each. A later writer's token
    is greater, and fences all of them off. A ``Lock`` or a ``Semaphore`` of the same name is another thing.

    :param redis: as for ``Lock``.
    :param name: what is locked; it becomes part of the keys ``coordkit:1:{name}:rw:*``.
    :param ttl: seconds, 0.05 or more, that the server keeps each lease without news from its holder.
    :param renew: renew in the background every third of the ttl while it is held.
    :param max_hold: seconds after which a lease is not renewed any more, so that a body that hangs loses it.
    :param wait: a tenacity wait strategy: the pauses of a refused contender, where it cannot be told.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: what a ``Lock`` does not promise either, and no way from reading to writing. Whoever reads and waits
    to write waits for itself: leave first, and look again after you entered.
    """

    def __init__(
        self,
        redis: RedisClient,
        name: str,
        *,
        ttl: float,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
    ) -> None:
        self.name, self.ttl = checks.check_name("name", name), checks.check_ttl(ttl)
        self.client = redis
        bound = checks.check_max_hold(max_hold, self.ttl)
        wait = checks.check_wait(wait)
        store = store_for(redis)

        def side(word: str, grantor: rwlock.Side) -> Side:
            contender = Contender(RUNTIME, grantor, self.ttl, renew=renew, max_hold=bound, wait=wait)
            return Side(word, redis, grantor.key, self.ttl, contender)

        self.read = side("read", rwlock.reading(store, store.keeper, self.name))
        self.write = side("write", rwlock.writing(store, store.keeper, self.name))

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name} ttl={self.ttl}s>"
