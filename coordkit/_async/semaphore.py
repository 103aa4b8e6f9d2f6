"""Semaphore for asyncio."""

from __future__ import annotations

from tenacity.wait import wait_base

from coordkit._async.clients import RedisClient
from coordkit._async.hold import Holdable
from coordkit._asyncio.redis import store_for
from coordkit._asyncio.runtime import RUNTIME
from coordkit.core import checks, semaphore
from coordkit.core.contend import PAUSES, Contender


class Semaphore(Holdable):
    """Describe a semaphore on one Redis; ``async with semaphore as lease`` holds one of its permits.

    A permit is a lease like that of a ``Lock``, with a token of its own, and with ``lease.slot``, a number from 0 to
    ``permits - 1`` that nobody else has meanwhile. Whoever waits is served first come, first served; a permit that is
    given back goes to the first of them with its slot. A ``Lock`` of the same name is another thing.

    Fence the resource per slot, for instance by ``Fence(redis, f"licence-{lease.slot}")``: of two holders of one slot
    the later has the greater token. Holders of different slots are there at once, in any order of their tokens.

    :param redis: as for ``Lock``.
    :param name: what is limited; it becomes part of the keys ``coordkit:1:{name}:semaphore:*``.
    :param permits: how many may hold it at once. All contenders must agree: whoever asks with another number while
        anybody holds or waits gets ``StoreRefused``, which names both. Once nobody does, a new number replaces the old.
    :param ttl: seconds, 0.05 or more, that the server keeps a permit without news from its holder.
    :param renew: renew in the background every third of the ttl while it is held.
    :param max_hold: seconds after which a lease is not renewed any more, so that a body that hangs loses it.
    :param wait: a tenacity wait strategy: the pauses of a refused contender, where it cannot be told.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that never more than so many *believe* to hold it; see ``Lock``.
    """

    def __init__(
        self,
        redis: RedisClient,
        name: str,
        *,
        permits: int,
        ttl: float,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
    ) -> None:
        name, ttl = checks.check_name("name", name), checks.check_ttl(ttl)
        self.client = redis
        self.permits = checks.check_permits(permits)
        bound = checks.check_max_hold(max_hold, ttl)
        store = store_for(redis)
        grantor = semaphore.Permits(store, store.keeper, name, self.permits)
        self.key = grantor.key
        contender = Contender(RUNTIME, grantor, ttl, renew=renew, max_hold=bound, wait=checks.check_wait(wait))
        super().__init__(name, ttl, contender)

    def __repr__(self) -> str:
        return f"<Semaphore {self.name} permits={self.permits} ttl={self.ttl}s>"
