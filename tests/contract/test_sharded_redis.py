"""ShardedRedis on three real servers, both flavours: where commands go, how they are split, and what failures do."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.exceptions

from coordkit.errors import CrossShardError, NoNodes, PartialFailure, ShardDown, StoreRefused, StoreUnavailable
from coordkit.routing import rendezvous, slot_of
from coordkit.routing.client import client, client_aio
from coordkit.routing.client import pipeline as client_pipeline
from coordkit.routing.client import pipeline_aio as client_pipeline_aio
from coordkit.routing.ways.batch import TAKE

NAMES = ("a", "b", "c")
PLACEMENT = rendezvous(NAMES)


def sharded(flavour: Any, urls: dict[str, str], **options: Any) -> Any:
    """Return a ShardedRedis of this flavour over clients that the end of the test closes."""
    options = {"socket_timeout": 10, "socket_connect_timeout": 10, "retry": None, **options}
    return sharded_of(flavour)({name: flavour.redis(url, **options) for name, url in urls.items()})


def sharded_of(flavour: Any) -> Any:
    return client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis


@pytest.fixture
def urls(coordkit_redis_shards: Any) -> dict[str, str]:
    return {name: server.url for name, server in zip(NAMES, coordkit_redis_shards, strict=True)}


@pytest.fixture
def key_on(coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth key of this test on a shard."""

    def find(shard: str, nth: int = 0) -> str:
        keys = (f"{coordkit_namespace}:{i}" for i in range(10_000))
        found = [key for key in keys if PLACEMENT.lookup(key) == shard]
        return found[nth]

    return find


@pytest.fixture
def keys(coordkit_namespace: str) -> list[str]:
    keys = [f"{coordkit_namespace}:{i}" for i in range(30)]
    assert {PLACEMENT.lookup(key) for key in keys} == set(NAMES)
    return keys


