"""Bad arguments are refused where they are given, and the message names argument, value and what is allowed."""

from __future__ import annotations

import asyncio
import inspect
import math
import pickle
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit import Token

BLOCKING = redis.Redis(host="localhost", port=1)  # never connected: construction asks nobody
AWAITED = redis.asyncio.Redis(host="localhost", port=1)
FLAVOURS = [(coordkit, BLOCKING), (coordkit.aio, AWAITED)]
flavours = pytest.mark.parametrize(("module", "client"), FLAVOURS, ids=["blocking", "asyncio"])


@flavours
@pytest.mark.parametrize("ttl", [0, -1, 0.0005, 0.049, math.nan, math.inf, 1e12])
def test_a_ttl_that_no_server_can_keep(module: Any, client: Any, ttl: float) -> None:
    with pytest.raises(ValueError, match=rf"ttl must be .*{ttl!r}"):
        module.Lock(client, "jobs", ttl=ttl)


@flavours
@pytest.mark.parametrize("ttl", [None, "10", True])
def test_a_ttl_that_is_no_number(module: Any, client: Any, ttl: Any) -> None:
    with pytest.raises(TypeError, match="ttl must be a number of seconds"):
        module.Lock(client, "jobs", ttl=ttl)


@flavours
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", ValueError),
        ("}x", ValueError),
        ("\ud800", ValueError),
        (None, TypeError),
        (b"a", TypeError),
        (7, TypeError),
    ],
)
@pytest.mark.parametrize("kind", ["Lock", "Fence"])
def test_a_name_that_cannot_be_a_key(module: Any, client: Any, kind: str, name: Any, error: type[Exception]) -> None:
    arguments = {"ttl": 10} if kind == "Lock" else {}

    with pytest.raises(error, match="name must"):
        getattr(module, kind)(client, name, **arguments)


@flavours
@pytest.mark.parametrize("permits", [0, -1, 10**9 + 1])
def test_a_number_of_permits_that_nobody_can_hold(module: Any, client: Any, permits: int) -> None:
    with pytest.raises(ValueError, match=rf"permits must be .*{permits!r}"):
        module.Semaphore(client, "jobs", permits=permits, ttl=10)


@flavours
@pytest.mark.parametrize("permits", [None, "2", 2.0, True])
def test_permits_that_are_no_number(module: Any, client: Any, permits: Any) -> None:
    with pytest.raises(TypeError, match=r"permits must be an int, got"):
        module.Semaphore(client, "jobs", permits=permits, ttl=10)


@flavours
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "}x"}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": "10"}, TypeError),
        ({"max_hold": 9}, ValueError),
        ({"wait": 0.1}, TypeError),
    ],
)
@pytest.mark.parametrize("kind", ["ReadWriteLock", "Semaphore"])
def test_other_kinds_refuse_what_a_lock_refuses(
    module: Any, client: Any, kind: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    more = {"permits": 2} if kind == "Semaphore" else {}
    arguments = {"name": "jobs", "ttl": 10, **more, **arguments}

    with pytest.raises(
        error, match=rf"{next(iter(arguments.keys() - more.keys() - {'name', 'ttl'}), 'name|ttl')} must"
    ):
        getattr(module, kind)(client, arguments.pop("name"), **arguments)


@flavours
@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan])
def test_a_timeout_that_is_negative(module: Any, client: Any, timeout: float) -> None:
    lock = module.Lock(client, "jobs", ttl=10)

    with pytest.raises(ValueError, match="timeout must"):
        lock.hold(timeout=timeout)


@flavours
@pytest.mark.parametrize("max_hold", [0, 9.9, -5, math.nan])
def test_a_bound_that_leaves_no_room_for_one_ttl(module: Any, client: Any, max_hold: float) -> None:
    with pytest.raises(ValueError, match="max_hold must"):
        module.Lock(client, "jobs", ttl=10, max_hold=max_hold)


@pytest.mark.parametrize("kind", ["Lock", "Fence"])
@pytest.mark.parametrize(("module", "client"), [(coordkit, AWAITED), (coordkit.aio, BLOCKING)])
def test_a_client_of_the_other_flavour(module: Any, client: Any, kind: str) -> None:
    arguments = {"ttl": 10} if kind == "Lock" else {}

    with pytest.raises(TypeError, match=r"redis must be a client of the .* flavour.*import from coordkit"):
        getattr(module, kind)(client, "jobs", **arguments)


@pytest.mark.parametrize("client", [None, "redis://localhost", object()])
@pytest.mark.parametrize("module", [coordkit, coordkit.aio])
def test_something_that_is_no_client(module: Any, client: Any) -> None:
    with pytest.raises(TypeError, match="redis must be a redis-py client"):
        module.Lock(client, "jobs", ttl=10)


@flavours
def test_a_pipeline_is_no_client(module: Any, client: Any) -> None:
    """It would queue our scripts, and never answer."""
    with pytest.raises(TypeError, match="and no pipeline"):
        module.Lock(client.pipeline(), "jobs", ttl=10)


