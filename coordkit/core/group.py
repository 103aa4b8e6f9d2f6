"""Who is there: ephemeral znodes with data, and a stream of their changes. Other znodes below the path do not count.

A member is made anew in every new session, with the same data; where the servers still have the znode of the old one,
it is replaced in one transaction, so that nobody sees it leave. A mere reconnect changes nothing. Whoever joins last
under an identity has it: a restarted process does not wait for its former session to end, and the former one, if it
still lives, is told ``lost``.

Not promised: that a member shown is alive. Its session may take one session timeout to end after a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import GetChildren, GetData, NodeError, NoNode
from coordkit.core import znodes
from coordkit.core.changes import Changes
from coordkit.core.membership import Membership
from coordkit.core.portions import read_all
from coordkit.core.session import GRACE, Session
from coordkit.errors import CoordError, StoreUnavailable

_log = logging.getLogger("coordkit")


class Group:
    """The members of one path."""

    def __init__(self, runtime: Runtime, session: Callable[[], Session], path: str) -> None:
        self.path = path
        self._runtime = runtime
        self.session = session

    async def join(self, identity: str, data: bytes) -> Membership:
        """Join, replacing whoever has the identity now."""
        session = self.session()
        membership = Membership(session, self.path, identity, data)
        try:
            await membership.join()
        except (StoreUnavailable, GeneratorExit):
            membership.abandon()
            raise
        except BaseException:
            membership.abandon()
            await self._runtime.finish(membership.gone(), within=GRACE)
            raise
        return membership

    async def members(self) -> dict[str, bytes]:
        """Return the data of each member by identity, by two round trips, and more for more than 500 members."""
        session = self.session()
        listed = (await session.read(self.path, [GetChildren(self.path)]))[0]
        names = [] if isinstance(listed, NoNode) else [name for name in listed if znodes.may_be_member(name)]
        if not names:
            return {}
        answers = await read_all(session, self.path, [GetData(f"{self.path}/{name}") for name in names])
        return {
            znodes.identity_of(name): answer[0]
            for name, answer in zip(names, answers, strict=True)
            if not isinstance(answer, NodeError) and answer[1].owner
        }

    def watch(self) -> Changes:
        """Return a stream of changes, the first of which is the present state."""
        return Changes(self.session(), self.path)


async def leave(membership: Membership, error: BaseException | None) -> None:
    """Leave at the end of a block that ended with ``error``; the block's own error always wins."""
    if isinstance(error, GeneratorExit) and membership.alone:
        membership.abandon()  # nothing can be waited for
        return
    try:
        stayed = await membership.leave()
    except CoordError as problem:
        if error is None:
            raise
        _log.warning("%s: not left at the end of its block: %s", membership.name, problem)
        return
    if not stayed:
        if error is None:
            raise membership.loss()
        _log.warning("%s: lost before the end of its block, which failed by itself: %r", membership.name, error)
