"""What a leader holds: a lease whose server is a session, and whose end has many causes.

It is lost at the earliest of: the connection is suspended (the servers may end the session without our hearing of it),
the session ends, our znode is deleted, the znode's owner is not our session, or the time has passed for which the last
answered write proves the session. That time counts from before the write was sent, two thirds of the negotiated session
timeout; it holds under a bounded rate of clocks, also for a client whose server is cut off from the quorum.

The znode of a lost leadership is deleted when the block is left, not before: the work has ended then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, cast

from coordkit._ports import Link
from coordkit.core import lease
from coordkit.core.grantor import Grantor
from coordkit.errors import LeadershipLost, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.candidate import Candidate

_log = logging.getLogger("coordkit")

_CAUSES = {
    Link.CONNECTING: "the connection was lost, and the session may end unheard",
    Link.CLOSED: "the client was stopped, which ends the session",
    Link.REFUSED: "the servers refuse the client's credentials",
    Link.FORKED: "the client belongs to the parent of this process",
}


class Leadership(lease.Lease):
    """A lease on leading, proven to the quorum every time a third of it has passed."""

    def __init__(self, candidate: Candidate, token: int, *, asked: float) -> None:
        self.candidate = candidate
        self.identity = candidate.identity
        self._link = candidate.session
        super().__init__(
            candidate.session.runtime,
            # A lease asks its grantor to renew and to revoke; granting is the standing's.
            cast("Grantor", candidate),
            candidate.holder,
            token,
            candidate.session.proven,
            asked=asked,
            renewing=True,
            max_hold=None,
        )
        self._link.subscribe(self._heard)
        candidate.until = lambda: self.expires
        candidate.when_gone = self._deposed
        if candidate.gone:  # before we listened
            candidate.when_gone()

    def _deposed(self) -> None:
        self.lose("its znode was deleted")

    def _heard(self, link: Link) -> None:
        if link is not Link.CONNECTED:
            self.lose(f"{self._link.ensemble}: {_CAUSES[link]}")

    def ensure(self) -> Literal[True]:
        """Return True if it holds; raise ``LeadershipLost`` if it does not."""
        if self.held and self._runtime.process() == self._process and not self._link.alive_as(self.candidate.owner):
            self.lose(f"{self._link.ensemble}: {_CAUSES[Link.CONNECTING]}")
        return super().ensure()

    async def renew(self) -> None:
        """Prove it now. Raises ``LeadershipLost`` if it is lost meanwhile, ``StoreUnavailable`` if no answer came."""
        try:
            await super().renew()
        except StoreUnavailable:
            self.ensure()
            raise

    def loss(self) -> LeadershipLost:
        error = super().loss()
        return LeadershipLost(error.name, error.why, token=error.token)

    def lose(self, why: str) -> None:
        """End it, loudly; the znode stays until the block has ended."""
        if self._end(lease.State.LOST, why):
            _log.warning("%s: leadership lost: %s", self.name, why)
            self.lost.set()

    def _end(self, state: lease.State, why: str = "") -> bool:
        ended = super()._end(state, why)
        if ended:
            self._link.unsubscribe(self._heard)
        return ended


async def leave(leadership: Leadership, error: BaseException | None) -> None:
    """End the term of a block that ended with ``error``: the work is over, so the znode may go."""
    try:
        await lease.leave(leadership, error)
    finally:
        candidate = leadership.candidate
        if isinstance(error, GeneratorExit):
            candidate.remove_later()  # nobody is left to wait for an answer
        elif not leadership.given_back:
            await candidate.session.remove(leadership.name, candidate.remove)


async def leave_with_result(leadership: Leadership) -> None:
    """End the term of work that has succeeded: an unanswered resignation goes on in the background."""
    try:
        await leave(leadership, None)
    except StoreUnavailable as error:
        _log.warning("%s: resigning got no answer, it goes on in the background: %s", leadership.name, error)
