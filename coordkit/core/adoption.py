"""Keeping one client's topology the latest: by a watch, by a look now and then, and at once when it is asked for.

What is promised: a topology is taken if it is newer than the one there is, valid and of the same name, and no other;
what was taken serves on while ZooKeeper is away. What is not: that it is the latest. The fence on the data path tells a
client that is behind, and then it asks here.

The client's epoch is shown by a member of ``<topology>/clients``, whenever that can be had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordkit._ports import Timer
from coordkit._ports_zookeeper import GetData, GetStat, Link, NoNode, Request, Sync, Watch
from coordkit.core.data import to_json
from coordkit.core.membership import Membership
from coordkit.core.session import Session
from coordkit.core.topologies import NONE, clients, none_there, topology_of
from coordkit.errors import BadTopology, CoordError, StoreUnavailable
from coordkit.routing.topology.topology import Topology

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before an unanswered look is tried again
_BLINK = 1.0  # seconds without a connection that are not worth a word


class Adoption:
    """One client's way to the topology of one path; ``take`` adopts one, and raises ``BadTopology`` if it must not."""

    def __init__(self, session: Session, path: str, take: Callable[[Topology, str], object], *, poll: float) -> None:
        self.path = path
        self._session = session
        self._runtime = session.runtime
        self._take = take
        self._poll = poll
        self._worker = session.runtime.worker(self._tend)
        self._ring: Watch = self._changed
        self._timer: Timer | None = None
        self._identity = session.runtime.new_holder()
        self._member: Membership | None = None
        self._epoch = 0  # that was taken last
        self._document = NONE  # that was taken, or refused, last
        self._failed = False  # it is to be taken again, although it did not change
        self._away = False
        self._urgent = False
        self._closed = False

    async def open(self) -> None:
        """Take the first topology, and follow it from then on.

        Raises ``BadTopology`` if there is none, ``StoreUnavailable`` if there is no answer in one session timeout, and
        what ``take`` raises.
        """
        self._session.subscribe(self._heard)
        try:
            await self._first()
        except BaseException:
            self.close()
            raise
        self._worker.poke()

    async def _first(self) -> None:
        if not await self._look(urgent=True):
            raise none_there(self.path)

    def look_soon(self) -> None:
        """Look now, at what the quorum knows; many who ask at once are one look."""
        self._urgent = True
        self._worker.poke()

    def close(self) -> None:
        """Follow it no more."""
        self.let_go()
        if self._timer is not None:
            self._timer.cancel()
        member, self._member = self._member, None
        if member is not None:
            member.abandon()

    def let_go(self) -> None:
        """Leave no listener and no watch behind; may be called from anywhere, also by the collector.

        What is left is done by the timer that is due next.
        """
        self._closed = True
        self._session.unsubscribe(self._heard)
        for look in (GetData(self.path, self._ring), GetStat(self.path, self._ring)):
            self._session.ensemble.unwatch(look)

    # -- in the background

    def _changed(self, gone: bool) -> None:  # noqa: ARG002  the worker looks for itself
        self._worker.poke()

    def _heard(self, link: Link) -> None:
        if link is Link.CONNECTING:
            self._runtime.call_at(self._runtime.now() + _BLINK, self._worker.poke)
        else:
            self._worker.poke()

    async def _tend(self) -> None:
        if self._is_over():
            self.close()  # the timer that was due after ``let_go``
            return
        pause = self._poll
        try:
            urgent, self._urgent = self._urgent, False
            link = self._session.ensemble.link()
            if link is not Link.CONNECTED:
                self._is_away(self._session.why(link))
            else:
                await self._look(urgent=urgent)
                self._is_back()  # whether or not our epoch is shown
                await self._show()
        except StoreUnavailable as error:
            self._is_away(str(error))
            pause = min(_PAUSE, self._poll)
        except CoordError as error:
            self._is_away(str(error))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._runtime.call_at(self._runtime.now() + pause, self._worker.poke)
        if self._is_over():
            self.close()  # what was hung up since

    async def _look(self, *, urgent: bool) -> bool:
        """Look at the document, and take it if it has changed; return whether there is one."""
        requests: list[Request] = [Sync(self.path)] if urgent else []
        requests.append(GetData(self.path, self._ring))
        answer = (await self._session.read(self.path, requests))[-1]
        if isinstance(answer, NoNode):
            birth = (await self._session.read(self.path, [GetStat(self.path, self._ring)]))[0]
            if birth is not None:
                self._worker.poke()
                return False
        data: bytes = NONE if isinstance(answer, NoNode) else answer[0]
        if data == NONE and self._document != NONE:
            self._document = NONE
            _log.warning("%s: the topology is gone; epoch %d is served on", self.path, self._epoch)
        elif data != NONE:
            self._taken(data)
        return data != NONE

    def _taken(self, data: bytes) -> None:
        if data == self._document and not self._failed:
            return
        first, self._document, self._failed = not self._epoch, data, False
        try:
            topology = topology_of(self.path, data)
            self._take(topology, self.path)
        except BadTopology as error:
            if first:
                raise
            _log.error("%s; epoch %d is served on", error, self._epoch)
        except Exception:
            self._failed = True
            if first:
                raise
            _log.exception("%s: not adopted; epoch %d is served on", self.path, self._epoch)
        else:
            self._epoch = topology.epoch

    async def _show(self) -> None:
        """Have our epoch seen by others."""
        data: bytes = to_json({"epoch": self._epoch})
        try:
            if self._member is None:
                member = Membership(self._session, clients(self.path), self._identity, data)
                try:
                    await member.join()
                except BaseException:
                    member.abandon()
                    raise
                self._member = member
            elif self._member.data != data:
                await self._member.update(data)
        except StoreUnavailable:
            raise
        except CoordError as error:
            _log.debug("%s: our epoch is not shown: %s", self.path, error)

    def _is_over(self) -> bool:
        return self._closed

    def _is_away(self, why: str) -> None:
        if not self._away:
            self._away = True
            _log.warning("%s: not followed for now, epoch %d is served on: %s", self.path, self._epoch, why)

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            _log.warning("%s: followed again, with epoch %d", self.path, self._epoch)
