"""Event loops that end without a word: what was led, waited for or joined in them does not stay in anybody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import coordkit
import coordkit.aio
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


async def lead(zk: Any, path: str) -> None:
    async with coordkit.aio.Election(zk, path, identity="gone").lead():
        await asyncio.sleep(3600)


async def run(zk: Any, path: str) -> None:
    async def serve(_: Any) -> None:
        await asyncio.sleep(3600)

    await coordkit.aio.Election(zk, path, identity="gone").run(serve)


async def join(zk: Any, path: str) -> None:
    async with coordkit.aio.Group(zk, path).join("gone"):
        await asyncio.sleep(3600)


def contenders(zk: Any, path: str) -> list[str]:
    return coordkit.Election(zk, path, identity="who asks").contenders()


def members(zk: Any, path: str) -> list[str]:
    return list(coordkit.Group(zk, path).members())


@pytest.mark.parametrize(
    ("begin", "there", "first"),
    [(lead, contenders, True), (lead, contenders, False), (run, contenders, True), (join, members, True)],
    ids=["lead", "wait", "run", "join"],
)
def test_the_next_loop_of_the_client_removes_what_the_last_one_left(
    zk_client: Any, path: str, begin: Any, there: Any, first: bool
) -> None:
    """The loop is closed, and its tasks still hang in it."""
    zk, other, loop = zk_client(timeout=30.0), zk_client(), asyncio.new_event_loop()
    session = zk.client_id
    ahead = coordkit.Election(other, path, identity="ahead").lead()
    if not first:
        ahead.__enter__()
    hanging = loop.create_task(begin(zk, path))
    while "gone" not in there(other, path):
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    asyncio.run(coordkit.aio.Election(zk, f"{path}/other", identity="next").leader())
    until(lambda: "gone" not in there(other, path))
    assert zk.client_id == session, "it went with its session, which proves nothing"
    assert not hanging.done()
    hanging._log_destroy_pending = False  # asyncio would complain of it
    if not first:
        ahead.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("begin", "there", "first"),
    [(lead, contenders, True), (lead, contenders, False), (join, members, True)],
    ids=["lead", "wait", "join"],
)
def test_what_is_freed_after_its_loop_is_removed_at_once(
    zk_client: Any, path: str, begin: Any, there: Any, first: bool
) -> None:
    """No loop runs there to remove it."""
    zk, other, loop = zk_client(timeout=30.0), zk_client(), asyncio.new_event_loop()
    session = zk.client_id
    ahead = coordkit.Election(other, path, identity="ahead").lead()
    if not first:
        ahead.__enter__()
    work = begin(zk, path)
    hanging = loop.create_task(work)
    while "gone" not in there(other, path):
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(asyncio.sleep(0.05))  # whoever waits has come to watch
    loop.close()
    work.close()  # what the garbage collector does
    until(lambda: "gone" not in there(other, path))
    assert zk.client_id == session, "it went with its session, which proves nothing"
    hanging._log_destroy_pending = False  # asyncio would complain of it
    if not first:
        ahead.__exit__(None, None, None)
