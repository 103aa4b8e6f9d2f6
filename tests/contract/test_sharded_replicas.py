"""Shards with replicas on real servers, both flavours: who is read from, who is written to, and what copies are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from coordkit.errors import PartialFailure, ShardDown, StoreRefused, StoreUnavailable, TooFewReplicas
from coordkit.routing import (
    LeastOutstanding,
    PeakEwma,
    Random,
    ReplicaSet,
    RoundRobin,
    SmoothWeightedRoundRobin,
    Sticky,
    rendezvous,
)
from coordkit.testing.deployments import tell
from coordkit.testing.replicated import ReplicatedRedis

NAMES = ("a", "b")
PLACEMENT = rendezvous(NAMES)


@pytest.fixture
def servers(coordkit_redis_replicated: ReplicatedRedis) -> ReplicatedRedis:
    """Give a primary and two replicas; the shard ``a`` of these tests."""
    coordkit_redis_replicated.wait_ready()
    return coordkit_redis_replicated


@pytest.fixture
def plain(coordkit_redis_server: Any) -> Any:
    """Give a server without replicas; the shard ``b`` of these tests."""
    return coordkit_redis_server


@pytest.fixture
def key_on(coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth key of this test on a shard."""

    def find(shard: str, nth: int = 0) -> str:
        return [key for i in range(1000) if PLACEMENT.lookup(key := f"{coordkit_namespace}:{i}") == shard][nth]

    return find


def replicated(flavour: Any, servers: ReplicatedRedis, plain: Any, **options: Any) -> Any:
    """Return a ShardedRedis with a replicated shard and a plain one."""
    make = partial(flavour.redis, socket_timeout=10, socket_connect_timeout=10, decode_responses=True)
    weights = options.pop("replica_weights", None)
    shard = ReplicaSet(make(servers.primary.url), [make(each.url) for each in servers.replicas], weights=weights)
    shards = flavour.ShardedRedis({"a": shard, "b": make(plain.url)}, **options)
    flavour.on_exit(shards.aclose if flavour.is_async else shards.close)
    return shards


def test_all_of_them_run_where_the_backend_says(servers: Any, coordkit_servers: Any) -> None:
    """Primary and replicas alike: none is a local process where containers were asked for."""
    kinds = {"process": "MemberProcess", "docker": "MemberContainer"}
    backend = coordkit_servers._choice("redis").backend
    assert [type(each).__name__ for each in (servers.primary, *servers.replicas)] == [kinds[backend]] * 3


class Calls:
    """How often each server was sent a command."""

    def __init__(self, servers: ReplicatedRedis) -> None:
        self._nodes = [servers.primary, *servers.replicas]
        for node in self._nodes:
            tell(node, "CONFIG", "RESETSTAT")

    def of(self, command: str) -> list[int]:
        """Return them for the primary and for each replica."""
        found = []
        for node in self._nodes:
            line = f"cmdstat_{command}:calls="
            stats = tell(node, "INFO", "commandstats").splitlines()
            found.append(sum(int(each[len(line) :].partition(",")[0]) for each in stats if each.startswith(line)))
        return found


async def test_reads_go_to_the_primary_unless_told_otherwise(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain), key_on("a")
    await maybe(shards.set(key, "v"))
    calls = Calls(servers)
    for _ in range(5):
        assert await maybe(shards.get(key)) == "v"
    assert calls.of("get") == [5, 0, 0]


@pytest.mark.parametrize(("read_from", "primary"), [("replica_preferred", False), ("nearest", True)])
async def test_reads_go_where_read_from_says(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any, read_from: str, primary: bool
) -> None:
    shards = replicated(flavour, servers, plain, read_from=read_from, balance=RoundRobin)
    key, other = key_on("a"), key_on("b")
    await maybe(shards.set(key, "v"))
    await maybe(shards.set(other, "w"))
    servers.wait_in_sync()
    calls = Calls(servers)
    for _ in range(60):
        assert await maybe(shards.get(key)) == "v"
    assert await maybe(shards.get(other)) == "w", "a shard without replicas is read from its primary"
    asked = calls.of("get")
    assert sum(asked) == 60
    assert (asked[0] > 0) is primary
    assert min(asked[1:]) > 0, "each replica has its part"
    assert calls.of("set") == [0, 0, 0]
    assert shards.replicas("a") == {f"{each.host}:{each.port}": "" for each in servers.replicas}
    assert shards.replicas("b") == {}


