"""Lock for threads."""

from __future__ import annotations

from typing import Literal

from tenacity.wait import wait_base

from coordkit._run import run
from coordkit._sync.clients import RedisClient
from coordkit._sync.hold import Holdable, Lease
from coordkit._sync.inspection import Inspected
from coordkit._threads.redis import store_for
from coordkit._threads.runtime import RUNTIME, here
from coordkit.core import checks, handover, holder, interop, lock
from coordkit.core.contend import PAUSES, Contender
from coordkit.core.inspection import Inspector
from coordkit.core.reentrant import Reentrant


class Lock(Inspected, Holdable):
    """Describe a lock on one Redis; ``with lock as lease`` holds it.

    A ``Lock`` is a description and a ``Lease`` a possession: share one ``Lock`` between threads as you like.

    :param redis: a ``redis.Redis``, ``RedisCluster``, a Sentinel's master, or a ``ShardedRedis``, on which it lies on
        the shard of its name. It is not closed. coordkit opens connections of its own by the recipe of its pool,
        one for each thread that is asking at the same time.
    :param name: what is locked; it becomes part of the keys ``coordkit:1:{name}:*``.
    :param ttl: seconds, 0.05 or more, that the server keeps the lease without news from us: how long others wait
        after a crash. Longer than your longest pause, or the lease is lost in it.
    :param renew: renew in the background every third of the ttl while it is held.
    :param max_hold: seconds after which a lease is not renewed any more, so that a body that hangs loses it.
    :param wait: a tenacity wait strategy: the pauses of a contender that cannot be told (no right to subscribe, a
        client that is less or more than one plain pool), and so asks again.
    :param min_replicas: replicas that must have each grant (``WAIT``) before it is given out. One that has fewer copies
        after a third of the ttl (two seconds at most) is given back, and ``StoreUnavailable`` says so. Not promised:
        that the replica which is promoted is one that had it.
    :param fsync: wait until each grant is on the server's disk, too (``WAITAOF``; Redis 7.2 with ``appendonly yes``).
    :param reentrant: a thread that holds it acquires it again at once, with the same token; counted, so that the last
        release gives it back. A lease may be given back by another thread, and counts for the one that acquired it;
        what a thread did not give back before it ended is held on, and inherited by no other.
    :param label: a text of yours, 100 bytes at most, that ``holder()`` and ``waiters()`` show beside host and process.
    :param compatible_with: ``"redis-py"``: lock the key ``name`` itself, as ``redis.lock.Lock`` does, so that both
        exclude each other. Then nobody is handed the lock: all ask again and again, in no order, and tokens rise among
        coordkit's holders only. On Redis Cluster a name with ``}`` and without a hash tag is refused.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that nobody else *believes* to hold it. A process may be paused between looking and writing, and a
    server may fail over without the lock. The token tells the two apart: let the resource compare it (``Fence``).
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
        min_replicas: int = 0,
        fsync: bool = False,
        reentrant: bool = False,
        label: str = "",
        compatible_with: Literal["redis-py"] | None = None,
    ) -> None:
        name, ttl = checks.check_name("name", name), checks.check_ttl(ttl)
        self.client = redis
        store = store_for(redis)
        copies = checks.check_copies(min_replicas, fsync, ttl, store.cannot_confirm())
        if compatible_with not in (None, "redis-py"):
            raise ValueError(f"compatible_with must be None or 'redis-py', got {compatible_with!r}")
        kind = interop.RedisPyMutex if compatible_with else lock.Mutex
        self._mutex = grantor = kind(store, store.keeper, name, copies)
        self.key = grantor.key
        bound = checks.check_max_hold(max_hold, ttl)
        self._asks = Contender(
            RUNTIME,
            grantor,
            ttl,
            renew=renew,
            max_hold=bound,
            wait=checks.check_wait(wait),
            label=holder.check_label(label),
        )
        self._inspector = Inspector(RUNTIME, grantor)
        nests = checks.check_bool("reentrant", reentrant)
        self._reentrant = Reentrant(self._asks, here) if nests else None
        super().__init__(name, ttl, self._reentrant or self._asks, nests=nests)

    def adopt(self, text: str) -> Lease:
        """Take over the lease that another process handed over, with a token of its own, under this lock's ttl.

        Raises ``LeaseLost`` if it is gone or was adopted before, ``ValueError`` for a text that is no handover of this
        name, ``StoreUnavailable`` if no answer came (if we had got it, it is given back in the background).
        """
        core = run(handover.adopt(self._asks, self._mutex, text))
        held = core if self._reentrant is None else self._reentrant.begin(core)
        adopted = Lease(held)
        held.pulse.kept = held  # as in ``acquire``
        return adopted

    def __repr__(self) -> str:
        return f"<Lock {self.name} ttl={self.ttl}s>"
