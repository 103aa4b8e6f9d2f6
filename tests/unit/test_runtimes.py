"""The ports that block and the ports that suspend: timers, workers and events do what the core counts on."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from coordkit._asyncio.runtime import RUNTIME as LOOPS
from coordkit._asyncio.runtime import end_in
from coordkit._run import run
from coordkit._threads.runtime import RUNTIME as THREADS
from coordkit._threads.runtime import Clock, now


def test_a_coroutine_that_suspends_is_named() -> None:
    """The one way in which the blocking flavour could go wrong is found by its first test."""

    async def forgot_a_port() -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match=r"forgot_a_port.*suspended"):
        run(forgot_a_port())


def test_timers_fire_in_order_and_cancelled_ones_never() -> None:
    clock, fired, gate, done = Clock(), [], threading.Event(), threading.Event()
    start = now()
    clock.call_at(start, gate.wait)  # until all are there, on whatever machine
    for delay in (0.06, 0.02, 0.04):
        clock.call_at(start + delay, lambda delay=delay: fired.append(delay))
    clock.call_at(start + 0.03, lambda: fired.append("cancelled")).cancel()
    clock.call_at(start + 0.08, done.set)
    gate.set()

    assert done.wait(10)
    assert fired == [0.02, 0.04, 0.06]


def test_cancelled_timers_do_not_pile_up() -> None:
    """A lock that is taken a million times a day leaves no million dead entries until their ttl."""
    clock = Clock()
    for _ in range(10_000):
        clock.call_at(now() + 3600, lambda: None).cancel()

    assert len(clock._agenda.heap) + len(clock._agenda.unsorted) < 200


def test_a_timer_that_is_put_down_while_the_thread_waits_is_not_forgotten() -> None:
    """Nobody wakes the thread for what is due after its next look; it must find it there by then."""
    clock, fired = Clock(), [threading.Event() for _ in range(4)]
    clock.call_at(now() + 0.02, fired[0].set)
    assert fired[0].wait(10)
    clock.call_at(now() + 3600, fired[0].set)  # from here on the thread looks every second
    for event, delay in zip(fired[1:], (1.2, 0.1, 0.6), strict=True):
        clock.call_at(now() + delay, event.set)
    before = now()

    assert all(event.wait(10) for event in fired[1:])
    assert now() - before < 8


def test_a_timer_that_is_cancelled_at_once_hardly_ever_wakes_the_thread() -> None:
    """A lock that is taken and given back again and again costs no switch to another thread each time."""
    clock, woken = Clock(), []

    class Bell:
        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.acquire = self._lock.acquire

        def release(self) -> None:
            self._lock.release()
            woken.append(1)

    clock._bell, began = Bell(), now()  # type: ignore[assignment]  # what is used of a lock
    for _ in range(2000):
        clock.call_at(now() + 3, lambda: None).cancel()

    assert len(woken) <= 2 + 4 * (now() - began)


def test_the_clock_waits_for_a_moment_and_not_for_ever() -> None:
    """queue.SimpleQueue did, if the moment was over before it got to wait: no lease was renewed any more."""
    clock, done = Clock(), threading.Event()

    def wait() -> None:
        for seconds in (0.0, 1e-9, 1e-7, 1e-6, 1e-5):
            for _ in range(500):
                clock._rung(seconds)
                with suppress(RuntimeError):
                    clock._bell.release()
                assert clock._rung(seconds)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert done.wait(20)


def test_a_timer_may_be_set_by_the_collector() -> None:
    """Whoever left a stream lets go of it wherever it is collected: also while the clock is at work in this thread."""
    clock, fired = Clock(), threading.Event()
    sort = clock._agenda.sort

    class Stray:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            clock.call_at(now(), fired.set)

    def collecting() -> None:
        gc.collect()
        sort()

    clock._agenda.sort = collecting  # type: ignore[method-assign]  # replaced on purpose
    Stray()
    clock.call_at(now() + 3600, lambda: None)
    assert fired.wait(10)


def test_a_timer_is_not_late_for_ever_after_a_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of leases runs on while the machine sleeps; the clock by which threads wait does not."""
    from coordkit._asyncio import runtime as loops
    from coordkit._threads import runtime as threads

    clock, fired = Clock(), threading.Event()
    clock.call_at(now() + 3000, fired.set)
    monkeypatch.setattr(threads, "now", lambda: now() + 3600)
    assert fired.wait(10)

    async def story() -> None:
        event = LOOPS.event()
        monkeypatch.setattr(loops, "now", now)
        LOOPS.call_at(now() + 3000, event.set)
        monkeypatch.setattr(loops, "now", lambda: now() + 3600)
        assert await event.wait(10)

    asyncio.run(story())


