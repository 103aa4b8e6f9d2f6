"""A znode's state as a stream: first the present one, then what is new.

The stream conflates: whoever looks late may miss what has come and gone, never the latest. It goes on through
reconnects, new sessions and znodes that are deleted and made again; while ZooKeeper does not answer, the last state
stands.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

from coordkit._ports_zookeeper import Link, Watch
from coordkit.core.session import Session, Wake
from coordkit.errors import StoreUnavailable

V = TypeVar("V")


class Stream(Generic[V]):
    """One reader's stream; what it looks at, and watches with ``self._ring``, is its subclass's."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self.closed = False
        self._session = session
        self._runtime = session.runtime
        self._wake = Wake(session.runtime)
        self._ring: Watch = self._wake.ring
        self._told: V | None = None
        session.subscribe(self._heard)

    async def _look(self, deadline: float) -> V | None:
        """Return the present state, and watch it; None to look again."""
        raise NotImplementedError

    def _unwatch(self) -> None:
        raise NotImplementedError

    def _heard(self, link: Link) -> None:  # noqa: ARG002  whatever it is, look again
        self._wake.ring()

    async def next_view(self, timeout: float | None = None) -> V | None:
        """Wait for a state that is not the one told last, and return it; None once the stream is closed.

        None as well after ``timeout`` seconds without news. Raises ``StoreUnavailable`` if the first state cannot be
        had in one session timeout, or the client is stopped.
        """
        ensemble, now = self._session.ensemble, self._runtime.now
        patience = now() + ensemble.session_timeout()
        deadline = math.inf if timeout is None else now() + timeout
        while True:
            self._wake.reset()
            if self.closed:
                break
            until = math.inf if self._told is not None else patience
            if ensemble.link() is Link.CONNECTING and now() < until:
                if now() >= deadline:
                    return None
                await self._wake.wait(min(until, deadline))
                continue
            try:
                view = await self._look(min(deadline, until))
            except StoreUnavailable:
                if now() >= until or ensemble.link() is Link.CLOSED:
                    raise
                if now() >= deadline:
                    return None
                await self._runtime.sleep(0.05)
                continue
            if view is not None and view != self._told:
                self._told = view
                return view
            if view is None:
                continue
            if now() >= deadline:
                return None
            await self._wake.wait(deadline)
        self.let_go()  # what a look that was under way has hung up since
        return None

    def close(self) -> None:
        """End the stream; a reader that waits for it ends as well."""
        if self.closed:
            return
        self.closed = True
        self.let_go()
        self._wake.ring()

    def let_go(self) -> None:
        """Leave no listener and no watch behind."""
        self._session.unsubscribe(self._heard)
        self._unwatch()
