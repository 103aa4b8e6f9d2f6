"""The two flavours of a contract test: the same body, driven by threads or by a loop."""

from __future__ import annotations

import asyncio
import threading

import pytest


async def test_a_body_runs_where_its_flavour_says(flavour):
    if flavour.is_async:
        assert asyncio.get_running_loop()
    else:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()


async def test_an_async_test_without_a_flavour_runs_under_asyncio():
    assert asyncio.get_running_loop()


async def test_work_runs_side_by_side(flavour):
    passed = []

    async def first():
        await flavour.until(lambda: passed == ["second"])
        passed.append("first")
        return 1

    async def second():
        passed.append("second")
        return 2

    assert await flavour.gather(first(), second()) == [1, 2]


async def test_the_error_of_spawned_work_is_told_where_its_result_is_asked_for(flavour):
    async def fails(why):
        raise KeyError(why)

    running = flavour.spawn(fails, "why")
    with pytest.raises(KeyError, match="why"):
        await running.result()
    assert running.done()
    with pytest.raises(KeyError, match="who"):
        await flavour.gather(fails("who"))


async def test_a_result_that_does_not_come_is_a_timeout_and_the_work_goes_on(flavour):
    go = threading.Event()

    async def waits():
        await flavour.until(go.is_set)
        return "went"

    running = flavour.spawn(waits)
    with pytest.raises(TimeoutError):
        await running.result(timeout=0.05)
    go.set()
    assert await running.result() == "went"


class Blocking:
    """A context manager and an iterable, as the blocking facade has them."""

    def __init__(self):
        self.left_with = None

    def __enter__(self):
        return "lease"

    def __exit__(self, kind, *_):
        self.left_with = kind

    def __iter__(self):
        return iter([1, 2])


class Asyncio:
    """The same, as the asyncio facade has them."""

    def __init__(self):
        self.left_with = None

    async def __aenter__(self):
        await asyncio.sleep(0)
        return "lease"

    async def __aexit__(self, kind, *_):
        await asyncio.sleep(0)
        self.left_with = kind

    async def __aiter__(self):
        for each in (1, 2):
            yield each


async def test_blocks_and_loops_are_written_once(flavour):
    thing = Asyncio() if flavour.is_async else Blocking()
    assert [each async for each in flavour.each(thing)] == [1, 2]
    with pytest.raises(KeyError):
        async with flavour.within(thing) as lease:
            assert lease == "lease"
            raise KeyError
    assert thing.left_with is KeyError


async def test_values_of_either_flavour_are_awaited_or_handed_on(flavour, maybe):
    async def later():
        return 3

    assert await maybe(later() if flavour.is_async else 3) == 3


async def test_what_was_made_is_closed_in_the_loop_that_used_it(flavour, coordkit_redis_server):
    client = flavour.redis(coordkit_redis_server.url)
    assert await flavour.maybe(client.ping())
    flavour.on_exit(client.ping)  # the last comes first: before the client is closed


def test_a_body_that_suspends_in_the_blocking_flavour_is_told(flavour):
    async def suspends():
        await asyncio.sleep(0)

    if flavour.is_async:
        flavour.run(suspends())
    else:
        with pytest.raises(AssertionError, match="awaited None in the blocking flavour"):
            flavour.run(suspends())