@pytest.mark.parametrize(
    "balance", [Random, RoundRobin, SmoothWeightedRoundRobin, LeastOutstanding, PeakEwma, lambda: PeakEwma(decay=5)]
)
async def test_every_picker_serves(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any, balance: Any
) -> None:
    shards, key = replicated(flavour, servers, plain, read_from="replica_preferred", balance=balance), key_on("a")
    await maybe(shards.set(key, "v"))
    servers.wait_in_sync()
    calls = Calls(servers)
    for _ in range(40):
        assert await maybe(shards.get(key)) == "v"
    assert calls.of("get")[0] == 0
    assert sum(calls.of("get")) == 40
    if balance in (Random, RoundRobin, SmoothWeightedRoundRobin, LeastOutstanding):  # the others go by what reads take
        assert min(calls.of("get")[1:]) >= 5


async def test_weights_of_replicas(flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any) -> None:
    shards = replicated(
        flavour,
        servers,
        plain,
        read_from="replica_preferred",
        balance=SmoothWeightedRoundRobin,
        replica_weights=[1, 3],
    )
    calls = Calls(servers)
    for _ in range(40):
        await maybe(shards.get(key_on("a")))
    assert calls.of("get") == [0, 10, 30]


async def test_writes_and_what_needs_one_server_go_to_the_primary(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain, read_from="replica_preferred"), key_on("a")
    calls = Calls(servers)
    await maybe(shards.hset(key, mapping={f"f{i}": i for i in range(5)}))
    assert await maybe(shards.eval("return redis.call('HLEN', KEYS[1])", 1, key)) == 5
    assert len([each async for each in flavour.each(shards.hscan_iter(key))]) == 5
    assert await maybe(shards.touch(key)) == 1
    assert await maybe(shards.xread({key_on("a", 1): "0"}, block=1)) in ([], {}, None)
    assert await maybe(shards.object("idletime", key)) >= 0
    assert await maybe(shards.object("freq", key_on("a", 1))) is None
    pipe = shards.pipeline(transaction=True)
    pipe.hlen(key)
    assert await maybe(pipe.execute()) == [5]
    for command in ("hscan", "touch", "xread", "eval", "object|idletime", "object|freq", "multi"):
        assert calls.of(command)[1:] == [0, 0], command
        assert calls.of(command)[0] > 0, command
    assert calls.of("hset")[0] == 1


async def test_reads_under_any_name(flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any) -> None:
    shards, key = replicated(flavour, servers, plain, read_from="replica_preferred"), key_on("a")
    await maybe(shards.rpush(key, 2, 1))
    servers.wait_in_sync()
    calls = Calls(servers)
    assert await maybe(shards.execute_command("llen", key)) == 2
    assert await maybe(shards.execute_command(b"LLEN", key)) == 2
    assert await maybe(shards.object("encoding", key)) is not None
    assert await maybe(shards.execute_command("SORT_RO", key)) == ["1", "2"]
    assert await maybe(shards.eval_ro("return redis.call('LLEN', KEYS[1])", 1, key)) == 2
    for command, times in (("llen", 3), ("object|encoding", 1), ("sort_ro", 1), ("eval_ro", 1)):
        assert calls.of(command)[0] == 0, command
        assert sum(calls.of(command)) == times, command


