"""The election of a primary: it tells whom the winner has to fence, and only those in sync may win it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import Check, Create, GetData, Multi, NoNode, Request, SetData, Stat
from coordkit.core import in_sync, records, unfenced
from coordkit.core.candidate import Candidate, Terms
from coordkit.core.election import Attempt, Election
from coordkit.core.leadership import Leadership
from coordkit.core.records import Leader
from coordkit.core.session import Session
from coordkit.core.standing import Standing
from coordkit.core.token import Token


class NotAdmitted(Exception):
    """We are not in sync any more; stand again when we are."""


class Applicant(Candidate):
    """A candidate for primary."""

    def __init__(self, session: Session, election: str, terms: Terms, *, marked: bool = False) -> None:
        super().__init__(session, election, terms, marked=marked)
        self.in_sync = f"{election}/in_sync"
        self.members: in_sync.InSyncSet | None = None
        self.to_fence: list[Leader] = []  # who led before us, did not resign and was not fenced; the oldest first
        self._unfenced = unfenced.path_of(election)
        self._known = _Known(b"", 0), _Known(b"", 0)  # the set in which we stand, and who was to be fenced already

    def foundation(self) -> list[Request]:
        *above, epoch, line = super().foundation()
        return [*above, Create(self.in_sync), Create(self._unfenced), epoch, line]

    def questions(self) -> tuple[GetData, GetData, GetData]:
        """Return what is to be known before taking over."""
        return GetData(self.in_sync), GetData(self._epoch), GetData(self._unfenced)

    def learn(self, members: Any, epoch: Any, owed: Any) -> None:
        """Take in the answers; a znode that is not there will be made, empty, before the transaction succeeds."""
        self._known = _known(members), _known(owed)
        self.members = in_sync.unpack(self._known[0].data)
        if not in_sync.may(self.terms.identity, self.members):
            raise NotAdmitted
        last = None if isinstance(epoch, NoNode) else self._unclean(*epoch)
        self.to_fence = unfenced.with_last(unfenced.unpack(self._known[1].data), last)

    def _unclean(self, data: bytes, stat: Stat) -> Leader | None:
        record = records.unpack_record(data)
        if record is None or record.resigned or record.candidate == self.node.rpartition("/")[2]:
            return None  # ours: we have taken over already, and got no answer; it told whom we have to fence
        return Leader(record.identity, Token(stat.modified, record.holder))

    def take_over(self) -> Multi:
        *checks, record = super().take_over().steps
        members, owed = self._known
        duty: Check | SetData = Check(self._unfenced, owed.version)
        if unfenced.unpack(owed.data) != self.to_fence:
            duty = SetData(self._unfenced, unfenced.pack(self.to_fence), owed.version)
        return Multi((*checks, Check(self.in_sync, members.version), duty, record))


class _Known(NamedTuple):
    """What a znode said, and in which version."""

    data: bytes
    version: int


def _known(answer: Any) -> _Known:
    return _Known(b"", 0) if isinstance(answer, NoNode) else _Known(answer[0], answer[1].version)


class Applying(Standing[Leadership]):
    """An applicant on its way to the head of the line."""

    async def _take_over(self) -> Leadership | None:
        applicant = cast("Applicant", self._candidate)
        applicant.learn(*await self._session.read(self._name, applicant.questions(), self._deadline, self._stop))
        return await super()._take_over()


class RoleElection(Election):
    """The contenders for being the primary."""

    candidate = Applicant
    standing = Applying

    def __init__(self, runtime: Runtime, session: Callable[[], Session], path: str, terms: Terms) -> None:
        super().__init__(runtime, session, path, terms)
        self.in_sync = in_sync.InSync(session, path)

    async def lead(self, timeout: float | None, attempt: Attempt | None = None) -> Leadership:
        while True:
            if attempt is None:
                await self.in_sync.admitted(self.terms.identity)
            else:
                await self.in_sync.admitted(self.terms.identity, attempt.stop, attempt.stands)
            try:
                return await super().lead(timeout, attempt)
            except NotAdmitted:
                continue
