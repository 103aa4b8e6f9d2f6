"""Many readers of one group over one session: one roll, and each sees all, its own way and at its own pace."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from changing_group import GROUP, NAMES, Servers
from conftest import drive

from coordkit._ports_zookeeper import GetChildren, GetData, Request
from coordkit._threads.runtime import RUNTIME
from coordkit.core import session
from coordkit.core.changes import Change, Changes
from coordkit.core.session import Session
from coordkit.errors import StoreRefused, StoreUnavailable


class Counting(Servers):
    """Servers that count what they are asked for."""

    def __init__(self) -> None:
        super().__init__(trees=True)
        self.asked: list[Request] = []

        self._mutex = threading.RLock()  # what happens, happens between two answers

    def _answer(self, request: Any) -> Any:
        with self._mutex:
            return super()._answer(request)

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        self.asked += requests
        return await super().ask(name, requests, within=within)


@pytest.fixture
def servers() -> Counting:
    return Counting()


@pytest.fixture
def here(servers: Counting) -> Session:
    return Session(RUNTIME, servers)


def following(stream: Changes) -> Iterator[Change]:
    """Return the changes of a stream, each checked against the one before."""
    told: dict[str, bytes] = {}
    while (change := drive(stream.next_change())) is not None:
        assert change.joined == change.members.keys() - told.keys()
        assert change.left == told.keys() - change.members.keys()
        assert change.updated == {each for each in change.members.keys() & told if change.members[each] != told[each]}
        told = dict(change.members)
        yield change


def until(stream: Changes, wanted: Callable[[], dict[str, bytes]]) -> None:
    for change in following(stream):
        if change.members == wanted():
            return


def left_behind(servers: Counting, here: Session) -> list[Any]:
    watches = [watch for each in servers._watches.values() for watch in each]
    return [*here.rolls, *here._listeners, *servers._below, *watches]


@pytest.mark.parametrize("trees", [True, False], ids=["recursive", "one by one"])
def test_each_sees_the_last_state(trees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens between an answer and its use, and however the readers come and go."""
    monkeypatch.setattr(session, "_PAUSE", 0.0)
    for seed in range(30):
        _each_sees_the_last_state(random.Random(seed), Counting(), trees=trees)


def _each_sees_the_last_state(chance: random.Random, servers: Counting, *, trees: bool) -> None:
    servers._trees = trees
    here = Session(RUNTIME, servers)
    left = 20

    def meddle() -> None:
        nonlocal left
        with servers._mutex:
            while left and chance.random() < 0.3:
                left -= 1
                name, what = chance.choice(NAMES), chance.random()
                if what < 0.45:
                    servers.put(name)
                elif what < 0.8:
                    servers.remove(name)
                elif what < 0.9:
                    servers.delete_the_group()
                else:
                    servers.reconnect()

    def read(number: int) -> None:
        for _ in range(number):  # a stream that is left early
            early = Changes(here, GROUP)
            next(following(early))
            early.close()
        stream = Changes(here, GROUP)
        until(stream, lambda: servers.members if "last" in servers.members else {"not": b"yet"})
        stream.close()

    servers.meddle = meddle
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(read, number % 3) for number in range(4)]
        while left:
            meddle()
        with servers._mutex:
            servers.put("last")
        for each in running:
            each.result(30)
    assert left_behind(servers, here) == []


def test_what_changed_is_read_once_for_all(servers: Counting, here: Session) -> None:
    """With a roll for each it was read a hundred times: a thousand members took three minutes to show."""
    streams = [Changes(here, GROUP) for _ in range(10)]
    with ThreadPoolExecutor(len(streams)) as threads:
        servers.put("a")
        for each in [threads.submit(drive, stream.next_change()) for stream in streams]:
            assert each.result(30).members.keys() == {"a"}
        servers.asked.clear()
        told = [threads.submit(drive, stream.next_change()) for stream in streams]
        servers.put("b")
        for each in told:
            assert each.result(30).joined == {"b"}
    assert servers.asked == [GetData(f"{GROUP}/b")]
    for stream in streams:
        stream.close()
    assert left_behind(servers, here) == []


def test_whoever_comes_later_is_shown_a_list_of_its_own_time(servers: Counting, here: Session) -> None:
    """A change whose news is still on its way to us: an answer that was asked for now has it."""
    early, late = Changes(here, GROUP), Changes(here, GROUP)
    assert drive(early.next_change()).members == {}
    servers.members["a"] = b"unheard of"
    assert drive(late.next_change()).members == {"a": b"unheard of"}
    assert drive(early.next_change()).joined == {"a"}


def test_nothing_is_read_while_nobody_waits(servers: Counting, here: Session) -> None:
    stream = Changes(here, GROUP)
    drive(stream.next_change())
    servers.asked.clear()
    for _ in range(5):
        for name in NAMES:
            servers.put(name)
    drive(here.rolls[GROUP]._tend())  # the worker may come to it later
    assert servers.asked == []
    change = drive(stream.next_change())
    assert change.members == servers.members, "what was told last is not what there is"
    assert len(servers.asked) == len(NAMES)


def test_whoever_was_away_for_long_misses_nothing(servers: Counting, here: Session) -> None:
    slow, quick = Changes(here, GROUP), Changes(here, GROUP)
    slowly, quickly = following(slow), following(quick)
    for stream in (slowly, quickly):
        next(stream)
    for i in range(3 * len(NAMES) + 70):
        servers.put(NAMES[0] if i > 2 * len(NAMES) else NAMES[i % len(NAMES)])
        assert next(quickly).members == servers.members
    assert next(slowly).joined == set(NAMES)


def test_a_look_that_got_no_answer_is_tried_again(
    servers: Counting, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, lost = servers._answer, [StoreUnavailable(GROUP, "lost")]
    monkeypatch.setattr(servers, "_answer", lambda request: lost.pop() if lost else answer(request))
    servers.put("a")
    with ThreadPoolExecutor() as threads:
        assert threads.submit(drive, Changes(here, GROUP).next_change()).result(30).joined == {"a"}


def test_whoever_comes_as_the_last_one_goes_is_not_left_alone(servers: Counting, here: Session) -> None:
    last, came = Changes(here, GROUP), Changes(here, GROUP)
    comes = following(came)
    for name in NAMES:
        servers.put(name)
        drive(last.next_change())
    shared, waits = here.rolls[GROUP], []

    class Meanwhile(dict[Any, None]):
        def __bool__(self) -> bool:
            assert next(comes).members == servers.members
            waits.append(threads.submit(next, comes))
            while not any(reader.waiting for reader in self):
                pass
            return False  # as it was a moment ago

    with ThreadPoolExecutor() as threads:
        shared.readers = Meanwhile(shared.readers)
        last.let_go()
        assert shared.over
        servers.put("a comes back")
        assert waits[0].result(30).joined == {"a comes back"}
    assert here.rolls[GROUP] is not shared
    came.close()
    assert left_behind(servers, here) == []


def test_a_refusal_is_told_to_each_and_is_not_for_ever(
    servers: Counting, here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, refused = servers._answer, [True]

    def answering(request: Any) -> Any:
        if refused and isinstance(request, GetChildren):
            return StoreRefused(GROUP, "not for you")
        return answer(request)

    monkeypatch.setattr(servers, "_answer", answering)
    streams = [Changes(here, GROUP) for _ in range(3)]
    for stream, _ in itertools.product(streams, range(2)):
        with pytest.raises(StoreRefused, match="not for you"):
            drive(stream.next_change())
    refused.clear()
    for stream in streams:
        assert drive(stream.next_change()).members == {}
