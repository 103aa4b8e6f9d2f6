"""Kept connections to a shard, both flavours: what is noticed before a command is sent, and what is nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest
import redis

from coordkit.errors import ShardDown, StoreUnavailable
from coordkit.routing.client import client, client_aio
from coordkit.routing.client import exchange as client_exchange
from coordkit.routing.client import exchange_aio as client_exchange_aio
from coordkit.routing.ways import connections as way_connections
from coordkit.routing.ways import connections_aio as way_connections_aio
from coordkit.routing.ways import way, way_aio
from coordkit.routing.ways.batch import Gathering
from coordkit.routing.ways.errors import Outdated
from coordkit.routing.ways.pool import PoolWay
from coordkit.routing.ways.pool_aio import PoolWay as AsyncPoolWay
from coordkit.routing.ways.replies import RAW


@pytest.fixture
def url(coordkit_redis_server: Any) -> str:
    return str(coordkit_redis_server.url)


def sharded(flavour: Any, url: str, **options: Any) -> Any:
    """Return a ShardedRedis of one shard, which the end of the test closes."""
    kind = client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis
    options = {"socket_timeout": 10, "retry": None, **options}
    return flavour.closing(kind({"a": flavour.redis(url, **options)}))


def way_of(flavour: Any, url: str, **options: Any) -> Any:
    greet = options.pop("greet", None)
    kind = way_aio.Way if flavour.is_async else way.Way
    made: Any = kind("a", flavour.redis(url, **{"socket_timeout": 10, **options}), greet=greet)
    flavour.on_exit(made.close)
    return made


async def ours(flavour: Any, looks: Any, name: str) -> list[dict[str, str]]:
    return [one for one in await flavour.maybe(looks.client_list()) if one["name"] == name]


async def test_connections_are_kept_and_are_as_the_client_makes_them(
    flavour: Any, url: str, coordkit_namespace: str
) -> None:
    name = coordkit_namespace
    db3 = url.rpartition("/")[0] + "/3"
    shards, looks = sharded(flavour, db3, client_name=name), flavour.redis(url)
    for _ in range(5):
        assert await flavour.maybe(shards.incr(name))
    assert await flavour.maybe(flavour.redis(db3).get(name)) == b"5"
    assert [one["db"] for one in await ours(flavour, looks, name)] == ["3"]
    await flavour.maybe(shards.aclose() if flavour.is_async else shards.close())

    async def gone() -> bool:
        return not await ours(flavour, looks, name)

    await flavour.until(gone)
    assert await flavour.maybe(shards.incr(name)) == 6  # as a redis.Redis can be used after it was closed


@pytest.mark.parametrize("fast", [True, False])
async def test_an_idle_connection_that_the_server_closed_is_noticed_before_a_command_is_sent(
    flavour: Any, url: str, coordkit_namespace: str, fast: bool, monkeypatch: Any
) -> None:
    """Each command is sent once, and none of them fails; also a batch, and where redis-py's own layers are used."""
    if not fast:
        made_by = way_connections_aio if flavour.is_async else way_connections
        monkeypatch.setattr(made_by, "speaks_plainly", lambda _: False)
    name = coordkit_namespace
    shards, looks = sharded(flavour, url, client_name=name), flavour.redis(url)
    maybe, count = flavour.maybe, 0
    for ask in (
        lambda: shards.incr(name),
        lambda: shards.pipeline().incr(name).execute(),
        lambda: shards.eval("return redis.call('INCR', KEYS[1])", 1, name),
    ):
        assert await maybe(ask())
        for one in await ours(flavour, looks, name):
            await maybe(looks.client_kill(one["addr"]))

        async def gone() -> bool:
            await flavour.sleep(0)  # asyncio hears of it from its loop
            return not await ours(flavour, looks, name)

        await flavour.until(gone)
        if flavour.is_async:
            await asyncio.sleep(0.05)
        assert await maybe(ask())
        count += 2
        assert await maybe(looks.get(name)) == str(count).encode()