@pytest.fixture
def closed_url() -> str:
    """Give the address of a port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{s.getsockname()[1]}"


async def test_each_key_goes_to_its_shard_and_to_no_other(flavour: Any, urls: Any, keys: list[str]) -> None:
    shards = sharded(flavour, urls)
    for key in keys:
        assert await flavour.maybe(shards.set(key, f"v:{key}")) is True
        assert await flavour.maybe(shards.get(key)) == f"v:{key}".encode()
        there = {name: await flavour.maybe(one.exists(key)) for name, one in shards.shards().items()}
        assert there == {name: int(name == shards.shard_for(key)) for name in NAMES}
        assert await flavour.maybe(shards.client_for(key).get(key)) == f"v:{key}".encode()


async def test_it_is_a_drop_in_for_every_kind_of_value(flavour: Any, urls: Any, coordkit_namespace: str) -> None:
    shards, maybe, name = sharded(flavour, urls, decode_responses=True), flavour.maybe, coordkit_namespace.__add__
    assert await maybe(shards.incrby(name(":n"), 5)) == 5
    assert await maybe(shards.hset(name(":h"), mapping={"f": 1, "g": 2})) == 2
    assert await maybe(shards.hgetall(name(":h"))) == {"f": "1", "g": "2"}
    assert await maybe(shards.rpush(name(":l"), "x", "y")) == 2
    assert await maybe(shards.blpop([name(":l")], timeout=1)) in ((name(":l"), "x"), [name(":l"), "x"])
    assert await maybe(shards.zadd(name(":z"), {"m": 1.5})) == 1
    assert float((await maybe(shards.zrange(name(":z"), 0, -1, withscores=True)))[0][1]) == 1.5
    assert await maybe(shards.sadd(name(":s"), "m")) == 1
    assert await maybe(shards.smembers(name(":s"))) == {"m"}
    first = await maybe(shards.xadd(name(":x"), {"f": "v"}))
    reply = await maybe(shards.xread({name(":x"): 0}))
    assert first in str(reply)
    assert await maybe(shards.xgroup_create(name(":x"), "g", id="0")) is True
    assert first in str(await maybe(shards.xreadgroup("g", "c", {name(":x"): ">"})))
    assert (await maybe(shards.xinfo_stream(name(":x"))))["length"] == 1
    assert await maybe(shards.object("encoding", name(":n"))) == "int"
    assert await maybe(shards.memory_usage(name(":n"))) > 0
    assert await maybe(shards.expire(name(":n"), 100)) in (True, 1)
    assert 0 < await maybe(shards.ttl(name(":n"))) <= 100
    assert await maybe(shards.bitfield(name(":b")).set("u8", 0, 7).get("u8", 0).execute()) == [0, 7]
    assert [item async for item in flavour.each(shards.hscan_iter(name(":h")))] == [("f", "1"), ("g", "2")]


async def test_keys_of_each_type_are_hashed_as_they_go_on_the_wire(flavour: Any, urls: Any) -> None:
    shards = sharded(flavour, urls)
    latin = sharded(flavour, urls, encoding="latin-1")
    for key, wire in [
        ("k", b"k"),
        (b"k", b"k"),
        (memoryview(b"k"), b"k"),
        (5, b"5"),
        (1.5, b"1.5"),
    ]:
        assert shards.slot(key) == slot_of(wire)
        assert shards.shard_for(key) == PLACEMENT.lookup(wire)
    assert shards.slot("é") == slot_of("é".encode())
    assert latin.slot("é") == slot_of("é".encode("latin-1"))


async def test_one_tag_is_one_shard(flavour: Any, urls: Any, coordkit_namespace: str) -> None:
    shards, tag = sharded(flavour, urls), "{" + coordkit_namespace + "}"
    one, other = f"{tag}:one", f"{tag}:other"
    assert shards.shard_for(one) == shards.shard_for(other) == shards.shard_for(coordkit_namespace)
    assert await flavour.maybe(shards.set(one, 1)) is True
    assert await flavour.maybe(shards.rename(one, other)) is True
    script = "return redis.call('GET', KEYS[1]) .. ARGV[1]"
    assert await flavour.maybe(shards.eval(script, 1, other, "x")) == b"1x"
    assert await flavour.maybe(shards.zadd(f"{tag}:z", {"m": 1})) == 1
    assert await flavour.maybe(shards.zunionstore(f"{tag}:u", [f"{tag}:z", f"{tag}:none"])) == 1


async def test_split_commands_keep_the_order_and_add_up(flavour: Any, urls: Any, keys: list[str]) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    assert await maybe(shards.mset({key: i for i, key in enumerate(keys)})) is True
    mixed = [keys[7], "missing" + keys[0], keys[3], keys[7], keys[0]]
    assert await maybe(shards.mget(mixed)) == [b"7", None, b"3", b"7", b"0"]
    assert await maybe(shards.mget(keys)) == [str(i).encode() for i in range(len(keys))]
    assert await maybe(shards.mget([])) == []
    assert await maybe(shards.exists(*keys, keys[0])) == len(keys) + 1
    assert await maybe(shards.touch(*keys, "missing" + keys[0])) == len(keys)
    assert await maybe(shards.delete(*keys[:10], keys[0])) == 10
    assert await maybe(shards.unlink(*keys)) == len(keys) - 10
    assert await maybe(shards.exists(*keys)) == 0


async def test_a_split_goes_to_all_shards_before_any_reply_is_read(
    flavour: Any, urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """While the first shard is stopped, the others have carried out their part already."""
    shards = sharded(flavour, urls)
    ours = [key_on(name) for name in NAMES]
    looks = {name: flavour.redis(urls[name]) for name in NAMES}
    await flavour.maybe(shards.ping())  # connections are there
    coordkit_faults.pause(coordkit_redis_shards[0])

    async def write() -> Any:
        return await flavour.maybe(shards.mset(dict.fromkeys(ours, "split")))

    async def pipe() -> Any:
        async with flavour.within(shards.pipeline()) as pipeline:
            for key in ours:
                pipeline.append(key, "-piped")
            return await flavour.maybe(pipeline.execute())

    for work, value in ((write, b"split"), (pipe, b"split-piped")):
        running = flavour.spawn(work)
        for name, key in list(zip(NAMES, ours, strict=True))[1:]:

            async def arrived(name: str = name, key: str = key, value: bytes = value) -> bool:
                return bool(await flavour.maybe(looks[name].get(key)) == value)

            await flavour.until(arrived)
        assert not running.done()
        coordkit_faults.resume(coordkit_redis_shards[0])
        assert await running.result() in (True, [11, 11, 11])
        assert await flavour.maybe(looks["a"].get(ours[0])) == value
        if work is write:
            coordkit_faults.pause(coordkit_redis_shards[0])


async def test_keys_on_several_shards_are_refused_naming_each(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, one, other = sharded(flavour, urls), key_on("a"), key_on("b")
    for refused in (
        lambda: shards.rename(one, other),
        lambda: shards.msetnx({one: 1, other: 2}),
        lambda: shards.eval("return 1", 2, one, other),
        lambda: shards.blpop([one, other], timeout=0.01),
        lambda: shards.sort(one, store=other),
        lambda: shards.sinterstore(one, [other]),
        lambda: shards.xread({one: 0, other: 0}),
    ):
        with pytest.raises(CrossShardError) as error:
            await flavour.maybe(refused())
        assert error.value.shards == {one: "a", other: "b"}
    assert await flavour.maybe(shards.exists(one, other)) == 0


async def test_what_has_no_key_is_refused_or_asked_of_all(
    flavour: Any, urls: Any, keys: list[str], coordkit_namespace: str
) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    for refused in (
        shards.monitor, lambda: shards.lock("x"), lambda: shards.eval("return 1", 0), lambda: shards.wait(1, 10),
        shards.client_id, lambda: shards.client_kill("127.0.0.1:1"), lambda: shards.execute_command("MULTI"),
    ):  # fmt: skip
        with pytest.raises(CrossShardError):
            await maybe(refused())
    for kept in (("SELECT", 1), ("MULTI",), ("CLIENT REPLY", "OFF"), ("SUBSCRIBE", "c")):
        with pytest.raises(CrossShardError):
            await maybe(shards.on_all(*kept))
    with pytest.raises(ValueError, match=r"command=\(\); a command's name"):
        await maybe(shards.on_all())
    await maybe(shards.mset(dict.fromkeys(keys, 1)))
    assert await maybe(shards.ping()) is True
    sizes = [await maybe(one.dbsize()) for one in shards.shards().values()]
    assert await maybe(shards.dbsize()) == sum(sizes)
    wire = sorted(key.encode() for key in keys)
    assert sorted(await maybe(shards.keys(f"{coordkit_namespace}:*"))) == wire
    assert sorted([key async for key in flavour.each(shards.scan_iter(f"{coordkit_namespace}:*", count=3))]) == wire
    times = await maybe(shards.on_all("TIME"))
    assert list(times) == list(NAMES)
    assert all(len(time) == 2 for time in times.values())


async def test_scripts_are_loaded_where_they_are_needed(
    flavour: Any, urls: Any, keys: list[str], coordkit_namespace: str
) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    text = f"return {{KEYS[1], ARGV[1], '{coordkit_namespace}'}}"
    script = shards.register_script(text)
    here = coordkit_namespace.encode()
    for key in keys[:5]:
        assert await maybe(script(keys=[key], args=[1])) == [key.encode(), b"1", here]
        assert await maybe(shards.evalsha(script.sha, 1, key, 2)) == [key.encode(), b"2", here]
    async with flavour.within(shards.pipeline()) as pipe:
        for key in keys:
            await maybe(script(keys=[key], args=[3], client=pipe))
        queued = pipe.register_script(text)
        await maybe(queued(keys=[keys[0]], args=[4]))
        assert [reply[0].decode() for reply in await maybe(pipe.execute())] == [*keys, keys[0]]
    sha = await maybe(shards.script_load(text + " -- everywhere"))
    assert await maybe(shards.script_exists(sha, "0" * 40)) == [True, False]
    for name in NAMES:
        assert await maybe(shards.on(name).script_exists(sha)) == [True]


async def test_a_pipeline_keeps_the_order_of_the_calls(flavour: Any, urls: Any, keys: list[str]) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    async with flavour.within(shards.pipeline()) as pipe:
        for i, key in enumerate(keys):
            pipe.set(key, i).incr(key)
        pipe.mget(keys[::-1]).exists(*keys).ping()
        assert len(pipe) == 2 * len(keys) + 3
        replies = await maybe(pipe.execute())
        assert len(pipe) == 0
        assert await maybe(pipe.execute()) == []
    assert replies[: 2 * len(keys) : 2] == [True] * len(keys)
    assert replies[1 : 2 * len(keys) : 2] == [i + 1 for i in range(len(keys))]
    assert replies[-3:] == [[str(i + 1).encode() for i in range(len(keys))][::-1], len(keys), True]


async def test_an_error_in_a_pipeline_stands_in_its_place(flavour: Any, urls: Any, keys: list[str]) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    pipe = shards.pipeline()
    replies = await maybe(
        pipe.set(keys[0], "x").incr(keys[0]).set(keys[1], 1).incr(keys[1]).execute(raise_on_error=False)
    )
    assert replies[0] is True
    assert isinstance(replies[1], redis.exceptions.ResponseError)
    assert replies[2:] == [True, 2]
    with pytest.raises(redis.exceptions.ResponseError, match=r"Command # 2 \(INCR\w* .*\) of pipeline caused error"):
        await maybe(pipe.set(keys[0], "x").incr(keys[0]).incr(keys[1]).execute())
    assert await maybe(shards.get(keys[1])) == b"3"  # each shard carried out its part all the same
    assert len(pipe) == 0


async def test_a_pipeline_that_cannot_be_routed_or_encoded_sends_nothing(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe, one, other = sharded(flavour, urls), flavour.maybe, key_on("a"), key_on("b")
    with pytest.raises(CrossShardError):
        await maybe(shards.pipeline().set(one, 1).rename(one, other).execute())
    with pytest.raises(redis.exceptions.DataError):
        await maybe(shards.pipeline().set(one, 1).set(other, object()).execute())
    assert await maybe(shards.exists(one, other)) == 0


async def test_a_transaction_stays_on_one_shard(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe, one, other = sharded(flavour, urls), flavour.maybe, key_on("a"), key_on("b")
    async with flavour.within(shards.pipeline(transaction=True)) as pipe:
        assert await maybe(pipe.set(one, 1).incr(one).set(key_on("a", 1), 2).execute()) == [True, 2, True]
    with pytest.raises(CrossShardError) as error:
        await maybe(shards.pipeline(transaction=True).set(one, 5).set(other, 5).execute())
    assert error.value.shards == {one: "a", other: "b"}
    assert await maybe(shards.mget(one, other)) == [b"2", None]
    with pytest.raises(CrossShardError, match=r"^WATCH: its keys are on 2 shards"):
        await maybe(shards.pipeline().watch(one, other))
    with pytest.raises(ValueError, match="shard_hint='x'"):
        shards.pipeline(shard_hint="x")


async def test_a_transaction_replies_as_redis_pys_does(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe, key, text = sharded(flavour, urls), flavour.maybe, key_on("a"), key_on("a", 1)
    await maybe(shards.set(text, "x"))
    pipe = shards.pipeline(transaction=True)
    assert await maybe(pipe.execute()) == []
    assert await maybe(pipe.mget([]).execute()) == [[]]
    replies = await maybe(pipe.hset(key, mapping={"f": 1}).mget([]).hgetall(key).mget([key, text]).execute())
    assert replies == [1, [], {b"f": b"1"}, [None, b"x"]]
    replies = await maybe(pipe.hlen(key).incr(text).hlen(key).execute(raise_on_error=False))
    assert (replies[0], replies[2]) == (1, 1)
    assert "not an integer" in str(replies[1])
    with pytest.raises(redis.exceptions.ResponseError, match=r"^Command # 2 \(INCR.*\) of pipeline .*not an integer"):
        await maybe(pipe.hlen(key).incr(text).execute())
    broken = ("SET", text)  # which the server refuses to queue, and so discards the whole
    with pytest.raises(redis.exceptions.ResponseError, match=r"^Command # 2 \(SET .*wrong number"):
        await maybe(pipe.hset(key, "f", 2).execute_command(*broken).execute())
    replies = await maybe(pipe.hset(key, "f", 2).execute_command(*broken).execute(raise_on_error=False))
    assert isinstance(replies[0], redis.exceptions.ExecAbortError)
    assert "wrong number" in str(replies[1])
    assert await maybe(shards.hget(key, "f")) == b"1"


async def test_a_shard_that_is_down_fails_its_own_keys_only(
    flavour: Any, urls: Any, keys: list[str], key_on: Any, closed_url: str
) -> None:
    shards, maybe = sharded(flavour, {**urls, "b": closed_url}), flavour.maybe
    down, up = key_on("b"), key_on("a")
    with pytest.raises(ShardDown, match=r"^b: this shard cannot be reached .*the command was not sent") as error:
        await maybe(shards.get(down))
    assert error.value.shard == "b"
    assert isinstance(error.value.__cause__, redis.exceptions.ConnectionError)
    assert await maybe(shards.set(up, 1)) is True
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.mset(dict.fromkeys(keys, 7)))
    assert set(partial.value.failed) == {key for key in keys if PLACEMENT.lookup(key) == "b"}
    assert {shard for shard, _ in partial.value.failed.values()} == {"b"}
    assert all(isinstance(failed, StoreUnavailable) for _, failed in partial.value.failed.values())
    assert partial.value.ok == {key: True for key in keys if PLACEMENT.lookup(key) != "b"}
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.mget(keys))
    assert set(partial.value.ok.values()) == {b"7"}
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.ping())
    assert (set(partial.value.ok), set(partial.value.failed)) == ({"a", "c"}, {"b"})
    replies = await maybe(shards.pipeline().get(up).get(down).incr(up).execute(raise_on_error=False))
    assert (replies[0], replies[2]) == (b"7" if up in keys else b"1", 8 if up in keys else 2)
    assert isinstance(replies[1], ShardDown)
    with pytest.raises(PartialFailure, match=r"command # 1 .* b: .*the command was not sent") as partial:
        await maybe(shards.pipeline().get(down).get(up).execute())
    assert (set(partial.value.ok), set(partial.value.failed)) == ({2}, {1})
    assert isinstance(partial.value.__cause__, ShardDown)
    with pytest.raises(ShardDown, match=r"^b: .*the command was not sent"):
        await maybe(shards.pipeline(transaction=True).get(down).execute())
    replies = await maybe(shards.pipeline(transaction=True).get(down).incr(down).execute(raise_on_error=False))
    assert [type(reply) for reply in replies] == [ShardDown, ShardDown]
    with pytest.raises(ShardDown, match=r"^b: .*the command was not sent"):
        [key async for key in flavour.each(shards.scan_iter("none*"))]


async def test_when_all_shards_are_down_no_part_is_said_to_have_worked(
    flavour: Any, keys: list[str], closed_url: str
) -> None:
    shards, maybe = sharded(flavour, dict.fromkeys(NAMES, closed_url)), flavour.maybe
    for ask in (lambda: shards.mget(keys), lambda: shards.delete(*keys), shards.ping, lambda: shards.on_all("TIME")):
        with pytest.raises(StoreUnavailable, match=r"none of its 3 shards answered: a: .*; b: .*; c: ") as error:
            await maybe(ask())
        assert isinstance(error.value.__cause__, redis.exceptions.ConnectionError)


async def test_a_command_that_may_have_been_sent_is_not_said_to_be_unsent(
    flavour: Any, urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """The reply is lost, and the retry of the client then finds the port closed: its error alone says "refused"."""
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import AbstractBackoff
    from redis.retry import Retry

    proxy = coordkit_faults.proxy(coordkit_redis_shards[1])

    class Refusing(AbstractBackoff):
        def compute(self, failures: int) -> float:
            proxy.refuse = failures > 0
            return 0

    retry: Any = (AsyncRetry if flavour.is_async else Retry)(Refusing(), 1)
    shards, key = sharded(flavour, {**urls, "b": proxy.url}, retry=retry, socket_timeout=5), key_on("b")
    await flavour.maybe(shards.set(key, 1000))
    proxy.drop_reply_matching(b":1001")
    with pytest.raises(StoreUnavailable, match=r"^b: .*unknown") as error:
        await flavour.maybe(shards.incr(key))
    assert type(error.value) is StoreUnavailable
    assert "onnect" in str(error.value.__cause__)
    looks = flavour.redis(urls["b"])
    assert await flavour.maybe(looks.get(key)) == b"1001"


async def test_an_empty_pool_is_told_from_a_silent_shard(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe = sharded(flavour, urls, max_connections=1), flavour.maybe
    pool = shards.on("b").connection_pool
    taken = await maybe(pool.get_connection(*TAKE))
    try:
        for ask in (lambda: shards.get(key_on("b")), lambda: shards.pipeline().get(key_on("b")).execute()):
            with pytest.raises(StoreUnavailable, match=r"^b: the command was not sent .*own pool") as error:
                await maybe(ask())
            assert type(error.value) is StoreUnavailable
            assert "no answer" not in str(error.value)
    finally:
        await maybe(pool.release(taken))
    assert await maybe(shards.get(key_on("b"))) is None


async def test_nothing_of_a_split_or_a_pipeline_is_sent_twice(
    flavour: Any, urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """A reply that is lost leaves the outcome unknown, which the caller must settle; also with retrying clients."""
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    retry: Any = (AsyncRetry if flavour.is_async else Retry)(NoBackoff(), 3)
    proxy = coordkit_faults.proxy(coordkit_redis_shards[1])
    shards = sharded(flavour, {**urls, "b": proxy.url}, retry=retry, socket_timeout=5)
    maybe, lost, kept = flavour.maybe, key_on("b"), key_on("a")
    await maybe(shards.set(lost, 1000))
    proxy.drop_reply_matching(b":1001", times=3)
    replies = await maybe(shards.pipeline().incr(lost).incr(kept).execute(raise_on_error=False))
    assert type(replies[0]) is StoreUnavailable
    assert "unknown" in str(replies[0])
    assert replies[1] == 1
    proxy.heal()
    assert await maybe(shards.get(lost)) == b"1001"
    proxy.drop_reply_matching(b":1002", times=3)
    replies = await maybe(shards.pipeline(transaction=True).incr(lost).get(lost).execute(raise_on_error=False))
    assert [type(reply) for reply in replies] == [StoreUnavailable] * 2
    assert "unknown" in str(replies[0])
    proxy.heal()
    assert await maybe(shards.get(lost)) == b"1002"


async def test_replies_that_came_before_a_silence_are_kept(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe = sharded(flavour, urls, socket_timeout=0.3), flavour.maybe
    one, empty, elsewhere = key_on("b"), key_on("b", 1), key_on("a")
    pipe = shards.pipeline().set(one, 1).blpop([empty], timeout=30).incr(one).incr(elsewhere)
    replies = await maybe(pipe.execute(raise_on_error=False))
    assert (replies[0], replies[3]) == (True, 1)
    assert [type(reply) for reply in replies[1:3]] == [StoreUnavailable] * 2
    assert await maybe(shards.get(one)) in (b"1", b"2")  # that is what "unknown" means


async def test_a_reply_that_came_too_late_is_never_taken_for_another(
    flavour: Any, urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    shards, maybe = sharded(flavour, urls, socket_timeout=0.3, max_connections=1), flavour.maybe
    ours = [key_on(name) for name in NAMES]
    await maybe(shards.mset(dict(zip(ours, NAMES, strict=True))))
    coordkit_faults.pause(coordkit_redis_shards[1])
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.mget(ours))
    assert partial.value.ok == {ours[0]: b"a", ours[2]: b"c"}
    coordkit_faults.resume(coordkit_redis_shards[1])
    coordkit_redis_shards[1].wait_ready()
    for _ in range(3):
        assert await maybe(shards.get(ours[1])) == b"b"
        assert await maybe(shards.mget(ours)) == [b"a", b"b", b"c"]


def test_a_reply_that_nobody_read_is_never_taken_for_another(
    urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """Blocking only: asyncio reads all shards at once. One shard's reply cannot be parsed while another's is late."""
    proxy = coordkit_faults.proxy(coordkit_redis_shards[2])
    clients = {
        name: redis.Redis.from_url(url, max_connections=1, socket_timeout=10)
        for name, url in {**urls, "c": proxy.url}.items()
    }
    clients["a"].set_response_callback("STRLEN", lambda reply: 1 // (reply - reply))
    with client.ShardedRedis(clients) as shards, ThreadPoolExecutor(1) as thread:
        one, other, broken = key_on("c"), key_on("c", 1), key_on("a")
        shards.mset({one: "one", other: "other", broken: "x"})
        proxy.hold = True
        with pytest.raises(ZeroDivisionError):
            shards.pipeline().strlen(broken).get(one).execute()
        asked = thread.submit(shards.get, other)
        proxy.hold = False
        assert asked.result(timeout=20) == b"other"


async def test_a_cancelled_split_leaves_no_reply_behind(
    urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """asyncio only: threads cannot be cancelled. (Without ``flavour`` the test runs under asyncio.)"""
    import redis.asyncio

    clients = {name: redis.asyncio.Redis.from_url(url, max_connections=1) for name, url in urls.items()}
    shards: Any = client_aio.ShardedRedis(clients)
    async with shards:
        ours = [key_on(name) for name in NAMES]
        await shards.mset(dict(zip(ours, NAMES, strict=True)))
        coordkit_faults.pause(coordkit_redis_shards[1])
        for _ in range(3):
            work = asyncio.create_task(shards.mget(ours[::-1]))
            done, _ = await asyncio.wait({work}, timeout=0.05)
            assert not done
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        coordkit_faults.resume(coordkit_redis_shards[1])
        assert await shards.mget(ours) == [b"a", b"b", b"c"]
        for one in clients.values():
            assert len(one.connection_pool._in_use_connections) == 0


async def test_an_error_of_the_users_command_stays_redis_pys(flavour: Any, urls: Any, keys: list[str]) -> None:
    shards, maybe = sharded(flavour, urls), flavour.maybe
    await maybe(shards.set(keys[0], "text"))
    with pytest.raises(redis.exceptions.ResponseError, match="not an integer"):
        await maybe(shards.incr(keys[0]))
    with pytest.raises(redis.exceptions.ResponseError, match="unknown command"):
        await maybe(shards.execute_command("NOSUCHCOMMAND", keys[0]))


@pytest.mark.parametrize(
    "line",
    [
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOPERM this user has no permissions",
        "NOAUTH Authentication required.",
        "NOREPLICAS Not enough good replicas to write.",
    ],
)
async def test_what_a_shard_refuses_for_its_own_sake_is_told_with_its_name(
    flavour: Any, urls: Any, key_on: Any, line: str
) -> None:
    """A script answers with the server's line; single, in a pipeline, and in a transaction."""
    shards, maybe, key = sharded(flavour, urls), flavour.maybe, key_on("b")
    script = f'return redis.error_reply("{line}")'
    for ask in (
        lambda: shards.eval(script, 1, key),
        lambda: shards.pipeline().eval(script, 1, key).execute(),
        lambda: shards.pipeline(transaction=True).eval(script, 1, key).execute(),
    ):
        with pytest.raises(StoreRefused, match=r"^b: the shard answered no: .*; ") as error:
            await maybe(ask())
        assert isinstance(error.value.__cause__, redis.exceptions.RedisError)