async def test_splits_and_pipelines_of_reads_go_to_a_replica_of_each_shard(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards = replicated(flavour, servers, plain, read_from="replica_preferred")
    keys = [key_on(shard, i) for i in range(5) for shard in NAMES]
    await maybe(shards.mset({key: f"v{i}" for i, key in enumerate(keys)}))
    servers.wait_in_sync()
    calls = Calls(servers)
    assert await maybe(shards.mget(keys)) == [f"v{i}" for i in range(10)]
    assert await maybe(shards.exists(*keys)) == 10
    pipe = shards.pipeline()
    for key in keys:
        pipe.get(key)
    assert await maybe(pipe.execute()) == [f"v{i}" for i in range(10)]
    for command, times in (("mget", 1), ("exists", 1), ("get", 5)):
        assert calls.of(command)[0] == 0, command
        assert sum(calls.of(command)) == times, command


async def test_a_callback_counts_for_what_replicas_say(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain, read_from="replica_preferred"), key_on("a")
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    shards.set_response_callback("GET", lambda reply, **_: f"<{reply}>")
    for one in (shards, shards.with_options(read_from="primary")):
        for _ in range(2):
            assert await maybe(one.get(key)) == "<v>"


async def test_a_read_after_a_write_in_one_pipeline_sees_it(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain, read_from="replica_preferred"), key_on("a")
    calls = Calls(servers)
    for i in range(20):
        pipe = shards.pipeline()
        pipe.set(key, i)
        pipe.get(key)
        assert await maybe(pipe.execute()) == [True, str(i)]
    assert calls.of("get") == [20, 0, 0]


async def test_other_options_for_some_calls(flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any) -> None:
    shards, key = replicated(flavour, servers, plain), key_on("a")
    near = shards.with_options(read_from="replica_preferred", min_replicas=2, wait_timeout=10)
    await maybe(near.set(key, "v"))  # both replicas have it
    calls = Calls(servers)
    assert await maybe(near.get(key)) == "v"
    assert await maybe(near.with_options(read_from="primary").get(key)) == "v"
    assert await maybe(shards.get(key)) == "v"
    assert calls.of("get")[0] == 2
    assert sum(calls.of("get")) == 3
    assert near.with_options() is not near
    with pytest.raises(ValueError, match=r"shards\['b'\] has no replicas"):
        shards.with_options(read_from="replica")
    with pytest.raises(ValueError, match="read_from='nowhere'"):
        shards.with_options(read_from="nowhere")


async def test_a_write_waits_for_its_replicas_on_its_own_connection(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain, min_replicas=2, wait_timeout=10), key_on("a")
    replicas = [redis.Redis(each.host, each.port, decode_responses=True) for each in servers.replicas]
    with redis.Redis(servers.primary.host, servers.primary.port).monitor() as monitor:
        for i in range(20):
            assert await maybe(shards.set(key, i)) is True
            assert [each.get(key) for each in replicas] == [str(i)] * 2, "who acknowledged has it"
        assert await maybe(shards.get(key)) == "19"
        seen = []
        while len(seen) < 41:
            line = monitor.next_command()
            if line["command"].split()[0] in ("SET", "WAIT", "GET") and line["client_type"] != "lua":
                seen.append((line["command"].split()[0], line["client_port"]))
    assert [command for command, _ in seen] == ["SET", "WAIT"] * 20 + ["GET"], "and reads wait for nobody"
    assert all(seen[i][1] == seen[i + 1][1] for i in range(0, 40, 2))
    for each in replicas:
        each.close()


async def test_too_few_replicas(flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any) -> None:
    shards, key = replicated(flavour, servers, plain, min_replicas=3, wait_timeout=0.05), key_on("a")
    with pytest.raises(TooFewReplicas, match=r"^a: written on the primary, but 2 of 3 replicas had it") as caught:
        await maybe(shards.incrby(key, 5))
    assert (caught.value.replicas, caught.value.reply) == (2, 5)
    assert isinstance(caught.value, StoreUnavailable)
    assert await maybe(shards.get(key)) == "5", "it stands"
    with pytest.raises(TooFewReplicas):
        await maybe(shards.eval("return redis.call('INCR', KEYS[1])", 1, key))
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await maybe(shards.lpush(key, 1))  # a no of the server is its answer
    with pytest.raises(TooFewReplicas, match="0 of 3"):
        await maybe(shards.set(key_on("b"), 1))
    assert await maybe(shards.with_options(min_replicas=2, wait_timeout=10).incr(key)) == 7


async def test_too_few_replicas_for_a_split_or_a_pipeline(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, a, b = replicated(flavour, servers, plain, min_replicas=2, wait_timeout=0.5), key_on("a"), key_on("b")
    with pytest.raises(PartialFailure) as caught:
        await maybe(shards.mset({a: 1, b: 2}))
    assert caught.value.ok == {a: True}
    assert [(key, shard, type(error)) for key, (shard, error) in caught.value.failed.items()] == [
        (b, "b", TooFewReplicas)
    ]
    pipe = shards.pipeline()
    for key in (a, b):
        pipe.incr(key)
        pipe.get(key)
    replies = await maybe(pipe.execute(raise_on_error=False))
    assert [replies[0], replies[1], replies[3]] == [2, "2", "3"]
    assert (type(replies[2]), replies[2].reply, replies[2].replicas) == (TooFewReplicas, 3, 0)
    for transaction in (False, True):
        pipe = shards.pipeline(transaction=transaction)
        pipe.incr(b)
        with pytest.raises(TooFewReplicas):
            await maybe(pipe.execute())
        pipe = shards.pipeline(transaction=transaction)
        pipe.incr(a)
        pipe.get(a)
        assert (await maybe(pipe.execute()))[1] == ("4" if transaction else "3")
    far = shards.with_options(min_replicas=3, wait_timeout=0.05)
    with pytest.raises(PartialFailure) as caught:
        await maybe(far.mset({a: 1, b: 2}))
    assert (caught.value.ok, set(caught.value.failed)) == ({}, {a, b}), "done on both, and nobody did not answer"


async def test_a_transaction_that_watches_waits_for_its_replicas_too(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, a, b = replicated(flavour, servers, plain, min_replicas=2, wait_timeout=0.3), key_on("a"), key_on("b")
    near = shards.with_options(wait_timeout=10, read_from="replica_preferred")
    calls = Calls(servers)

    async def transaction(one: Any, key: str) -> Any:
        pipe = one.pipeline()
        await maybe(pipe.watch(key))
        value = int(await maybe(pipe.get(key)) or 0)
        pipe.multi()
        pipe.set(key, value + 1)
        pipe.get(key)
        try:
            return await maybe(pipe.execute())
        finally:
            await maybe(pipe.reset())

    for i in (1, 2, 3):
        assert await transaction(near, a) == [True, str(i)]
    assert calls.of("wait")[0] == 3, "with the write, not with WATCH or GET"
    assert calls.of("get") == [6, 0, 0], "what is watched is read where it is watched"
    for i in (1, 2):
        with pytest.raises(TooFewReplicas) as caught:
            await transaction(shards, b)
        assert (caught.value.replicas, caught.value.reply) == (0, True)
        assert await maybe(shards.get(b)) == str(i)


async def test_reads_see_ones_own_writes_where_all_replicas_are_waited_for(
    flavour: Any, maybe: Any, servers: Any, plain: Any, key_on: Any
) -> None:
    shards, key = replicated(flavour, servers, plain), key_on("a")
    mine = shards.with_options(read_from="replica_preferred", min_replicas=2, wait_timeout=10)
    for i in range(100):
        await maybe(mine.set(key, i))
        assert await maybe(mine.get(key)) == str(i)


async def test_a_cache_may_keep_copies_on_distinct_shards(
    flavour: Any, maybe: Any, coordkit_redis_shards: Any, coordkit_namespace: str
) -> None:
    """`owners` as a preference list: the first that answers is asked, and another shard has it if one is down."""
    urls = {f"s{i}": server.url for i, server in enumerate(coordkit_redis_shards)}
    shards = flavour.ShardedRedis({name: flavour.redis(url, decode_responses=True) for name, url in urls.items()})

    async def put(key: str, value: str, copies: int = 2) -> None:
        for name in shards.owners(key, copies):
            await maybe(shards.on(name).set(key, value, ex=60))

    async def get(key: str, copies: int = 2) -> Any:
        for name in shards.owners(key, copies):
            try:
                return await maybe(shards.on(name).get(key))
            except redis.ConnectionError:
                continue
        return None

    for i in range(20):
        key = f"{coordkit_namespace}:{i}"
        await put(key, str(i))
        owners = shards.owners(key, 2)
        assert len(set(owners)) == 2
        assert owners[0] == shards.shard_for(key)
        assert await get(key) == str(i)
        there = [name for name in urls if await maybe(shards.on(name).exists(key))]
        assert sorted(owners) == there


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"read_from": "slave"}, ValueError, "read_from='slave'"),
        ({"read_from": "replica"}, ValueError, r"shards\['b'\] has no replicas"),
        ({"balance": Sticky}, ValueError, "balance="),
        ({"balance": "random"}, TypeError, "balance='random'"),
        ({"max_lag": 0}, ValueError, "max_lag=0"),
        ({"max_lag": True}, TypeError, "max_lag=True"),
        ({"max_lag_bytes": -1}, ValueError, "max_lag_bytes=-1"),
        ({"max_lag_bytes": 1.5}, TypeError, "max_lag_bytes=1.5"),
        ({"min_replicas": -1}, ValueError, "min_replicas=-1"),
        ({"min_replicas": True}, TypeError, "min_replicas=True"),
        ({"wait_timeout": 0}, ValueError, "wait_timeout=0"),
        ({"wait_timeout": "1"}, TypeError, "wait_timeout='1'"),
    ],
)
def test_arguments(options: Any, error: type[Exception], match: str) -> None:
    import coordkit

    shards = {"a": ReplicaSet(redis.Redis(port=1), [redis.Redis(port=2)]), "b": redis.Redis(port=3)}
    with pytest.raises(error, match=match):
        coordkit.ShardedRedis(shards, **options)


