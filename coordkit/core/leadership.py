"""What a leader holds: a lease proven to the quorum, and a loud end (``core/proven.py``).

The znode of a lost leadership is deleted when the block is left, not before: the work has ended then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coordkit.core import lease, records
from coordkit.core.proven import Proven
from coordkit.core.succession import succession
from coordkit.core.transaction import Transaction
from coordkit.errors import LeadershipLost, NoNodes, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.candidate import Candidate

_log = logging.getLogger("coordkit")


class Leadership(Proven):
    """A lease on leading, proven to the quorum every time a third of it has passed."""

    what = "leadership"

    def __init__(self, candidate: Candidate, token: int, *, asked: float, strict: bool) -> None:
        self.candidate = candidate
        self.identity = candidate.terms.identity
        super().__init__(candidate, token, asked=asked, strict=strict)

    def _end(self, state: lease.State, why: str = "") -> bool:
        ended = super()._end(state, why)
        if ended and state is not lease.State.LOST:
            self.candidate.session.guests.discard(self.candidate)
        return ended

    def loss(self) -> LeadershipLost:
        error = super().loss()
        return LeadershipLost(error.name, error.why, token=error.token)

    def told(self, data: bytes) -> None:
        why = records.candidate_evicted(data)
        if why:
            self.lose(f"evicted {why}")

    def transaction(self) -> Transaction:
        return Transaction(self)

    async def resign(self) -> None:
        """Give it up now; raises ``LeadershipLost`` if it was lost before."""
        if not await self.release():
            raise self.loss()

    async def transfer_to(self, identity: str) -> None:
        """Resign in favour of who stands as ``identity``; raises ``NoNodes`` if nobody does, and leads on."""
        self.ensure()
        standing = await succession(self.candidate.session, self.name)
        if identity not in [each.identity for each in standing]:
            await self.renew()  # a write: from its answer on, our server knows all that was there before it
            standing = await succession(self.candidate.session, self.name)
        for each in standing:
            if each.identity == identity and each.node != self.candidate.node:
                self.candidate.successor = each.node, each.data
                break
        else:
            names = [each.identity for each in standing]
            raise NoNodes(self.name, f"nobody stands as {identity!r} beside us, so we lead on; contenders: {names}")
        await self.resign()


async def leave(leadership: Leadership, error: BaseException | None) -> None:
    """End the term of a block that ended with ``error``: the work is over, so the znode may go."""
    candidate = leadership.candidate
    if isinstance(error, GeneratorExit) and candidate.session.elsewhere() is not None:
        leadership.drop()  # nothing can be waited for: the loop has gone
        candidate.remove_later()
        return
    try:
        await lease.leave(leadership, error)
    finally:
        candidate.session.guests.discard(candidate)
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
