"""Choose among the members of a group, as they come and go, and as they fail.

The list is kept by the group's watches, so a pick asks nobody. Which members are well is this process's own experience:
a member whose session lives may fail all the same, and it is set aside before the group shows it gone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from coordkit._ports_zookeeper import Link
from coordkit.core.rolls import Reader, Shown
from coordkit.core.session import Session
from coordkit.core.weighing import Weigh, weight_of
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.routing.balance.health import SetAside

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before a look that was refused is tried again


class Balance:
    """The members of one group, and a picker that is kept told of them."""

    def __init__(
        self,
        session: Session,
        group: str,
        picker: SetAside[str],
        weigh: Weigh | None,
        *,
        failures: tuple[type[Exception], ...],
    ) -> None:
        self.name = group
        self.picker = picker
        self.members: dict[str, bytes] = {}
        self.failures = failures
        self._weigh = weigh
        self._session = session
        self._runtime = session.runtime
        self._ready = session.runtime.event()
        self._closed = False
        self._shown: Shown | None = None
        self._worker = session.runtime.worker(self._tend)
        self._reader = Reader(session, group, self._worker.poke)
        self._reader.begin()

    async def open(self) -> None:
        """Wait for the first list. Raises ``StoreUnavailable`` if there is none within one session timeout."""
        until = self._runtime.now() + self._session.ensemble.session_timeout()
        try:
            await self._session.connected(self.name, until)
            self._worker.poke()
            ready = await self._ready.wait(max(0.0, until - self._runtime.now()))
        except BaseException:
            self.close()
            raise
        if not ready:
            self.close()
            raise StoreUnavailable(self.name, f"{self._session.ensemble} did not list the members in time")

    def check(self) -> None:
        """Raise ``StoreUnavailable`` or ``StoreRefused`` if the list is an old one for good, while the block lasts."""
        link = self._session.ensemble.link()
        if self._closed or link not in (Link.CLOSED, Link.REFUSED):
            return
        kind = StoreRefused if link is Link.REFUSED else StoreUnavailable
        raise kind(
            self.name, f"{self._session.ensemble}: {self._session.why(link)}; the members are not known any more"
        )

    def close(self) -> None:
        """Follow the group no more; what is picked after that is picked from the last list."""
        self._closed = True
        self._reader.let_go()

    async def _tend(self) -> None:
        if self._over():
            return
        try:
            shown = self._reader.present()
        except CoordError as error:
            _log.warning("%s: the members as they were are picked from: %s", self.name, error)
            self._runtime.call_at(self._runtime.now() + _PAUSE, self._worker.poke)
            return
        if shown is not None and shown is not self._shown:
            self._shown = shown
            self._take(dict(shown.members))
        if shown is not None:
            self._ready.set()

    def _over(self) -> bool:
        return self._closed or self._session.ensemble.link() is Link.CLOSED

    def _take(self, members: dict[str, bytes]) -> None:
        self.members = {**self.members, **members}  # whoever was picked from the old list finds its data
        if self._weigh is None:
            self.picker.update(sorted(members))
        else:
            weights = {
                identity: weight_of(self._weigh, self.name, identity, members[identity]) for identity in sorted(members)
            }
            try:
                self.picker.update(weights)
            except ValueError as error:
                _log.warning("%s: all members are weighed alike: %s", self.name, error)
                self.picker.update(dict.fromkeys(weights, 1))
        self.members = members


class Pick:
    """One use of a member: how the block ends tells whether the member is well.

    An exception counts as the member's failure if it is one of ``failures``; a cancellation, an interrupt or another
    exception says nothing of it.
    """

    __slots__ = ("_arguments", "_balance", "_exclude", "data", "identity")

    def __init__(self, balance: Balance, arguments: tuple[Any, ...], exclude: Collection[str]) -> None:
        self._balance = balance
        self._arguments = arguments
        self._exclude = exclude
        self.identity = ""
        self.data = b""

    def __enter__(self) -> Self:
        balance = self._balance
        balance.check()
        while True:
            self.identity = balance.picker.pick(*self._arguments, exclude=self._exclude)
            data = balance.members.get(self.identity)
            if data is not None:
                self.data = data
                return self
            balance.picker.given_up(self.identity)  # it left between the two lines

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        picker = self._balance.picker
        if error is None:
            picker.worked(self.identity)
        elif isinstance(error, self._balance.failures):
            picker.failed(self.identity)
        else:
            picker.given_up(self.identity)

    def __repr__(self) -> str:
        return f"<Pick {self.identity!r} of {self._balance.name}>"