async def test_a_command_that_blocks_delays_nobody(flavour: Any, url: str, coordkit_namespace: str) -> None:
    name, maybe = coordkit_namespace, flavour.maybe
    shards, looks = sharded(flavour, url), flavour.redis(url)
    await maybe(shards.set(name, "x"))

    async def blocked() -> Any:
        return await maybe(shards.blpop([f"{name}:list"], timeout=9))

    async def blocked_in_a_batch() -> Any:
        return await maybe(shards.pipeline().xread({f"{name}:stream": "$"}, block=9000).execute())

    running = [flavour.spawn(blocked), flavour.spawn(blocked_in_a_batch)]

    async def waits() -> bool:
        return bool((await maybe(looks.info("clients")))["blocked_clients"] >= 2)

    await flavour.until(waits)
    for _ in range(20):
        assert await maybe(shards.get(name)) == b"x"
        assert await maybe(shards.pipeline().get(name).strlen(name).execute()) == [b"x", 1]
    assert not any(one.done() for one in running)
    await maybe(looks.rpush(f"{name}:list", "y"))
    await maybe(looks.xadd(f"{name}:stream", {"f": "v"}))
    assert b"y" in (await running[0].result())
    assert await running[1].result()


async def test_a_reply_that_is_late_is_never_taken_for_another(
    flavour: Any, url: str, coordkit_namespace: str, coordkit_faults: Any, coordkit_redis_server: Any
) -> None:
    proxy = coordkit_faults.proxy(coordkit_redis_server)
    shards, maybe, name = sharded(flavour, proxy.url, socket_timeout=0.3), flavour.maybe, coordkit_namespace
    await maybe(shards.mset({name: "x", f"{name}:2": "y"}))
    for ask in (
        lambda: shards.get(name),
        lambda: shards.eval("return redis.call('GET', KEYS[1])", 1, name),
        lambda: shards.pipeline().get(name).execute(),
    ):
        assert await maybe(shards.get(f"{name}:2")) == b"y"
        await maybe(ask())  # its connection is there
        proxy.hold = True
        with pytest.raises(StoreUnavailable, match=r"^a: no answer .*unknown"):
            await maybe(ask())
        proxy.hold = False
        for _ in range(3):
            assert await maybe(shards.get(f"{name}:2")) == b"y"


async def test_a_connection_that_breaks_takes_no_other_with_it(flavour: Any, url: str, coordkit_namespace: str) -> None:
    """A reply is on its way on one connection while another one is closed by the server."""
    name, maybe = coordkit_namespace, flavour.maybe
    shards, looks = sharded(flavour, url, client_name=name), flavour.redis(url)
    await maybe(shards.get(name))

    async def blocked() -> Any:
        return await maybe(shards.blpop([f"{name}:list"], timeout=9))

    async def counted() -> Any:
        return await maybe(shards.incr(name))

    async def asking(command: str) -> list[str]:
        return [one["addr"] for one in await ours(flavour, looks, name) if one["cmd"] == command]

    broken = flavour.spawn(blocked)
    await flavour.until(lambda: asking("blpop"))
    await maybe(looks.execute_command("CLIENT PAUSE", 9000, "WRITE"))
    try:
        other = flavour.spawn(counted)
        await flavour.until(lambda: asking("incrby"))
        [address] = await asking("blpop")
        await maybe(looks.client_kill(address))
        with pytest.raises(StoreUnavailable, match="unknown"):
            await broken.result()
    finally:
        await maybe(looks.execute_command("CLIENT UNPAUSE"))
    assert await other.result() == 1


async def test_without_a_socket_timeout_a_reply_is_waited_for(
    flavour: Any, url: str, coordkit_namespace: str, monkeypatch: Any
) -> None:
    """As redis-py does; coordkit's own bound is for its own scripts."""
    monkeypatch.setattr("coordkit._redis.PATIENCE", 0.3)
    shards, maybe, name = sharded(flavour, url, socket_timeout=None), flavour.maybe, coordkit_namespace
    assert await maybe(shards.blpop([name], timeout=1)) is None
    assert await maybe(shards.pipeline().blpop([name], timeout=1).execute()) == [None]


