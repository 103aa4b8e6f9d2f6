"""One roll of a group for all who read it over one session: watched once and read once, however many look.

Streams, pickers and whatever else follows a group in one process share what is known of it. A background worker keeps
the roll while somebody waits for news; each reader compares what it was told last with what is known now, so that it
conflates by itself and none can hold up another. Whoever comes later is shown a list that was asked for after it came,
as if it had a roll of its own. The last to go leaves no watch behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import count
from typing import NamedTuple

from coordkit._ports_zookeeper import Link
from coordkit.core.roll import Roll
from coordkit.core.session import Session
from coordkit.errors import CoordError, StoreUnavailable

_PAUSE = 0.05  # seconds before an unanswered look is tried again

_RECENT = 64  # looks whose news is kept: who was told longer ago compares everything


class Shown(NamedTuple):
    """The members as of one look of one roll; it is never changed, so readers in any thread may keep it."""

    roll: object
    number: int
    members: Mapping[str, bytes]
    recent: tuple[frozenset[str], ...]  # the identities that this look, and those before it, found new or gone
    resyncs: int  # how often the connection was lost before a look

    def news(self, before: Shown) -> AbstractSet[str]:
        """Return the identities that may be others than ``before``, or say something else."""
        looks = self.number - before.number
        if self.roll is not before.roll or looks > len(self.recent):
            return {*before.members, *self.members}
        return frozenset().union(*self.recent[len(self.recent) - looks :])

    def resynced(self, before: Shown) -> bool:
        """Return whether all was read anew since ``before``."""
        return self.roll is not before.roll or self.resyncs != before.resyncs


class SharedRoll:
    """What all readers of one group over one session know; see ``Reader``."""

    def __init__(self, session: Session, group: str) -> None:
        self.readers: dict[Reader, None] = {}
        self.over = False  # its last reader has gone
        self.shown = Shown(self, 0, {}, (), 0)
        self.served = 0  # who has a lower ticket was waited for by a look that is shown
        self.tickets = count(1)
        self.trouble: StoreUnavailable | None = None  # why the last look got no answer
        self.failure: tuple[int, CoordError] | None = None  # the look that failed for good, and of what
        self.unseen = False  # there is news that nobody waited for
        self.anew = True  # somebody came who is to be shown a list that was asked for after that
        self._session = session
        self._worker = session.runtime.worker(self._tend)
        self._roll = Roll(session, group, self.look)

    def look(self) -> None:
        """Look at what there is, if somebody waits for it."""
        self.unseen = True
        self._worker.poke()

    def end(self) -> None:
        """Leave no listener and no watch behind."""
        self.over = True
        self._roll.let_go()
        self._tell()  # whoever came in this moment

    def _tell(self) -> None:
        for reader in list(self.readers):
            reader.ring()

    async def _tend(self) -> None:
        if self._session.ensemble.link() is not Link.CONNECTED:
            self._tell()  # they look at the link themselves; a change of it brings us here
            return
        if not any(reader.waiting for reader in list(self.readers)):
            return
        self.unseen = False
        number = next(self.tickets)
        if self.anew:
            self.anew = False
            self._roll.list_anew()  # which stands until there is a list
        try:
            while not await self._roll.look() and not self.over:
                pass
        except CoordError as error:
            if isinstance(error, StoreUnavailable):
                self.trouble = error
                runtime = self._session.runtime
                runtime.call_at(runtime.now() + _PAUSE, self.look)
                return
            self.failure = number, error
        else:
            self._show()
            self.served = number
        finally:
            if self.over:
                self._roll.let_go()  # what the look has hung up since
        self._tell()

    def _show(self) -> None:
        roll, before = self._roll, self.shown
        news, roll.news = frozenset(roll.news), set()
        resynced, roll.resynced = roll.resynced, False
        if news or resynced:
            recent = (*before.recent, news)[-_RECENT:]
            self.shown = Shown(self, before.number + 1, dict(roll.members), recent, before.resyncs + resynced)


class Reader:
    """One who follows a group; ``ring`` is called, from anywhere, when there may be something to see.

    Nothing is looked for before its first ``present``, nor while nobody is ``waiting``.
    """

    def __init__(self, session: Session, group: str, ring: Callable[[], object]) -> None:
        self.ring = ring
        self.waiting = False
        self._session = session
        self._group = group
        self._closed = False
        self._shared: SharedRoll | None = None
        self._ticket = 0

    def begin(self) -> None:
        """Wait for news from now on; what failed before is no matter of ours, unless we have waited all along."""
        waited, self.waiting = self.waiting, True
        shared = self._shared
        if not waited and shared is not None and shared.failure is not None and shared.failure[0] > self._ticket:
            self._come(shared)

    def present(self) -> Shown | None:
        """Return what is known, None until that is news to come; raises what made the last look fail, once."""
        shared = self._shared
        if shared is None or shared.over:
            if self._closed:
                return None
            shared = self._attach()
        if shared.failure is not None and shared.failure[0] > self._ticket:
            error = shared.failure[1]
            self._come(shared)  # so the next call tells of another look
            raise type(error)(error.name, error.why) from error
        if self._session.ensemble.link() is not Link.CONNECTED:
            return None  # the last state stands; a change of the link brings a look
        if shared.unseen or shared.served <= self._ticket:
            shared.look()
            return None
        return shared.shown

    def trouble(self) -> StoreUnavailable | None:
        """Return why there is nothing to show; None if that is not known."""
        return None if self._shared is None else self._shared.trouble

    def _attach(self) -> SharedRoll:
        session, rolls = self._session, self._session.rolls
        while True:
            with session.mutex:
                shared = rolls.get(self._group)
                if shared is None or shared.over:
                    shared = rolls[self._group] = SharedRoll(session, self._group)
                shared.readers[self] = None
            if not shared.over:  # else its last reader went in this moment
                break
        self._shared = shared
        self._come(shared)
        return shared

    def _come(self, shared: SharedRoll) -> None:
        shared.anew = True  # before the ticket: a look with a greater one has seen it
        self._ticket = next(shared.tickets)

    def let_go(self) -> None:
        """Follow it no more; from any thread, also when it is freed, so no mutex is taken."""
        self._closed = True
        shared = self._shared
        if shared is None:
            return
        shared.readers.pop(self, None)
        if shared.readers or shared.over:
            return
        shared.over = True
        if self._session.rolls.get(self._group) is shared:
            self._session.rolls.pop(self._group, None)
        shared.end()
