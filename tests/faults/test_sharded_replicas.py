"""Shards with replicas, hurt: who fails or lags is set aside, probed, and back; reads go elsewhere, writes never do."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from coordkit import ShardedRedis, aio
from coordkit.errors import ShardDown, StoreUnavailable, TooFewReplicas
from coordkit.routing import LeastOutstanding, PeakEwma, ReplicaSet, RoundRobin
from coordkit.routing.replicas import questions_aio
from coordkit.testing.deployments import tell
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.replicated import ReplicatedRedis
from coordkit.testing.servers import scaled, wait_until

SOON = scaled(20.0)
PATIENCE = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


@pytest.fixture
def servers(coordkit_redis_replicated: ReplicatedRedis, coordkit_faults: Any) -> Iterator[ReplicatedRedis]:
    """Give a primary and two replicas; they are as they were at the end."""
    coordkit_redis_replicated.wait_ready()
    yield coordkit_redis_replicated
    coordkit_faults.heal()
    coordkit_redis_replicated.wait_ready()


def one_shard(flavour: Any, servers: Any, urls: Any = None, **options: Any) -> Any:
    """Return a ShardedRedis with one shard: a primary and its replicas, read in turn unless the test says else."""
    make = partial(flavour.redis, decode_responses=True, retry=None, **PATIENCE)
    replicas = [make(url) for url in urls or [each.url for each in servers.replicas]]
    options = {"read_from": "replica", "balance": RoundRobin, **options}
    shards = flavour.ShardedRedis({"a": ReplicaSet(make(servers.primary.url), replicas)}, **options)
    flavour.on_exit(shards.aclose if flavour.is_async else shards.close)
    return shards


def address(server: Any) -> str:
    return f"{server.host}:{server.port}"


@pytest.mark.parametrize("fault", ["kill", "pause"])
@pytest.mark.parametrize("batch", [False, True], ids=["command", "pipeline"])
async def test_a_replica_that_fails_is_set_aside_and_comes_back(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str, fault: str, batch: bool
) -> None:
    shards, key, hurt = one_shard(flavour, servers), coordkit_namespace, servers.replicas[0]
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))

    async def read() -> Any:
        if not batch:
            return await maybe(shards.get(key))
        pipe = shards.pipeline()
        pipe.get(key)
        pipe.strlen(key)
        value, length = await maybe(pipe.execute())
        assert length == 1
        return value

    for _ in range(4):
        assert await read() == "v"
    getattr(coordkit_faults, fault)(hurt)
    for _ in range(10):
        assert await read() == "v", "no read fails while another replica is there"
    told = shards.replicas("a")
    assert "it failed lately" in told[address(hurt)]
    assert told[address(servers.replicas[1])] == ""
    coordkit_faults.heal()
    await flavour.until(lambda: shards.replicas("a")[address(hurt)] == "", SOON)
    before = gets(hurt)
    for _ in range(4):
        assert await read() == "v"
    assert gets(hurt) == before + 2, "it is read from again"


def gets(server: Any) -> int:
    stats = tell(server, "INFO", "commandstats").splitlines()
    line = "cmdstat_get:calls="
    return sum(int(each[len(line) :].partition(",")[0]) for each in stats if each.startswith(line))


async def test_no_read_is_spent_on_a_replica_that_is_set_aside(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """It is probed in the background: after the first, no read waits out the timeout of one that hangs."""
    shards, key, hurt = one_shard(flavour, servers), coordkit_namespace, servers.replicas[0]
    await maybe(shards.get(key))
    coordkit_faults.pause(hurt)
    failures = []
    on_failure = shards._ways["a"].readers.ended

    def ended(node: Any, picker: Any, error: Any) -> None:
        if error is not None:
            failures.append(node.address)
        on_failure(node, picker, error)

    shards._ways["a"].readers.ended = ended
    for _ in range(150):  # longer than it takes until the first probe
        assert await maybe(shards.get(key)) is None
        await flavour.sleep(0.01)
    assert failures == [address(hurt)]


@pytest.mark.parametrize("read_from", ["replica", "replica_preferred", "nearest"])
async def test_without_any_replica(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str, read_from: str
) -> None:
    shards, key = one_shard(flavour, servers, read_from=read_from), coordkit_namespace
    await maybe(shards.set(key, "v"))
    for replica in servers.replicas:
        coordkit_faults.kill(replica)
    for _ in range(5):
        if read_from == "replica":
            with pytest.raises(ShardDown, match="2 of its servers were asked") as caught:
                await maybe(shards.get(key))
            assert (caught.value.shard, caught.value.name) == ("a", "a")
            with pytest.raises(ShardDown):
                await maybe(shards.pipeline().get(key).execute())
        else:
            assert await maybe(shards.get(key)) == "v"
            assert await maybe(shards.pipeline().get(key).execute()) == ["v"]
    coordkit_faults.heal()
    await flavour.until(lambda: set(shards.replicas("a").values()) == {""}, SOON)


async def test_without_its_primary_the_replicas_are_read_and_nothing_is_written(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    shards, key = one_shard(flavour, servers, read_from="nearest"), coordkit_namespace
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    coordkit_faults.kill(servers.primary)
    for _ in range(9):
        assert await maybe(shards.get(key)) == "v"
    with pytest.raises(StoreUnavailable):
        await maybe(shards.set(key, "w"))
    for _ in range(3):
        assert await maybe(shards.get(key)) == "v"


@pytest.mark.parametrize("most", [{"max_lag": 1.0}, {"max_lag_bytes": 1000}], ids=["seconds", "bytes"])
async def test_a_replica_that_lags_is_set_aside_and_comes_back(
    flavour: Any, maybe: Any, servers: Any, coordkit_namespace: str, most: dict[str, Any]
) -> None:
    """The stream to it stalls; it still answers, and would give old values for as long as its repl-timeout."""
    key, hurt, other = coordkit_namespace, *servers.replicas
    with FaultProxy(servers.primary.host, servers.primary.port) as proxy:
        tell(hurt, "REPLICAOF", proxy.host, proxy.port)
        try:
            await flavour.until(lambda: tell(hurt, "ROLE")[3] == "connected", SOON)
            shards = one_shard(flavour, servers, **most)
            strict = one_shard(flavour, servers, [hurt.url], **most)
            for each in (shards, strict):
                await maybe(each.with_options(min_replicas=2, wait_timeout=10).set(key, "old"))
                assert await maybe(each.get(key)) == "old"
            proxy.hold = True
            written = 0

            async def found_out() -> bool:
                nonlocal written
                written += 1
                await maybe(shards.set(key, f"new {written}" + "." * 100))
                told = [each.replicas("a")[address(hurt)] for each in (shards, strict)]
                return all("behind its primary" in why for why in told)

            await flavour.until(found_out, SOON)
            await flavour.until(lambda: shards.replicas("a")[address(other)] == "", SOON)
            servers_have = f"new {written}" + "." * 100
            await maybe(shards.with_options(min_replicas=1, wait_timeout=10).set(key, servers_have))
            for _ in range(4):
                assert await maybe(shards.get(key)) == servers_have
            with pytest.raises(ShardDown, match=r"no replica .* behind its primary, and max_lag"):
                await maybe(strict.get(key))
            proxy.hold = False
            await flavour.until(lambda: strict.replicas("a")[address(hurt)] == "", SOON)
            await flavour.until(lambda: tell(hurt, "GET", key) == servers_have, SOON)
            assert await maybe(strict.get(key)) == servers_have
        finally:
            proxy.heal()
            tell(hurt, "REPLICAOF", servers.primary.host, servers.primary.port)
            servers.wait_ready()


async def test_one_that_is_promoted_is_no_replica_any_more(
    flavour: Any, maybe: Any, servers: Any, coordkit_namespace: str
) -> None:
    shards, key, hurt = one_shard(flavour, servers, max_lag=5.0), coordkit_namespace, servers.replicas[0]
    await maybe(shards.get(key))
    try:
        tell(hurt, "REPLICAOF", "NO", "ONE")
        await flavour.until(lambda: "no replica" in shards.replicas("a")[address(hurt)], SOON)
    finally:
        servers.wait_ready()
    await flavour.until(lambda: shards.replicas("a")[address(hurt)] == "", SOON)


async def test_too_few_replicas_are_there(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    shards, key = one_shard(flavour, servers, min_replicas=1, wait_timeout=1.0), coordkit_namespace
    await maybe(shards.incr(key))
    coordkit_faults.pause(servers.replicas[0])
    await maybe(shards.incr(key))
    coordkit_faults.pause(servers.replicas[1])
    with pytest.raises(TooFewReplicas, match="0 of 1 replicas had it after 1 s") as caught:  # longer than its timeout
        await maybe(shards.incr(key))
    assert (caught.value.reply, caught.value.replicas) == (3, 0)
    assert int(await maybe(shards.with_options(read_from="primary").get(key))) == 3, "done, and once"


async def test_how_many_have_it_may_stay_unknown(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """The answer to the write comes, and the connection breaks before that to WAIT."""
    for replica in servers.replicas:
        coordkit_faults.pause(replica)
    with FaultProxy(servers.primary.host, servers.primary.port) as proxy:
        client = flavour.redis(proxy.url, decode_responses=True, retry=None, **PATIENCE)
        shards = flavour.ShardedRedis({"a": ReplicaSet(client)}, min_replicas=1, wait_timeout=30)
        cut = threading.Timer(0.5, proxy.reset_all)
        cut.start()
        with pytest.raises(TooFewReplicas, match="how many replicas have it is unknown") as caught:
            await maybe(shards.incr(coordkit_namespace))
        assert (caught.value.reply, caught.value.replicas) == (1, None)
        cut.join()


@pytest.mark.parametrize("balance", [LeastOutstanding, PeakEwma])
async def test_a_read_that_is_cancelled_gives_back_what_it_picked(
    servers: Any, coordkit_faults: Any, balance: Any
) -> None:
    clients = [redis.asyncio.Redis.from_url(each.url) for each in (servers.primary, *servers.replicas)]
    shards = aio.ShardedRedis({"a": ReplicaSet(clients[0], clients[1:])}, read_from="replica", balance=balance)
    picker: Any = shards._ways["a"].readers._of_replicas

    def busy() -> int:
        return sum(
            picker._busy.values() if balance is LeastOutstanding else [each.busy for each in picker._loads.values()]
        )

    for replica in servers.replicas:
        coordkit_faults.pause(replica)
    calls: list[Any] = [shards.get("k"), shards.pipeline().get("k").execute()]
    tasks = [asyncio.ensure_future(call) for call in calls]
    while busy() < 2:  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert busy() == 0
    assert set(shards.replicas("a").values()) == {""}, "nothing was learnt of them"
    coordkit_faults.heal()
    await shards.aclose()


async def test_probes_begin_with_the_first_read_and_end_with_close(
    flavour: Any, maybe: Any, servers: Any, coordkit_namespace: str
) -> None:
    mine = itertools.count()

    def looks() -> int:
        asked = sum(int(each[4:].partition(",")[0].partition("=")[2]) for each in lines("cmdstat_info"))
        return asked - next(mine)  # each of these is counted in the next

    def lines(start: str) -> list[str]:
        stats = tell(servers.replicas[0], "INFO", "commandstats").splitlines()
        return [each.replace(f"{start}:", "    ") for each in stats if each.startswith(start)]

    plain = one_shard(flavour, servers)
    shards = one_shard(flavour, servers, max_lag=0.2)
    await maybe(plain.get(coordkit_namespace))
    before = looks()
    await flavour.sleep(0.3)
    assert looks() == before, "without max_lag, or before a read, nobody is looked at"
    await maybe(shards.get(coordkit_namespace))
    await flavour.until(lambda: looks() > before + 10, SOON)
    await maybe(shards.aclose() if flavour.is_async else shards.close())
    await flavour.sleep(0.2)  # one that was under way may end
    before = looks()
    await flavour.sleep(0.5)
    assert looks() == before

    # A client that was closed may be used again, as redis-py's: who lags is left out then as well.
    await maybe(shards.get(coordkit_namespace))
    await flavour.until(lambda: looks() > before + 10, SOON)
    await maybe(shards.aclose() if flavour.is_async else shards.close())
    await flavour.sleep(0.2)
    before = looks()
    await flavour.sleep(0.5)
    assert looks() == before


def test_a_client_that_is_dropped_is_looked_for_no_more(servers: Any) -> None:
    """Its threads and timers do not keep it alive."""
    clients = [redis.Redis.from_url(each.url, **PATIENCE) for each in (servers.primary, *servers.replicas)]
    shards = ShardedRedis({"a": ReplicaSet(clients[0], clients[1:])}, read_from="replica", max_lag=0.2)
    shards.get("k")
    probes = weakref.ref(shards._ways["a"]._probes)
    del shards

    def gone() -> bool:
        gc.collect()
        return probes() is None

    assert wait_until(gone, SOON)
    for client in clients:
        client.close()


def test_a_forked_child_looks_by_itself(servers: Any) -> None:
    clients = [redis.Redis.from_url(each.url, **PATIENCE) for each in (servers.primary, *servers.replicas)]
    shards = ShardedRedis({"a": ReplicaSet(clients[0], clients[1:])}, read_from="replica", max_lag=0.4)
    shards.get("k")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            probes = shards._ways["a"]._probes
            if not probes.begun and probes._timer is None:
                shards.get("k")
                status = 0 if probes.begun and probes._looked is not None else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    shards.close()


async def test_the_first_read_already_is_of_one_that_was_looked_at(
    flavour: Any, maybe: Any, servers: Any, coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    """A mistyped address is another service's server; a short-lived process reads once."""
    key = coordkit_namespace
    other = flavour.redis(coordkit_redis_server.url)
    await maybe(other.set(key, "of another service", ex=60))
    for read_from in ("nearest", "replica_preferred"):
        for _ in range(4):
            shards = one_shard(flavour, servers, [coordkit_redis_server.url], read_from=read_from, max_lag=5.0)
            await maybe(shards.set(key, "right"))
            assert await maybe(shards.get(key)) == "right"
            assert shards.replicas("a") == {address(coordkit_redis_server): "it is no replica, but a master"}
    shards = one_shard(flavour, servers, [coordkit_redis_server.url], max_lag=5.0)
    with pytest.raises(ShardDown, match="it is no replica, but a master"):
        await maybe(shards.get(key))


