"""Quorum and QuorumLock for asyncio."""

from __future__ import annotations

from collections.abc import Iterable

import redis.asyncio
from tenacity.wait import wait_base

from coordkit import _redis
from coordkit._async.hold import Holdable
from coordkit._asyncio.runtime import RUNTIME
from coordkit._asyncio.scatter import RedisPanel
from coordkit.core import checks
from coordkit.core.contend import PAUSES, Contender
from coordkit.core.quorum import QuorumMutex
from coordkit.core.quorum_set import QuorumSet


class Quorum:
    """Describe a set of independent Redis servers that decide by majority; locks on it are ``QuorumLock``.

    Make one per process and share it between tasks; it may be built before there is an event loop. It opens connections
    of its own by the recipe of each client's pool, one to each server.

    :param servers: three, five or more ``redis.asyncio.Redis``, an odd number, of servers that know nothing of each
        other and fail independently. The same ones in the same order in every process. None is closed.
    :raises ValueError, TypeError: for servers that can only be a mistake. That two of them are one, or that one is a
        replica, is found when they are asked first, and raises ``StoreRefused``.

    Promised: a server that lost its memory does not vote until ``readmit``. What that rests on: a server that kept its
    memory kept every write that it acknowledged. Use ``appendfsync always`` and ``noeviction``, or keep nothing on
    disk, so that it comes back empty; with ``everysec``, or from a replica or a backup, it may come back with older
    data, and tokens then rest on the clients' clocks alone.
    """

    def __init__(self, servers: Iterable[redis.asyncio.Redis]) -> None:
        self.servers = _redis.check_servers(servers, flavour="asyncio")
        self._panel = RedisPanel(self.servers)
        self._core = QuorumSet(RUNTIME, self._panel)

    async def initialise(self) -> None:
        """Seat the servers of a new set, all of which must answer; to one that is seated it does nothing.

        Call it once when the servers are set up, or at each start of a service. Raises ``NoQuorum`` if a server does
        not answer, ``StoreRefused`` if one forgot in the meantime, is a replica, or is there twice.
        """
        await self._core.initialise()

    async def readmit(self) -> list[str]:
        """Let servers that were wiped, or put in another's place, vote again; return which these were.

        Call it when they are up again. A majority of the others must answer: it says above which ballots the new one
        must begin. Raises ``NoQuorum`` if there is none, ``StoreRefused`` as ``initialise`` does.
        """
        return await self._core.readmit()

    def __repr__(self) -> str:
        return f"<Quorum of {len(self.servers)}>"


class QuorumLock(Holdable):
    """Describe a lock on a majority of independent servers; ``async with lock as lease`` holds it.

    For when one Redis is not enough: the lock survives the loss of a minority, and so do its tokens. Each acquisition
    is one round trip to all servers at once, two when their ballots came apart; a slow or dead minority is not waited
    for. Waiters ask again after a pause. ``NoQuorum`` is raised where ``Lock`` raises ``StoreUnavailable``; its
    ``errors`` say why, for each server.

    :param quorum: the servers, initialised.
    :param name: what is locked; it becomes part of the keys ``coordkit:1:{name}:*``.
    :param ttl: seconds, 0.05 or more, that the servers keep the lease without news from us: how long others wait
        after a crash. Longer than your longest pause, or the lease is lost in it.
    :param renew: renew in the background every third of the ttl while it is held; a majority must agree.
    :param max_hold: seconds after which a lease is not renewed any more, so that a body that hangs loses it.
    :param wait: a tenacity wait strategy: the pauses of a refused contender.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that nobody else *believes* to hold it, as with every lock: let the resource compare the token
    (``Fence``). The algorithm is Redlock's with ballots: its tokens rest on no clock while a majority remembers.
    """

    def __init__(
        self,
        quorum: Quorum,
        name: str,
        *,
        ttl: float,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
    ) -> None:
        if not isinstance(quorum, Quorum):
            raise TypeError(f"quorum must be a Quorum of coordkit.aio, got a {type(quorum).__name__}")
        name, ttl = checks.check_name("name", name), checks.check_ttl(ttl)
        self.quorum = quorum
        grantor = QuorumMutex(quorum._core, name)  # noqa: SLF001  one facade, two classes
        self.key = grantor.key
        bound = checks.check_max_hold(max_hold, ttl)
        contender = Contender(RUNTIME, grantor, ttl, renew=renew, max_hold=bound, wait=checks.check_wait(wait))
        super().__init__(name, ttl, contender)

    def __repr__(self) -> str:
        return f"<QuorumLock {self.name} ttl={self.ttl}s on {len(self.quorum.servers)} servers>"
