"""Transactions, WATCH, scripts and blocking commands over three shards, both flavours: each stays on one shard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from coordkit.errors import CrossShardError, StoreUnavailable

NAMES = ("a", "b", "c")
# Connections of coordkit's own, or of a bounded pool of the client's.
WAYS: list[dict[str, Any]] = [
    {},
    {"max_connections": 2},
    {"max_connections": 3, "health_check_interval": 1},
]


@pytest.fixture(params=WAYS, ids=["own", "pool", "checked"])
def options(request: Any) -> Any:
    return request.param


@pytest.fixture
def make(flavour: Any, coordkit_redis_shards: Any) -> Callable[..., Any]:
    """Give a function that makes a ShardedRedis with clients of its own."""

    def sharded(urls: dict[str, str] | None = None, **options: Any) -> Any:
        options = {"socket_timeout": 5, "socket_connect_timeout": 5, "retry": None, **options}
        found = {name: one.url for name, one in zip(NAMES, coordkit_redis_shards, strict=True)}
        return flavour.ShardedRedis(
            {name: flavour.redis(url, **options) for name, url in {**found, **(urls or {})}.items()}
        )

    return sharded


@pytest.fixture
def key_on(make: Any, coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth key of this test on a shard."""
    shards = make()

    def find(shard: str, nth: int = 0) -> str:
        keys = (f"{coordkit_namespace}:{i}" for i in range(1000))
        return [key for key in keys if shards.shard_for(key) == shard][nth]

    return find


async def test_watch_fixes_the_shard_and_shows_each_reply(
    flavour: Any, make: Any, key_on: Any, maybe: Any, options: Any
) -> None:
    shards, one, other, elsewhere = make(**options), key_on("a"), key_on("a", 1), key_on("b")
    await maybe(shards.set(one, 5))
    async with flavour.within(shards.pipeline()) as pipe:
        assert await maybe(pipe.watch(one, other)) is True
        assert pipe.watching
        assert await maybe(pipe.get(one)) == b"5"
        assert await maybe(pipe.mget(one, other)) == [b"5", None]
        for refused, command in (
            (lambda: pipe.get(elsewhere), "GET"),
            (lambda: pipe.watch(elsewhere), "WATCH"),
            (lambda: pipe.mget(one, elsewhere), "MGET"),
        ):
            with pytest.raises(CrossShardError, match=rf"^{command}: .*'{elsewhere}' on b") as error:
                await maybe(refused())
            assert error.value.shards.items() >= {one: "a", elsewhere: "b"}.items()
        with pytest.raises(CrossShardError, match=r"^DBSIZE: it is not on the shard"):
            await maybe(pipe.dbsize())
        pipe.multi()
        assert pipe.set(one, 6).incr(other) is pipe
        with pytest.raises(redis.exceptions.RedisError, match="nested calls to MULTI"):
            pipe.multi()
        with pytest.raises(redis.exceptions.RedisError, match="WATCH after a MULTI"):
            await maybe(pipe.watch(one))
        assert await maybe(pipe.execute()) == [True, 1]
        assert not pipe.watching
        assert await maybe(pipe.get(one).get(elsewhere).execute()) == [b"6", None]  # a pipeline as any again


async def test_a_key_that_changed_discards_the_transaction(
    flavour: Any, make: Any, key_on: Any, maybe: Any, options: Any
) -> None:
    shards, one, other = make(**options), key_on("a"), key_on("a", 1)
    pipe = shards.pipeline()
    for queued in (True, False):  # as redis-py's: what was only read is checked, too
        await maybe(pipe.watch(one))
        await maybe(shards.incr(one))
        pipe.multi()
        if queued:
            pipe.set(other, 1)
        with pytest.raises(redis.exceptions.WatchError, match="Watched variable changed"):
            await maybe(pipe.execute())
    assert await maybe(shards.exists(other)) == 0
    await maybe(pipe.watch(one))
    await maybe(pipe.unwatch())
    await maybe(shards.incr(one))
    pipe.set(other, 2)
    assert await maybe(pipe.execute()) == [True]
    await maybe(pipe.watch(one))
    await maybe(shards.incr(one))
    await maybe(pipe.reset())
    pipe.multi()
    assert await maybe(pipe.set(other, 3).get(other).execute()) == [True, b"3"]