@pytest.mark.parametrize(
    "line", ["WRONGTYPE Operation against a key", "NOSCRIPT No matching script.", "ERR syntax error"]
)
async def test_what_is_wrong_with_a_command_stays_redis_pys(flavour: Any, urls: Any, key_on: Any, line: str) -> None:
    shards, maybe, key = sharded(flavour, urls), flavour.maybe, key_on("b")
    script = f"return redis.error_reply('{line}')"
    for ask in (
        lambda: shards.eval(script, 1, key),
        lambda: shards.pipeline().eval(script, 1, key).execute(),
        lambda: shards.pipeline(transaction=True).eval(script, 1, key).execute(),
    ):
        with pytest.raises(redis.exceptions.ResponseError, match=line.rsplit(maxsplit=1)[-1]):
            await maybe(ask())


async def test_a_split_that_one_shard_refuses_names_it_and_one_that_all_refuse_is_refused(
    flavour: Any, urls: Any, key_on: Any, keys: list[str], coordkit_namespace: str
) -> None:
    """A real refusal: an ACL that forbids MSET to our user, on one shard and then on all."""
    maybe, user = flavour.maybe, {"username": coordkit_namespace, "password": "x"}
    admins = {name: flavour.redis(url) for name, url in urls.items()}
    try:
        for name, admin in admins.items():
            rules: Any = ["+@all", "-mset", "-multi"] if name == "b" else ["+@all"]
            await maybe(admin.acl_setuser(coordkit_namespace, True, passwords=["+x"], keys=["*"], commands=rules))
        shards = sharded(flavour, urls, **user)
        with pytest.raises(PartialFailure) as partial:
            await maybe(shards.mset(dict.fromkeys(keys, 1)))
        assert {shard for shard, _ in partial.value.failed.values()} == {"b"}
        refused = [error for _, error in partial.value.failed.values()]
        assert all(isinstance(error, StoreRefused) and str(error).startswith("b: ") for error in refused)
        with pytest.raises(StoreRefused, match=r"^b: it answered no to MULTI .*may have carried out the commands"):
            await maybe(shards.pipeline(transaction=True).incr(key_on("b", 40)).execute())
        for admin in admins.values():
            await maybe(admin.acl_setuser(coordkit_namespace, True, keys=["*"], commands=["-mset"]))
        with pytest.raises(StoreRefused, match=r"^MSET: none of its 3 shards carried it out: a: .*; b: .*; c: "):
            await maybe(shards.mset(dict.fromkeys(keys, 1)))
    finally:
        for admin in admins.values():
            await maybe(admin.acl_deluser(coordkit_namespace))


