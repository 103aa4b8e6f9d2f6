"""Many join at once, and every watcher comes to see every one of them, with its data; and sees them leave."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
from zk_lines import record

from coordkit._ports_zookeeper import GetChildren, GetData
from coordkit.core import session
from coordkit.testing.servers import ZooKeeperEnsemble, scaled

MEMBERS = 1000
WATCHERS = 20
SESSIONS = 5
"""The members, and the watchers, are spread over so many."""


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.mark.timeout(180)
async def test_every_watcher_sees_every_member(flavour: Any, zk_client: Any, coordkit_namespace: str) -> None:
    """A thousand members where they are tasks, and two hundred where they are joined by threads."""
    members = MEMBERS if flavour.is_async else MEMBERS // 5
    path = f"/{coordkit_namespace}/crowd"
    joining = [flavour.Group(zk_client(timeout=20.0), path) for _ in range(SESSIONS)]
    watching = [flavour.Group(zk_client(timeout=20.0), path) for _ in range(SESSIONS)]
    views: list[dict[str, bytes]] = [{} for _ in range(WATCHERS)]
    counted: list[set[str]] = [set() for _ in range(WATCHERS)]
    streams = [watching[i % SESSIONS].watch() for i in range(WATCHERS)]
    there = {f"m{i}": b"%d" % i for i in range(members)}
    seen: list[int] = []

    async def watch(i: int) -> None:
        async for change in flavour.each(streams[i]):
            counted[i] |= change.joined
            counted[i] -= change.left
            views[i] = dict(change.members)

    async def join(i: int) -> None:
        async with AsyncExitStack() as stack:
            for identity in sorted(there)[i::SESSIONS]:
                block = joining[i].join(identity, data=there[identity])
                await stack.enter_async_context(flavour.within(block))
            await flavour.until(lambda: seen, 90)

    running = [flavour.spawn(watch, i) for i in range(WATCHERS)]
    members = [flavour.spawn(join, i) for i in range(SESSIONS)]
    try:
        await flavour.until(lambda: all(view == there for view in views), 60)
        assert all(names == there.keys() for names in counted)
        seen.append(1)
        await flavour.until(lambda: not any(views), 60)
    finally:
        seen.append(1)
        for stream in streams:
            stream.close()
    for each in (*members, *running):
        await each.result(60)
    assert not any(counted)


async def test_a_join_is_seen_by_a_hundred_watchers(
    flavour: Any, zk_client: Any, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its data, by one question of each of ten clients, however many of its streams watch."""
    # What is merely late on a busy machine is not asked for again.
    monkeypatch.setattr(session, "GRACE", scaled(20.0))
    path, asked = f"/{coordkit_namespace}/watched", []
    watching, member = [zk_client(timeout=20.0) for _ in range(10)], flavour.Group(zk_client(timeout=20.0), path)
    async with flavour.within(member.join("first", data=b"1")):
        streams = [flavour.Group(watching[i % 10], path).watch() for i in range(100)]
        for stream in streams:
            assert await _next(flavour, stream) == {"first": b"1"}
        for zk in watching:
            record(zk, asked)
        async with flavour.within(member.join("second", data=b"2")):
            for stream in streams:
                assert await _next(flavour, stream) == {"first": b"1", "second": b"2"}
        for stream in streams:
            stream.close()
    seconds = [each for each in asked if isinstance(each, GetData) and each.path == f"{path}/second"]
    assert len(seconds) == 10
    assert [each for each in asked if isinstance(each, GetChildren)] == []


async def _next(flavour: Any, stream: Any) -> dict[str, bytes]:
    async for change in flavour.each(stream):
        return dict(change.members)
    raise AssertionError("the stream ended")