async def test_what_a_watched_transaction_cannot_do_leaves_nothing_watched(
    flavour: Any, make: Any, key_on: Any, maybe: Any, options: Any
) -> None:
    shards, one, elsewhere = make(**options), key_on("a"), key_on("b")
    pipe = shards.pipeline()
    for _ in range(4):  # more than a bounded pool has
        await maybe(pipe.watch(one))
        pipe.multi()
        pipe.set(one, 1).set(elsewhere, 1)
        with pytest.raises(CrossShardError, match=rf"'{elsewhere}' on b"):
            await maybe(pipe.execute())
        async with flavour.within(shards.pipeline()) as leaving:
            await maybe(leaving.watch(one))
    await maybe(pipe.watch(one))
    pipe.multi()
    with pytest.raises(redis.exceptions.ResponseError, match=r"^Command # 2 .*not an integer"):
        await maybe(pipe.set(one, "x").incr(one).execute())
    assert await maybe(shards.get(one)) == b"x"
    assert await maybe(shards.exists(elsewhere)) == 0


async def test_a_transaction_is_repeated_until_nobody_was_in_between(
    flavour: Any, make: Any, key_on: Any, maybe: Any, options: Any
) -> None:
    key, other, workers, each = key_on("c"), key_on("c", 1), 3, 12

    async def work() -> None:
        shards = make(**options)

        async def add(pipe: Any) -> None:
            before = int(await maybe(pipe.get(key)) or 0)
            pipe.multi()
            pipe.set(key, before + 1).incr(other)

        def add_now(pipe: Any) -> None:
            before = int(pipe.get(key) or 0)
            pipe.multi()
            pipe.set(key, before + 1).incr(other)

        for _ in range(each):
            replies = await maybe(shards.transaction(add if flavour.is_async else add_now, key))
            assert replies[0] is True

    await flavour.gather(*[work() for _ in range(workers)])
    assert await maybe(make().mget(key, other)) == [str(workers * each).encode()] * 2


async def test_a_transaction_without_watch_and_its_values(flavour: Any, make: Any, key_on: Any, maybe: Any) -> None:
    shards, key, elsewhere = make(), key_on("a"), key_on("b")
    assert await maybe(shards.transaction(lambda pipe: pipe.set(key, 1).incr(key))) == [True, 2]

    async def value(pipe: Any) -> str:
        pipe.multi()
        pipe.incr(key)
        return "mine"

    def value_now(pipe: Any) -> str:
        pipe.multi()
        pipe.incr(key)
        return "mine"

    work = value if flavour.is_async else value_now
    assert await maybe(shards.transaction(work, key, value_from_callable=True)) == "mine"
    assert await maybe(shards.get(key)) == b"3"
    with pytest.raises(CrossShardError) as error:
        await maybe(shards.transaction(lambda pipe: pipe.set(key, 1).set(elsewhere, 1)))
    assert error.value.shards == {key: "a", elsewhere: "b"}
    with pytest.raises(CrossShardError) as error:
        await maybe(shards.transaction(print, key, elsewhere))
    assert error.value.shards == {key: "a", elsewhere: "b"}
    with pytest.raises(ZeroDivisionError):
        await maybe(shards.transaction(lambda _: 1 / 0, key))
    with pytest.raises(CrossShardError, match=r"pipeline\(\)\.watch\(\)"):
        await maybe(shards.watch(key))
    with pytest.raises(ValueError, match="WATCH: no keys"):
        await maybe(shards.pipeline().watch())


async def test_a_connection_that_is_lost_takes_its_watch_along(
    flavour: Any, make: Any, key_on: Any, maybe: Any, options: Any
) -> None:
    """Nothing is sent over another connection, on which the key would not be watched."""
    shards, key = make(**options), key_on("b")
    admin = shards.on("b")
    for step in ("command", "execute"):
        pipe = shards.pipeline()
        await maybe(pipe.watch(key))
        await maybe(shards.incr(key))
        number = int(await maybe(shards.get(key)))
        await maybe(pipe.client_id() if False else pipe.exists(key))
        for client in await maybe(admin.client_list(_type="normal")):
            if client["cmd"] == "exists":
                await maybe(admin.client_kill_filter(_id=client["id"]))
        if step == "command":
            with pytest.raises(StoreUnavailable, match=r"^b: "):
                await maybe(pipe.get(key))
            with pytest.raises(StoreUnavailable, match=r"^b: the connection that watched was lost"):
                await maybe(pipe.get(key))
        pipe.multi()
        with pytest.raises(StoreUnavailable, match=r"^b: "):
            await maybe(pipe.incr(key).execute())
        assert int(await maybe(shards.get(key))) == number