def test_a_timer_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of threads for a moment, and no lease was ever renewed or announced again."""
    clock, fired = Clock(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _self: (_ for _ in ()).throw(RuntimeError("can't start")))
        with pytest.raises(RuntimeError):
            clock.call_at(now(), fired.set)
    clock.call_at(now(), fired.set)
    assert fired.wait(10)


def test_a_loop_that_has_ended_is_freed() -> None:
    import gc
    import weakref

    loops = []

    async def story() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        LOOPS.call_at(now() + 1000, lambda: None)

    for _ in range(3):
        asyncio.run(story())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


def test_nothing_is_begun_anew_in_a_loop_that_has_ended() -> None:
    """What threads still answer comes after the loop has told us that it ends; a task begun then is never finished."""
    begun = []

    async def work() -> None:
        begun.append(True)

    async def poke() -> None:
        LOOPS.call_at(now(), lambda: begun.append(True))
        LOOPS.worker(work).poke()
        await asyncio.sleep(0.05)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(poke())
        assert begun == [True, True]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(poke())
        assert begun == [True, True]
    finally:
        loop.close()


def test_what_is_let_go_in_a_loop_that_has_ended_is_freed() -> None:
    """A client may be freed after its loop has told us that it ends, and before it is closed."""
    import weakref

    class Had:
        async def close(self) -> None:
            raise AssertionError("it would never come to its end")

    had = [Had()]
    there = weakref.ref(had[0])
    loop = asyncio.new_event_loop()
    try:

        async def use() -> None:
            LOOPS.call_at(now(), lambda: None)

        async def let_go() -> None:
            end_in(weakref.ref(loop), had.pop())
            await asyncio.sleep(0.01)

        loop.run_until_complete(use())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(let_go())
    finally:
        loop.close()
    gc.collect()
    assert there() is None


def test_background_work_begins_when_who_spawned_it_knows_of_it() -> None:
    """An eager loop (``asyncio.eager_task_factory``, Python 3.12) runs a task before it says which: not ours."""
    order = []

    def eager(_loop: asyncio.AbstractEventLoop, work: Any, **_: Any) -> Any:
        with pytest.raises(StopIteration):
            work.send(None)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def work() -> None:
        order.append("work")

    async def story() -> None:
        asyncio.get_running_loop().set_task_factory(eager)
        LOOPS.worker(work).poke()
        order.append("poked")
        await LOOPS.finish(work(), within=10)
        asyncio.get_running_loop().set_task_factory(None)

    asyncio.run(story())
    assert order == ["poked", "work", "work"]


def timer_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("coordkit-timer")


def test_one_timer_thread_serves_the_process() -> None:
    THREADS.call_at(now(), lambda: None)
    before, fired = timer_threads(), threading.Event()
    for _ in range(100):
        THREADS.call_at(now() + 3600, lambda: None).cancel()
    THREADS.call_at(now(), fired.set)

    assert fired.wait(10)
    assert timer_threads() == before


def test_a_poke_during_a_run_makes_another_run() -> None:
    runs, inside, go_on, done = [], threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        runs.append(threading.get_ident())
        inside.set()
        go_on.wait(10)
        if len(runs) == 2:
            done.set()

    worker = THREADS.worker(work)
    worker.poke()
    assert inside.wait(10)
    worker.poke()
    worker.poke()
    go_on.set()

    assert done.wait(10)
    assert len(runs) == 2


def test_work_that_fails_does_not_end_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Renewal goes on after a bug in one round of it; and somebody can read of it."""
    runs: list[int] = []
    done = threading.Event()

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise ZeroDivisionError
        done.set()

    worker = THREADS.worker(work)
    worker.poke()
    while not runs:
        pass
    worker.poke()

    assert done.wait(10)
    assert "background work failed" in caplog.text


