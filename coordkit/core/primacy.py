"""The election of a primary: it tells who led before without saying good-bye, and only those in sync may win it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import Check, Create, GetData, Multi, NoNode, Request, Stat
from coordkit.core import in_sync, records
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
        self.before_us: Leader | None = None  # who led before us and did not resign
        self.members: in_sync.InSyncSet | None = None
        self._version = 0  # of the set in which we stand

    def foundation(self) -> list[Request]:
        *above, epoch, line = super().foundation()
        return [*above, Create(self.in_sync), epoch, line]

    def questions(self) -> tuple[GetData, GetData]:
        """Return what is to be known before taking over."""
        return GetData(self.in_sync), GetData(self._epoch)

    def learn(self, members: Any, epoch: Any) -> None:
        """Take in the answers; a znode that is not there will be made, empty, before the transaction succeeds."""
        data, self._version = (b"", 0) if isinstance(members, NoNode) else (members[0], members[1].version)
        self.members = in_sync.unpack(data)
        if not in_sync.may(self.terms.identity, self.members):
            raise NotAdmitted
        self.before_us = None if isinstance(epoch, NoNode) else self._unclean(*epoch)

    def _unclean(self, data: bytes, stat: Stat) -> Leader | None:
        record = records.unpack_record(data)
        if record is None or record.resigned:
            return None
        if record.candidate == self.node.rpartition("/")[2]:
            return self.before_us  # we have taken over already, and got no answer
        return Leader(record.identity, Token(stat.modified, record.holder))

    def take_over(self) -> Multi:
        *checks, record = super().take_over().steps
        return Multi((*checks, Check(self.in_sync, self._version), record))


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
            await self.in_sync.admitted(self.terms.identity, None if attempt is None else attempt.stop)
            try:
                return await super().lead(timeout, attempt)
            except NotAdmitted:
                continue
