"""Proving to the quorum, again and again, that what is led is led: one round of one worker serves a whole session."""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from coordkit._ports_zookeeper import Check, GetData, Multi, NoNode, Request

if TYPE_CHECKING:
    from coordkit.core.proven import Proven
    from coordkit.core.pulse import Pulse
    from coordkit.core.session import Session

_log = logging.getLogger("coordkit")

_MOMENT = 0.02  # seconds


class Proofs:
    """The leaderships of one session that are due to be proven."""

    def __init__(self, session: Session, *, grace: float) -> None:
        self._session = session
        self._grace = grace
        self._due: deque[Proven] = deque()
        self._fresh: deque[Pulse] = deque()  # which are not kept by that
        self._looks = -math.inf  # when somebody looks at the fresh ones
        self._prover = session.runtime.worker(self._prove)

    def add(self, leadership: Proven) -> None:
        """Prove ``leadership`` to the quorum in the next round."""
        self._due.append(leadership)
        self._prover.poke()

    def add_soon(self, leadership: Proven) -> None:
        """Prove ``leadership`` in a moment, unless it is over by then: who leads for less asks for nothing more.

        One timer serves all: one for each would wake the timer's thread for each.
        """
        runtime = self._session.runtime
        self._fresh.append(leadership.pulse)
        now = runtime.now()
        if now >= self._looks:
            runtime.call_at(now + _MOMENT, self._add_fresh)
            self._looks = now + _MOMENT  # last: whoever is interrupted before leaves it to the next

    def _add_fresh(self) -> None:
        while self._fresh:
            leadership = self._fresh.popleft()()
            if leadership is not None and leadership.held:
                self.add(leadership)

    async def _prove(self) -> None:
        while self._due:
            batch = [each for each in (self._due.popleft() for _ in range(len(self._due))) if each.held]
            if not batch:
                return
            asked, proven = self._session.runtime.now(), self._session.proven
            requests: list[Request] = []
            for each in batch:
                requests.append(Multi((Check(each.place.node),)))
                requests.append(GetData(each.place.node, each.place.changed))
            answers: list[Any]
            within = max(self._grace, *(each.remaining() for each in batch))
            answers = await self._session.ensemble.ask(batch[0].name, requests, within=within)
            for leadership, answer, own in zip(batch, answers[::2], answers[1::2], strict=True):
                if isinstance(own, tuple):
                    leadership.told(own[0])
                if isinstance(answer, NoNode) or isinstance(
                    own, NoNode
                ):  # perhaps deleted between the two, so unwatched
                    leadership.lose("its znode is gone: deleted by hand, or with the session")
                elif isinstance(answer, list):
                    leadership.renewed(asked, proven)
                elif leadership.held:
                    _log.warning("%s: not proven, %.1f s left: %s", leadership.name, leadership.remaining(), answer)
                    self._again(leadership)
                if not leadership.held:
                    leadership.place.forget()  # it ended while we asked, and our watch came after

    def _again(self, leadership: Proven) -> None:
        pause = min(leadership.ttl / 10, 1.0)
        runtime = self._session.runtime
        runtime.call_at(runtime.now() + pause, lambda: self.add(leadership))
