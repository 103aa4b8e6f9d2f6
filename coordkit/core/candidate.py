"""A candidate: a place in the line of an election, from which one takes over and resigns.

Who waits knows the order of the line as of a *mark*, the version of the znode that holds it. Arriving at the end and
leaving do not change the order of the others; whatever does (an arrival with a priority, a successor that was named)
raises the mark, and taking over checks it. So whoever sees the one before it leave may take over without another look,
and of two that would, by what they know, one is refused and looks again. The proof in short: two takings-over under one
mark knew one order, and the later in it waited for the znode of the earlier to go.

What raises the mark also says there whether the order was ever changed. As long as it was not, it is that of the
numbers, and who comes need read nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from coordkit._ports_zookeeper import (
    Check,
    Create,
    Delete,
    GetChildren,
    GetData,
    Kind,
    Multi,
    NoNode,
    Request,
    SetData,
    Stat,
)
from coordkit.core import records, znodes
from coordkit.core.grantor import Returned
from coordkit.core.leadership import Leadership
from coordkit.core.place import Place
from coordkit.core.session import Session


class Terms(NamedTuple):
    """What a contender stands for: under which name, how soon, and whether a suspended connection ends its term."""

    identity: str
    priority: int = 0
    strict: bool = True


class Candidate(Place[Leadership]):
    """One contender's place in the line of one election."""

    watched_at_once = False

    def __init__(self, session: Session, election: str, terms: Terms, *, marked: bool = False) -> None:
        super().__init__(session, election, f"{election}/candidates")
        self.terms = terms
        self.marked = marked or terms.priority > 0  # the order is not that of the numbers: the epoch record tells more
        self.mark = 0
        self.reordered = False  # as of the mark
        self.successor: tuple[str, bytes] | None = None  # the znode of who is to lead after us, and what it says
        self._comes_before_others = terms.priority > 0  # ... who have not been told yet
        self._led = False
        self._asked = False  # to take over, without an answer
        self._epoch = f"{election}/epoch"

    # -- what an election's line is

    def entry(self) -> Sequence[Request]:
        prefix = f"{self.parent}/{znodes.candidate_prefix(self.guid, self.terms.priority)}"
        return Create(prefix, self.data(), Kind.SEQUENTIAL), *self.looks()

    def data(self) -> bytes:
        return records.candidate_data(self.terms.identity)

    def foundation(self) -> list[Request]:
        above: list[Request] = [Create(path) for path in znodes.ancestors(self.name)]
        return [*above, Create(self._epoch), Create(self.parent, kind=Kind.CONTAINER)]

    def looks(self) -> Sequence[Request]:
        requests: list[Request] = [GetChildren(self.parent, with_stat=True)]
        if self._comes_before_others:
            requests.append(SetData(self.parent, records.REORDERED))  # raises the mark
        if self.marked:
            requests.append(GetData(self._epoch))  # after the names: who came to lead meanwhile is seen
        return requests

    def line(self, names: Any, seen: Sequence[Any]) -> list[str] | None:
        if not isinstance(names, tuple) or any(isinstance(each, Exception) and not _missing(each) for each in seen):
            return None
        (listed, stat), answers = names, list(seen)
        mark, reordered = stat.version, stat.size > 0
        if self._comes_before_others:
            raised = answers.pop(0)
            if not isinstance(raised, Stat):
                return None
            self._comes_before_others = False
            if raised.version != mark + 1:
                return None  # another came before others in between
            mark, reordered = raised.version, True
        if reordered and not self.marked:
            self.marked = True
            return None
        self.mark, self.reordered = mark, reordered
        epoch = answers.pop(0) if self.marked else None
        return znodes.line(listed, records.unpack_record(epoch[0]) if isinstance(epoch, tuple) else None)

    def who(self) -> str:
        return self.terms.identity

    def taken(self, ahead: int) -> str:
        return f"another leads; contenders ahead: {ahead}"

    def take_over(self) -> Multi:
        """Return the transaction that makes us the leader: it fails unless our znode is there and the order stands.

        Asked again, it raises the mark: what got no answer then fails, should a server carry it out late, and does not
        give the record a token that is greater than ours.
        """
        record = records.pack_record(self._record())
        known = records.REORDERED if self.reordered else b""
        order = SetData(self.parent, known, self.mark) if self._asked else Check(self.parent, self.mark)
        return Multi((Check(self.node), order, SetData(self._epoch, record)))

    def unanswered(self) -> None:
        self._asked = True

    def token(self, answers: list[Any], own: Any, seen: Sequence[Any]) -> int:  # noqa: ARG002  it is the set's
        modified: int = answers[-1].modified
        return modified

    def hold(self, token: int, asked: float) -> Leadership:
        self._led = True
        return Leadership(self, token, asked=asked, strict=self.terms.strict)

    def _record(self) -> records.Record:
        return records.Record(self.node.rpartition("/")[2], self.terms.identity, self.holder)

    # -- leaving

    def _resign(self) -> Multi:
        """Return the transaction that leaves the line and writes that we did; it wakes the successor, if one is named.

        It also tells everybody else, by the mark, that the order is another.
        """
        record = self._record()._replace(resigned=True)
        if self.successor is None:
            return Multi((Delete(self.node), SetData(self._epoch, records.pack_record(record))))
        node, data = self.successor
        record = record._replace(successor=node.rpartition("/")[2])
        steps = Delete(self.node), SetData(self._epoch, records.pack_record(record))
        return Multi((*steps, SetData(node, data), SetData(self.parent, records.REORDERED)))

    async def revoke(self, holder: str) -> Returned:  # noqa: ARG002  one candidate, one holder
        """Resign: leave the line and write that we did, in one transaction."""
        self.forget()
        while True:
            answer = (await self.session.ask_soon(self.name, [self._resign()]))[0]
            if isinstance(answer, NoNode):
                if answer.path == self.node:
                    return Returned.GONE
                if self.successor is not None and answer.path == self.successor[0]:
                    self.successor = None  # it has left meanwhile: the next in line leads
                    continue
                await super().remove(self.session)  # only the epoch record is gone
                return Returned.GIVEN_BACK
            if isinstance(answer, Exception):
                raise answer
            return Returned.GIVEN_BACK

    async def remove(self, session: Session) -> None:
        """Delete the znode, wherever it is; raises ``StoreUnavailable`` if that is not sure.

        Whoever led writes that its work is over, lost or not: nobody else has led while its znode was there.
        """
        if self._led:
            self.forget()
            answer = (await session.ask_soon(self.name, [self._resign()]))[0]
            if not isinstance(answer, Exception) or (isinstance(answer, NoNode) and answer.path == self.node):
                return
            if not isinstance(answer, NoNode):
                raise answer
        await super().remove(session)


def _missing(answer: Exception) -> bool:
    return isinstance(answer, NoNode)
