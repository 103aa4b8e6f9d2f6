"""Locks and barriers on ZooKeeper, for those who have only ZooKeeper: the verbs and errors of the locks on Redis.

``coordkit.aio.zk`` has the same names for asyncio. Clients are passed in (a ``KazooClient``), never made. What is held
is a session's: it is lost with the connection, and others have it one session timeout after a crash.
"""

from coordkit._sync.zk import Lock, ReadWriteLock, Semaphore, Side
from coordkit._sync.zk_barriers import Barrier, Crossing, DoubleBarrier, Passage

__all__ = ["Barrier", "Crossing", "DoubleBarrier", "Lock", "Passage", "ReadWriteLock", "Semaphore", "Side"]
