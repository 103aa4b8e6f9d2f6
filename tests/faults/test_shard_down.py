"""A shard that is dead or silent, both flavours: its keys fail fast, all others are served, a probe brings it back.

Peers rehash a dead shard's keys by themselves (and serve stale data when it returns), or let each command wait for its
timeout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions

from coordkit import _redis
from coordkit.errors import PartialFailure, ShardDown, StoreRefused, StoreUnavailable
from coordkit.routing import rendezvous
from coordkit.routing.client import client, client_aio

NAMES = ("a", "b", "c")
PLACEMENT = rendezvous(NAMES)
SLOW = 1.0  # the clients' socket_timeout, of which a command that fails fast waits for none


@pytest.fixture
def urls(coordkit_redis_shards: Any) -> dict[str, str]:
    return {name: server.url for name, server in zip(NAMES, coordkit_redis_shards, strict=True)}


@pytest.fixture
def dying(coordkit_redis_shards: Any) -> Any:
    """Give the server of shard b."""
    return coordkit_redis_shards[1]


@pytest.fixture
def key_on(coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth key of this test on a shard."""

    def find(shard: str, nth: int = 0) -> str:
        keys = (f"{coordkit_namespace}:{i}" for i in range(10_000))
        return [key for key in keys if PLACEMENT.lookup(key) == shard][nth]

    return find


