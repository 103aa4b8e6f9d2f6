"""Much is asked for in portions, each as large as is answered in a small part of the session timeout.

One large burst would keep the proofs of the same client waiting behind it, and be asked for anew as a whole when one
answer is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._ports_zookeeper import Request
from coordkit.core.session import Session
from coordkit.errors import StoreUnavailable

_FIRST, _LEAST, _MOST = 500, 10, 1000  # requests
_SHARE = 1 / 8  # of the session timeout
_PAUSE = 0.02  # seconds before what got no answer is asked again


class Portions:
    """How many requests to send at once, by how long the last ones took."""

    def __init__(self, session: Session) -> None:
        self.size = _FIRST
        self._session = session

    async def ask(self, name: str, requests: Sequence[Request]) -> list[Any]:
        """Ask at once, as ``Session.ask_soon`` does."""
        now = self._session.runtime.now
        asked = now()
        answers = await self._session.ask_soon(name, requests)
        took, goal = now() - asked, self._session.ensemble.session_timeout() * _SHARE
        if took > goal or len(requests) >= self.size:
            self.size = max(_LEAST, min(_MOST, int(len(requests) * goal / max(took, 0.001))))
        return answers


async def read_all(session: Session, name: str, requests: Sequence[Request]) -> list[Any]:
    """Read all of it; what was read is kept though other answers are missing, and those are asked for again.

    Raises ``StoreUnavailable`` once nothing was answered for one session timeout.
    """
    runtime, portions = session.runtime, Portions(session)
    answers: dict[int, Any] = {}
    patience = session.ensemble.session_timeout()
    left, until = list(range(len(requests))), runtime.now() + patience
    while left:
        asked = left[: portions.size]
        seen = await portions.ask(name, [requests[each] for each in asked])
        lost = next((each for each in seen if isinstance(each, StoreUnavailable)), None)
        new = {at: each for at, each in zip(asked, seen, strict=True) if not isinstance(each, StoreUnavailable)}
        answers |= new
        if new:
            until = runtime.now() + patience
        if lost is not None:
            if runtime.now() >= until:
                raise lost
            await runtime.sleep(_PAUSE)
        left = [each for each in left if each not in new]
    return [answers[each] for each in range(len(requests))]
