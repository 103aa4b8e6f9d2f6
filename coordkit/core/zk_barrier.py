"""A barrier on ZooKeeper: a znode that many wait for to go.

Whoever waits looks at the znode again after whatever woke it (that it is gone, that the connection came back), and
waits on while it is there: a watch is gone with its connection, so none is relied on alone. (kazoo's sleeps for ever.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from coordkit._ports_zookeeper import Create, Delete, GetData, NodeExists, NoNode
from coordkit.core.place import containers
from coordkit.core.session import GRACE, Session, Wake
from coordkit.errors import AcquireTimeout, NotAcquired, StoreRefused

_TRIES = 3  # its container may be removed by the servers just when we have seen that it is there


class Barrier:
    """The barrier of one path."""

    def __init__(self, session: Callable[[], Session], path: str) -> None:
        self.name = path
        self._session = session
        self._node = f"{path}/barrier"

    async def create(self) -> None:
        """Put it up; nothing happens if it is up."""
        requests = [*containers(self.name), Create(self._node)]
        for _ in range(_TRIES):
            made = (await self._session().read(self.name, requests))[-1]
            if not isinstance(made, Exception) or isinstance(made, NodeExists):
                return
            if not isinstance(made, NoNode):
                raise made
        raise StoreRefused(self.name, "its parent cannot be created: the client's chroot does not exist")

    async def remove(self) -> None:
        """Take it down; nothing happens if it is down."""
        gone = (await self._session().read(self.name, [Delete(self._node)]))[0]
        if isinstance(gone, Exception) and not isinstance(gone, NoNode):
            raise gone

    async def wait(self, timeout: float | None) -> None:
        """Wait until it is down: None for ever, 0 look once."""
        session = self._session()
        runtime = session.runtime
        wake = Wake(runtime)
        looking = GetData(self._node, wake.ring)
        deadline = math.inf if timeout is None else runtime.now() + timeout
        session.subscribe(wake.ring)
        try:
            while True:
                wake.reset()
                seen = (await session.read(self.name, [looking], max(deadline, runtime.now() + GRACE)))[0]
                if isinstance(seen, NoNode):
                    return
                if isinstance(seen, Exception):
                    raise seen
                if timeout == 0:
                    raise NotAcquired(self.name, "the barrier is up")
                if runtime.now() >= deadline:
                    raise AcquireTimeout(
                        self.name, f"the barrier is still up; waited {timeout} s", timeout=timeout or 0.0
                    )
                await wake.wait(deadline)
        finally:
            session.unsubscribe(wake.ring)
            session.ensemble.unwatch(looking)
