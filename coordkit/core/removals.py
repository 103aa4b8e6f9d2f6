"""What must not stay in ZooKeeper: removed in the background until it is gone, or the session has ended.

A delete whose answer was lost may not have been carried out, and then the znode stands in everybody's way for as long
as its session lives (kazoo#732, CURATOR-202). So it is asked for again and again, by whoever is left to do it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from coordkit._ports_zookeeper import Link
from coordkit.errors import CoordError, StoreUnavailable

if TYPE_CHECKING:
    from coordkit.core.session import Session

_log = logging.getLogger("coordkit")

in_background: ContextVar[bool] = ContextVar("coordkit_in_background", default=False)
"""Whether nobody waits for what is being removed, so that it may take its time."""

_PAUSE = 0.2  # seconds before an unanswered removal is tried again


class Unwanted(NamedTuple):
    """Something that must not stay in ZooKeeper; it is removed over the session that is given."""

    name: str
    remove: Callable[[Session], Awaitable[None]]


class Removals:
    """What is to be removed over one session, or over its heir's."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._unwanted: dict[Unwanted, None] = {}  # a set in order of arrival
        self._heir: Removals | None = None
        self._remover = session.runtime.worker(self._remove)

    def heard(self, link: Link) -> None:
        """Be told of a change of the link."""
        if self._unwanted and link is not Link.CONNECTING:
            self._remover.poke()

    def note(self, name: str, remove: Callable[[Session], Awaitable[None]]) -> Unwanted:
        """Add something to what is to be removed, and do nothing yet."""
        unwanted = Unwanted(name, remove)
        self._unwanted[unwanted] = None
        return unwanted

    def later(self, name: str, remove: Callable[[Session], Awaitable[None]]) -> None:
        """Call ``remove`` in the background until it does not raise ``StoreUnavailable``, or the session has ended."""
        self.note(name, remove)
        self._see_to_it()

    async def now(self, name: str, remove: Callable[[Session], Awaitable[None]]) -> None:
        """Call ``remove`` now, and in the background if it got no answer or was interrupted."""
        unwanted = self.note(name, remove)
        try:
            if self._session.ensemble.link() is Link.CONNECTED:
                await self._try(unwanted)
        finally:
            if unwanted in self._unwanted:
                self._see_to_it()

    async def _try(self, unwanted: Unwanted) -> bool:
        """Remove it; return False if there was no answer."""
        try:
            await unwanted.remove(self._session)
        except StoreUnavailable:
            return False
        except CoordError as error:
            _log.warning("%s: could not be removed, it ends with the session: %s", unwanted.name, error)
        self._unwanted.pop(unwanted, None)
        return True

    async def _remove(self) -> None:
        runtime, ensemble = self._session.runtime, self._session.ensemble
        in_background.set(True)  # in the worker's own context
        for unwanted in list(self._unwanted):
            link = ensemble.link()
            if link is Link.CONNECTING:
                return  # poked again when that has changed
            if link is not Link.CONNECTED:
                self._unwanted.pop(unwanted, None)  # the session was closed, and all that is ephemeral with it
            elif not await self._try(unwanted):
                runtime.call_at(runtime.now() + _PAUSE, self._remover.poke)

    def _see_to_it(self) -> None:
        if self._heir is None:
            self._remover.poke()
            return
        for name, remove in list(self._unwanted):
            self._heir.later(name, remove)
        self._unwanted.clear()

    def leave_to(self, heir: Callable[[], Removals]) -> None:
        """Have another remove what is left: there is nobody here to do it any more."""
        if self._unwanted:
            self._heir = heir()
            self._see_to_it()