async def test_a_refused_password_is_no_silence(flavour: Any, urls: Any, key_on: Any, coordkit_namespace: str) -> None:
    shards = sharded(flavour, urls, username=coordkit_namespace, password=coordkit_namespace)
    with pytest.raises(StoreRefused, match=r"^a: the shard answered no: .*password"):
        await flavour.maybe(shards.get(key_on("a")))


async def test_an_unknown_command_is_looked_up_once_and_then_routed(flavour: Any, urls: Any, key_on: Any) -> None:
    """As for a command newer than coordkit's table: the server says where its keys are."""
    shards, maybe, one, other = sharded(flavour, urls), flavour.maybe, key_on("a"), key_on("b")
    has_specs = int((await maybe(shards.on("a").info("server")))["redis_version"].partition(".")[0]) >= 7
    for name in ("SET", "LMPOP", "MGET", *(["OBJECT|ENCODING"] if has_specs else [])):  # 6.2 knows no subcommands
        shards._router._rules.pop(name)
    shards._router._of_first_key.discard("SET")
    assert shards.explain("SET", one, 1).action == "ask"
    assert await maybe(shards.set(one, 1)) is True
    assert shards.explain("SET", one, 1) == ("SET", "route", {one: "a"}, "all keys are on one shard")
    assert await maybe(shards.on("a").exists(one)) == 1
    assert await maybe(shards.object("encoding", one)) in ("int", b"int")
    assert await maybe(shards.pipeline().mget(one, other).execute()) == [[b"1", None]]
    with pytest.raises(CrossShardError):
        await maybe(shards.lmpop(2, one, other, direction="LEFT"))


