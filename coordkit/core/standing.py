"""One contender on its way to the head of the line.

Entering the line and seeing it is one round trip; each contender then watches the one before it only, so that a
hand-over wakes one; taking over is one transaction, which proves the session and may be asked again. A lost answer is
resolved by the candidate's GUID within one session, and by a new GUID in the next.
"""

from __future__ import annotations

from typing import Any

from coordkit._ports import GetData, NodeExists, NoNode
from coordkit.core import znodes
from coordkit.core.candidate import Candidate
from coordkit.core.leadership import Leadership
from coordkit.core.lease import DRIFT
from coordkit.core.session import GRACE, Stop, Stopped
from coordkit.errors import AcquireTimeout, NotAcquired, StoreRefused, StoreUnavailable

_PAUSE = 0.05  # seconds before what got no answer is asked again


class Gone(Exception):
    """Our place in the line is gone; stand again with a new GUID."""


class Standing:
    """One contender on its way to the head of the line."""

    def __init__(self, candidate: Candidate, deadline: float, timeout: float | None, stop: Stop | None) -> None:
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
        return await self._session.ask(self._name, requests, self._deadline, self._stop)

    async def _same_session(self, owner: int) -> None:
        """Wait for a connection; raise ``Gone`` if it is of another session."""
        if await self._session.connected(self._name, self._deadline, self._stop) != owner:
            raise Gone("the session ended")

    async def _enter(self) -> list[str]:
        """Enter the line; return it. Sends both requests at once, so that it takes one round trip."""
        candidate = self._candidate
        while True:
            session = await self._session.connected(self._name, self._deadline, self._stop)
            created, names = await self._ask(*candidate.entry())
            if isinstance(created, NoNode):
                if not await self._found():
                    await self._runtime.sleep(_PAUSE)
                continue
            if isinstance(created, StoreUnavailable):
                found = await self._find(session, created)
                if found is None:
                    await self._runtime.sleep(_PAUSE)
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
        while True:
            if self._runtime.now() >= self._deadline:
                raise lost
            await self._same_session(session)
            synced, names = await self._ask(*self._candidate.search())
            unanswered = next((each for each in (synced, names) if isinstance(each, StoreUnavailable)), None)
            if unanswered is None:
                break
            lost = unanswered
            await self._runtime.sleep(_PAUSE)
        if isinstance(names, Exception):
            return None
        own = [name for name in names if name.startswith(self._candidate.guid)]
        if not own:
            return None
        self._candidate.entered(self._parent + own[0], session)
        return list(names)

    async def _found(self) -> bool:
        """Make what an election stands on; return False if that got no answer."""
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
        return not any(isinstance(answer, StoreUnavailable) for answer in answers[-2:])

    async def _list(self) -> list[str]:
        names = (await self._session.read(self._name, [self._candidate.listing()], self._deadline, self._stop))[0]
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
            if isinstance(theirs, StoreUnavailable) or isinstance(own, StoreUnavailable):
                await self._runtime.sleep(_PAUSE)
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
                await self._runtime.sleep(_PAUSE)
            elif isinstance(answer, StoreUnavailable):
                if self._runtime.now() >= max(self._deadline, asked + GRACE):
                    raise answer
                await self._same_session(candidate.owner)
                await self._runtime.sleep(_PAUSE)
            elif isinstance(answer, Exception):
                raise answer
            elif isinstance(own, NoNode) or candidate.gone:
                raise Gone("our znode was deleted")
            elif not self._session.alive_as(candidate.owner):
                await self._same_session(candidate.owner)
            elif (leadership := self._proven(answer[1].modified, asked)) is not None:
                return leadership
            else:
                await self._runtime.sleep(_PAUSE)

    def _proven(self, token: int, asked: float) -> Leadership | None:
        """Return what was granted; None if the answer came so late that it proves nothing any more."""
        now, proven = self._runtime.now(), self._session.proven
        if now - asked < proven * (1 - DRIFT):
            leadership = Leadership(self._candidate, token, asked=asked)
            if not leadership.held:
                raise Gone("it was lost as soon as it was led")
            return leadership
        if now >= self._deadline:
            raise StoreUnavailable(
                self._name,
                f"{self._session.ensemble} answers so late that it proves nothing: after {now - asked:.1f} s",
            )
        return None
