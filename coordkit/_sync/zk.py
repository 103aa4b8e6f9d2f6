"""Locks on ZooKeeper, for threads."""

from __future__ import annotations

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._run import run
from coordkit._sync.hold import Acquirable
from coordkit._threads.zookeeper import session_of
from coordkit.core import checks, holder, zk_checks
from coordkit.core.holder import Holder
from coordkit.core.turn import Options, Ticket, Turns
from coordkit.core.zk_rwlock import Reader, Writer
from coordkit.core.zk_semaphore import Permit, Queue


class Lock(Acquirable):
    """Describe a lock on ZooKeeper; ``with lock as lease`` holds it.

    It has the verbs and the errors of ``coordkit.Lock``. A ``Lock`` is a description and a ``Lease`` a possession:
    share one ``Lock`` between threads as you like. ``lease.token`` is the zxid that made the holder's znode; it rises
    from holder to holder. Tokens of a lock on Redis are others: one ``Fence`` takes those of one source.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed. Its session is what
        holds: others wait for one session timeout after a crash.
    :param path: the znode of the lock, absolute; ``lock`` is made below it. Both are containers: the servers remove
        them when they have been empty for a while.
    :param max_hold: seconds after which the lease is lost, so that a body that hangs does not keep it for ever.
    :param label: a text of yours, 100 bytes at most, that ``holder()`` and ``waiters()`` show beside host and process.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    The lease is lost at the earliest of: the connection is suspended, the session ends, the znode is deleted, or two
    thirds of the session timeout (``lease.ttl``) pass without an answered write. Its znode stays until it is given
    back, for one session timeout at most. Who waits when its session ends waits again in the next, at the end of the
    line (a log line tells). Who waits without a connection for one session timeout gets ``StoreUnavailable``.

    Not promised: that nobody else *believes* to hold it. A process may be paused between looking and writing. The token
    tells the two apart: let the resource compare it.
    """

    def __init__(self, zk: KazooClient, path: str, *, max_hold: float | None = None, label: str = "") -> None:
        options = _described(zk, path, max_hold, label)
        self.client = zk
        self._turns = Turns(lambda: session_of(zk), path, lambda session: Ticket(session, path, options))
        super().__init__(path, self._turns)

    def holder(self) -> Holder | None:
        """Ask who holds it, by two round trips: None if nobody does. Raises ``StoreUnavailable``."""
        return run(self._turns.who())[0]

    def waiters(self) -> list[Holder]:
        """Ask who waits, in their order, by two round trips. Raises ``StoreUnavailable``."""
        return run(self._turns.who())[1]

    def __repr__(self) -> str:
        return f"<Lock {self.name}>"


class Side(Acquirable):
    """One side of a readers-writer lock, held like a ``Lock``. Made by ``ReadWriteLock``, never by hand."""

    def __init__(self, side: str, client: KazooClient, path: str, ticket: type[Ticket], options: Options) -> None:
        super().__init__(path, Turns(lambda: session_of(client), path, lambda session: ticket(session, path, options)))
        self.client = client
        self._side = side

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name} {self._side}>"


class ReadWriteLock:
    """Describe a lock that readers share; ``with lock.read as lease`` or ``with lock.write as lease`` holds it.

    ``read`` and ``write`` are held like a ``Lock``: ``acquire``, ``try_acquire``, ``hold``, ``with``. All wait in
    one line, first come, first served; whoever comes after a waiting writer waits behind it, so that writers do not
    starve. When a writer leaves, all readers up to the next writer enter together.

    The readers between two writers share one token; ``lease.token.holder`` is the same for all of them, so that a
    ``Fence`` takes it from each. A later writer's token is greater, and fences all of them off. A ``Lock`` or a
    ``Semaphore`` of the same path is another thing.

    :param zk: as for ``Lock``.
    :param path: the znode of the lock, absolute; ``rw`` is made below it.
    :param max_hold: as for ``Lock``.
    :param label: a text of yours, 100 bytes at most, that stands in the znodes beside host and process.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: what a ``Lock`` does not promise either, and no way from reading to writing. Whoever reads and waits
    to write waits for itself: leave first, and look again after you entered.
    """

    def __init__(self, zk: KazooClient, path: str, *, max_hold: float | None = None, label: str = "") -> None:
        options = _described(zk, path, max_hold, label)
        self.name = path
        self.client = zk
        self.read = Side("read", zk, path, Reader, options)
        self.write = Side("write", zk, path, Writer, options)

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.name}>"


class Semaphore(Acquirable):
    """Describe a semaphore on ZooKeeper; ``with semaphore as lease`` holds one of its permits.

    A permit is a lease like that of a ``Lock``, with a token of its own, and with ``lease.slot``, a number from 0 to
    ``permits - 1`` that nobody else has meanwhile. Whoever waits is served first come, first served. A ``Lock`` of the
    same path is another thing.

    Fence the resource per slot: of two holders of one slot the later has the greater token.

    :param zk: as for ``Lock``.
    :param path: the znode of the semaphore, absolute; ``semaphore`` and ``slots`` are made below it.
    :param permits: how many may hold it at once. All contenders must agree: whoever asks with another number while
        anybody holds or waits gets ``StoreRefused``, which names both. Once nobody does, a new number replaces the old.
    :param max_hold: as for ``Lock``.
    :param label: a text of yours, 100 bytes at most, that stands in the znodes beside host and process.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that never more than so many *believe* to hold it; see ``Lock``.
    """

    def __init__(
        self, zk: KazooClient, path: str, *, permits: int, max_hold: float | None = None, label: str = ""
    ) -> None:
        options = _described(zk, path, max_hold, label)
        self.client = zk
        self.permits = count = checks.check_permits(permits)
        super().__init__(
            path,
            Turns(lambda: session_of(zk), path, lambda session: Permit(session, path, count, options), Queue),
        )

    def __repr__(self) -> str:
        return f"<Semaphore {self.name} permits={self.permits}>"


def _described(zk: KazooClient, path: str, max_hold: float | None, label: str) -> Options:
    """Check what describes a lock, before its client is started: to hear what it negotiates."""
    _kazoo.check_client(zk)
    zk_checks.check_path(path)
    options = Options(holder.check_label(label), checks.check_bound(max_hold))
    _kazoo.wire_of(zk)
    return options
