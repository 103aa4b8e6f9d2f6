"""How long ``run`` waits before it stands again, and after what it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import drive

from coordkit._ports_zookeeper import Link, OverQuota
from coordkit._threads.runtime import RUNTIME
from coordkit.core import election
from coordkit.core.candidate import Terms
from coordkit.errors import LeadershipLost, StoreUnavailable

PATH = "/service/leader"


class Standing(election.Election):
    """An election of which each standing ends as was said before; the pauses between them are noted, not waited for."""

    def __init__(self, *endings: Exception | None) -> None:
        session = SimpleNamespace(ensemble=SimpleNamespace(link=lambda: Link.CONNECTED))
        super().__init__(RUNTIME, lambda: session, PATH, Terms("one"))
        self.endings = list(endings)
        self.pauses: list[float] = []

    async def lead(self, timeout: float | None, attempt: election.Attempt | None = None) -> Any:
        assert timeout is None
        assert attempt is not None
        attempt.stood = True

        async def wait(pause: float | None = None) -> bool:
            assert pause is not None
            self.pauses.append(pause)
            return False

        attempt.stop.wait = wait
        ending = self.endings.pop(0)
        if ending is not None:
            raise ending
        return "leads"


@pytest.fixture(autouse=True)
def no_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave(*_: object) -> None: ...

    monkeypatch.setattr(election, "leave", leave)
    monkeypatch.setattr(election, "leave_with_result", leave)


def away() -> StoreUnavailable:
    return StoreUnavailable(PATH, "no answer")


async def served(_: Any) -> str:
    return "served"


def test_it_waits_longer_and_longer_at_random() -> None:
    """Half a second in the mean after the fourth failure, so that a crowd that fell out of one outage is spread."""
    pauses = []
    for _ in range(200):
        standing = Standing(*(away() for _ in range(12)), None)
        assert drive(standing.run(served, again=True)) == "served"
        assert len(standing.pauses) == 12
        pauses.append(standing.pauses)
    for number, nth in enumerate(zip(*pauses, strict=True)):
        most = min(0.1 * 2**number, 5.0)
        assert 0 <= min(nth) < most / 4
        assert most * 3 / 4 < max(nth) <= most


def test_who_has_led_waits_for_a_moment_only() -> None:
    """A term that was lost is no failure to stand."""

    async def lose(leadership: Any) -> None:
        raise LeadershipLost(PATH, "for the test", token=1)

    pauses = []
    for _ in range(50):
        standing = Standing(*(away() for _ in range(8)), None)

        async def serve(leadership: Any, standing: Standing = standing) -> str:
            if len(standing.pauses) == 8:
                standing.endings.append(None)
                await lose(leadership)
            return "served"

        assert drive(standing.run(serve, again=True)) == "served"
        pauses.append(standing.pauses[-1])
    assert 0.05 < max(pauses) <= 0.1


@pytest.mark.parametrize("kind", [StoreUnavailable, OverQuota])
def test_who_was_told_to_stop_while_it_stood_returns_none_however_that_ended(kind: Any) -> None:
    class Stopping(Standing):
        async def lead(self, timeout: float | None, attempt: election.Attempt | None = None) -> Any:
            self.stop()
            return await super().lead(timeout, attempt)

    assert drive(Stopping(kind(PATH, "for the test")).run(served, again=True)) is None
