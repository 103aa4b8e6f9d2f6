"""ZooKeeper stopped, and restored from a backup, under clients of a live topology: they serve on, by what is newest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from coordkit.errors import TopologyOutdated
from coordkit.routing import Topology
from coordkit.routing.client import live as client_live
from coordkit.routing.client import live_aio as client_live_aio
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.servers import ZooKeeperEnsemble

EPOCHS = 20


@pytest.fixture
def server() -> Iterator[ZooKeeperEnsemble]:
    with start_zookeeper() as ensemble:
        yield ensemble


@pytest.fixture
def kazoo(server: ZooKeeperEnsemble) -> Iterator[Callable[[], Any]]:
    made: list[Any] = []

    def make() -> Any:
        made.append(
            KazooClient(server.hosts, timeout=15.0, connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": 0.2})
        )
        made[-1].start(40)
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in list(caplog.records))


@pytest.mark.timeout(120)
async def test_servers_that_were_stopped_and_restored(
    flavour: Any,
    server: ZooKeeperEnsemble,
    kazoo: Callable[[], Any],
    tmp_path: Path,
    coordkit_redis_shards: Any,
    coordkit_namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An old client keeps its epoch; a new one, which cannot know, is told by the shard before it sends anything."""
    node: Any = server.nodes[0]
    data, backup = node.directory / "version-2", tmp_path / "backup"
    told = f"{coordkit_namespace}:epoch"
    first = Topology.first("users", {"a": coordkit_redis_shards[0].url, "b": coordkit_redis_shards[1].url})
    direct = [flavour.redis(each.url) for each in coordkit_redis_shards[:2]]
    count = f"{coordkit_namespace}:count"

    async def follow(zk: Any, patience: float) -> Any:
        kind = client_live_aio.LiveShardedRedis if flavour.is_async else client_live.LiveShardedRedis
        live = kind(lambda _, url: flavour.redis(url), poll=0.2, patience=patience, greet=greeting(flavour, told))
        await flavour.maybe(live.follow(flavour.TopologyStore(zk, "/users")))
        return live

    writer = flavour.TopologyStore(kazoo(), "/users", history=5)
    await flavour.maybe(writer.create(first))
    shards = await follow(kazoo(), 5)
    caplog.set_level(logging.WARNING, "coordkit")

    node.kill()
    shutil.copytree(data, backup)
    await flavour.until(lambda: said(caplog, "/users: not followed for now, epoch 1 is served on"), 40)
    for _ in range(20):
        await flavour.maybe(shards.incr(count))
    node.restart()
    topology = first
    async with flavour.within(writer.rebalancer("one").lead(timeout=40)) as leadership:
        for _ in range(EPOCHS):
            following = topology.reweighted("a", 1 + topology.epoch)
            await flavour.maybe(writer.publish(following, expected=topology, leadership=leadership))
            topology = following
    await flavour.until(lambda: shards.epoch == EPOCHS + 1, 40)
    for each in direct:
        await flavour.maybe(each.set(told, topology.epoch))

    caplog.clear()
    node.kill()
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    node.restart()
    await flavour.until(lambda: said(caplog, f"/users: not followed for now, epoch {topology.epoch} is served on"), 40)
    for _ in range(20):
        await flavour.maybe(shards.incr(count))
    assert shards.topology == topology

    fresh = await follow(kazoo(), 0.5)
    assert fresh.epoch == 1
    with pytest.raises(TopologyOutdated, match=rf"knows epoch {EPOCHS + 1} .* no newer one than 1") as outdated:
        await flavour.maybe(fresh.incr(count))
    assert (outdated.value.seen, outdated.value.epoch) == (EPOCHS + 1, 1)
    assert int(await flavour.maybe(shards.get(count))) == 40

    # The way out: what is right is published with an epoch that is above all that was ever seen.
    again = flavour.TopologyStore(kazoo(), "/users")
    async with flavour.within(again.rebalancer("two").lead(timeout=40)) as leadership:
        await flavour.maybe(again.publish(topology.raised_to(99), expected=first, leadership=leadership))
    await flavour.until(lambda: fresh.epoch == 99, 40)
    assert await flavour.maybe(fresh.incr(count)) == 41
    for each in (shards, fresh):
        await flavour.maybe((getattr(each, "aclose", None) or each.close)())


def greeting(flavour: Any, key: str) -> Callable[[str], Any]:
    """Return what has new connections read the epoch of their shard."""

    async def by_task(ask: Any) -> int:
        return int(await ask("GET", key) or 0)

    return lambda _: by_task if flavour.is_async else lambda ask: int(ask("GET", key) or 0)