async def test_the_bound_of_the_pool_holds_for_kept_connections(
    flavour: Any, url: str, coordkit_namespace: str
) -> None:
    shards, maybe, name = sharded(flavour, url, max_connections=100), flavour.maybe, coordkit_namespace
    way_: Any = shards._ways["a"]
    taken = [await maybe(way_.take(0)) for _ in range(100)]
    with pytest.raises(StoreUnavailable, match=r"^a: the command was not sent \(Too many connections\).*own pool") as e:
        await maybe(shards.lrange(name, 0, -1))
    assert not isinstance(e.value, ShardDown)
    way_.give_back(taken.pop())
    assert await maybe(shards.lrange(name, 0, -1)) == []
    for wire in taken:
        way_.give_back(wire)


async def test_a_connection_is_greeted_once_and_not_used_by_an_older_decision(
    flavour: Any, url: str, coordkit_namespace: str
) -> None:
    name, maybe = coordkit_namespace, flavour.maybe
    looks = flavour.redis(url)
    greeted: list[int] = []

    def greet(ask: Any) -> int:
        greeted.append(int(ask("GET", f"{name}:epoch") or 0))
        return greeted[-1]

    async def greet_async(ask: Any) -> int:
        greeted.append(int(await ask("GET", f"{name}:epoch") or 0))
        return greeted[-1]

    way_ = way_of(flavour, url, greet=greet_async if flavour.is_async else greet, client_name=name)
    incr, slow = (("INCR", name), {}), (("EVAL", "return redis.call('INCR', KEYS[1])", 1, name), {})

    async def batch(decided: int, command: Any) -> Any:
        gathering = Gathering()
        gathering.add_simple("a", command)
        exchange = client_exchange_aio.exchange if flavour.is_async else client_exchange.exchange
        return (await maybe(exchange({"a": way_}, gathering, decided=decided)))["a"]

    assert await maybe(way_.execute(*incr, 0)) == 1
    assert await maybe(way_.execute(*slow, 0)) == 2
    assert len(greeted) == (2 if flavour.is_async else 1)
    await maybe(looks.set(f"{name}:epoch", 7))
    for one in await ours(flavour, looks, name):
        await maybe(looks.client_kill(one["addr"]))
    if flavour.is_async:
        await asyncio.sleep(0.05)
    for command in (incr, slow):
        for _ in range(2):
            with pytest.raises(Outdated) as outdated:
                await maybe(way_.execute(*command, 6))
            assert (outdated.value.shard, outdated.value.seen, outdated.value.decided) == ("a", 7, 6)
            with pytest.raises(Outdated):
                await batch(6, command)
    assert await maybe(looks.get(name)) == b"2"  # nothing was sent
    assert await maybe(way_.execute(*incr, 7)) == 3
    assert await maybe(way_.execute(*slow, 8)) == 4
    assert await batch(7, incr) == [5]
    assert greeted[0] == 0
    assert greeted[-1] == 7


async def test_each_kind_of_operation_names_the_epoch_it_was_routed_by(
    flavour: Any, url: str, coordkit_namespace: str
) -> None:
    def greet(_: Any) -> int:
        return 7

    async def greet_async(_: Any) -> int:
        return 7

    shards, maybe, name = sharded(flavour, url), flavour.maybe, coordkit_namespace
    shards._ways = shards._at_primaries = {"a": way_of(flavour, url, greet=greet_async if flavour.is_async else greet)}
    operations = [
        lambda: shards.get(name),
        lambda: shards.mget(name, f"{name}:2"),
        lambda: shards.eval("return 1", 1, name),
        shards.ping,
        lambda: shards.on_all("TIME"),
        lambda: shards.pipeline().get(name).execute(),
        lambda: shards.pipeline(transaction=True).get(name).execute(),
    ]
    for operation in operations:
        shards._epoch = 7
        await maybe(operation())
        shards._epoch = 6
        with pytest.raises(Outdated):
            await maybe(operation())


