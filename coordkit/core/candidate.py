"""A place in the line: one znode whose name carries a GUID, so that it is found again when an answer was lost.

A GUID belongs to one session: what an earlier session made is never adopted, because that session may be about to end.
"""

from __future__ import annotations

from collections.abc import Callable

from coordkit._ports import Check, Create, Delete, GetChildren, GetData, Kind, Multi, NoNode, Request, SetData, Sync
from coordkit.core import znodes
from coordkit.core.grantor import Returned
from coordkit.core.session import GRACE, Session, Wake


class Candidate:
    """One contender's place in the line of one election."""

    def __init__(self, session: Session, election: str, identity: str) -> None:
        self.name = election
        self.identity = identity
        self.session = session
        self.keeper = session
        self.holder = session.runtime.new_holder()
        self.guid = self.holder.rpartition(":")[2]
        self.owner = 0  # the session that made the znode
        self.node = ""  # its path, once it is known
        self.wake = Wake(session.runtime)
        self.when_gone: Callable[[], None] = self.wake.ring
        self.until: Callable[[], float] = session.runtime.now  # how long a proof is worth waiting for
        self.gone = False
        self._parent = f"{election}/candidates"
        self._epoch = f"{election}/epoch"

    # -- requests

    def entry(self) -> tuple[Create, GetChildren]:
        """Return the two requests that enter the line and show it, to be sent at once."""
        data = znodes.candidate_data(self.identity)
        return Create(f"{self._parent}/{self.guid}-", data, Kind.SEQUENTIAL), self.listing()

    def listing(self) -> GetChildren:
        return GetChildren(self._parent)

    def search(self) -> tuple[Sync, GetChildren]:
        """Return the two requests that find a znode whose creation got no answer: perhaps it went to another server."""
        return Sync(self.name), self.listing()

    def own(self) -> GetData:
        """Return the request that looks at our own znode and watches it."""
        return GetData(self.node, self.changed)

    def take_over(self) -> Multi:
        """Return the transaction that makes us the leader: it fails unless our znode is there."""
        record = znodes.Record(self.node.rpartition("/")[2], self.identity, self.holder)
        return Multi((Check(self.node), SetData(self._epoch, znodes.pack_record(record))))

    def foundation(self) -> list[Request]:
        """Return the requests that make what an election stands on, to be sent at once; what is there stays."""
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.name)]
        return [*above, Create(self._epoch), Create(self._parent, kind=Kind.CONTAINER)]

    # -- what happens to it

    def entered(self, node: str, owner: int) -> None:
        self.node = node
        self.owner = owner

    def changed(self, gone: bool) -> None:
        """Be told by the watch on our own znode."""
        if gone:
            self.gone = True
            self.when_gone()
        else:
            self.wake.ring()

    def forget(self) -> None:
        """Leave no watch behind."""
        if self.node:
            self.session.ensemble.unwatch(self.own())

    # -- the questions of a lease

    async def renew(self, holder: str, ttl: float) -> bool:  # noqa: ARG002  one candidate, one holder
        """Prove to the quorum that the znode is there, and with it the session; for as long as the lease lasts."""
        self.session.ensemble.may_wait(self.name)
        within = max(0.0, self.until() - self.session.runtime.now())
        answer = (await self.session.ensemble.ask(self.name, [Multi((Check(self.node),))], within=within))[0]
        if isinstance(answer, NoNode):
            return False
        if isinstance(answer, Exception):
            raise answer
        return True

    async def revoke(self, holder: str) -> Returned:  # noqa: ARG002  one candidate, one holder
        """Resign: leave the line and write that we did, in one transaction."""
        self.forget()
        record = znodes.Record(self.node.rpartition("/")[2], self.identity, self.holder, resigned=True)
        resign = Multi((Delete(self.node), SetData(self._epoch, znodes.pack_record(record))))
        answer = (await self.session.ask(self.name, [resign], self.session.runtime.now() + GRACE))[0]
        if isinstance(answer, NoNode):
            if answer.path == self.node:
                return Returned.GONE
            await self.remove(self.session)  # only the epoch record is gone
            return Returned.GIVEN_BACK
        if isinstance(answer, Exception):
            raise answer
        return Returned.GIVEN_BACK

    # -- leaving nothing behind

    async def remove(self, session: Session) -> None:
        """Delete the znode, wherever it is; raises ``StoreUnavailable`` if that is not sure."""
        self.forget()
        ask, soon = session.ask, session.runtime.now() + GRACE
        nodes = [self.node]
        if not self.node:  # the answer to its creation was lost
            synced, children = await ask(self.name, self.search(), soon)
            if isinstance(children, NoNode):
                return
            for answer in (synced, children):
                if isinstance(answer, Exception):
                    raise answer
            nodes = [f"{self._parent}/{child}" for child in children if child.startswith(self.guid)]
        if not nodes:
            return
        for answer in await ask(self.name, [Delete(node) for node in nodes], soon):
            if isinstance(answer, Exception) and not isinstance(answer, NoNode):
                raise answer

    def remove_later(self) -> None:
        self.session.remove_later(self.name, self.remove)
