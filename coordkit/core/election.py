"""Stand, lead, resign: one leader at a time, each with a greater token.

Contenders make sequential znodes; the first in the line leads, each other watches the one before it only. Taking over
is one transaction, ``check(own znode)`` and ``set(epoch record)``: it proves to the quorum that the session lives,
announces the leader, and its zxid is the token. (The line is the classic ZooKeeper recipe; the transaction is ours, and
what the recipes of kazoo and Curator lack.)

Not promised: that an old leader has stopped when a new one starts; only the token tells them apart.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_random_exponential

from coordkit._ports import Event, GetChildren, GetData, Link, NodeExists, NoNode, Runtime
from coordkit.core import znodes
from coordkit.core.candidate import Candidate
from coordkit.core.leadership import Leadership, leave, leave_with_result
from coordkit.core.session import GRACE, Session
from coordkit.core.token import Token
from coordkit.errors import AcquireTimeout, LeadershipLost, NotAcquired, StoreRefused, StoreUnavailable

_log = logging.getLogger("coordkit")

T = TypeVar("T")

_PAUSES = wait_random_exponential(multiplier=0.1, max=5.0)
"""Before ``run`` stands again: at random up to 0.1, 0.2, 0.4 ... 5 seconds."""


class Stopped(Exception):
    """``stop()`` was called; ``run`` returns, so nobody sees it."""


class Gone(Exception):
    """Our place in the line is gone; stand again with a new GUID."""


class Attempt:
    """What one ``run`` knows of its standing."""

    def __init__(self, runtime: Runtime) -> None:
        self.stop = runtime.event()
        self.stood = False
        self.served()

    def served(self) -> None:
        """Begin with short pauses again."""
        self.failures = RetryCallState(_NOT_RUN, None, (), {})


class Standing:
    """One contender on its way to the head of the line."""

    def __init__(self, candidate: Candidate, deadline: float, timeout: float | None, stop: Event | None) -> None:
        self._candidate = candidate
        self._session = candidate.session
        self._runtime = candidate.session.runtime
        self._name = candidate.name
        self._deadline = deadline
        self._timeout = timeout
        self._stop = stop
        self._parent = f"{candidate.name}/candidates/"

    async def lead(self) -> Leadership:
        line = await self._enter()
        while True:
            ahead = self._rank(line)
            if ahead == 0:
                return await self._take_over()
            if self._timeout == 0:
                raise NotAcquired(self._name, f"another leads; contenders ahead: {ahead}")
            line = await self._wait(line, ahead)

    def _rank(self, line: list[str]) -> int:
        own = self._candidate.node.rpartition("/")[2]
        if own not in line:
            raise Gone("our znode was deleted")
        return line.index(own)

    async def _ask(self, *requests: Any) -> list[Any]:
        return await self._session.ask(self._name, requests, self._deadline)

    async def _same_session(self, owner: int) -> None:
        """Wait for a connection; raise ``Gone`` if it is of another session."""
        if await self._session.connected(self._name, self._deadline) != owner:
            raise Gone("the session ended")

    async def _enter(self) -> list[str]:
        """Enter the line; return it. Sends both requests at once, so that it takes one round trip."""
        candidate = self._candidate
        while True:
            session = await self._session.connected(self._name, self._deadline)
            created, names = await self._ask(*candidate.entry())
            if isinstance(created, NoNode):
                await self._found()
                continue
            if isinstance(created, StoreUnavailable):
                found = await self._find(session, created)
                if found is None:
                    continue
                names = found
            elif isinstance(created, Exception):
                raise created
            else:
                candidate.entered(created[0], created[1].owner)
            number = znodes.sequence_of(candidate.node.rpartition("/")[2])
            if number is None or not 0 <= number < znodes.LAST_SEQUENCE:
                raise StoreRefused(
                    self._name,
                    f"the numbers of {self._parent[:-1]} are used up; delete that znode when nobody stands, and they "
                    "begin anew (tokens still rise)",
                )
            return await self._list() if isinstance(names, Exception) else znodes.line(names)

    async def _find(self, session: int, lost: StoreUnavailable) -> list[str] | None:
        """Find our znode, whose creation got no answer; None if it was not made."""
        if self._runtime.now() >= self._deadline:
            raise lost
        await self._same_session(session)
        synced, names = await self._ask(*self._candidate.search())
        for answer in (synced, names):
            if isinstance(answer, StoreUnavailable):
                return await self._find(session, answer)
        if isinstance(names, Exception):
            return None
        own = [name for name in names if name.startswith(self._candidate.guid)]
        if not own:
            return None
        self._candidate.entered(self._parent + own[0], session)
        return list(names)

    async def _found(self) -> None:
        answers = await self._session.ensemble.ask(
            self._name, self._candidate.foundation(), within=max(GRACE, self._session.ensemble.session_timeout())
        )
        for answer in answers[-2:]:  # above them, we may lack the right to create what exists already
            if isinstance(answer, NoNode):
                raise StoreRefused(self._name, "its parent cannot be created: the client's chroot does not exist")
            if isinstance(answer, StoreUnavailable) and self._runtime.now() >= self._deadline:
                raise answer
            if isinstance(answer, Exception) and not isinstance(answer, NodeExists | StoreUnavailable):
                raise answer

    async def _list(self) -> list[str]:
        names = (await self._session.read(self._name, [self._candidate.listing()], self._deadline))[0]
        return [] if isinstance(names, NoNode) else znodes.line(names)

    async def _wait(self, line: list[str], ahead: int) -> list[str]:
        """Wait for the contender before us to leave; return the line as it is then."""
        candidate, wake = self._candidate, self._candidate.wake
        left = False

        def changed(gone: bool) -> None:
            nonlocal left
            left = left or gone
            wake.ring()

        before = GetData(self._parent + line[ahead - 1], changed)
        self._session.subscribe(wake.ring)
        try:
            wake.reset()
            self._check_stop()
            theirs, own = await self._ask(before, candidate.own())
            if isinstance(own, NoNode):
                raise Gone("our znode was deleted")
            left = left or isinstance(theirs, NoNode)
            if not (left or isinstance(theirs, Exception) or isinstance(own, Exception)):
                if own[1].owner != candidate.owner or not self._session.alive_as(candidate.owner):
                    await self._same_session(candidate.owner)
                else:
                    await wake.wait(self._deadline)
        finally:
            self._session.unsubscribe(wake.ring)
            self._session.ensemble.unwatch(before)
        self._check_stop()
        if candidate.gone:
            raise Gone("our znode was deleted")
        if left and ahead == 1:
            return line[1:]  # ranks only fall: the head has left, so we are the head, and taking over checks it
        await self._same_session(candidate.owner)
        if self._runtime.now() >= self._deadline:
            raise AcquireTimeout(
                self._name,
                f"another leads; contenders ahead: {ahead}; waited {self._timeout} s",
                timeout=self._timeout or 0.0,
            )
        return await self._list()

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    async def _take_over(self) -> Leadership:
        """Become the leader by one transaction; asked again, it is only written anew, with a greater token."""
        candidate = self._candidate
        while True:
            self._check_stop()
            asked = self._runtime.now()
            answer, own = await self._ask(candidate.take_over(), candidate.own())
            if isinstance(answer, NoNode):
                if answer.path == candidate.node:
                    raise Gone("our znode was deleted")
                await self._found()  # only the epoch record is gone
            elif isinstance(answer, StoreUnavailable):
                if self._runtime.now() >= max(self._deadline, asked + GRACE):
                    raise answer
                await self._same_session(candidate.owner)
            elif isinstance(answer, Exception):
                raise answer
            elif isinstance(own, NoNode) or candidate.gone:
                raise Gone("our znode was deleted")
            elif not self._session.alive_as(candidate.owner):
                await self._same_session(candidate.owner)
            elif self._runtime.now() - asked < self._session.proven / 2:
                leadership = Leadership(candidate, answer[1].modified, asked=asked)
                if not leadership.held:
                    raise Gone("our znode was deleted")
                return leadership


class Election:
    """The contenders for one path."""

    def __init__(self, runtime: Runtime, session: Callable[[], Session], path: str, identity: str) -> None:
        self.path = path
        self.identity = identity
        self._runtime = runtime
        self._session = session
        self._attempts: set[Attempt] = set()

    async def lead(self, timeout: float | None, attempt: Attempt | None = None) -> Leadership:
        """Stand until we lead: None for ever, 0 once."""
        session, runtime = self._session(), self._runtime
        deadline = math.inf if timeout is None else runtime.now() + timeout
        while True:
            await session.connected(self.path, max(deadline, runtime.now() + (GRACE if timeout == 0 else 0)))
            candidate = Candidate(session, self.path, self.identity)
            stop = None if attempt is None else attempt.stop
            if attempt is not None:
                attempt.stood = True
                attempt.stop.call_when_set(candidate.wake.ring)
            try:
                return await Standing(candidate, deadline, timeout, stop).lead()
            except Gone as reason:
                _log.info("%s: %s is in line again, at its end: %s", self.path, self.identity, reason)
                await session.remove(self.path, candidate.remove)
            except (StoreUnavailable, GeneratorExit):
                # No answer, or nobody left to wait for one: see to it in the background.
                candidate.forget()
                candidate.remove_later()
                raise
            except BaseException:
                await runtime.finish(session.remove(self.path, candidate.remove), within=GRACE)
                raise

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
                    _log.warning("%s: %s stands again after: %s", self.path, self.identity, error)
                await attempt.stop.wait(_PAUSES(attempt.failures))
                attempt.failures.attempt_number += 1
                if attempt.stop.is_set():
                    return None
        finally:
            self._attempts.discard(attempt)

    async def _term(self, serve: Callable[[Leadership], Awaitable[T]], attempt: Attempt) -> T:
        try:
            leadership = await self.lead(None, attempt)
        except StoreUnavailable as error:
            raise _Failed(error) from error
        attempt.served()
        try:
            result = await serve(leadership)
        except BaseException as error:
            await leave(leadership, error)
            if isinstance(error, LeadershipLost) and error.name == self.path:
                raise _Failed(error) from error
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

    async def leader(self) -> znodes.Leader | None:
        """Return who leads, by one round trip."""
        epoch, names = await self._session().read(
            self.path, [GetData(f"{self.path}/epoch"), GetChildren(f"{self.path}/candidates")]
        )
        if isinstance(epoch, NoNode) or isinstance(names, NoNode):
            return None
        record, modified = znodes.unpack_record(epoch[0]), epoch[1].modified
        if record is None or record.resigned or record.candidate not in names:
            return None
        return znodes.Leader(record.identity, Token(modified, record.holder))

    async def contenders(self) -> list[str]:
        """Return who stands, the leader first, by two round trips."""
        session, parent = self._session(), f"{self.path}/candidates"
        names = (await session.read(self.path, [GetChildren(parent)]))[0]
        if isinstance(names, NoNode):
            return []
        line = znodes.line(names)
        answers = await session.read(self.path, [GetData(f"{parent}/{name}") for name in line]) if line else []
        return [znodes.candidate_identity(answer[0]) for answer in answers if not isinstance(answer, NoNode)]


class _Failed(Exception):
    """A term ended by a loss or an outage, after which ``run`` may stand again; not by what ``serve`` raised itself."""

    def __init__(self, error: LeadershipLost | StoreUnavailable) -> None:
        super().__init__(error)
        self.error = error


_NOT_RUN = AsyncRetrying()  # wait strategies read the attempt's number from a state, and a state wants an owner
