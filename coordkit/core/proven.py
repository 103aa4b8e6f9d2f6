"""A lease whose server is a session, and whose end has many causes.

It is lost at the earliest of: the connection is suspended (the servers may end the session without our hearing of it;
this only if the lease is ``strict``), the session ends, our znode is deleted, the znode's owner is not our session, or
the time has passed for which the last answered write proves the session. That time counts from before the write was
sent, two thirds of the negotiated session timeout; it holds under a bounded rate of clocks, also for a client whose
server is cut off from the quorum. A lease that is not strict outlives a short outage, and never that time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, cast

from coordkit._ports_zookeeper import Link
from coordkit.core import lease
from coordkit.core.grantor import Grantor
from coordkit.core.place import Place
from coordkit.errors import StoreUnavailable

_log = logging.getLogger("coordkit")


class Proven(lease.Lease):
    """A lease on a place in a line, proven to the quorum every time a third of it has passed."""

    what = "lease"  # in the log

    def __init__(
        self,
        place: Place[Any],
        token: int,
        *,
        asked: float,
        max_hold: float | None = None,
        span: float | None = None,
        slot: int | None = None,
        strict: bool = True,
    ) -> None:
        self.place = place
        self.strict = strict
        self._link = place.session
        self._listener: Callable[[Link], None] | None = None  # it may end in another thread before there is one
        super().__init__(
            # A lease asks its grantor to renew and to revoke; granting is the standing's.
            lease.Terms(place.session.runtime, cast("Grantor", place), place.session.proven, max_hold=max_hold),
            place.holder,
            token,
            asked,
            span,
            slot,
        )
        self._listen()
        if place.gone:  # before we listened
            place.when_gone()
        if not place.watched_at_once:
            self._link.renew_soon(self)  # a proof also watches our znode

    def _listen(self) -> None:
        """Hear of the link and of our znode, as long as somebody has this; to hear is not to have it (``pulse.py``)."""
        known: Callable[[], Proven | None] = self.pulse
        place, session = self.place, self._link

        def heard(link: Link) -> None:
            lease = known()
            if lease is not None:
                lease._heard(link)  # noqa: SLF001  ours
            else:
                session.unsubscribe(heard)

        def deposed() -> None:
            if (lease := known()) is not None:
                lease._deposed()  # noqa: SLF001  ours

        def look() -> None:
            if (lease := known()) is not None:
                lease._look()  # noqa: SLF001  ours

        def until() -> float:
            lease = known()
            return session.runtime.now() if lease is None else lease.expires

        place.until, place.when_gone, place.when_changed = until, deposed, look
        self._listener = heard
        session.subscribe(heard)
        if not self.held:  # it ended just now
            session.unsubscribe(heard)

    def _deposed(self) -> None:
        self.lose("its znode was deleted")

    def _look(self) -> None:
        """Have our znode read and the session proven, soon: what we watched has changed, or is watched no longer."""
        if self._link.ensemble.link() is Link.CONNECTED:
            self._link.renew(self)

    def told(self, data: bytes) -> None:
        """Be told what our znode says."""

    def _heard(self, link: Link) -> None:
        why = self._ended(link)
        if why:
            self.lose(f"{self._link.ensemble}: {why}")
        elif link is Link.CONNECTED:
            self._look()

    def _ended(self, link: Link) -> str:
        """Return how this link ends the lease, "" if it does not."""
        if link is Link.CONNECTED:
            return "" if self._link.ensemble.session() in (self.place.owner, None) else "the session has ended"
        return "" if link is Link.CONNECTING and not self.strict else self._link.why(link)

    def ensure(self) -> Literal[True]:
        """Return True if it holds; raise ``LeaseLost`` if it does not."""
        if self.held and self._runtime.process == self._process and (why := self._ended(self._link.ensemble.link())):
            self.lose(f"{self._link.ensemble}: {why}")
        return super().ensure()

    async def renew(self) -> None:
        """Prove it now. Raises ``LeaseLost`` if it is lost meanwhile, ``StoreUnavailable`` if no answer came."""
        try:
            await super().renew()
        except StoreUnavailable:
            self.ensure()
            raise

    async def release(self) -> bool:
        """Give it back; no ttl ends what an interrupt kept from that, so it goes on in the background then."""
        over = False
        try:
            given_back = await super().release()
            over = True
        finally:
            if not over:
                self.place.remove_later()
        return given_back

    def lose(self, why: str) -> None:
        """End it, loudly; the znode stays until the block has ended."""
        if self._end(lease.State.LOST, why):
            _log.warning("%s: %s lost: %s", self.name, self.what, why)
            self.lost.set()

    def _end(self, state: lease.State, why: str = "") -> bool:
        ended = super()._end(state, why)
        if ended and self._listener is not None:
            self._link.unsubscribe(self._listener)
        return ended
