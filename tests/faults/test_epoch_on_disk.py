"""A machine loses its power just after it was told something, and has what ``everysec`` says that it has.

A process that is killed loses nothing of its file: the kernel has it. So the loss is made by hand: the file is cut to
what it was a second before, which is the least that ``appendfsync everysec`` leaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from reshard_cluster import Client, Cluster

from coordkit.errors import StoreUnavailable
from coordkit.routing import slot_of
from coordkit.routing.fence.fence import local_key
from coordkit.routing.ways.errors import Outdated
from coordkit.testing.processes import start_redis

EVERY = 1.0  # seconds


@pytest.fixture
def durable(flavour: Any, coordkit_namespace: str) -> Iterator[Any]:
    """Give two shards that write out what they acknowledged each second, and their servers."""
    with ExitStack() as stack:
        servers = {shard: stack.enter_context(start_redis(appendonly="everysec")) for shard in "ab"}
        cluster = Cluster(flavour, [server.url for server in servers.values()], coordkit_namespace)
        stack.callback(cluster.close)
        yield cluster, servers


def file_of(server: Any) -> Path:
    [path] = Path(server.directory).glob("appendonlydir/*.incr.aof")
    return path


async def test_nothing_is_brought_before_the_epoch_is_on_the_disk_of_the_source(durable: Any, flavour: Any) -> None:
    """Else it would come back with the epoch before, and let in whoever has not heard of the move, while it goes on."""
    cluster, servers = durable
    await cluster.reshard().initialise()
    deaf = Client(cluster)
    before = cluster.ledger.now
    slots = [slot for slot in range(16384) if before.owners.table[slot] == "a"]
    mine = next(key for key in cluster.keys(40) if slot_of(key) in set(slots))
    runtime = cluster.reshard()._runtime
    path, seen = file_of(servers["a"]), []

    def at_step(step: str) -> None:
        seen.append((step, runtime.now(), path.stat().st_size))
        if step == "pass 1" and not lost:
            lost.append("lost")
            servers["a"].kill()
            _, now, _ = seen[-1]
            size = [size for _, at, size in seen if at <= now - EVERY]
            os.truncate(path, max(size))
            servers["a"].start()
            servers["a"].wait_ready()
            lost.append(cluster.plain["a"].get(local_key(before.name, "epoch")))
            reshard.stop()

    lost: list[Any] = []
    reshard = cluster.reshard(on_step=at_step)
    began = runtime.now()
    await flavour.until(lambda: runtime.now() > began + EVERY)  # what was written before is long on the disk
    cluster.ledger.now = before.begin_move(slots, "a", "b")
    at_step("before")
    await flavour.until(lambda: runtime.now() > seen[0][1] + EVERY)
    assert (await reshard.run()).phase == "stopped"
    assert lost == ["lost", b"2"], "the file of a second ago has the epoch of the move"
    with pytest.raises(Outdated):
        try:
            await deaf.port("a", before).ask([(b"INCR", mine)])
        except StoreUnavailable:  # its connection was dropped
            await deaf.port("a", before).ask([(b"INCR", mine)])


@contextmanager
def watched(path: Path, now: Callable[[], float]) -> Iterator[list[tuple[float, int]]]:
    """Look again and again how large a file is, and when."""
    sizes: list[tuple[float, int]] = [(now(), path.stat().st_size)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            sizes.append((now(), path.stat().st_size))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield sizes
    finally:
        over.set()
        looking.join()


async def test_nothing_is_removed_before_it_is_on_the_disk_of_the_target(durable: Any) -> None:
    """Its machine loses its power just after that: what it was brought is all that there is."""
    cluster, servers = durable
    await cluster.reshard().initialise()
    before = cluster.ledger.now
    mine = [key for key in cluster.keys(200) if before.owners.lookup(key) == "a"]
    cluster.plain["a"].mset(dict.fromkeys(mine, 1))
    cluster.ledger.now = before.begin_move(sorted({slot_of(key) for key in mine}), "a", "b")
    path, lost = file_of(servers["b"]), []
    reshard = cluster.reshard(on_step=lambda step: step == "pass 2" and not lost and at_step())
    now = reshard._runtime.now

    def at_step() -> None:
        assert not cluster.plain["a"].exists(*mine)
        ends = now() - EVERY
        servers["b"].kill()
        lost.append(path.stat().st_size)
        os.truncate(path, max(size for at, size in list(sizes) if at <= ends))
        servers["b"].start()
        servers["b"].wait_ready()
        lost.append(cluster.plain["b"].exists(*mine))
        reshard.stop()

    with watched(path, now) as sizes:
        await reshard._runtime.sleep(EVERY)
        assert (await reshard.run()).phase == "stopped"
    assert lost[1] == len(mine) > 50
