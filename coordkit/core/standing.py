"""One contender on its way to the head of the line.

Once in the line (see ``entering``), each contender watches the one before it only, so that a hand-over wakes one;
taking over is one transaction, which proves the session and may be asked again. If the session ends, or our znode goes,
we stand again, at the end of the line, with a new GUID.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from coordkit._ports_zookeeper import BadVersion, GetData, NoNode
from coordkit.core.entering import PAUSE, Entering, Gone, T
from coordkit.core.lease import DRIFT
from coordkit.core.place import Entry, Place
from coordkit.core.session import GRACE, Session, Stop
from coordkit.errors import AcquireTimeout, NotAcquired, StoreUnavailable

_log = logging.getLogger("coordkit")


async def stand(
    session: Session,
    name: str,
    place: Callable[[], Place[T]],
    timeout: float | None,
    *,
    stop: Stop | None = None,
    stood: Callable[[], None] = lambda: None,
    standing: type[Standing[T]] | None = None,
) -> T:
    """Stand until it is our turn (``timeout``: None for ever, 0 once), with a new ``place()`` each time ours is gone.

    However it ends, a place that is not held any more is removed, in the background where that takes long.
    """
    runtime = session.runtime
    deadline = math.inf if timeout is None else runtime.now() + timeout
    while True:
        await session.connected(name, max(deadline, runtime.now() + (GRACE if timeout == 0 else 0)), stop)
        candidate = place()
        session.guests.add(candidate)
        held = None
        if stop is not None:
            stop.listen(candidate.wake.ring)
        stood()
        try:
            held = await (standing or Standing)(candidate, deadline, timeout, stop).lead()
        except Gone as reason:
            _log.info("%s: %s is in line again, at its end: %s", name, candidate.who(), reason)
            await session.remove(name, candidate.remove)
        except (StoreUnavailable, GeneratorExit):
            # No answer, or nobody left to wait for one: see to it in the background.
            candidate.forget()
            candidate.remove_later()
            raise
        except BaseException:
            await runtime.finish(session.remove(name, candidate.remove), within=GRACE)
            raise
        else:
            return held  # from now on it sees to its place
        finally:
            if held is None:
                session.guests.discard(candidate)
            if stop is not None:
                stop.unlisten(candidate.wake.ring)


class Standing(Entering[T]):
    """One contender on its way to the head of the line."""

    async def lead(self) -> T:
        line = await self._enter()
        while True:
            before = self._before(line)
            if not before:
                taken = self._at_once() or await self._take_over()
                if taken is not None:
                    return taken
                line = await self._list()
                continue
            if self._timeout == 0:
                raise NotAcquired(self._name, self._candidate.taken(len(before)))
            self._entry = None
            line = await self._wait(line, before)

    def _before(self, line: list[str]) -> list[str]:
        own = self._candidate.node.rpartition("/")[2]
        if own not in line:
            raise Gone("our znode was deleted")
        return self._candidate.before(line, line.index(own))

    async def _wait(self, line: list[str], ahead: list[str]) -> list[str]:
        """Wait for the last of those ``ahead`` of us to leave; return the line as it is then."""
        candidate, wake = self._candidate, self._candidate.wake
        left = False

        def changed(gone: bool) -> None:
            nonlocal left
            left = left or gone
            wake.ring()

        before = GetData(self._parent + ahead[-1], changed)
        self._session.subscribe(wake.ring)
        try:
            wake.reset()
            self._check_stop()
            theirs, own = await self._ask(before, candidate.own())
            if isinstance(own, NoNode):
                raise Gone("our znode was deleted")
            left = left or isinstance(theirs, NoNode)
            if isinstance(theirs, StoreUnavailable) or isinstance(own, StoreUnavailable):
                await self._runtime.sleep(PAUSE)
            if isinstance(own, tuple):
                candidate.looked(own[1])
            if not (left or isinstance(theirs, Exception) or isinstance(own, Exception)):
                if own[1].owner != candidate.owner or not self._session.alive_as(candidate.owner):
                    await self._same_session(candidate.owner)
                elif own[1].version != candidate.version:
                    candidate.version = own[1].version  # we were told something before we watched: look again
                else:
                    await wake.wait(self._deadline)
        finally:
            self._session.unsubscribe(wake.ring)
            self._session.ensemble.unwatch(before)
        self._check_stop()
        if candidate.gone:
            raise Gone("our znode was deleted")
        if left and len(ahead) == 1:
            # Nobody comes in before us: it is our turn, and taking over checks that we are there.
            return [name for name in line if name != ahead[0]]
        await self._same_session(candidate.owner)
        if self._runtime.now() >= self._deadline:
            raise AcquireTimeout(
                self._name,
                f"{candidate.taken(len(ahead))}; waited {self._timeout} s",
                timeout=self._timeout or 0.0,
            )
        return await self._list_and_prove() if candidate.eager else await self._list()

    async def _list_and_prove(self) -> list[str]:
        """Return the line as it is now; if it is our turn, we have taken over along with that."""
        candidate, asked = self._candidate, self._runtime.now()
        proof, own, names, *seen = await self._ask(
            candidate.take_over(), candidate.own(), candidate.listing(), *candidate.also()
        )
        if any(isinstance(answer, Exception) for answer in (proof, own, names)):
            return await self._list()
        candidate.looked(own[1])
        self._entry = Entry(asked, own[1], seen)
        return candidate.in_order(names)

    def _at_once(self) -> T | None:
        """Return what the last look gives us: a write went with it, and nobody was before us."""
        entry = self._entry
        token = None if entry is None else self._candidate.token_at_once(entry)
        if entry is None or token is None or not self._session.alive_as(self._candidate.owner):
            return None
        return self._proven(token, entry.asked)

    async def _take_over(self) -> T | None:
        """Take over by one transaction; asked again, it is only written anew, with a greater token.

        Returns None if the order of the line was changed since we looked.
        """
        candidate = self._candidate
        while True:
            self._check_stop()
            asked = self._runtime.now()
            looks = [candidate.own()] if candidate.watched_at_once else []
            answer, *rest = await self._ask(candidate.take_over(), *looks, *candidate.also())
            own, seen = (rest[0], rest[1:]) if looks else (None, rest)
            if isinstance(answer, NoNode):
                if answer.path == candidate.node:
                    raise Gone("our znode was deleted")
                await self._found()  # only what is beside the line is gone
                await self._runtime.sleep(PAUSE)
            elif isinstance(answer, BadVersion):
                return None
            elif isinstance(answer, StoreUnavailable):
                candidate.unanswered()
                if self._runtime.now() >= max(self._deadline, asked + GRACE):
                    raise answer
                await self._same_session(candidate.owner)
                await self._runtime.sleep(PAUSE)
            elif isinstance(answer, Exception):
                raise answer
            elif isinstance(own, NoNode) or candidate.gone:
                raise Gone("our znode was deleted")
            elif not self._session.alive_as(candidate.owner):
                await self._same_session(candidate.owner)
            elif (token := candidate.token(answer, own, seen)) is not None and (taken := self._proven(token, asked)):
                return taken
            else:
                await self._runtime.sleep(PAUSE)

    def _proven(self, token: int, asked: float) -> T | None:
        """Return what was granted; None if the answer came so late that it proves nothing any more."""
        now, proven = self._runtime.now(), self._session.proven
        if now - asked < proven * (1 - DRIFT):
            held = self._candidate.hold(token, asked)
            if not held.held:
                raise Gone("it was lost as soon as it was granted")
            return held
        if now >= self._deadline:
            raise StoreUnavailable(
                self._name,
                f"{self._session.ensemble} answers so late that it proves nothing: after {now - asked:.1f} s",
            )
        return None
