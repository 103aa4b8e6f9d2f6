"""Stand, lead, resign: one leader at a time, each with a greater token.

Contenders make sequential znodes; the first in the line leads, each other watches the one before it only. Taking over
is one transaction, ``check(own znode)``, ``check(mark of the line)`` and ``set(epoch record)``: it proves to the quorum
that the session lives, announces the leader, and its zxid is the token. (The line is the classic ZooKeeper recipe; the
transaction is ours, and what the recipes of kazoo and Curator lack.)

Not promised: that an old leader has stopped when a new one starts; only the token tells them apart.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity.wait import wait_random_exponential

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import Delete, GetChildren, GetData, Link, NoNode, OverQuota, SetData
from coordkit.core import records
from coordkit.core.answer import attempts
from coordkit.core.candidate import Candidate, Terms
from coordkit.core.leadership import Leadership, leave, leave_with_result
from coordkit.core.session import Session, Stop, Stopped
from coordkit.core.standing import Standing, stand
from coordkit.core.succession import succession
from coordkit.core.token import Token
from coordkit.core.views import Views
from coordkit.errors import LeadershipLost, StoreUnavailable

_log = logging.getLogger("coordkit")

T = TypeVar("T")

_PAUSES = wait_random_exponential(multiplier=0.1, max=5.0)
"""Before ``run`` stands again: at random up to 0.1, 0.2, 0.4 ... 5 seconds."""


class Attempt:
    """What one ``run`` knows of its standing."""

    def __init__(self, runtime: Runtime) -> None:
        self.stop = Stop(runtime)
        self.stood = False
        self.served()

    def stands(self) -> None:
        """Say that there was a connection: from now on an outage is ridden out."""
        self.stood = True

    def served(self) -> None:
        """Begin with short pauses again."""
        self.failures = attempts()


class Election:
    """The contenders for one path."""

    candidate: type[Candidate] = Candidate
    standing: type[Standing[Leadership]] = Standing

    def __init__(self, runtime: Runtime, session: Callable[[], Session], path: str, terms: Terms) -> None:
        self.path = path
        self.terms = terms
        self._marked = False  # whether the order of the line was other than that of arrival when we last looked
        self._runtime = runtime
        self._session = session
        self._attempts: set[Attempt] = set()

    async def lead(self, timeout: float | None, attempt: Attempt | None = None) -> Leadership:
        """Stand until we lead: None for ever, 0 once."""
        session = self._session()
        leadership = await stand(
            session,
            self.path,
            lambda: self.candidate(session, self.path, self.terms, marked=self._marked),
            timeout,
            stop=None if attempt is None else attempt.stop,
            stood=_nothing if attempt is None else attempt.stands,
            standing=self.standing,
        )
        self._marked = leadership.candidate.reordered
        return leadership

    async def run(self, serve: Callable[[Leadership], Awaitable[T]], *, again: bool) -> T | None:
        """Lead, serve, resign; return what ``serve`` returned, or None after ``stop()``."""
        attempt = Attempt(self._runtime)
        self._attempts.add(attempt)
        try:
            while True:
                try:
                    return await self._term(serve, attempt)
                except Stopped:
                    return None
                except _Failed as failure:
                    error = failure.error
                    closed = self._session().ensemble.link() is Link.CLOSED
                    if closed or not again or not attempt.stood or attempt.stop.is_set():
                        raise error from error.__cause__
                    _log.warning("%s: %s stands again after: %s", self.path, self.terms.identity, error)
                await attempt.stop.wait(_PAUSES(attempt.failures))
                attempt.failures.attempt_number += 1
                if attempt.stop.is_set():
                    return None
        finally:
            self._attempts.discard(attempt)

    async def _term(self, serve: Callable[[Leadership], Awaitable[T]], attempt: Attempt) -> T:
        try:
            leadership = await self.lead(None, attempt)
        except (StoreUnavailable, OverQuota) as error:  # any other refusal lasts until somebody mends the set-up
            if attempt.stop.is_set():
                raise Stopped from error
            raise _Failed(error) from error
        attempt.served()
        try:
            result = await serve(leadership)
        except (LeadershipLost, StoreUnavailable) as error:
            await leave(leadership, error)
            lost = isinstance(error, LeadershipLost) or leadership.lost.is_set()  # or a write of the term shows it
            if lost and error.name == self.path:
                raise _Failed(error) from error
            raise
        except BaseException as error:
            await leave(leadership, error)
            raise
        try:
            await leave_with_result(leadership)
        except LeadershipLost as error:
            raise _Failed(error) from error
        return result

    def stop(self) -> None:
        """Have every ``run`` in progress leave the line, or not stand again; what it serves now is not interrupted."""
        for attempt in list(self._attempts):
            attempt.stop.set()

    async def leader(self) -> records.Leader | None:
        """Return who leads, by one round trip."""
        found = await self._leader()
        return None if found is None else found[0]

    async def _leader(self) -> tuple[records.Leader, str] | None:
        """Return who leads, and its znode."""
        parent = f"{self.path}/candidates"
        epoch, names = await self._session().read(self.path, [GetData(f"{self.path}/epoch"), GetChildren(parent)])
        if isinstance(epoch, NoNode) or isinstance(names, NoNode):
            return None
        record, modified = records.unpack_record(epoch[0]), epoch[1].modified
        if record is None or record.resigned or record.candidate not in names:
            return None
        return records.Leader(record.identity, Token(modified, record.holder)), f"{parent}/{record.candidate}"

    async def evict(self, reason: str, *, force: bool) -> records.Leader | None:
        """Have who leads step down, or delete its znode; return who that is."""
        found = await self._leader()
        if found is None:
            return None
        leader, node = found
        why = f"by {self.terms.identity!r}: {reason}" if reason else f"by {self.terms.identity!r}"
        step = Delete(node) if force else SetData(node, records.candidate_data(leader.identity, why))
        answer = (await self._session().read(self.path, [step]))[0]
        if isinstance(answer, Exception) and not isinstance(answer, NoNode):
            raise answer
        return leader  # or it has left by itself in that moment

    def observe(self) -> Views:
        return Views(self._session(), self.path)

    async def contenders(self) -> list[str]:
        """Return who stands, the leader first, by two round trips."""
        return [each.identity for each in await succession(self._session(), self.path)]


def _nothing() -> None: ...


class _Failed(Exception):
    """What may be otherwise the next time ended a term, or a standing; it is not what ``serve`` raised itself."""

    def __init__(self, error: LeadershipLost | StoreUnavailable | OverQuota) -> None:
        super().__init__(error)
        self.error = error