async def test_a_greeting_that_fails_is_not_said_to_have_sent_the_command(flavour: Any, url: str) -> None:
    def greet(_: Any) -> int:
        raise redis.ConnectionError("the epoch is gone")

    async def greet_async(_: Any) -> int:
        raise redis.ConnectionError("the epoch is gone")

    way_ = way_of(flavour, url, greet=greet_async if flavour.is_async else greet)
    with pytest.raises(ShardDown, match=r"the epoch is gone.*not sent"):
        await flavour.maybe(way_.execute(("PING",), {}))


@pytest.mark.parametrize("what", ["greeting", "probe"])
async def test_what_is_asked_in_nobodys_name_is_bounded_also_where_the_client_waits_for_ever(
    flavour: Any, coordkit_faults: Any, coordkit_redis_server: Any, monkeypatch: Any, what: str
) -> None:
    """A server that falls silent behind the handshake: what the user asks may wait for ever, as in redis-py."""
    monkeypatch.setattr("coordkit._redis.PATIENCE", 0.3)
    proxy, maybe = coordkit_faults.proxy(coordkit_redis_server), flavour.maybe

    def greet(ask: Any) -> int:
        proxy.hold = True
        return 0 if what == "probe" else int(ask("GET", "epoch") or 0)

    async def greet_async(ask: Any) -> int:
        proxy.hold = True
        return 0 if what == "probe" else int(await ask("GET", "epoch") or 0)

    greeting = greet_async if flavour.is_async else greet
    way_ = way_of(flavour, proxy.url, greet=greeting, socket_timeout=None, socket_connect_timeout=5)
    if what == "probe":
        for _ in range(way_.breaker.failure_threshold):
            way_.breaker.failed("so we say")
        way_.breaker._until = 0.0

    async def ask() -> None:
        with pytest.raises(ShardDown, match="not sent"):
            await maybe(way_.execute(("PING",), {}))

    await flavour.spawn(ask).result(20)
    if what == "probe":
        await flavour.until(lambda: way_.breaker.state == "open" and way_.breaker.why != "so we say", 20)


async def test_replies_that_nobody_read_are_nobody_elses(flavour: Any, url: str) -> None:
    """As where another shard of the same batch failed, or the caller was interrupted."""
    maybe, way_ = flavour.maybe, way_of(flavour, url)
    for command in (("GET", "nothing"), ("ECHO", "nobody's")):  # on a connection that tasks share, and on one's own
        for _ in range(2):
            delivery = way_.delivery([(command, RAW)], transaction=False)
            if flavour.is_async:
                if not delivery.take_now():
                    await delivery.take()
                delivery.begin()
            else:
                delivery.take()
                delivery.send()
            await maybe(delivery.give_back())
            assert await maybe(way_.execute(("ECHO", "mine"), {})) == b"mine"
            assert await maybe(way_.execute(("STRLEN", "nothing"), {})) == 0


async def test_connections_that_broke_leave_room_for_others(flavour: Any, url: str, coordkit_namespace: str) -> None:
    maybe, looks = flavour.maybe, flavour.redis(url)
    way_ = way_of(flavour, url, max_connections=2, client_name=coordkit_namespace)

    async def blocked() -> list[dict[str, str]]:
        return [one for one in await ours(flavour, looks, coordkit_namespace) if "b" in one["flags"]]

    async def wait() -> None:
        await maybe(way_.execute(("BLPOP", coordkit_namespace, 0), {}))

    for _ in range(3):
        waiting = flavour.spawn(wait)
        await flavour.until(blocked)
        for one in await blocked():
            await maybe(looks.client_kill(one["addr"]))
        with pytest.raises(StoreUnavailable):
            await waiting.result()
    both = [flavour.spawn(wait) for _ in range(2)]

    async def all_block() -> bool:
        return len(await blocked()) == 2

    await flavour.until(all_block)
    with pytest.raises(StoreUnavailable, match=r"not sent \(Too many connections\)"):
        await wait()
    await maybe(looks.rpush(coordkit_namespace, 1, 2))
    for each in both:
        await each.result()


