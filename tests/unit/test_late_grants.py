"""A grant whose answer comes after its own deadline is no lease: it is given back, and the caller is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME
from coordkit.core.contend import Contender
from coordkit.core.grantor import Granted, Refused, Returned
from coordkit.errors import StoreUnavailable

TTL = 0.05


class Slow:
    """A server that answers each request in the time that a test has written down, and then with what it has."""

    name = key = "a"
    confirm = None

    def __init__(self, *answers: tuple[float, Any]) -> None:
        self._answers = list(answers)
        self.given_back: list[str] = []
        self.keeper = SimpleNamespace(give_back=self.give_back, renew=lambda _: None)

    def give_back(self, _: Any, holder: str, *__: Any, **___: Any) -> None:
        self.given_back.append(holder)

    def inbox(self) -> None:
        return None

    async def grant(self, *_: Any) -> Any:
        pause, answer = self._answers.pop(0)
        await RUNTIME.sleep(pause)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def revoke(self, holder: str, *_: Any) -> Returned:
        self.given_back.append(holder)
        return Returned.GIVEN_BACK


LATE = (2 * TTL, Granted(7))


@pytest.mark.parametrize(
    "before",
    [
        [],
        [(0.0, StoreUnavailable("a", "no answer"))],
        [(0.0, Refused("b", 0.001))],
    ],
)
def test_an_answer_that_took_longer_than_the_ttl_is_given_back(before: list[Any]) -> None:
    grantor: Any = Slow(*before, LATE)
    with pytest.raises(StoreUnavailable, match=r"longer than the ttl \(0.05 s\)"):
        run(Contender(RUNTIME, grantor, TTL).acquire(10.0))
    assert grantor.given_back
