"""A barrier on ZooKeeper: a znode that many wait for to go.

Whoever waits looks at the znode again after whatever woke it (that it is gone, that the connection came back), and
waits on while it is there: a watch is gone with its connection, so none is relied on alone. (kazoo's sleeps for ever.)

Whoever puts it up or takes it down also writes the znode above it, as it is, by its version. So each request does
something once at most: one that got no answer and is carried out late (see ``doubts``) neither puts up again what was
taken down since nor takes down what was put up. That is so as long as the znode above is there: its versions begin anew
when the servers have removed it, a minute or so after the barrier went.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from coordkit._ports_zookeeper import BadVersion, Create, Delete, GetData, Multi, NodeExists, NoNode, SetData, Sync
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
        for _ in range(_TRIES):
            made = await self._step(Create(self._node))
            if not isinstance(made, Exception) or isinstance(made, NodeExists):
                return
            if not isinstance(made, NoNode):
                raise made
            await self._session().read(self.name, containers(self.name))
        raise StoreRefused(self.name, "its parent cannot be created: the client's chroot does not exist")

    async def remove(self) -> None:
        """Take it down; nothing happens if it is down."""
        gone = await self._step(Delete(self._node))
        if isinstance(gone, Exception) and not isinstance(gone, NoNode):
            raise gone

    async def _step(self, step: Create | Delete) -> Any:
        """Do something with the znode, if nobody has since we looked; return what it was answered with.

        Where it is as it should be, the znode above is written alone: what was to undo it, and got no answer, comes to
        nothing.
        """
        session = self._session()
        while True:
            _, above = await session.read(self.name, [Sync(self.name), GetData(self.name)])
            if isinstance(above, Exception):
                return above
            written = SetData(self.name, above[0], above[1].version)
            found = answer = (await session.read(self.name, [Multi((written, step))]))[0]
            if isinstance(answer, NodeExists) or (isinstance(answer, NoNode) and answer.path == self._node):
                answer = (await session.read(self.name, [Multi((written,))]))[0]  # and so it still is as we found it
            if not isinstance(answer, BadVersion):
                return answer if isinstance(answer, Exception) else found

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