@flavours
def test_a_wait_that_is_no_strategy(module: Any, client: Any) -> None:
    with pytest.raises(TypeError, match=r"wait must be a tenacity wait strategy.*0\.1"):
        module.Lock(client, "jobs", ttl=10, wait=0.1)


def test_a_hold_decorates_what_it_can_hold_for() -> None:
    """A call of an async function or a generator returns before its body begins."""
    blocking = coordkit.Lock(BLOCKING, "jobs", ttl=10)
    awaited = coordkit.aio.Lock(AWAITED, "jobs", ttl=10)

    async def asynchronous() -> None: ...
    def generator() -> Any:
        yield

    def plain() -> None: ...

    for function in (asynchronous, generator):
        with pytest.raises(TypeError, match="decorates plain functions only"):
            blocking.hold()(function)
    for function in (plain, generator):
        with pytest.raises(TypeError, match="decorates async functions only"):
            awaited.hold()(function)


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"]])
def test_a_value_that_redis_would_not_keep_as_it_is(value: Any) -> None:
    fence = coordkit.Fence(BLOCKING, "ledger")

    with pytest.raises(TypeError, match="value must be a str, bytes or int"):
        fence.set("{ledger}:42", value, token=1)


def test_small_pools_and_clients_of_many_servers_are_spoken_to_by_their_own_way() -> None:
    from coordkit._redis import keeps_connections

    class Traced(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            return super().execute_command(*args, **options)

    few = redis.Redis(connection_pool=redis.ConnectionPool(max_connections=2))
    assert keeps_connections(BLOCKING)
    assert keeps_connections(AWAITED)
    assert not keeps_connections(few)
    assert not keeps_connections(Traced())
    assert not keeps_connections(redis.Redis(connection_pool=redis.BlockingConnectionPool()))


def test_a_cluster_that_refuses_two_slots_means_cross_shard() -> None:
    from coordkit._redis_answers import translated

    said = redis.exceptions.RedisClusterException("EVALSHA - all keys must map to the same key slot")

    assert isinstance(translated(said, "ledger", "RedisCluster"), coordkit.CrossShardError)


def test_a_server_that_runs_a_script_for_too_long_means_wait() -> None:
    from coordkit._redis_answers import translated

    said = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."

    meant = translated(redis.exceptions.ResponseError(said), "ledger", "Redis")
    assert isinstance(meant, coordkit.StoreRefused)
    assert "SCRIPT KILL it" in str(meant)
    other = translated(redis.exceptions.ResponseError("BUSYKEY Target key name already exists."), "ledger", "Redis")
    assert str(other).endswith("see the cause")


@pytest.mark.parametrize("token", [0, -1, 1 << 63])
def test_a_token_out_of_range(token: int) -> None:
    fence = coordkit.Fence(BLOCKING, "ledger")

    with pytest.raises(ValueError, match="token must be between"):
        fence.claim(token=token)


@pytest.mark.parametrize("token", [None, "7", 7.0, True])
def test_a_token_that_is_no_integer(token: Any) -> None:
    fence = coordkit.Fence(BLOCKING, "ledger")

    with pytest.raises(TypeError, match="token must be an int"):
        fence.claim(token=token)


def test_a_token_is_an_int_that_knows_its_holder() -> None:
    token = Token(7, "host:1:abc")

    assert (token, token + 1, str(token), repr(token)) == (7, 8, "7", "7")
    assert pickle.loads(pickle.dumps(token)).holder == "host:1:abc"
    with pytest.raises(ValueError, match="value must be between"):
        Token(0)


@flavours
@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"script": b"return 1"}, TypeError, "script must be a str of Lua"),
        ({"script": "#!lua flags=allow-oom\nreturn 1"}, ValueError, "script must not begin with a '#!' line"),
        ({"keys": "{ledger}:42"}, TypeError, r"keys must be a sequence, got '{ledger}:42': write \['{ledger}:42'\]"),
        ({"keys": ["a", 7]}, TypeError, r"keys\[1\] must be a str or bytes, got 7"),
        ({"args": b"x"}, TypeError, "args must be a sequence"),
        ({"args": ["a", None]}, TypeError, r"args\[1\] must be a str, bytes or int, got None"),
        ({"token": 0}, ValueError, "token must be between"),
    ],
)
def test_what_a_fence_cannot_run(
    module: Any, client: Any, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    fence = module.Fence(client, "ledger")

    with pytest.raises(error, match=said):
        settle(fence.run(**{"script": "return 1", "keys": [], "args": [], "token": 1, **change}))


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf])
def test_a_value_that_expires_before_it_is_there(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be"):
        coordkit.Fence(BLOCKING, "ledger").set("{ledger}:42", "x", token=1, ttl=ttl)


def settle(value: Any) -> Any:
    """Run what an asyncio call gave, up to the error that is expected of it."""
    return asyncio.run(value) if inspect.isawaitable(value) else value