async def test_connections_that_were_closed_while_idle_leave_room_for_others(
    flavour: Any, url: str, coordkit_namespace: str, coordkit_faults: Any, coordkit_redis_server: Any
) -> None:
    """By `close`, by the sweep of what nobody uses, and because another one broke."""
    maybe, proxy = flavour.maybe, coordkit_faults.proxy(coordkit_redis_server)
    way_ = way_of(flavour, proxy.url, max_connections=3)
    for _ in range(5):
        taken = [await maybe(way_.take(0)) for _ in range(3)]
        for wire in taken:
            way_.give_back(wire)
        await maybe(way_.close())
    for _ in range(5):
        one, *others = [await maybe(way_.take(0)) for _ in range(3)]
        for wire in others:
            way_.give_back(wire)
        proxy.reset_all()
        if flavour.is_async:
            with pytest.raises((redis.ConnectionError, OSError)):
                await way_.ask_alone(one, b"PING\r\n", 1)
        else:
            with pytest.raises((redis.ConnectionError, OSError)) as broke:
                one.ask(b"PING\r\n")
            assert isinstance(way_.lost(one, broke.value, quick=True), StoreUnavailable)
    if not flavour.is_async:
        for _ in range(5):
            way_.give_back(way_.take(0))
            way_._used = -1e9
            way_._sweep()
            assert not way_._idle
    taken = [await maybe(way_.take(0)) for _ in range(3)]
    with pytest.raises(redis.ConnectionError, match="Too many connections"):
        await maybe(way_.take(0))
    for wire in taken:
        way_.give_back(wire)


async def test_connections_that_cannot_be_made_leave_room_for_others(flavour: Any) -> None:
    way_ = way_of(flavour, "redis://127.0.0.1:1", max_connections=2)
    for _ in range(4):
        with pytest.raises(ShardDown, match=r"^(?!.*Too many)"):
            await flavour.maybe(way_.execute(("BLPOP", "a", 0), {}))


async def test_a_client_that_would_be_bypassed_is_used_itself(flavour: Any, url: str, coordkit_namespace: str) -> None:
    """A small or blocking pool, a connection that sends in its own way, a tracer around redis-py's method."""
    good = flavour.redis(url)
    pool, kind = good.connection_pool, type(good)
    blocking: Any = redis.asyncio.BlockingConnectionPool if flavour.is_async else redis.BlockingConnectionPool
    sends = type("Sends", (pool.connection_class,), {"send_command": print})
    by_itself = [
        flavour.redis(url, max_connections=5),
        flavour.redis(url, single_connection_client=True),
        kind(connection_pool=blocking.from_url(url)),
        kind(connection_pool=type(pool)(connection_class=sends)),
    ]
    sharded_of = client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis
    for each in by_itself:
        assert isinstance(sharded_of({"a": each})._ways["a"], (PoolWay, AsyncPoolWay))
    assert isinstance(sharded_of({"a": good})._ways["a"], (way.Way, way_aio.Way))


