"""One partition in one member's hands: an ephemeral znode, and a time for which it is proven.

The znode is made by its owner while that is a member, and deleted only when the work on the partition has ended; the
next owner waits for that. Its czxid is the token: of two owners of one partition the later has the greater. An owner
that hangs is not waited for longer than its session lasts; what it does later is refused by the token.

The proof is that of a leadership: two thirds of the session timeout from before the last answered write was sent, under
a bounded rate of clocks. It is nothing to rely on where tokens are compared, and the second line of defence elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from coordkit._ports_zookeeper import Check, Create, Delete, GetData, Kind, Multi, NoNode, Request, Sync
from coordkit.core import records, znodes
from coordkit.core.session import Session
from coordkit.core.token import Token
from coordkit.errors import LeaseLost, StoreUnavailable

_log = logging.getLogger("coordkit")


class Claim:
    """A partition that is, or may be, in our hands; ``ring`` is called, from anywhere, when there is news of it."""

    def __init__(self, session: Session, group: str, partition: str, identity: str, ring: Callable[[], None]) -> None:
        runtime = session.runtime
        self.name = f"{group} {partition}"
        self.partition = partition
        self.node = znodes.claim_node(group, partition)
        self.holder = runtime.new_holder()
        self.epoch = 0
        self.token: Token | None = None  # None until it is known to be ours
        self.owner = 0  # the session
        self.expires = 0.0
        self.ending = runtime.event()  # the work on it is to end
        self.lost = runtime.event()  # it may be another's by now
        self.ended = False  # the work on it has ended
        self.error: BaseException | None = None
        self.touched = False  # its znode changed, or is watched no more
        self._group = group
        self._asked = 0  # the session that was asked to make the znode
        self._data = b""
        self._session = session
        self._runtime = runtime
        self._process = runtime.process
        self._identity = identity
        self._ring = ring
        self._why = ""

    # -- for who works on it

    def remaining(self) -> float:
        """Return the seconds for which it is proven to be ours; 0.0 once it is lost."""
        return 0.0 if self.lost.is_set() else max(0.0, self.expires - self._runtime.now())

    def ensure(self) -> Literal[True]:
        """Return True if it is ours; raise ``LeaseLost`` if it may not be."""
        if self._runtime.process != self._process:
            raise self._loss(f"it belongs to process {self._process}; a forked child owns nothing")
        if not self.lost.is_set() and self._runtime.now() >= self.expires:
            self.lose("no answered write proved it in time")
        if self.lost.is_set() or self.ended:
            raise self._loss(self._why or "the work on it has ended")
        return True

    def the_token(self) -> Token:
        """Return the token of a claim that is ours."""
        if self.token is None:
            raise self._loss("it was never ours")
        return self.token

    def _loss(self, why: str) -> LeaseLost:
        return LeaseLost(self.name, why, token=self.token or 0)

    def lose(self, why: str) -> None:
        """Say that it may be another's, and have the work on it end."""
        if self.lost.is_set():
            return
        self._why = why
        _log.warning("%s: lost: %s", self.name, why)
        self.lost.set()
        self.ending.set()
        self._ring()

    def end(self, error: BaseException | None = None) -> None:
        """Say that the work on it has ended."""
        self.error = error
        self.ended = True
        self._ring()

    # -- the znode

    def request(self, membership: Check, epoch: int) -> Multi:
        """Return what makes the znode, if we are a member and there is none."""
        self.epoch = epoch
        self._session.guests.add(self)
        self._asked = self._session.ensemble.session() or 0
        self._data = records.claim_data(self._identity, self.holder, epoch)
        return Multi((membership, Create(self.node, self._data, Kind.EPHEMERAL)))

    def look(self) -> GetData:
        """Return what reads the znode, whoever made it, and watches it."""
        return GetData(self.node, self._touched)

    def _touched(self, gone: bool) -> None:  # noqa: ARG002  whoever waits looks
        self.touched = True
        self._ring()

    def seen(self, answer: Any) -> None:
        """Take in what a ``look`` at our znode gave."""
        if isinstance(answer, StoreUnavailable):
            self.touched = True
        elif not self.is_ours(answer):
            self.lose("its znode was deleted by hand, or with the session")

    def is_ours(self, seen: Any) -> bool:
        """Return whether the znode that was seen is this claim's."""
        return not isinstance(seen, Exception) and records.claim_holder(seen[0]) == self.holder

    def hold(self, created: int, owner: int, expires: float) -> None:
        """Be ours, by that zxid and session."""
        self.token, self.owner, self.expires = Token(created, self.holder), owner, expires

    async def remove(self, session: Session) -> None:
        """Delete the znode if it is ours; raises ``StoreUnavailable`` if that is not sure."""
        requests: list[Request] = [Sync(self.node), GetData(self.node)]
        synced, seen = await session.ask_soon(self.name, requests)
        for answer in (synced, seen):
            if isinstance(answer, StoreUnavailable):
                raise answer
        if self.is_ours(seen):
            answer = (await session.ask_soon(self.name, [Delete(self.node, seen[1].version)]))[0]
            if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                raise answer
        elif self.token is None and self._asked:
            # No answer to its creation, and it is not there: it may come yet, and we would wait for ourselves.
            parent, _, called = self.node.rpartition("/")
            session.doubts.add(self._group, parent, called, self._asked, whole=True, data=self._data)
        self.forget()

    def forget(self) -> None:
        """Leave nothing behind here."""
        self._session.ensemble.unwatch(self.look())
        self._session.guests.discard(self)
