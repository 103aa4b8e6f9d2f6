"""Many join at once, and every watcher comes to see every one of them, with its data; and sees them leave."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from coordkit.testing.servers import ZooKeeperEnsemble

MEMBERS = 200
WATCHERS = 20
SESSIONS = 5
"""The members, and the watchers, are spread over so many."""


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.mark.timeout(180)
async def test_every_watcher_sees_every_member(flavour: Any, zk_client: Any, coordkit_namespace: str) -> None:
    path = f"/{coordkit_namespace}/crowd"
    joining = [flavour.Group(zk_client(timeout=20.0), path) for _ in range(SESSIONS)]
    watching = [flavour.Group(zk_client(timeout=20.0), path) for _ in range(SESSIONS)]
    views: list[dict[str, bytes]] = [{} for _ in range(WATCHERS)]
    counted: list[set[str]] = [set() for _ in range(WATCHERS)]
    streams = [watching[i % SESSIONS].watch() for i in range(WATCHERS)]
    there = {f"m{i}": b"%d" % i for i in range(MEMBERS)}
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