async def test_keys_that_only_the_server_can_find_are_asked_for(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, maybe, one, other = sharded(flavour, urls, decode_responses=True), flavour.maybe, key_on("a"), key_on("b")
    shards._router._rules.update({"ZADD": "?", "SMOVE": "?", "PING": "?", "DEBUG": "?"})
    shards._router._of_first_key.discard("ZADD")
    assert await maybe(shards.zadd(one, {"m": 1})) == 1
    assert await maybe(shards.on("a").zcard(one)) == 1
    with pytest.raises(CrossShardError):
        await maybe(shards.smove(one, other, "m"))
    with pytest.raises(CrossShardError, match="about one server"):
        await maybe(shards.execute_command("DEBUG", "HELP"))
    assert await maybe(shards.ping()) is True


async def test_introspection_agrees_with_what_is_done(flavour: Any, urls: Any, key_on: Any) -> None:
    shards, one, other = sharded(flavour, urls), key_on("a"), key_on("b")
    assert tuple(shards.shards()) == NAMES
    assert shards.shard_for(one) == PLACEMENT.lookup(one) == shards.owners(one)[0] == "a"
    assert shards.client_for(one) is shards.on("a") is shards.shards()["a"]
    assert sorted(shards.owners(one, 3)) == list(NAMES)
    assert shards.placement == PLACEMENT
    assert shards.explain("DEL", one, other).shards == {one: "a", other: "b"}
    with pytest.raises(ValueError, match=r"shard='z'; one of \['a', 'b', 'c'\]"):
        shards.on("z")
    with pytest.raises(ValueError, match="n=4; 1 to 3"):
        shards.owners(one, 4)
    with pytest.raises(TypeError):
        shards.shards()["d"] = None


@pytest.mark.parametrize("method", ["execute_command", "parse_response"])
async def test_a_client_that_overrides_what_splits_bypass_is_refused(flavour: Any, urls: Any, method: str) -> None:
    """Such as one that puts a prefix before each key, which it would do on one shard and not for a split."""
    good = flavour.redis(urls["a"])
    kind, own = type(good), vars(type(good))[method]
    prefixed = type("Prefixed", (kind,), {method: own})(connection_pool=good.connection_pool)
    patched = kind(connection_pool=good.connection_pool)
    setattr(patched, method, lambda *_: None)
    for client_ in (prefixed, patched):
        with pytest.raises(
            TypeError, match=rf"shards\['a'\]=.* overrides {method}, .*redis-py's own {method} is allowed"
        ):
            sharded_of(flavour)({"a": client_})
    harmless = type("Named", (kind,), {"owner": "me"})(connection_pool=good.connection_pool)
    assert await flavour.maybe(sharded_of(flavour)({"a": harmless}).ping()) is True


async def test_closing_closes_every_client_even_if_one_fails(flavour: Any, urls: Any, monkeypatch: Any) -> None:
    shards, closed = sharded(flavour, urls), list[str]()

    def closing(name: str) -> Callable[[], Any]:
        def close() -> None:
            closed.append(name)
            if name == "b":
                raise ConnectionError("reset while closing")

        async def aclose() -> None:
            close()

        return aclose if flavour.is_async else close

    with monkeypatch.context() as patched:
        for name, one in shards.shards().items():
            method = (
                "aclose" if flavour.is_async and hasattr(one, "aclose") else "close"
            )  # redis-py 5.0.0 has no aclose
            patched.setattr(one, method, closing(name))
        with pytest.raises(ConnectionError, match="reset while closing"):
            await flavour.maybe(shards.aclose() if flavour.is_async else shards.close())
    assert sorted(closed) == list(NAMES)


async def test_weights_and_names_decide_and_addresses_do_not(flavour: Any, urls: Any) -> None:
    kind = sharded_of(flavour)
    clients = [flavour.redis(url) for url in urls.values()]
    one = kind(dict(zip(NAMES, clients, strict=True)), weights={"b": 2})
    other = kind(dict(zip(reversed(NAMES), clients, strict=True)), weights={"b": 2})
    assert one.placement == other.placement == rendezvous(NAMES, {"b": 2})


async def test_bad_arguments_are_refused_at_construction(flavour: Any, urls: Any) -> None:
    kind = sharded_of(flavour)
    url = urls["a"]
    good = flavour.redis(url)
    wrong = redis.Redis() if flavour.is_async else redis.asyncio.Redis()
    wanted = "redis.asyncio.Redis" if flavour.is_async else "redis.Redis"
    for shards, weights, error, message in [
        ({}, None, NoNodes, "at least one shard"),
        ([good], None, TypeError, "shards=.*a mapping"),
        ({"a": wrong}, None, TypeError, rf"shards\['a'\]=.*a {re.escape(wanted)} client is allowed"),
        ({"a": good.pipeline()}, None, TypeError, r"shards\['a'\]"),
        ({"a": url}, None, TypeError, r"shards\['a'\]="),
        ({"a": good, "b": good}, None, ValueError, r"shards\['b'\] and shards\['a'\] are one client"),
        ({b"a": good}, None, TypeError, "shard name b'a' is bytes"),
        ({"": good}, None, ValueError, "shard name ''"),
        ({"a": good}, {"a": 0}, ValueError, r"weights\['a'\]=0"),
        ({"a": good}, [1, 2], TypeError, r"weights=\[1, 2\]; a mapping"),
        ({"a": good}, {"b": 1}, ValueError, r"weights has \['b'\]"),
        ({"a": good, "b": flavour.redis(url, decode_responses=True)}, None, ValueError, "decode_responses"),
        ({"a": good, "b": flavour.redis(url, encoding="latin-1")}, None, ValueError, "encoding"),
    ]:
        with pytest.raises(error, match=message):
            kind(shards, weights=weights)


def test_both_flavours_have_the_same_names() -> None:
    import inspect

    def signatures(kind: type) -> dict[str, str]:
        here = {
            name: value
            for part in kind.__mro__
            if part.__module__.startswith("coordkit")
            for name, value in vars(part).items()
        }
        public = {name.replace("aclose", "close"): value for name, value in here.items() if not name.startswith("_")}
        return {
            name: ", ".join(inspect.signature(value).parameters) for name, value in public.items() if callable(value)
        }

    assert signatures(client.ShardedRedis) == signatures(client_aio.ShardedRedis)
    assert signatures(client_pipeline.ShardedPipeline) == signatures(client_pipeline_aio.ShardedPipeline)


@pytest.mark.parametrize("name", ["json", "ft", "ts", "bf", "cf", "cms", "topk", "tdigest", "graph", "vset"])
async def test_the_objects_of_modules_are_refused_with_what_to_do(flavour: Any, urls: Any, name: str) -> None:
    """At once, and not by the first command, nor by a missing attribute; also where no server has the module."""
    shards = sharded(flavour, urls)
    for refusing in (shards, shards.pipeline()):
        with pytest.raises(CrossShardError, match=rf"{name}\(\)") as refused:
            getattr(refusing, name)()
        assert f"on(shard).{name}(" in str(refused.value) or f"client_for(key).{name}()" in str(refused.value)
    with pytest.raises(redis.exceptions.ResponseError, match=r"unknown command 'JSON\.GET"):
        await flavour.maybe(shards.execute_command("JSON.GET", "k", "$"))