def test_arguments_of_a_shard() -> None:
    import coordkit

    primary, replica = redis.Redis(port=1), redis.Redis(port=2)
    for arguments, error, match in (
        ((primary, replica), TypeError, "replicas="),
        ((primary, [replica], [1, 2]), ValueError, "weights="),
        ((primary, [replica], [0]), ValueError, "weights="),
        ((primary, [replica], [1.5]), TypeError, "weights="),
    ):
        with pytest.raises(error, match=match):
            ReplicaSet(*arguments[:2], weights=arguments[2] if len(arguments) > 2 else None)  # type: ignore[misc]  # mistakes on purpose
    with pytest.raises(ValueError, match=r"shards\['a'\].replicas\[0\] and shards\['a'\].primary are one client"):
        coordkit.ShardedRedis({"a": ReplicaSet(primary, [primary])})
    with pytest.raises(TypeError, match=r"shards\['a'\].replicas\[0\]=a str"):
        coordkit.ShardedRedis({"a": ReplicaSet(primary, ["redis://"])})  # type: ignore[list-item]  # a mistake on purpose
    with pytest.raises(ValueError, match="decode_responses"):
        coordkit.ShardedRedis({"a": ReplicaSet(primary, [redis.Redis(port=2, decode_responses=True)])})
    with pytest.raises(TypeError, match="sentinel="):
        ReplicaSet.of_sentinel(primary, "mymaster")


