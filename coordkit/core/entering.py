"""Getting into a line: the way in, and what one that stands there asks.

Entering and seeing the line is one round trip. An answer that was lost is resolved by the GUID of our place, within the
session in which it was asked: the znode was made, and is found, or it was not, and is made.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from coordkit._ports_zookeeper import NodeExists, NoNode
from coordkit.core import znodes
from coordkit.core.place import Entry, Place
from coordkit.core.session import GRACE, Stop, Stopped
from coordkit.errors import StoreRefused, StoreUnavailable


class Gained(Protocol):
    """What one comes to by standing in a line."""

    @property
    def held(self) -> bool: ...


T = TypeVar("T", bound=Gained)

PAUSE = 0.05  # seconds before what got no answer is asked again


class Gone(Exception):
    """Our place in the line is gone; stand again with a new GUID."""


class Entering(Generic[T]):
    """One contender on its way into the line."""

    def __init__(self, candidate: Place[T], deadline: float, timeout: float | None, stop: Stop | None) -> None:
        self._candidate = candidate
        self._session = candidate.session
        self._runtime = candidate.session.runtime
        self._name = candidate.name
        self._deadline = deadline
        self._timeout = timeout
        self._stop = stop
        self._parent = f"{candidate.parent}/"
        self._entry: Entry | None = None  # as long as it shows how things are

    async def _ask(self, *requests: Any) -> list[Any]:
        return await self._session.ask(self._name, requests, self._deadline, self._stop)

    async def _same_session(self, owner: int) -> None:
        """Wait for a connection; raise ``Gone`` if it is of another session."""
        if await self._session.connected(self._name, self._deadline, self._stop) != owner:
            raise Gone("the session ended")

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    async def _enter(self) -> list[str]:
        """Enter the line; return it. Sends both requests at once, so that it takes one round trip."""
        candidate = self._candidate
        while True:
            session = await self._session.connected(self._name, self._deadline, self._stop)
            asked, candidate.entering = self._runtime.now(), session
            created, names, *seen = await self._ask(*candidate.entry())
            if isinstance(created, NoNode):
                candidate.entering = 0
                if not await self._found():
                    await self._runtime.sleep(PAUSE)
                continue
            if isinstance(created, StoreUnavailable):
                found = await self._find(session, created)
                if found is None:
                    candidate.doubt()
                    await self._runtime.sleep(PAUSE)
                    continue
                names, seen = found, []
            elif isinstance(created, Exception):
                raise created
            else:
                candidate.entered(created[0], created[1].owner)
                self._entry = Entry(asked, created[1], seen)
            number = candidate.number(candidate.node.rpartition("/")[2])
            if number is None or not 0 <= number < znodes.LAST_SEQUENCE:
                raise StoreRefused(
                    self._name,
                    f"the numbers of {self._parent[:-1]} are used up; delete that znode when nobody stands, and they "
                    "begin anew (tokens still rise)",
                )
            line = None if isinstance(names, Exception) else candidate.line(names, seen)
            return await self._list() if line is None else line

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
            await self._runtime.sleep(PAUSE)
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
                refused = next((each for each in answers if isinstance(each, StoreRefused)), None)
                raise refused or StoreRefused(self._name, "its parent cannot be created: no such chroot")
            if isinstance(answer, StoreUnavailable) and self._runtime.now() >= self._deadline:
                raise answer
            if isinstance(answer, Exception) and not isinstance(answer, NodeExists | StoreUnavailable):
                raise answer
        return not any(isinstance(answer, StoreUnavailable) for answer in answers[-2:])

    async def _list(self) -> list[str]:
        while True:
            looks = self._candidate.looks()
            names, *seen = await self._session.read(self._name, looks, self._deadline, self._stop)
            line = [] if isinstance(names, NoNode) else self._candidate.line(names, seen)
            if line is not None:
                return line
