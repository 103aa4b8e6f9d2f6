"""A candidate: a place in the line of an election, from which one takes over and resigns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._ports import Check, Create, Delete, Kind, Multi, NoNode, Request, SetData, Stat
from coordkit.core import znodes
from coordkit.core.grantor import Returned
from coordkit.core.leadership import Leadership
from coordkit.core.place import Place
from coordkit.core.session import GRACE, Session


class Candidate(Place[Leadership]):
    """One contender's place in the line of one election."""

    def __init__(self, session: Session, election: str, identity: str) -> None:
        super().__init__(session, election, f"{election}/candidates")
        self.identity = identity
        self._epoch = f"{election}/epoch"

    # -- what an election's line is

    def data(self) -> bytes:
        return znodes.candidate_data(self.identity)

    def foundation(self) -> list[Request]:
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.name)]
        return [*above, Create(self._epoch), Create(self.parent, kind=Kind.CONTAINER)]

    def who(self) -> str:
        return self.identity

    def taken(self, ahead: int) -> str:
        return f"another leads; contenders ahead: {ahead}"

    def take_over(self) -> Multi:
        """Return the transaction that makes us the leader: it fails unless our znode is there."""
        record = znodes.Record(self.node.rpartition("/")[2], self.identity, self.holder)
        return Multi((Check(self.node), SetData(self._epoch, znodes.pack_record(record))))

    def token(self, answers: list[Any], own: tuple[bytes, Stat], seen: Sequence[Any]) -> int:  # noqa: ARG002  the set's
        modified: int = answers[1].modified
        return modified

    def hold(self, token: int, asked: float) -> Leadership:
        return Leadership(self, token, asked=asked)

    # -- a question of a lease

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
