"""One client's session, as its elections and groups see it: connected, suspended, lost.

What is promised: every call ends in a bounded time, also while there is no connection (kazoo would queue it for ever);
what must not stay in ZooKeeper is removed in the background, again and again, until it is gone or the session has
ended, also when the event loop ends before; one worker proves the leaderships of a client to the quorum. What is not:
that CONNECTED means anything. Only an answered write proves a session, and only at the time it was sent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import Ensemble, Link, Request
from coordkit.core.doubts import Doubts
from coordkit.core.proofs import Proofs
from coordkit.core.removals import Removals, in_background
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.proven import Proven
    from coordkit.core.rolls import SharedRoll

_log = logging.getLogger("coordkit")

GRACE = 1.0
"""Seconds that one request may take although the caller's time is up: to ask once, and to give back."""

PROVEN = 2 / 3
"""The share of the session timeout for which an answered write proves the session: the rest covers what a follower
may keep from the leader of the ensemble (half a tick, and the timeout is two ticks at least) and the round trip."""

_PAUSE = 0.02  # seconds before what may be asked twice is asked again


FORKED = "the KazooClient was started before a fork: make and start one of its own in this process"

REFUSED = "the servers refuse the client's credentials; check its auth_data or sasl_options"

_CAUSES = {
    Link.CONNECTING: "the connection was lost, and the session may end unheard",
    Link.CLOSED: "the client was stopped, which ends the session",
    Link.REFUSED: REFUSED,
    Link.FORKED: "the client belongs to the parent of this process",
}