async def test_an_answer_to_exec_that_is_lost_is_told_and_nothing_repeated(
    flavour: Any, make: Any, key_on: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    """redis-py calls that a WatchError, upon which `transaction` does it again."""
    proxy, key = coordkit_faults.proxy(coordkit_redis_shards[1]), key_on("b")
    shards, calls = make({"b": proxy.url}), []
    await maybe(shards.set(key, 1000))
    proxy.drop_reply_matching(b":1001")

    def add(pipe: Any) -> None:
        calls.append(1)
        pipe.multi()
        pipe.incr(key)

    with pytest.raises(StoreUnavailable, match=r"^b: no answer .*unknown"):
        await maybe(shards.transaction(add, key))
    assert calls == [1]
    assert await maybe(make().get(key)) == b"1001"


async def test_scripts_and_functions_run_on_the_shard_of_their_keys(
    flavour: Any, make: Any, key_on: Any, maybe: Any, coordkit_namespace: str
) -> None:
    shards, one, other, elsewhere = make(), key_on("a"), key_on("a", 1), key_on("b")
    text = "return {KEYS[1], #KEYS, ARGV[1]}"
    assert await maybe(shards.eval(text, 2, one, other, "x")) == [one.encode(), 2, b"x"]
    sha = await maybe(shards.script_load(text))
    assert await maybe(shards.evalsha(sha, 1, elsewhere, "y")) == [elsewhere.encode(), 1, b"y"]
    for refused in (lambda: shards.eval(text, 2, one, elsewhere), lambda: shards.evalsha(sha, 2, one, elsewhere)):
        with pytest.raises(CrossShardError) as error:
            await maybe(refused())
        assert error.value.shards == {one: "a", elsewhere: "b"}
    if int((await maybe(shards.on("a").info("server")))["redis_version"].partition(".")[0]) < 7:
        return
    library = "lib" + coordkit_namespace.replace("-", "_")
    code = f"#!lua name={library}\nredis.register_function('f_{library}', function(keys) return keys[1] end)"
    assert await maybe(shards.function_load(code)) in (library.encode(), library)
    try:
        for key in (one, elsewhere):
            assert await maybe(shards.fcall(f"f_{library}", 1, key)) == key.encode()
        with pytest.raises(CrossShardError):
            await maybe(shards.fcall(f"f_{library}", 2, one, elsewhere))
        assert set(await maybe(shards.function_list())) == set(NAMES)
    finally:
        await maybe(shards.function_delete(library))


async def test_a_command_that_blocks_delays_nobody(flavour: Any, make: Any, key_on: Any, maybe: Any) -> None:
    """Neither another shard's nor its own."""
    shards, one, other, elsewhere = make(), key_on("a"), key_on("a", 1), key_on("b")

    async def pop() -> Any:
        return await maybe(shards.blpop([one, other], timeout=4))

    running = flavour.spawn(pop)

    async def blocked() -> bool:
        return any(client["cmd"] == "blpop" for client in await maybe(shards.on("a").client_list()))

    await flavour.until(blocked)
    began = time.monotonic()
    for key in (key_on("a", 2), elsewhere):
        assert await maybe(shards.set(key, 1)) is True
        assert await maybe(shards.incr(key)) == 2
    await maybe(shards.mget(key_on("a", 2), elsewhere))
    await maybe(shards.pipeline().incr(key_on("a", 2)).incr(elsewhere).execute())
    assert not running.done()
    assert time.monotonic() - began < 3
    await maybe(shards.rpush(other, "x"))
    assert tuple(await running.result()) == (other.encode(), b"x")
    with pytest.raises(CrossShardError) as error:
        await maybe(shards.blpop([one, elsewhere], timeout=1))
    assert error.value.shards == {one: "a", elsewhere: "b"}