def test_replicas_are_looked_at_under_one_event_loop_after_another(
    servers: Any, coordkit_faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio only: looks end with the loop under which they began, and a client is used on."""
    monkeypatch.setattr("coordkit.routing.replicas.probes._EVERY", 0.1)  # the next is near when the loop ends
    clients = [redis.asyncio.Redis.from_url(each.url, **PATIENCE) for each in (servers.primary, *servers.replicas)]
    shard = ReplicaSet(clients[0], clients[1:])
    shards = aio.ShardedRedis({"a": shard}, read_from="replica", balance=RoundRobin, max_lag=30.0)
    hurt = servers.replicas[0]

    async def read() -> None:
        for _ in range(4):
            assert await shards.get("none") is None

    async def story() -> None:
        await read()
        coordkit_faults.kill(hurt)
        await read()
        assert "it failed lately" in shards.replicas("a")[address(hurt)]
        coordkit_faults.heal()
        until = asyncio.get_running_loop().time() + SOON
        while shards.replicas("a")[address(hurt)]:
            assert asyncio.get_running_loop().time() < until, "it is probed no more"
            await asyncio.sleep(0.05)
        await read()

    async def last() -> None:
        await story()
        await shards.aclose()

    asyncio.run(story())
    asyncio.run(last())


def test_replicas_are_looked_at_after_an_event_loop_was_closed_by_hand(
    servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop for each job is common; nobody is told of its end, and what was seen last would be true for ever."""
    monkeypatch.setattr("coordkit.routing.replicas.probes._EVERY", 0.1)
    looks = 0
    asked = questions_aio.Questions.infos

    async def infos(self: Any, nodes: Any) -> Any:
        nonlocal looks
        looks += 1
        return await asked(self, nodes)

    monkeypatch.setattr(questions_aio.Questions, "infos", infos)

    async def story(shards: Any) -> None:
        before, until = looks, asyncio.get_running_loop().time() + SOON
        while looks < before + 3:
            assert await shards.get("none") is None
            assert asyncio.get_running_loop().time() < until, "it is looked at no more"
            await asyncio.sleep(0.02)
        assert shards.replicas("a") == {address(each): "" for each in servers.replicas}
        made = shards._servers.made["a"]
        while not made._probes._worker._task.done():  # noqa: ASYNC110  no event tells; then nothing is half said
            await asyncio.sleep(0.001)
        await made._probes._questions.close()  # of which the probes are not told, as of the loop's end
        for node in (made.readers.primary, *made.readers.replicas):
            await node.way.close()

    clients = [redis.asyncio.Redis.from_url(each.url, **PATIENCE) for each in (servers.primary, *servers.replicas)]
    shard = ReplicaSet(clients[0], clients[1:])
    shards = aio.ShardedRedis({"a": shard}, read_from="replica", max_lag=30.0)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(story(shards))
        loop.close()
    asyncio.run(story(shards))


@pytest.mark.parametrize("by_hand", [False, True])
def test_one_that_failed_under_the_last_event_loop_is_probed_under_the_next(
    servers: Any, coordkit_faults: Any, by_hand: bool
) -> None:
    """asyncio only, and without a max_lag: nothing but who failed is looked at, and nobody fails any more."""
    clients = [redis.asyncio.Redis.from_url(each.url, **PATIENCE) for each in (servers.primary, *servers.replicas)]
    shards = aio.ShardedRedis({"a": ReplicaSet(clients[0], clients[1:])}, read_from="replica", balance=RoundRobin)
    hurt = servers.replicas[0]

    async def read() -> None:
        for _ in range(4):
            assert await shards.get("none") is None

    async def fails() -> None:
        await read()
        coordkit_faults.kill(hurt)
        await read()
        assert "it failed lately" in shards.replicas("a")[address(hurt)]
        if by_hand:
            for node in shards._servers.made["a"].readers.replicas:
                await node.way.close()

    async def is_probed() -> None:
        await read()
        until = asyncio.get_running_loop().time() + SOON
        while shards.replicas("a")[address(hurt)]:
            assert asyncio.get_running_loop().time() < until, "it is probed no more"
            await asyncio.sleep(0.05)
        await read()

    if by_hand:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(fails())
        loop.close()
    else:
        asyncio.run(fails())
    coordkit_faults.heal()
    asyncio.run(is_probed())