class Wake:
    """Something that may happen again and again, and is waited for by one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._event = runtime.event()

    def ring(self, *_: object) -> None:
        self._event.set()

    def reset(self) -> None:
        """Forget what happened; look at the world after this, then wait."""
        self._event = self._runtime.event()

    async def wait(self, until: float) -> None:
        await self._event.wait(None if math.isinf(until) else max(0.0, until - self._runtime.now()))


class Stopped(Exception):
    """``stop()`` was called; ``run`` returns, so nobody sees it."""


class Stop:
    """Set once, and heard by whoever listens at that time."""

    def __init__(self, runtime: Runtime) -> None:
        self._event = runtime.event()
        self._listeners: set[Callable[[], None]] = set()
        self.is_set = self._event.is_set
        self.wait = self._event.wait

    def set(self) -> None:
        self._event.set()
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        self._listeners.discard(listener)


class Guest(Protocol):
    """Something with a znode that must not outlive the session object that tends it."""

    name: str

    async def remove(self, session: Session) -> None: ...


class Session:
    """The session of one client (under asyncio: of one client in one loop)."""

    repeats = False  # see ``Keeper``

    def __init__(self, runtime: Runtime, ensemble: Ensemble) -> None:
        self.runtime = runtime
        self.ensemble = ensemble
        self._listeners: set[Callable[[Link], None]] = set()
        self.guests: set[Guest] = set()
        self.mutex = runtime.mutex()
        self._took = 0.0  # seconds until the last requests were answered, or given up
        self.joins: dict[
            tuple[int, str], int
        ] = {}  # by session and member: the last join, where some may be unanswered
        self.rolls: dict[str, SharedRoll] = {}  # by group
        self.elsewhere: Callable[[], Session | None] = lambda: None  # who removes what is left, where nobody here can
        self._proofs = Proofs(self, grace=GRACE)
        self.removals = Removals(self)
        self.doubts = Doubts(self)
        ensemble.listen(self._changed)

    # -- the link

    @property
    def proven(self) -> float:
        """Seconds for which an answered write proves that the session lives."""
        return self.ensemble.session_timeout() * PROVEN

    def alive_as(self, session: int) -> bool:
        """Return whether the client is connected, now, with this session."""
        return self.ensemble.link() is Link.CONNECTED and self.ensemble.session() == session

    def why(self, link: Link) -> str:
        """Return why a link that is not connected is not, for a message."""
        return self.ensemble.why() or _CAUSES[link]

    def subscribe(self, listener: Callable[[Link], None]) -> None:
        """Have every change of the link told to ``listener``, from wherever it was noticed; it must be short."""
        self._listeners.add(listener)

    def unsubscribe(self, listener: Callable[[Link], None]) -> None:
        self._listeners.discard(listener)

    def _changed(self, link: Link) -> None:
        for listener in [*self._listeners, self.removals.heard, self.doubts.heard]:
            try:
                listener(link)
            except Exception:  # noqa: BLE001  each by itself: the others must hear of it
                _log.exception("a listener of the link failed; the others go on")

    async def connected(self, name: str, until: float = math.inf, stop: Stop | None = None) -> int:
        """Return the session's id; wait for a connection until ``until``, and never longer than one session timeout.

        Raises ``StoreUnavailable`` if none comes or the client does not run, ``StoreRefused`` if it may not connect,
        ``Stopped`` if that is said first.
        """
        self.ensemble.may_wait(name)
        session = self._session(name)
        if session is not None:
            return session
        patience = self.ensemble.session_timeout()
        until = min(until, self.runtime.now() + patience)
        wake = Wake(self.runtime)
        self.subscribe(wake.ring)
        if stop is not None:
            stop.listen(wake.ring)
        try:
            while True:
                wake.reset()
                session = self._session(name)
                if session is not None:
                    return session
                if stop is not None and stop.is_set():
                    raise Stopped
                if self.runtime.now() >= until:
                    waited = f"no connection to {self.ensemble} within the time given (at most {patience:.1f} s)"
                    why = self.ensemble.why()
                    raise StoreUnavailable(name, f"{waited}: {why}" if why else waited) from self.ensemble.cause()
                await wake.wait(until)
        finally:
            self.unsubscribe(wake.ring)
            if stop is not None:
                stop.unlisten(wake.ring)

    def _session(self, name: str) -> int | None:
        link = self.ensemble.link()
        if link is Link.CONNECTED:
            return self.ensemble.session()
        if link is Link.CLOSED:
            why = self.ensemble.why() or "call its start() first"
            raise StoreUnavailable(
                name, f"the KazooClient of {self.ensemble} is not running: {why}"
            ) from self.ensemble.cause()
        if link is Link.REFUSED:
            raise StoreRefused(name, f"{self.ensemble}: {self.why(link)}") from self.ensemble.cause()
        if link is Link.FORKED:
            raise CoordError(name, FORKED)
        return None

    # -- asking

    async def ask(
        self, name: str, requests: Sequence[Request], until: float = math.inf, stop: Stop | None = None
    ) -> list[Any]:
        """Send all requests at once; return the answers, with ``NodeError`` and ``StoreUnavailable`` in their places.

        Each has until ``until``, at least ``GRACE`` and at most one session timeout. ``StoreRefused`` is raised.
        """
        now = self.runtime.now()
        until = max(until, now + GRACE)
        await self.connected(name, until, stop)
        within = min(max(until - self.runtime.now(), GRACE), max(GRACE, self.ensemble.session_timeout()))
        asked = self.runtime.now()
        answers = await self.ensemble.ask(name, requests, within=within)
        self._took = self.runtime.now() - asked
        for answer in answers:
            if isinstance(answer, StoreRefused):
                raise answer
        return answers

    def soon(self) -> float:
        """Return until when to wait where nobody gave a time: ``GRACE``, or four times what the last answers took."""
        return self.runtime.now() + max(GRACE, 4 * self._took)

    async def ask_soon(self, name: str, requests: Sequence[Request]) -> list[Any]:
        """Ask where nobody gave a time; also where the ensemble is slow, some attempt has time enough."""
        return await self.ask(name, requests, self.soon())

    async def ask_briefly(self, name: str, requests: Sequence[Request]) -> list[Any]:
        """Ask for ``GRACE``, as somebody waits who may have given a time; in the background as ``ask_soon`` does."""
        if in_background.get():
            return await self.ask_soon(name, requests)
        return await self.ask(name, requests, self.runtime.now() + GRACE)

    async def read(
        self, name: str, requests: Sequence[Request], until: float = math.inf, stop: Stop | None = None
    ) -> list[Any]:
        """Ask what may be asked twice, again if the connection was lost meanwhile; raises ``StoreUnavailable``."""
        until = min(until, self.runtime.now() + self.ensemble.session_timeout())
        while True:
            answers = await self.ask(name, requests, until, stop)
            lost = next((each for each in answers if isinstance(each, StoreUnavailable)), None)
            if lost is None:
                return answers
            if self.runtime.now() >= until:
                raise lost
            await self.runtime.sleep(_PAUSE)

    async def end(self) -> None:
        """Close the session and stop the client; what takes longer than ``GRACE`` goes on in the background."""
        if self.ensemble.link() is Link.FORKED:
            return  # it is the parent's
        stopped = self.runtime.event()
        self.ensemble.end(stopped.set)
        if not await stopped.wait(GRACE):
            _log.warning("%s: the client does not stop; its session ends by itself, at its timeout", self.ensemble)

    # -- proving leaderships

    def renew_soon(self, leadership: Proven) -> None:
        """Prove ``leadership`` in a moment, unless it is over by then."""
        self._proofs.add_soon(leadership)

    def renew(self, leadership: Proven) -> None:
        """Prove ``leadership`` to the quorum in the next round."""
        self._proofs.add(leadership)

    # -- removing

    def give_back(self, grantor: Any, holder: str, *, until: float) -> None:  # noqa: ARG002  as a keeper of leases
        """Remove a candidate in the background: what a lease calls when a release got no answer, or nobody has it."""
        self.guests.discard(grantor)
        self.remove_later(grantor.name, grantor.remove)

    def remove_later(self, name: str, remove: Callable[[Session], Awaitable[None]]) -> None:
        """Call ``remove`` in the background until it does not raise ``StoreUnavailable``, or the session has ended."""
        heir = self.elsewhere()
        (self if heir is None else heir).removals.later(name, remove)

    async def remove(self, name: str, remove: Callable[[Session], Awaitable[None]]) -> None:
        """Call ``remove`` now, and in the background if it got no answer or was interrupted."""
        await self.removals.now(name, remove)

    def leave_to(self, heir: Callable[[], Session]) -> None:
        """Have another session of the same client remove what is left: there is nobody here to do it any more."""
        for guest in list(self.guests):
            self.removals.note(guest.name, guest.remove)
        self.removals.leave_to(lambda: heir().removals)
        self.doubts.leave_to(lambda: heir().doubts)
