"""MultiLock for threads: several names, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from tenacity.wait import wait_base

from coordkit._sync.clients import RedisClient
from coordkit._sync.hold import Hold, Holdable, Lease
from coordkit._threads.redis import store_for
from coordkit._threads.runtime import RUNTIME
from coordkit.core import checks, holder, lock, multi
from coordkit.core.contend import PAUSES, Contender
from coordkit.core.token import Token


class MultiLease(Lease):
    """What you hold of several names: it is lost as soon as one is, and the others are then given back.

    ``ensure``, ``remaining``, ``renew`` and ``release`` speak for all names. Each has a token of its own.
    """

    __slots__ = ()

    @property
    def tokens(self) -> dict[str, Token]:
        """The fencing token of each name: ``lease.tokens[name]``."""
        return dict(cast("multi.MultiLease", self._core).tokens)

    @property
    def token(self) -> NoReturn:
        """Raise ``AttributeError``: each name has a token of its own, in ``tokens``."""
        raise multi.of_each_name("token", "tokens[name]")

    @property
    def holder(self) -> NoReturn:
        """Raise ``AttributeError``: each name has a holder id of its own, ``tokens[name].holder``."""
        raise multi.of_each_name("holder", "tokens[name].holder")

    def __repr__(self) -> str:
        return f"<MultiLease {self.name} remaining={self.remaining():.1f}s>"


class MultiLock(Holdable):
    """Describe several locks on one Redis, Cluster or set of shards, held all or none.

    They are acquired one after the other in sorted order, whatever order they are given in, so that no two wait for
    each other; while the rest is waited for, what is held already is renewed. Each is the ``Lock`` of its name: a
    ``Lock`` and a ``MultiLock`` exclude each other.

    :param redis: as for ``Lock``; the names may lie on different shards.
    :param names: one name or more, each once.
    :param ttl: seconds, 0.05 or more, that the server keeps each lease without news from us.
    :param renew: renew in the background while it is held. While the rest is waited for it is renewed in any case.
    :param max_hold: seconds after which it is not renewed any more, from when the last was granted.
    :param wait: a tenacity wait strategy: the pauses of a refused contender that cannot be told.
    :param label: a text of yours, 100 bytes at most, that ``Lock.holder()`` shows.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that one of the first is taken only for as long as the last: whoever waits for the rest holds them.
    """

    _made = MultiLease

    def __init__(
        self,
        redis: RedisClient,
        names: Sequence[str],
        *,
        ttl: float,
        renew: bool = True,
        max_hold: float | None = None,
        wait: wait_base = PAUSES,
        label: str = "",
    ) -> None:
        self.names, ttl = checks.check_names("names", names), checks.check_ttl(ttl)
        self.client = redis
        store, pauses, end = store_for(redis), checks.check_wait(wait), holder.check_label(label)
        contenders = [
            Contender(RUNTIME, lock.Mutex(store, store.keeper, name), ttl, wait=pauses, label=end)
            for name in self.names
        ]
        bound = checks.check_max_hold(max_hold, ttl)
        several = multi.Several(RUNTIME, contenders, renew=renew, max_hold=bound)
        super().__init__(several.name, ttl, several)

    if TYPE_CHECKING:  # what they give is made by ``_made``

        def acquire(self, timeout: float | None = None) -> MultiLease: ...
        def try_acquire(self) -> MultiLease | None: ...
        def hold(self, timeout: float | None = None) -> MultiHold: ...
        def __enter__(self) -> MultiLease: ...

    def __repr__(self) -> str:
        return f"<MultiLock {self.name} ttl={self.ttl}s>"


if TYPE_CHECKING:

    class MultiHold(Hold):
        """A ``Hold`` that gives a ``MultiLease``."""

        def __enter__(self) -> MultiLease: ...
