"""Reading much over a line that loses answers: what was read is kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coordkit._ports_zookeeper import GetData
from coordkit._threads.runtime import RUNTIME
from coordkit.core.oversize import LARGE, Oversize
from coordkit.core.portions import Portions, read_all
from coordkit.errors import StoreRefused, StoreUnavailable


def finish(work: Any) -> Any:
    """Run a coroutine that waits for nothing but the blocking flavour's sleep."""
    with pytest.raises(StopIteration) as end:
        work.send(None)
    return end.value.value


class Line:
    """A session that answers some of what it is asked; its clock goes on by ``took`` seconds with each."""

    def __init__(self, losing: int, took: float = 0.1) -> None:
        self.runtime = self.ensemble = self
        self.asked: list[list[str]] = []
        self.clock = 0.0
        self._losing, self._took = losing, took

    def event(self) -> Any:
        return RUNTIME.event()

    def now(self) -> float:
        return self.clock

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def session_timeout(self) -> float:
        return 4.0

    async def ask_soon(self, name: str, requests: Any) -> list[Any]:
        self.asked.append([each.path for each in requests])
        self.clock += self._took
        kept = len(requests) - self._losing
        return [each.path if at < kept else StoreUnavailable(name, "lost") for at, each in enumerate(requests)]


def reads(count: int) -> list[GetData]:
    return [GetData(f"/{i}") for i in range(count)]


def test_what_was_read_is_not_read_again() -> None:
    wanted = reads(10)
    lossy: Any = Line(losing=3)

    async def once(name: str, requests: Any) -> list[Any]:
        answers = await Line.ask_soon(lossy, name, requests)
        lossy._losing = 0
        return answers

    lossy.ask_soon = once
    assert finish(read_all(lossy, "/g", wanted)) == [each.path for each in wanted]
    assert Counter(len(each) for each in lossy.asked) == {10: 1, 3: 1}


def test_nothing_read_for_one_session_timeout_is_no_answer() -> None:
    line: Any = Line(losing=10, took=1.0)
    with pytest.raises(StoreUnavailable):
        read_all(line, "/g", reads(10)).send(None)
    assert 4.0 <= line.clock < 6.0


def test_portions_are_as_large_as_is_answered_soon() -> None:
    slow: Any = Line(losing=0, took=2.0)
    portions = Portions(slow)
    finish(portions.ask("/g", reads(400)))
    assert portions.size == 100, "an eighth of the session timeout is half a second"
    slow._took = 0.01
    finish(portions.ask("/g", reads(100)))
    assert portions.size == 1000
    finish(portions.ask("/g", reads(3)))
    assert portions.size == 1000, "a few say nothing of many"


def writing(line: Any, oversize: Oversize, error: StoreUnavailable) -> Any:
    """Return what writes data in vain, each time on a new connection."""

    def unanswered(data: bytes) -> Any:
        line.clock += 0.1
        sent, line.clock = line.clock, line.clock + 0.1
        try:
            oversize._unanswered(data, sent, error)
        except StoreRefused as refused:
            return refused
        finally:
            oversize._unanswered(data, sent, error)  # the same connection, lost once
        return None

    return unanswered


def test_data_are_too_large_if_the_connection_is_lost_over_them_three_times_in_a_row() -> None:
    line: Any = Line(losing=0)
    lost: list[str] = []
    oversize, error = Oversize(line, "/g", b"small", lost.append), StoreUnavailable("/g", "gone")
    large = bytes(LARGE + 1)
    oversize.change(large)
    unanswered = writing(line, oversize, error)
    assert unanswered(large) is None
    assert oversize.pause() == 0
    assert unanswered(large) is None
    assert oversize.pause() > 0
    oversize.answered(None)
    assert oversize.pause() == 0
    assert unanswered(large) is None
    assert unanswered(large) is None
    refused = unanswered(large)
    assert refused is not None
    assert "jute.maxbuffer" in refused.why
    assert refused.__cause__ is error
    assert (oversize.data, oversize.refused) == (b"small", refused)
    assert lost == [], "the former ones are still there"


def test_data_that_are_too_large_from_the_first_are_refused_for_good() -> None:
    line: Any = Line(losing=0)
    lost: list[str] = []
    large = bytes(LARGE + 1)
    oversize, error = Oversize(line, "/g", large, lost.append), StoreUnavailable("/g", "gone")
    unanswered = writing(line, oversize, error)
    assert unanswered(large) is None
    assert unanswered(large) is None
    assert lost == []
    refused = unanswered(large)
    assert lost == [refused.why]


def test_small_data_are_never_too_large() -> None:
    line: Any = Line(losing=0)
    oversize, error = Oversize(line, "/g", b"", pytest.fail), StoreUnavailable("/g", "gone")
    unanswered = writing(line, oversize, error)
    assert [unanswered(bytes(LARGE)) for _ in range(20)] == [None] * 20
    assert 4.0 < oversize.pause() <= 5.0