@pytest.fixture(params=["kept", "pool"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Give what makes clients of kept connections, and clients that are used themselves."""
    small = {} if request.param == "kept" else {"max_connections": 20}
    return {"socket_timeout": SLOW, "socket_connect_timeout": SLOW, "retry": None, **small}


def sharded(flavour: Any, urls: dict[str, str], options: dict[str, Any], **breaker: Any) -> Any:
    """Return a ShardedRedis whose breakers open after three failures and are probed soon."""
    kind = client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis
    clients = {name: flavour.redis(url, **options) for name, url in urls.items()}
    return flavour.closing(kind(clients, **{"failure_threshold": 3, "reset_timeout": 0.2, **breaker}))


async def open_it(flavour: Any, shards: Any, key: str) -> None:
    """Ask until the breaker of shard b is open: three times, or once more where a connection broke first."""
    asked = 0
    while shards.breakers()["b"] == "closed" and asked < 4:
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(shards.get(key))
        asked += 1
    assert asked in (3, 4)
    assert shards.breakers() == {"a": "closed", "b": "open", "c": "closed"}


async def comes_back(flavour: Any, shards: Any, key: str) -> None:
    """Wait until a command on shard b works, which needs a probe that found it well."""

    async def works() -> bool:
        try:
            await flavour.maybe(shards.get(key))
        except ShardDown:
            return False
        return True

    await flavour.until(works, timeout=30)
    assert shards.breakers()["b"] == "closed"


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_its_keys_fail_fast_and_the_others_are_served_until_a_probe_finds_it_well(
    flavour: Any, urls: Any, key_on: Any, options: Any, coordkit_faults: Any, dying: Any, how: str
) -> None:
    shards, maybe = sharded(flavour, urls, options), flavour.maybe
    one, here, there = key_on("b"), key_on("a"), key_on("c")
    await maybe(shards.mset(dict.fromkeys((one, here, there), "before")))
    getattr(coordkit_faults, how)(dying)
    await open_it(flavour, shards, one)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(ShardDown, match=r"^b: this shard cannot be reached .*not sent.*others? ") as down:
            await maybe(shards.set(one, "lost"))
        assert down.value.shard == "b"
        assert isinstance(down.value.__cause__, redis.exceptions.ConnectionError)
        assert await maybe(shards.get(here)) == b"before"
        assert await maybe(shards.incr(key_on("c", 1))) > 0
        with pytest.raises(PartialFailure) as partial:
            await maybe(shards.mget(here, one, there))
        assert partial.value.ok == {here: b"before", there: b"before"}
        assert isinstance(partial.value.failed[one][1], ShardDown)
        replies = await maybe(shards.pipeline().get(one).get(here).execute(raise_on_error=False))
        assert (type(replies[0]), replies[1]) == (ShardDown, b"before")
        with pytest.raises(ShardDown):
            await maybe(shards.pipeline(transaction=True).get(one).execute())
    assert time.monotonic() - began < 40 * SLOW  # there are 80 commands that would each have waited for it
    assert shards.shard_for(one) == "b"  # no key has moved
    for name in ("a", "c"):
        assert await maybe(shards.on(name).exists(one)) == 0
    if how == "kill":
        coordkit_faults.restart(dying)
    else:
        coordkit_faults.resume(dying)
    await comes_back(flavour, shards, one)
    assert await maybe(shards.set(one, "after")) is True
    assert await maybe(shards.mget(here, one, there)) == [b"before", b"after", b"before"]


async def test_only_one_probe_at_a_time_and_nobody_waits_for_it(
    flavour: Any, urls: Any, key_on: Any, options: Any, coordkit_faults: Any, dying: Any
) -> None:
    shards, maybe = sharded(flavour, urls, {**options, "socket_timeout": 3}, reset_timeout=0.05), flavour.maybe
    way, one, probes = shards._ways["b"], key_on("b"), list[str]()
    own = way._probe

    async def awaited() -> None:
        probes.append("begun")
        await own()
        probes.append("ended")

    def called() -> None:
        probes.append("begun")
        own()
        probes.append("ended")

    way._probe = awaited if flavour.is_async else called
    for _ in range(3):
        way.breaker.failed("so we say")
    coordkit_faults.pause(dying)

    async def ask() -> None:
        with pytest.raises(ShardDown):
            await maybe(shards.get(one))
        await flavour.sleep(0.01)

    while "begun" not in probes:
        await ask()
    for _ in range(20):
        await flavour.gather(*[ask() for _ in range(5)])
        if "ended" in probes:
            break
        assert probes == ["begun"]
        assert shards.breakers()["b"] == "half-open"
    coordkit_faults.resume(dying)
    await comes_back(flavour, shards, one)
    begun = [i for i, each in enumerate(probes) if each == "begun"]
    assert all(probes[i - 1] == "ended" for i in begun[1:])


async def test_a_slow_command_opens_nothing(flavour: Any, urls: Any, key_on: Any, options: Any) -> None:
    shards, maybe = sharded(flavour, urls, {**options, "socket_timeout": 0.1}), flavour.maybe
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="unknown"):
            await maybe(shards.blpop([key_on("b")], timeout=20))
        with pytest.raises(PartialFailure, match="unknown"):
            await maybe(shards.pipeline().get(key_on("b", 1)).blpop([key_on("b")], timeout=20).execute())
    assert set(shards.breakers().values()) == {"closed"}


async def test_a_shard_that_refuses_is_not_down(
    flavour: Any, urls: Any, key_on: Any, options: Any, coordkit_namespace: str
) -> None:
    shards = sharded(flavour, urls, {**options, "username": coordkit_namespace, "password": "wrong"})
    for _ in range(5):
        with pytest.raises(StoreRefused):
            await flavour.maybe(shards.get(key_on("b")))
    assert set(shards.breakers().values()) == {"closed"}


async def test_a_connection_that_breaks_is_no_sign_of_a_shard_that_is_down(
    flavour: Any, urls: Any, key_on: Any, options: Any, coordkit_faults: Any, dying: Any
) -> None:
    """Such as each of many at once, when a server is restarted."""
    proxy = coordkit_faults.proxy(dying)
    shards, maybe, one = sharded(flavour, {**urls, "b": proxy.url}, options), flavour.maybe, key_on("b")
    await maybe(shards.set(one, 1000))
    for i in range(5):
        proxy.drop_reply_matching(b":%d" % (1001 + i))
        with pytest.raises(StoreUnavailable, match="unknown"):
            await maybe(shards.incr(one))
    assert shards.breakers()["b"] == "closed"
    assert await maybe(shards.get(one)) == b"1005"


async def test_two_silent_shards_are_waited_for_as_long_as_one(
    flavour: Any, urls: Any, key_on: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    options = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": None}
    shards, maybe = sharded(flavour, urls, options), flavour.maybe
    ours = {name: key_on(name) for name in NAMES}
    await maybe(shards.mset(dict.fromkeys(ours.values(), "x")))
    for server in coordkit_redis_shards[:2]:
        coordkit_faults.pause(server)
    began = time.monotonic()
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.mget(*ours.values()))
    assert time.monotonic() - began < 3.9
    assert partial.value.ok == {ours["c"]: b"x"}


async def test_a_bound_that_is_the_connections_own_is_kept(
    flavour: Any, urls: dict[str, str], dying: Any, key_on: Callable[..., str]
) -> None:
    """As redis-py's default is where the client was made by from_url: it stands nowhere among the pool's arguments."""
    clients = {name: flavour.redis(url, retry=None) for name, url in urls.items()}
    for each in clients.values():
        own = each.connection_pool.connection_class

        class Bounded(own):  # type: ignore[misc, valid-type]  # either flavour's
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**{"socket_timeout": SLOW, **kwargs})

        each.connection_pool.connection_class = Bounded
        assert "socket_timeout" not in each.connection_pool.connection_kwargs
    kind = client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis
    shards = flavour.closing(kind(clients, failure_threshold=3, reset_timeout=0.2))
    await flavour.maybe(shards.get(key_on("b")))
    dying.pause()
    try:
        await open_it(flavour, shards, key_on("b"))
        assert await flavour.maybe(shards.get(key_on("a"))) is None
    finally:
        dying.resume()
    await comes_back(flavour, shards, key_on("b"))


@pytest.mark.parametrize("how", ["constructor", "from_url"])
@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
def test_the_bound_is_that_of_the_clients_own_connections(how: str, kind: Any) -> None:
    made = kind.from_url("redis://localhost:1") if how == "from_url" else kind(port=1)
    bound = made.connection_pool.make_connection().socket_timeout
    assert _redis.bound(made.connection_pool) == (bound or math.inf)
    assert (bound == 5) == (int(redis.__version__.partition(".")[0]) >= 8)
    for given in (2.5, None):
        made = kind.from_url("redis://localhost:1", socket_timeout=given)
        assert _redis.bound(made.connection_pool) == (given or math.inf)


async def test_a_pipeline_that_was_done_in_part_says_so(
    flavour: Any, urls: dict[str, str], dying: Any, key_on: Callable[..., str], options: dict[str, Any]
) -> None:
    """Not that it was not sent: who believes that repeats it, and counts twice."""
    shards, maybe = sharded(flavour, urls, options), flavour.maybe
    dying.kill()
    try:
        pipe = shards.pipeline().incr(key_on("a")).incr(key_on("b")).mget(key_on("a"), key_on("b"))
        with pytest.raises(PartialFailure, match=r"1 of 3 commands .* command # 2 \(INCRBY .*not the whole") as partial:
            await maybe(pipe.execute())
        assert partial.value.ok == {1: 1}
        assert {number: shard for number, (shard, _) in partial.value.failed.items()} == {2: "b", 3: "a, b"}
        assert isinstance(partial.value.failed[2][1], ShardDown)
        assert partial.value.failed[3][1].ok == {key_on("a"): b"1"}
        # What is true of all commands is told as it is.
        with pytest.raises(ShardDown, match="the command was not sent"):
            await maybe(shards.pipeline().incr(key_on("b")).get(key_on("b", 1)).execute())
        # And what is wrong with a command stays redis-py's.
        pipe = shards.pipeline().set(key_on("a", 1), "x").incr(key_on("a", 1)).incr(key_on("b"))
        with pytest.raises(redis.exceptions.ResponseError, match="Command # 2"):
            await maybe(pipe.execute())
    finally:
        dying.restart()
