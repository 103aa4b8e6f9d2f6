"""The gate in front of a service's handlers: threads, tasks, and both at once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import pytest

import coordkit
import coordkit.aio
import coordkit.gate
from coordkit import StaleToken, Token, TokenGate

A = "ledger:42"


@pytest.fixture
def gate() -> TokenGate:
    return TokenGate()


def waiting(gate: TokenGate, resource: str = A) -> int:
    line = [each() for each in gate._resources[resource].line]
    return max(0, sum(action is not None and not action.over for action in line) - 1)  # the first is inside


async def until(check: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if check():
            return
        await asyncio.sleep(0.001)
    pytest.fail("not so within ten seconds")


def test_both_flavours_have_the_one_class() -> None:
    assert coordkit.TokenGate is coordkit.aio.TokenGate


def test_a_lower_token_is_refused(gate: TokenGate) -> None:
    with gate.enter(A, 8) as token:
        assert (token, token.holder) == (8, "")
    gate.check(A, 8)
    for late in (gate.enter(A, 7).__enter__, lambda: gate.check(A, 7)):
        with pytest.raises(StaleToken, match=r"ledger:42: token 7 is late: the resource has seen 8; stop") as caught:
            late()
        assert (caught.value.token, caught.value.seen) == (7, 8)
    with gate.enter("ledger:43", 7):
        gate.check(A, 9)


def test_an_equal_token_of_another_holder_is_refused(gate: TokenGate) -> None:
    gate.check(A, 5)
    gate.check(A, Token(5, "me"))
    gate.check(A, 5)  # a bare number has lost its holder on the way, and does not wipe it out
    with pytest.raises(StaleToken, match="5 of me"):
        gate.check(A, Token(5, "you"))
    gate.check(A, Token(6, "you"))
    gate.check(A, 7)
    gate.check(A, Token(7, "me"))


@pytest.mark.parametrize("holder", ["", "host:17:0f", "a host", "Zürich\r\nX-Evil: 1", "100%", "{é}"])
def test_a_header_carries_token_and_holder(gate: TokenGate, holder: str) -> None:
    text = TokenGate.header(Token(2**63 - 1, holder))

    assert text.isascii()
    assert text.isprintable()
    with gate.enter(A, text) as token:
        assert (token, token.holder) == (2**63 - 1, holder)
    assert TokenGate.header(7) == "7"
    assert TokenGate.header(Token(7, "host:17:0f")) == "7 host:17:0f"


@pytest.mark.parametrize(
    "text", ["", " ", "x", "0", "-1", "7.0", "1_0", "+7", "\u0667", str(1 << 63), "9" * 5000, "seven me", "0x10", "7,8"]
)
def test_a_header_that_is_no_token(gate: TokenGate, text: str) -> None:
    for call in (gate.enter, gate.check):
        with pytest.raises(ValueError, match="token must be digits of a number"):
            call(A, text)


def test_what_is_no_token_and_no_resource(gate: TokenGate) -> None:
    with pytest.raises(ValueError, match=r"token is missing: send it with the request"):
        gate.enter(A, None)
    with pytest.raises(TypeError, match=r"token must be an int \(lease.token\), got 7.0"):
        gate.enter(A, 7.0)  # type: ignore[arg-type]  # a mistake on purpose
    with pytest.raises(ValueError, match="token must be between"):
        gate.enter(A, 0)
    with pytest.raises(TypeError, match="resource must be a str, got 42"), gate.enter(42, 7):  # type: ignore[arg-type]  # a mistake on purpose
        pass


def test_forgetting(gate: TokenGate) -> None:
    with gate.enter(A, 8):
        assert gate.forget(A) is False
    with pytest.raises(StaleToken):
        gate.check(A, 7)
    assert gate.forget(A) is True
    assert gate.forget("never seen") is True
    gate.check(A, 7)


def test_an_error_inside_lets_the_next_one_in(gate: TokenGate) -> None:
    with pytest.raises(KeyError), gate.enter(A, 8):
        raise KeyError
    with gate.enter(A, 8):
        pass


# -- one action at a time


async def test_asking_alone_has_a_gap(gate: TokenGate) -> None:
    """The control: a later holder comes and goes between the comparison and the action, and is overwritten."""
    written = []

    async def act(token: int, pause: float) -> None:
        gate.check(A, token)
        await asyncio.sleep(pause)
        written.append(token)

    await asyncio.gather(act(7, 0.01), act(8, 0))

    assert written == [8, 7]


async def test_entering_has_none(gate: TokenGate) -> None:
    written = []

    async def act(token: int, pause: float) -> None:
        async with gate.enter(A, token):
            await asyncio.sleep(pause)
            written.append(token)

    await asyncio.gather(act(7, 0.01), act(8, 0))

    assert written == [7, 8]


async def test_a_later_one_refuses_those_who_wait(gate: TokenGate) -> None:
    entered = []

    async def act(token: int) -> None:
        async with gate.enter(A, token):
            entered.append(token)

    async with gate.enter(A, 5):
        first, second, third = (asyncio.create_task(act(token)) for token in (6, 6, 7))
        await until(lambda: waiting(gate) == 3)
        with pytest.raises(StaleToken):
            await act(6)  # at once, without waiting
    await third
    for late in (first, second):
        with pytest.raises(StaleToken, match=r"6 is late.* 7"):
            await late

    assert entered == [7]


async def test_first_come_first_served_by_threads_and_tasks(gate: TokenGate) -> None:
    served: list[int] = []

    async def task(i: int) -> None:
        async with gate.enter(A, 5):
            served.append(i)

    def thread(i: int) -> None:
        with gate.enter(A, 5):
            served.append(i)

    def other_loop(i: int) -> None:
        asyncio.run(task(i))

    with ThreadPoolExecutor(20) as pool:
        running: list[Any] = []
        async with gate.enter(A, 5):
            for i in range(12):
                if i % 3 == 0:
                    running.append(asyncio.create_task(task(i)))
                else:
                    running.append(asyncio.wrap_future(pool.submit(thread if i % 3 == 1 else other_loop, i)))
                await until(lambda: waiting(gate) == len(running))
        await asyncio.gather(*running)

    assert served == list(range(12))


async def test_a_cancelled_one_gives_up_its_turn(gate: TokenGate) -> None:
    async def act() -> str:
        async with gate.enter(A, 5):
            return "inside"

    async with gate.enter(A, 5):
        first, second = asyncio.create_task(act()), asyncio.create_task(act())
        await until(lambda: waiting(gate) == 2)
        first.cancel()
        await asyncio.wait([first])

    assert first.cancelled()
    assert await asyncio.wait_for(second, 10) == "inside"


async def test_one_that_is_cancelled_when_its_turn_has_come_passes_it_on(gate: TokenGate) -> None:
    async def act() -> str:
        async with gate.enter(A, 5):
            return "inside"

    async with gate.enter(A, 5):
        first, second = asyncio.create_task(act()), asyncio.create_task(act())
        await until(lambda: waiting(gate) == 2)
    assert waiting(gate) == 1  # it is the first's turn, which has not run yet
    first.cancel()

    assert await asyncio.wait_for(second, 10) == "inside"
    assert first.done()


def test_many_threads_lose_nothing(gate: TokenGate) -> None:
    value, inside, most = 0, 0, 0

    def add(token: int) -> bool:
        nonlocal value, inside, most
        try:
            with gate.enter(A, token):
                inside += 1
                most = max(most, inside)
                read = value
                threading.Event().wait(0.0005)
                value = read + 1
                inside -= 1
        except StaleToken:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        acknowledged = sum(pool.map(add, [1 + i // 20 for i in range(200)]))

    assert most == 1
    assert value == acknowledged >= 10


# -- exceptions of a signal's handler, which may come anywhere


class Interrupted(BaseException):
    pass


def interrupted(act: Callable[[], object], at: int) -> bool:
    """Run ``act`` with an exception at the line ``at`` of those of the gate that it comes to; False if it has fewer."""
    lines = itertools.count(1)

    def look(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != coordkit.gate.__file__:
            return None
        if linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            return look  # a tracer, and nothing else, can come between the end of a `with` and its __exit__
        if next(lines) == at:
            sys.settrace(before)
            raise Interrupted
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        act()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def by_thread(gate: TokenGate, resource: str) -> None:
    with gate.enter(resource, 5):
        pass


async def by_task(gate: TokenGate, resource: str) -> None:
    async with gate.enter(resource, 5):
        pass


def run_in(loop: asyncio.AbstractEventLoop, gate: TokenGate, resource: str) -> None:
    loop.run_until_complete(by_task(gate, resource))


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_one_that_is_interrupted_anywhere_is_not_inside(
    request: pytest.FixtureRequest, gate: TokenGate, kind: str
) -> None:
    loop = asyncio.new_event_loop()
    request.addfinalizer(loop.close)
    for at in itertools.count(1):
        resource = f"r{at}"
        if kind == "thread":
            went_wrong = interrupted(partial(by_thread, gate, resource), at)
        else:
            went_wrong = interrupted(partial(run_in, loop, gate, resource), at)
        if not went_wrong:
            break
        if not gate.forget(resource):
            gc.collect()  # a task and its exception have each other
            assert gate.forget(resource), f"somebody is inside for ever after line {at}"
    assert at > 20


@pytest.mark.parametrize("kind", ["thread", "task"])
async def test_who_waits_looks_by_himself(gate: TokenGate, kind: str) -> None:
    entry = gate.enter(A, 5)
    entry.__enter__()
    act = asyncio.to_thread(by_thread, gate, A) if kind == "thread" else by_task(gate, A)
    second = asyncio.create_task(act)
    await until(lambda: waiting(gate) == 1)

    del entry  # as one that was interrupted in front of the first line of its __exit__

    await asyncio.wait_for(second, 20)


async def test_a_task_of_a_loop_that_was_closed_keeps_nobody_out(gate: TokenGate) -> None:
    def leave_one_waiting() -> Any:
        loop = asyncio.new_event_loop()
        task = loop.create_task(by_task(gate, A))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # on purpose
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    async with gate.enter(A, 5):
        left = await asyncio.to_thread(leave_one_waiting)
        assert waiting(gate) == 1
    await asyncio.wait_for(by_task(gate, A), 20)
    assert not left.done()
