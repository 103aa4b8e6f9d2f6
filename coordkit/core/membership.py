"""One identity in one group: a znode that is kept as it should be by one worker, from ``join`` to ``leave``.

The worker looks at the znode whenever it changed or the connection came back, and sets right what it finds: it makes
the znode anew, replaces the one of an older session of ours, writes the data again, or tells that a newer incarnation
has the identity. Which znode is ours is a subject of its own: see ``own_znode``.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from coordkit._ports_zookeeper import BadVersion, Check, Link, NodeError, NoNode, Stat
from coordkit.core.oversize import LARGE, Oversize
from coordkit.core.own_znode import OwnZnode
from coordkit.core.session import Session
from coordkit.core.token import Token
from coordkit.errors import CoordError, LeaseLost, StoreUnavailable

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before an unanswered background request is made again
_MOMENT = 0.02  # seconds before we look again at what others changed meanwhile
_FOR_GOOD = frozenset({Link.CLOSED, Link.REFUSED})
_NEWER = "another process joined under this identity later"


class Membership:
    """One identity in one group: its znode is kept by one worker, from ``join`` to ``leave``."""

    def __init__(self, session: Session, group: str, identity: str, data: bytes) -> None:
        self.name = group
        self.identity = identity
        self.lost = session.runtime.event()
        self._session = session
        self._runtime = session.runtime
        self._process = session.runtime.process
        self._holder = session.runtime.new_holder()
        self._refused: CoordError | None = None
        self._joined = False
        self._leaving = False
        self._why = ""
        self._content = Oversize(session, group, data, self._refused_for_good)
        self._left = session.runtime.event()
        self._worker = session.runtime.worker(self._tend)
        self._znode = OwnZnode(session, group, identity, self._worker.poke)

    # -- looking at it

    @property
    def data(self) -> bytes:
        """What the znode is to have."""
        return self._content.data

    @property
    def token(self) -> Token:
        """The zxid by which this incarnation was made: greater than that of every earlier one of this identity."""
        return Token(self._znode.created, self._holder)

    def ensure(self) -> Literal[True]:
        """Return True if the identity is ours; raise ``LeaseLost`` if a newer incarnation has it."""
        if not (self.lost.is_set() or self._leaving) and (link := self._session.ensemble.link()) in _FOR_GOOD:
            self._end_with(link)
        if self.lost.is_set() or self._leaving or self._runtime.process != self._process:
            raise self.loss()
        return True

    def loss(self) -> LeaseLost:
        if self._runtime.process != self._process:
            why = f"it belongs to process {self._process}; a forked child is no member"
        else:
            why = self._why or "it was left"
        return LeaseLost(self.name, why, token=self.token)

    def check(self) -> Check:
        """Return what fails in a transaction if our znode is not there."""
        return self._znode.check()

    # -- joining, and joining anew

    async def join(self) -> None:
        until = self._runtime.now() + self._session.ensemble.session_timeout()
        while True:
            session = await self._session.connected(self.name, until)
            error = StoreUnavailable(self.name, f"what is at {self._znode.node} is changed by others all the time")
            try:
                if await self._put(session) or await self._replace(session):
                    break
            except StoreUnavailable as unanswered:
                error = unanswered
            if self._runtime.now() >= until:
                raise error
            await self._runtime.sleep(max(_MOMENT, self._content.pause()))
        self._joined, self._znode.since = True, self._znode.created
        self._session.subscribe(self._heard)
        self._worker.poke()  # the session may have ended between the answer and the subscription

    async def _replace(self, session: int) -> bool:
        """Put our znode in place of whatever is there; return False if that changed."""
        there, mark = await self._znode.ask(*self._znode.look())
        if isinstance(there, NoNode):
            return False
        if isinstance(there, Exception):
            raise there
        return await self._put(session, replaced=there[1], mark=mark)

    async def _put(self, session: int, replaced: Stat | None = None, mark: Any = None) -> bool:
        self._session.guests.add(self)
        return await self._content.put(self._znode, session, replaced, mark)

    # -- tending it, by the worker

    def _heard(self, link: Link) -> None:
        if link in _FOR_GOOD and not self._leaving:
            self._end_with(link)
        elif link is not Link.CONNECTING:
            self._worker.poke()

    def _end_with(self, link: Link) -> None:
        self._lose(f"{self._session.ensemble}: {self._session.why(link)}")

    async def _tend(self) -> None:
        if not (self._joined or self._leaving) or self.lost.is_set() or self._left.is_set():
            return
        link = self._session.ensemble.link()
        if self._leaving and link not in (Link.CONNECTED, Link.CONNECTING):
            self._end()  # the session was closed, and the znode with it
        if link is not Link.CONNECTED:
            return  # poked again when that has changed
        try:
            await (self.remove(self._session) if self._leaving else self._keep())
        except StoreUnavailable:
            self._again()
        except CoordError as error:
            _log.warning("%s: member %s is not as it should be: %s", self.name, self.identity, error)
            if self._leaving:
                self._refused = error
                self._end()  # asked again, they would say no again; the znode ends with the session
            else:
                self._again(5.0)

    def _again(self, pause: float = _PAUSE) -> None:
        self._runtime.call_at(self._runtime.now() + pause, self._worker.poke)

    def _refused_for_good(self, why: str) -> None:
        """Be told that the servers refuse the very data with which we are there."""
        if self._joined:
            self._lose(why)

    async def _keep(self) -> None:
        """Bring our znode to what it should be, or find that a newer incarnation has it."""
        session = await self._session.connected(self.name, self._runtime.now())
        seen, mark = await self._znode.watch()
        if isinstance(seen, Exception) and not isinstance(seen, NoNode):
            raise seen
        data, stat = (None, None) if isinstance(seen, NoNode) else seen
        if stat is not None and not self._znode.owns(stat) and not self._znode.outranks(stat, mark):
            self._lose(_NEWER)
            return
        ours = stat is not None and self._znode.owns(stat)
        if stat is not None and ours:
            self._znode.is_ours(stat)
            if stat.owner == session and data == self.data:
                self._content.answered(data)
                return
        if (pause := self._content.pause()) > 0:
            self._again(pause)
        elif stat is not None and ours and stat.owner == session:
            await self._rewrite(stat)
        elif not await self._put(session, replaced=stat, mark=mark):
            self._again(_MOMENT)

    async def _rewrite(self, stat: Stat) -> None:
        """Write the data to our znode, which has others."""
        await self._content.before()
        data = self.data
        answer = await self._content.write(self._session.ask, self._znode.node, data, stat.version)
        if isinstance(answer, NodeError):
            self._again(_MOMENT)
        elif isinstance(answer, Exception):
            raise answer
        else:
            self._znode.version = answer.version
            self._content.answered(data)

    def _lose(self, why: str) -> None:
        if self.lost.is_set():
            return
        self._why = why
        _log.warning("%s: member %s is lost: %s", self.name, self.identity, self._why)
        self.lost.set()
        self._end()

    # -- changing and ending it

    async def update(self, data: bytes) -> None:
        """Change the data; without an answer it is changed as soon as there is a connection.

        Large data for which there is none are waited for, one session timeout: perhaps they are too large.
        """
        self.ensure()
        self._content.change(data)
        until = self._session.soon()
        try:
            while not await self._write(data, until):
                pass
        except StoreUnavailable:
            self._worker.poke()
            if len(data) <= LARGE:
                raise
            await self._content.settled.wait(self._session.ensemble.session_timeout())
            if self._content.refused is not None:
                raise self._content.refused from None
            if self._content.kept != data:
                raise
        except BaseException:
            self._worker.poke()
            raise

    async def _write(self, data: bytes, until: float) -> bool:
        """Write the data to our own znode; return False if it has changed since we last heard of it."""
        answer = await self._content.write(self._session.ask_soon, self._znode.node, data, self._znode.version)
        if isinstance(answer, NoNode):
            self._worker.poke()  # it is being made anew, with these data
            return True
        if isinstance(answer, BadVersion):
            seen, mark = await self._znode.ask(*self._znode.look())
            if isinstance(seen, Exception) and not isinstance(seen, NodeError):
                raise seen
            if not isinstance(seen, Exception):
                if self._is_not_ours(seen[1], mark):
                    return True
                self._znode.is_ours(seen[1])
            if self._runtime.now() >= until:
                raise StoreUnavailable(self.name, f"member {self.identity} is written by others all the time")
            return False
        if isinstance(answer, Exception):
            raise answer
        if not self._znode.owns(answer):
            # A newer incarnation writes its own data again.
            return self._is_not_ours(answer, (await self._znode.ask(self._znode.look()[1]))[0])
        self._znode.is_ours(answer)
        self._content.answered(data)
        return True

    def _is_not_ours(self, stat: Stat, mark: Any) -> bool:
        """Return True for an older incarnation's znode, which is being replaced; raise ``LeaseLost`` for a newer's."""
        if self._znode.owns(stat):
            return False
        if not self._znode.outranks(stat, mark):
            self._lose(_NEWER)
            raise self.loss()
        self._worker.poke()
        return True

    @property
    def alone(self) -> bool:
        """Return whether nobody here can do anything more: the event loop has gone."""
        return self._session.elsewhere() is not None

    def abandon(self) -> None:
        """Have the worker remove the znode, if there is one."""
        self._leaving = True
        if not self._znode.created and not self._znode.unsure:
            self._end()  # there is none
            return
        if self.alone:
            self._session.remove_later(self.name, self.remove)
            return
        self._session.subscribe(self._heard)
        self._worker.poke()

    async def gone(self) -> None:
        """Wait until the znode is removed, for no longer than anything that nobody gave a time."""
        await self._left.wait(self._session.soon() - self._runtime.now())

    async def leave(self) -> bool:
        """Leave; return whether the identity was ours to the end. Raises ``StoreUnavailable`` if no answer came."""
        if self._runtime.process != self._process or self.lost.is_set():
            return False
        if self._left.is_set():
            return True
        self.abandon()
        await self.gone()
        if not self._left.is_set() and not self.lost.is_set():
            raise StoreUnavailable(
                self.name, f"leaving got no answer from {self._session.ensemble}; it goes on in the background"
            )
        if self._refused is not None:
            raise self._refused
        return not self.lost.is_set()

    async def remove(self, session: Session) -> None:
        """Delete the znode if it is ours; raises ``StoreUnavailable`` if that is not sure."""
        if self._left.is_set():
            return
        if not await self._znode.remove(session):
            self._lose(_NEWER)
        self._end()

    def _end(self) -> None:
        self._session.unsubscribe(self._heard)
        self._session.guests.discard(self)
        self._znode.forget()
        self._left.set()