def of_sentinel(flavour: Any, servers: Any) -> Any:
    if flavour.is_async:
        from redis.asyncio import Sentinel
    else:
        from redis import Sentinel  # type: ignore[assignment]  # one of two
    patience = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
    sentinel: Any = Sentinel(servers.sentinels, sentinel_kwargs=patience)
    for watcher in sentinel.sentinels:
        flavour.closing(watcher)
    return ReplicaSet.of_sentinel(sentinel, servers.service_name, decode_responses=True, **patience)


async def test_a_shard_of_sentinel(
    flavour: Any, maybe: Any, coordkit_redis_sentinel: Any, coordkit_namespace: str
) -> None:
    """Reads go to the replicas that Sentinel knows, writes to its master; after a failover to those of then."""
    servers, key = coordkit_redis_sentinel, coordkit_namespace
    servers.wait_ready()
    shards = flavour.ShardedRedis({"a": of_sentinel(flavour, servers)}, read_from="replica", max_lag=5.0)
    flavour.on_exit(shards.aclose if flavour.is_async else shards.close)
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "1"))

    def replicas() -> set[str]:
        return {f"{each.host}:{each.port}" for each in servers.replicas()}

    calls = Calls(_AsReplicated(servers))  # type: ignore[arg-type]  # has what it asks for
    for _ in range(20):
        assert await maybe(shards.get(key)) == "1"
    assert calls.of("get")[0] == 0
    assert sum(calls.of("get")) == 20
    assert set(shards.replicas("a")) == replicas()

    old = servers.primary()
    servers.failover()
    servers.wait_ready()  # the old primary follows, too: what it takes before is lost
    assert servers.primary() is not old

    async def written() -> bool:
        try:
            return bool(await maybe(shards.with_options(min_replicas=2, wait_timeout=1).set(key, "2")))
        except (StoreUnavailable, StoreRefused):  # the connection to the old one is found out by its answer
            return False

    await flavour.until(written, 30)
    await flavour.until(lambda: shards.replicas("a") == dict.fromkeys(replicas(), ""), 30)

    async def read() -> Any:
        try:
            return await maybe(shards.get(key)) == "2"
        except (ShardDown, StoreUnavailable):
            return False

    await flavour.until(read, 30)
    calls = Calls(_AsReplicated(servers))  # type: ignore[arg-type]  # has what it asks for
    for _ in range(20):
        assert await maybe(shards.get(key)) == "2"
    assert calls.of("get")[0] == 0


class _AsReplicated:
    def __init__(self, servers: Any) -> None:
        self.primary, self.replicas = servers.primary(), servers.replicas()


async def test_a_response_callback_is_that_of_the_replicas_too(
    flavour: Any, coordkit_redis_replicated: Any, coordkit_namespace: str
) -> None:
    servers = coordkit_redis_replicated
    replicas = [flavour.redis(server.url) for server in servers.replicas]
    shards = flavour.ShardedRedis({"a": ReplicaSet(flavour.redis(servers.primary.url), replicas)}, read_from="replica")
    shards.set_response_callback("GET", lambda reply, **_: (reply,))
    await flavour.maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(coordkit_namespace, "v", ex=60))
    assert await flavour.maybe(shards.get(coordkit_namespace)) == (b"v",)
    flavour.on_exit(shards.aclose if flavour.is_async else shards.close)