def test_a_client_with_a_cache_is_used_itself_and_watches(
    url: str, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocking only: redis-py's asyncio has none. It wraps each connection, and wants a newer Redis."""
    cache = pytest.importorskip("redis.cache", reason="a client-side cache came with redis-py 5.1")
    monkeypatch.setattr(redis.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    key, other = coordkit_namespace, f"{coordkit_namespace}:2"
    options = {"protocol": 3, "cache_config": cache.CacheConfig(), "retry": None, "health_check_interval": 1}
    with client.ShardedRedis({"a": redis.Redis.from_url(url, **options)}) as shards, redis.Redis.from_url(url) as looks:
        looks.mset({key: "old", other: "other"})
        for value in (b"old", b"new"):
            for _ in range(3):
                assert shards.get(key) == value
                assert shards.mget(other, key) == [b"other", value]
                assert shards.pipeline().get(other).get(key).execute() == [b"other", value]
                assert shards.pipeline(transaction=True).get(key).get(other).execute() == [value, b"other"]
            looks.set(key, "new")
        for lost in (False, True):
            with shards.pipeline() as pipe:
                pipe.watch(key)
                assert pipe.get(key) == looks.get(key)
                looks.append(key, "!")
                if lost:
                    for one in looks.client_list(_type="normal"):
                        if one["cmd"] == "get" and one["resp"] == "3":
                            looks.client_kill(one["addr"])
                    time.sleep(1.1)  # its health is due to be checked, which would connect anew
                pipe.multi()
                with pytest.raises(StoreUnavailable if lost else redis.WatchError):
                    pipe.set(key, "mine").execute()
        assert looks.get(key) == b"new!!"


async def test_a_tracer_around_redis_pys_method_sees_each_command(
    flavour: Any, url: str, coordkit_namespace: str, monkeypatch: Any
) -> None:
    good, seen = flavour.redis(url), list[Any]()
    kind = type(good)
    own = kind.execute_command

    def traced(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return own(self, *args, **options)

    monkeypatch.setattr(kind, "execute_command", traced)
    shards = sharded(flavour, url)
    await flavour.maybe(shards.set(coordkit_namespace, 1))
    await flavour.maybe(shards.get(coordkit_namespace))
    assert seen == ["SET", "GET"]


async def test_a_connection_class_of_the_users_own_is_spoken_to_in_its_own_way(
    flavour: Any, url: str, coordkit_namespace: str
) -> None:
    sent: list[bytes] = []
    plain = redis.asyncio.Connection if flavour.is_async else redis.Connection

    class Watched(plain):  # type: ignore[misc, valid-type]  # one of two
        def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
            sent.extend([command] if isinstance(command, bytes) else command)
            return super().send_packed_command(command, check_health)

    good = flavour.redis(url)
    good.connection_pool.connection_class = Watched
    shards = flavour.closing((client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis)({"a": good}))
    await flavour.maybe(shards.set(coordkit_namespace, 1))
    assert await flavour.maybe(shards.pipeline().get(coordkit_namespace).execute()) == [b"1"]
    assert any(b"SET" in data for data in sent)
    assert any(b"GET" in data for data in sent)


def test_a_forked_child_makes_connections_of_its_own(url: str, coordkit_namespace: str) -> None:
    name = coordkit_namespace
    with client.ShardedRedis({"a": redis.Redis.from_url(url, client_name=name)}) as shards:
        shards.set(name, "parent")
        mine = [one.connection._sock.getsockname() for one in shards._ways["a"]._idle]
        pid = os.fork()
        if not pid:  # no cover: another process
            code = 1
            try:
                signal.alarm(20)
                shards.set(f"{name}:child", "child")
                theirs = [one.connection._sock.getsockname() for one in shards._ways["a"]._idle]
                code = int(len(theirs) != 1 or theirs == mine)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert shards.get(name) == b"parent"
        assert shards.get(f"{name}:child") == b"child"
        assert [one.connection._sock.getsockname() for one in shards._ways["a"]._idle] == mine


def test_threads_share_it(url: str, coordkit_namespace: str) -> None:
    with client.ShardedRedis({"a": redis.Redis.from_url(url)}) as shards:
        seen: dict[int, list[Any]] = {i: [] for i in range(8)}

        def work(i: int) -> None:
            key = f"{coordkit_namespace}:{i}"
            for _ in range(200):
                seen[i] += [shards.incr(key), *shards.pipeline().get(key).execute()]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        expected = [each for n in range(1, 201) for each in (n, str(n).encode())]
        assert seen == dict.fromkeys(range(8), expected)
        assert len(shards._ways["a"]._idle) <= 8


async def test_tasks_share_it_and_a_cancelled_one_costs_nobody_a_reply(url: str, coordkit_namespace: str) -> None:
    """asyncio only. (Without ``flavour`` the test runs under asyncio.)"""
    async with client_aio.ShardedRedis({"a": redis.asyncio.Redis.from_url(url)}) as shards:

        async def work(i: int) -> None:
            key = f"{coordkit_namespace}:{i}"
            for n in range(50):
                assert await shards.incr(key) == n + 1
                lost = asyncio.create_task(shards.get(f"{coordkit_namespace}:{(i + 1) % 50}"))
                await asyncio.sleep(0)
                lost.cancel()
                assert await shards.pipeline().get(key).execute() == [str(n + 1).encode()]

        await asyncio.gather(*[work(i) for i in range(50)])