def test_a_worker_whose_thread_cannot_start_works_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who poked it may be a watch in kazoo's thread, or a timer: neither comes again."""
    start, refused, worked, ticks = threading.Thread.start, [], threading.Event(), threading.Event()
    THREADS.call_at(now(), ticks.set)
    assert ticks.wait(10)

    async def work() -> None:
        worked.set()

    def starting(thread: threading.Thread) -> None:
        if thread.name == "coordkit-worker" and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    THREADS.worker(work).poke()

    assert worked.wait(10)
    assert len(refused) == 3
    assert caplog.text.count("can't start new thread") == 1, "it is said once, however long it lasts"


def test_one_timer_pokes_again_for_all_who_poked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of leases may be due while no thread can be started, and the timer thread has deadlines to tell."""
    start, timers, trouble, worked = threading.Thread.start, [], ["worker", "timer"], threading.Event()

    async def work() -> None:
        worked.set()

    def starting(thread: threading.Thread) -> None:
        if "worker" in trouble and thread.name == "coordkit-worker":
            raise RuntimeError("can't start new thread")
        start(thread)

    def call_at(_when: float, action: Callable[[], None]) -> None:
        if "timer" in trouble:
            raise RuntimeError("can't start new thread")
        timers.append(action)

    monkeypatch.setattr(threading.Thread, "start", starting)
    monkeypatch.setattr(THREADS, "call_at", call_at)
    worker = THREADS.worker(work)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            worker.poke()
    trouble.remove("timer")
    for _ in range(3):
        for _ in range(100):
            worker.poke()
        assert len(timers) == 1
        timers.pop()()
    assert len(timers) == 1
    trouble.remove("worker")
    timers.pop()()
    assert worked.wait(10)
    assert timers == []


def test_the_timer_thread_is_there_with_a_session_of_zookeeper() -> None:
    """It is what tries again where no thread can be started, so it must not have to be started then."""
    code = """
import threading
from kazoo.client import KazooClient
from coordkit._threads.zookeeper import session_of
session_of(KazooClient())
print(*(each.name for each in threading.enumerate()))
"""
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True).stdout
    assert "coordkit-timer" in told.split()


def test_a_worker_thread_ends_when_idle() -> None:
    done = threading.Event()

    async def work() -> None:
        threads.append(threading.current_thread())
        done.set()

    threads: list[threading.Thread] = []
    worker = THREADS.worker(work)
    worker.poke()
    assert done.wait(10)
    threads[0].join(10)
    assert not threads[0].is_alive()

    done.clear()
    worker.poke()  # and a new one comes when there is work again
    assert done.wait(10)


@pytest.mark.parametrize("runtime", [THREADS, LOOPS], ids=["blocking", "asyncio"])
def test_an_event_calls_back_once_early_or_late(runtime: object) -> None:
    event, calls = runtime.event(), []
    event.call_when_set(lambda: calls.append("early"))
    assert calls == []
    event.set()
    event.set()
    event.call_when_set(lambda: calls.append("late"))

    assert calls == ["early", "late"]


def test_a_blocking_event_wakes_all_and_times_out() -> None:
    event = THREADS.event()
    assert run(event.wait(0)) is False
    assert run(event.wait(0.001)) is False
    assert not event._waiting  # whoever polls leaves nothing behind
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(run(event.wait(60)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(10)

    assert woken == [True, True, True]
    assert run(event.wait()) is True


def test_an_asyncio_event_wakes_all_and_times_out() -> None:
    async def story() -> list[bool]:
        event = LOOPS.event()
        waits = [asyncio.create_task(event.wait(timeout)) for timeout in (None, 60, 0.001)]
        assert await waits[2] is False
        event.set()
        return [await wait for wait in waits]

    assert asyncio.run(story()) == [True, True, False]


def test_finish_outlives_the_cancellation_of_its_caller() -> None:
    """What a cancelled acquire may have got is given back although nobody waits for it any more."""

    async def story() -> bool:
        begun, done = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await asyncio.sleep(0.02)
            done.set()

        caller = asyncio.create_task(LOOPS.finish(work(), within=10))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.wait_for(done.wait(), 10)
        return True

    assert asyncio.run(story())


@pytest.mark.parametrize("clock", [THREADS.now, LOOPS.now])
def test_the_clock_rises(clock: Callable[[], float]) -> None:
    readings = [clock() for _ in range(1000)]

    assert readings == sorted(readings)
