"""Primary and backup: one works, the others follow it, and one of these takes over.

The order of things is what makes it right. A backup's work has ended before it becomes the primary. A primary's work
has ended before its znode goes, so before another can become the primary; where it crashed or lost its session, nobody
knows that, and the successor waits for ``takeover_delay`` and fences it first. (Curator's LeaderLatch and client-go let
the successor begin before the old leader's work has stopped.)

Not promised: that a crashed primary has stopped; that is what fencing is for.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

from coordkit._ports import Runtime
from coordkit.core import unfenced
from coordkit.core.following import Follower, Following
from coordkit.core.leadership import Leadership
from coordkit.core.primacy import Applicant, RoleElection
from coordkit.core.records import Leader
from coordkit.core.views import Views
from coordkit.errors import CoordError

_log = logging.getLogger("coordkit")

R = TypeVar("R")


@dataclass(frozen=True)  # a NamedTuple can be generic since Python 3.11 only
class Duties(Generic[R]):
    """What is done in each role."""

    primary: Callable[[Leadership], Awaitable[R]]
    backup: Callable[[Following], Awaitable[None]]
    fence: Callable[[Leader, Leadership], Awaitable[None]]


class Roles(Generic[R]):
    """One identity's part in a replicated service."""

    def __init__(self, runtime: Runtime, election: RoleElection, duties: Duties[R], *, takeover_delay: float) -> None:
        self.election = election
        self.role: Literal["primary", "backup"] | None = None
        self._runtime = runtime
        self._duties = duties
        self._delay = takeover_delay
        self._identity = election.terms.identity
        self._failure: BaseException | None = None
        self._views: Views | None = None
        self._follower = Follower(runtime, self._identity, duties.backup, self._failed)
        self._watcher = runtime.worker(self._watch)

    async def run(self) -> R | None:
        """Be a backup or the primary until the primary's work returns, and return that; None after ``stop()``."""
        if self._views is not None:
            raise CoordError(self.election.path, f"{self._identity} has its role already: run() once at a time")
        self._failure, self._views, self.role = None, self.election.observe(), "backup"
        self._follower.begin()
        self._watcher.poke()
        try:
            result = await self.election.run(self._term, again=True)
        finally:
            self._views.close()
            self._views, self.role = None, None
            await self._follower.halt()
        if self._failure is not None:
            raise self._failure
        return result

    async def _term(self, leadership: Leadership) -> R:
        """Be the primary, once nobody else is and no work of a backup goes on."""
        try:
            await self._follower.halt()
            self._follower.led(leadership.token)
            if self._failure is not None:  # the work of a backup failed as it ended
                raise self._failure
            leadership.ensure()
            self.role = "primary"
            to_fence = cast("Applicant", leadership.candidate).to_fence
            if to_fence:
                await self._take_the_place_of(to_fence, leadership)
                leadership.ensure()  # work that begins after the loss would not hear of it
            return await self._duties.primary(leadership)
        finally:
            self.role = "backup"
            self._follower.resume()

    async def _take_the_place_of(self, before: list[Leader], leadership: Leadership) -> None:
        """Make sure of whoever did not say that its work had ended: the last primary, and whom that did not fence."""
        name, names = self.election.path, ", ".join(each.identity for each in before)
        if self._delay:
            _log.info("%s: %s waits %g s for what %s may still do", name, self._identity, self._delay, names)
            await leadership.lost.wait(self._delay)
        for each in before:
            leadership.ensure()
            _log.info("%s: %s takes over from %s, which did not resign", name, self._identity, each.identity)
            await self._duties.fence(each, leadership)
        await unfenced.clear(leadership)

    # -- following

    async def _watch(self) -> None:
        views = self._views
        while views is not None and not views.closed:
            try:
                view = await views.next_view()
            except CoordError as error:  # the servers do not answer, or refuse: that may be put right
                _log.warning("%s: who leads is not known: %s", self.election.path, error)
                await self._runtime.sleep(1.0)
                continue
            if views is self._views and view is not None and view.leader is not None and view.token is not None:
                self._follower.follow(Leader(view.leader, view.token))

    def _failed(self, error: BaseException) -> None:
        """Have ``run`` raise what the work of a backup raised."""
        self._failure = error
        self.election.stop()

    def stop(self) -> None:
        self.election.stop()
