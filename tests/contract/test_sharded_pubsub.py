"""Publish and subscribe over three shards, both flavours."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.exceptions

from coordkit import ShardedRedis
from coordkit.errors import ShardDown, StoreRefused
from coordkit.routing import Topology, slot_map
from coordkit.routing.client import live as client_live
from coordkit.routing.client import live_aio as client_live_aio
from coordkit.routing.commands.router import Router
from coordkit.routing.pubsub import line as pubsub_line
from coordkit.routing.pubsub import line_aio as pubsub_line_aio

NAMES = ("a", "b", "c")


@pytest.fixture
def make(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Callable[..., Any]:
    """Give a function that makes a ShardedRedis with clients of its own, whose connections bear the test's name."""

    def sharded(**options: Any) -> Any:
        patience = {"socket_timeout": 5, "socket_connect_timeout": 5, "retry": None}
        options = {**patience, "client_name": coordkit_namespace, **options}
        clients = {
            name: flavour.redis(one.url, **options) for name, one in zip(NAMES, coordkit_redis_shards, strict=True)
        }
        return flavour.ShardedRedis(clients)

    return sharded


@pytest.fixture
def channel_on(make: Any, coordkit_namespace: str) -> Callable[..., str]:
    """Give a function that names the nth channel of this test on a shard."""
    shards = make()

    def find(shard: str, nth: int = 0) -> str:
        names = (f"{coordkit_namespace}:{i}" for i in range(1000))
        return [name for name in names if shards.shard_for(name) == shard][nth]

    return find


@pytest.fixture
def hearing(flavour: Any) -> Callable[..., Any]:
    """Give a way to make a pubsub that is closed at the end of the test."""

    def made(shards: Any, **options: Any) -> Any:
        pubsub = shards.pubsub(**options)
        flavour.on_exit(pubsub.aclose if flavour.is_async else pubsub.close)
        return pubsub

    return made


async def hear(flavour: Any, pubsub: Any, count: int) -> list[tuple[Any, ...]]:
    """Return the next messages: type, pattern, channel, data."""
    came: list[tuple[Any, ...]] = []
    deadline = time.monotonic() + 20
    while len(came) < count:
        assert time.monotonic() < deadline, came
        if message := await flavour.maybe(pubsub.get_message(timeout=1)):
            came.append(tuple(message.values()))
            assert list(message) == ["type", "pattern", "channel", "data"]
    return came


async def connections(flavour: Any, shards: Any, name: str) -> dict[str, int]:
    """Return how many connections of this name are subscribed, by shard: a server sees off others' late."""
    found = await flavour.maybe(shards.on_all("CLIENT LIST", "TYPE", "pubsub"))
    return {shard: sum(client["name"] == name for client in clients) for shard, clients in found.items()}


async def test_a_channel_is_heard_on_its_shard(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    shards = make(decode_responses=True)
    pubsub = hearing(shards)
    one, other = channel_on("a"), channel_on("c")
    await maybe(pubsub.subscribe(one, other))
    told = await hear(flavour, pubsub, 2)
    assert {each[:3] for each in told} == {("subscribe", None, one), ("subscribe", None, other)}
    assert [each[3] for each in told] == [1, 2]
    assert set(pubsub.channels) == {one, other}
    assert await connections(flavour, shards, coordkit_namespace) == {"a": 1, "b": 0, "c": 1}
    assert await maybe(shards.pubsub_channels(f"{one[:-2]}*")) in ([one, other], [other, one])
    assert dict(await maybe(shards.pubsub_numsub(one, "none"))) == {one: 1, "none": 0}
    assert await maybe(shards.publish(one, "x")) == 1
    assert await maybe(shards.client_for(one).publish(one, "y")) == 1
    assert await hear(flavour, pubsub, 2) == [("message", None, one, "x"), ("message", None, one, "y")]
    pipe = shards.pipeline()
    assert await maybe(pipe.publish(one, 1).publish(other, 2).publish(channel_on("b"), 3).execute()) == [1, 1, 0]
    assert sorted(await hear(flavour, pubsub, 2)) == sorted(
        [("message", None, one, "1"), ("message", None, other, "2")]
    )
    await maybe(pubsub.unsubscribe())
    assert {told[:3] for told in await hear(flavour, pubsub, 2)} == {
        ("unsubscribe", None, each) for each in (one, other)
    }
    assert not pubsub.subscribed
    assert await maybe(pubsub.get_message(timeout=0.01)) is None

    async def closed() -> bool:
        await maybe(pubsub.get_message(timeout=0.01))
        return await connections(flavour, shards, coordkit_namespace) == {"a": 0, "b": 0, "c": 0}

    await flavour.until(closed)


async def test_a_pattern_is_heard_on_all_shards_and_confirmed_once(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    shards = make()
    pubsub = hearing(shards)
    pattern, wire = f"{coordkit_namespace}:*", f"{coordkit_namespace}:*".encode()
    await maybe(pubsub.psubscribe(pattern))
    assert await hear(flavour, pubsub, 1) == [("psubscribe", None, wire, 1)]
    assert await maybe(shards.pubsub_numpat()) >= 1
    channels = [channel_on(shard, nth) for shard in NAMES for nth in range(2)]
    for channel in channels:
        assert await maybe(shards.publish(channel, channel)) == 1
    came = await hear(flavour, pubsub, len(channels))
    assert sorted(came) == sorted(("pmessage", wire, channel.encode(), channel.encode()) for channel in channels)
    await maybe(pubsub.punsubscribe(pattern))
    assert await hear(flavour, pubsub, 1) == [("punsubscribe", None, wire, 0)]
    assert await maybe(pubsub.get_message(timeout=0.05)) is None

    async def closed() -> bool:
        return await connections(flavour, shards, coordkit_namespace) == {"a": 0, "b": 0, "c": 0}

    await flavour.until(closed)


async def test_a_sharded_channel_is_heard_on_its_shard(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any
) -> None:
    shards, pubsub = make(), None
    if int((await maybe(shards.on("a").info("server")))["redis_version"].partition(".")[0]) < 7:
        pytest.skip("sharded channels came with Redis 7")
    pubsub, channel = hearing(shards), channel_on("b")
    await maybe(pubsub.ssubscribe(channel))
    assert await hear(flavour, pubsub, 1) == [("ssubscribe", None, channel.encode(), 1)]
    assert list(pubsub.shard_channels) == [channel.encode()]
    assert await maybe(shards.execute_command("SPUBLISH", channel, "m")) == 1
    assert await maybe(shards.publish(channel, "no")) == 0
    assert await hear(flavour, pubsub, 1) == [("smessage", None, channel.encode(), b"m")]
    await maybe(pubsub.sunsubscribe(channel))
    assert await hear(flavour, pubsub, 1) == [("sunsubscribe", None, channel.encode(), 0)]


async def test_over_one_shard_it_says_what_redis_pys_says(
    flavour: Any, coordkit_redis_shards: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    client = flavour.redis(coordkit_redis_shards[0].url)
    one, other, pattern = (f"{coordkit_namespace}:{name}" for name in ("one", "other", "*"))

    async def story(pubsub: Any) -> list[Any]:
        said = []
        await maybe(pubsub.subscribe(one, other))
        said += await hear(flavour, pubsub, 2)
        await maybe(pubsub.psubscribe(pattern))
        said += await hear(flavour, pubsub, 1)
        await maybe(client.publish(one, "x"))
        said += await hear(flavour, pubsub, 2)
        said += [pubsub.subscribed, dict(pubsub.channels), dict(pubsub.patterns)]
        await maybe(pubsub.unsubscribe(one))
        said += await hear(flavour, pubsub, 1)
        await maybe(pubsub.unsubscribe())
        said += await hear(flavour, pubsub, 1)
        await maybe(pubsub.punsubscribe())
        said += await hear(flavour, pubsub, 1)
        return [*said, pubsub.subscribed]

    theirs = client.pubsub()
    flavour.on_exit((getattr(theirs, "aclose", None) or theirs.close) if flavour.is_async else theirs.close)
    assert await story(hearing(flavour.ShardedRedis({"one": client}))) == await story(theirs)


async def test_a_reset_forgets_what_is_wanted_and_not_what_is_ignored(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any
) -> None:
    """As redis-py's; ``subscribe`` messages came from then on, although they were to be ignored."""
    shards, one = make(decode_responses=True), channel_on("a")
    pubsub = hearing(shards, ignore_subscribe_messages=True)
    await maybe(pubsub.subscribe(channel_on("b")))
    await maybe(pubsub.reset())
    assert not pubsub.channels
    await maybe(pubsub.subscribe(one))
    deadline = time.monotonic() + 20
    while not await maybe(shards.publish(one, "x")):
        assert time.monotonic() < deadline
    assert (await hear(flavour, pubsub, 1))[0] == ("message", None, one, "x")


async def test_handlers_are_called(flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any) -> None:
    shards, heard = make(decode_responses=True), []
    pubsub = hearing(shards, ignore_subscribe_messages=True)
    one, other, errors = channel_on("a"), channel_on("b"), []
    await maybe(pubsub.subscribe(**{one: heard.append}))
    await maybe(pubsub.subscribe(other))
    with pytest.raises(redis.exceptions.PubSubError, match=rf"{other}' has no handler"):
        await maybe(pubsub.run() if flavour.is_async else pubsub.run_in_thread())

    async def failing(message: Any) -> None:
        raise ValueError(message["data"])

    def failing_now(message: Any) -> None:
        raise ValueError(message["data"])

    await maybe(pubsub.subscribe(**{other: failing if flavour.is_async else failing_now}))

    def catch(error: Exception, *_: Any) -> None:
        errors.append(str(error))

    if flavour.is_async:
        running = asyncio.create_task(pubsub.run(exception_handler=catch, poll_timeout=0.05))
    else:
        running = pubsub.run_in_thread(sleep_time=0.05, daemon=True, exception_handler=catch)
    await maybe(shards.publish(one, "x"))
    await maybe(shards.publish(other, "y"))
    await flavour.until(lambda: heard and errors)
    assert [message["data"] for message in heard] == ["x"]
    assert errors == ["y"]
    if flavour.is_async:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    else:
        running.stop()
        running.join(10)
        assert not running.is_alive()
        assert not pubsub.subscribed


async def test_listen_ends_when_nothing_is_wanted(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any
) -> None:
    shards = make(decode_responses=True)
    pubsub, said = hearing(shards), []
    channels = [channel_on(shard) for shard in NAMES]
    await maybe(pubsub.subscribe(*channels))
    async for message in flavour.each(pubsub.listen()):
        said.append((message["type"], message["channel"]))
        if message["type"] == "subscribe":
            await maybe(shards.publish(message["channel"], "end"))
        elif message["type"] == "message":
            await maybe(pubsub.unsubscribe(message["channel"]))
    assert sorted(said) == sorted((what, c) for what in ("subscribe", "message", "unsubscribe") for c in channels)


async def test_a_lost_connection_is_made_anew(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    shards = make(decode_responses=True)
    pubsub, one, other = hearing(shards), channel_on("a"), channel_on("b")
    await maybe(pubsub.subscribe(one, other))
    await maybe(pubsub.psubscribe(f"{coordkit_namespace}:nobody"))
    await hear(flavour, pubsub, 3)
    for _ in range(3):
        assert await maybe(shards.on("b").client_kill_filter(_type="pubsub")) >= 1
        again = await hear(flavour, pubsub, 2)  # it is told, since messages may have been lost
        assert {told[:3] for told in again} == {
            ("subscribe", None, other),
            ("psubscribe", None, f"{coordkit_namespace}:nobody"),
        }
        assert await maybe(shards.publish(other, "back")) == 1
        assert await hear(flavour, pubsub, 1) == [("message", None, other, "back")]

    async def once_each() -> bool:  # the server may not have seen yet that we closed one that it had killed
        return await connections(flavour, shards, coordkit_namespace) == {"a": 1, "b": 1, "c": 1}

    await flavour.until(once_each)
    await maybe(shards.publish(one, "still"))
    assert await hear(flavour, pubsub, 1) == [("message", None, one, "still")]


async def test_a_shard_that_is_away_is_told_once_and_the_others_are_heard(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    shards = make(decode_responses=True)
    pubsub, one, away, third = hearing(shards), channel_on("a"), channel_on("b"), channel_on("b", 1)
    await maybe(pubsub.subscribe(one, away))
    await hear(flavour, pubsub, 2)
    coordkit_faults.kill(coordkit_redis_shards[1])
    with pytest.raises(ShardDown, match=r"^b: ") as error:
        await hear(flavour, pubsub, 1)
    assert error.value.shard == "b"
    with pytest.raises(ShardDown):
        await maybe(hearing(shards).subscribe(third))
    for n in range(3):  # while it is tried again
        await maybe(shards.publish(one, n))
        assert await hear(flavour, pubsub, 1) == [("message", None, one, str(n))]
        assert await maybe(pubsub.get_message(timeout=0.4)) is None
    coordkit_faults.restart(coordkit_redis_shards[1])
    assert [told[:3] for told in await hear(flavour, pubsub, 1)] == [("subscribe", None, away)]
    assert await maybe(shards.publish(away, "back")) == 1
    assert await hear(flavour, pubsub, 1) == [("message", None, away, "back")]


async def test_a_shard_that_was_away_at_first_is_heard_when_it_comes(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_faults: Any, coordkit_redis_shards: Any
) -> None:
    shards = make(decode_responses=True)
    pubsub, one, away = hearing(shards), channel_on("a"), channel_on("b")
    coordkit_faults.kill(coordkit_redis_shards[1])
    with pytest.raises(ShardDown, match=r"^b: "):
        await maybe(pubsub.subscribe(one, away))
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, one)
    coordkit_faults.restart(coordkit_redis_shards[1])
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, away)
    assert await maybe(shards.publish(away, "x")) == 1
    assert await hear(flavour, pubsub, 1) == [("message", None, away, "x")]


async def test_what_a_server_does_not_let_be_heard_is_told(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    admin, one, forbidden = make(), channel_on("a"), channel_on("b")
    rules = {"commands": ["+@all"], "passwords": ["+x"], "channels": [one], "reset_channels": True}
    await maybe(admin.acl_setuser(coordkit_namespace, True, keys=["*"], **rules))
    try:
        pubsub = hearing(make(username=coordkit_namespace, password="x", decode_responses=True))
        await maybe(pubsub.subscribe(one, forbidden))
        with pytest.raises(StoreRefused, match=r"^b: .*answered no"):
            await hear(flavour, pubsub, 2)
        await flavour.until(lambda: list(pubsub.channels) == [one])
        await maybe(admin.publish(one, "x"))
        while (came := await hear(flavour, pubsub, 1))[0][0] == "subscribe":
            pass
        assert came == [("message", None, one, "x")]
    finally:
        assert await maybe(admin.acl_deluser(coordkit_namespace)) == 1


async def test_a_placement_that_is_swapped_is_followed(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, coordkit_namespace: str
) -> None:
    shards, on_c = make(decode_responses=True), slot_map(NAMES, {"c": 100})
    moved = next(name for name in (channel_on("a", nth) for nth in range(50)) if on_c.lookup(name) == "c")
    pubsub = hearing(shards)
    await maybe(pubsub.subscribe(moved))
    await hear(flavour, pubsub, 1)
    shards._router = Router(on_c)
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, moved)
    assert await maybe(shards.on("c").publish(moved, "x")) == 1
    assert await hear(flavour, pubsub, 1) == [("message", None, moved, "x")]

    async def left() -> bool:
        await maybe(pubsub.get_message(timeout=0.01))
        return await connections(flavour, shards, coordkit_namespace) == {"a": 0, "b": 0, "c": 1}

    await flavour.until(left)


async def test_a_live_topology_is_followed(
    flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str, hearing: Any, maybe: Any
) -> None:
    """To another owner, and to another server of the same shard."""
    urls = [one.url for one in coordkit_redis_shards]
    first = Topology.first(coordkit_namespace, {"a": urls[0], "b": urls[1]})
    kind = (client_live_aio if flavour.is_async else client_live).LiveShardedRedis

    def connect(_: str, url: str) -> Any:
        return flavour.redis(url, decode_responses=True, socket_timeout=5)

    shards = kind(connect, poll=30.0, patience=5.0)  # for shards that know no epoch
    await maybe(shards.follow(first))
    flavour.closing(shards)
    names = [f"{coordkit_namespace}:{i}" for i in range(99)]
    pubsub, channel = hearing(shards), next(name for name in names if first.serving.lookup(name) == "b")
    await maybe(pubsub.subscribe(channel))
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, channel)
    shards.adopt(Topology.first(coordkit_namespace, {"a": urls[0], "b": urls[2]}).raised_to(first.epoch + 1))
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, channel)
    assert await maybe(shards.publish(channel, "there")) == 1
    assert await hear(flavour, pubsub, 1) == [("message", None, channel, "there")]
    shards.adopt(Topology.first(coordkit_namespace, {"a": urls[0]}).raised_to(first.epoch + 2))
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, channel)
    assert await maybe(shards.publish(channel, "here")) == 1
    assert await hear(flavour, pubsub, 1) == [("message", None, channel, "here")]


async def test_bad_arguments_and_nothing_wanted(flavour: Any, make: Any, hearing: Any, maybe: Any) -> None:
    pubsub = hearing(make())
    with pytest.raises(ValueError, match="psubscribe: no names"):
        await maybe(pubsub.psubscribe())
    await maybe(pubsub.unsubscribe())
    await maybe(pubsub.unsubscribe("never"))
    assert await maybe(pubsub.get_message()) is None
    assert [message async for message in flavour.each(pubsub.listen())] == []


def test_waiting_for_a_shard_that_is_away_does_not_spin(
    coordkit_redis_shards: Any, coordkit_namespace: str, coordkit_faults: Any, monkeypatch: Any
) -> None:
    """Blocking only: nothing else is heard, so that there is no connection to wait on."""
    with redis.Redis.from_url(coordkit_redis_shards[1].url, retry=None) as client:
        pubsub, looks = ShardedRedis({"b": client}).pubsub(), []
        read = pubsub._lines.read
        monkeypatch.setattr(pubsub._lines, "read", lambda seconds: (looks.append(seconds), read(seconds)))
        coordkit_faults.kill(coordkit_redis_shards[1])
        with pytest.raises(ShardDown):
            pubsub.subscribe(coordkit_namespace)
        assert pubsub.get_message(timeout=0.6) is None
        assert 1 < len(looks) < 10
        pubsub.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Have a quiet connection asked whether it is alive after so many seconds."""
    for module in (pubsub_line, pubsub_line_aio):
        monkeypatch.setattr(module, "QUIET", 0.2)
    return 0.2


async def test_one_that_is_seldom_asked_for_messages_keeps_its_connections(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, soon: float
) -> None:
    """A silence that nobody listened to is none of the server's: what is published meanwhile would be lost."""
    shards = make(decode_responses=True, socket_timeout=0.3)
    pubsub, channel = hearing(shards), channel_on("a")
    await maybe(pubsub.subscribe(channel))
    await hear(flavour, pubsub, 1)
    kept = dict(pubsub._lines._lines)
    for _ in range(3):
        time.sleep(0.3 + 3 * soon)  # noqa: ASYNC251  the event loop is as busy as the thread
        assert await maybe(pubsub.get_message(timeout=0)) is None
        await maybe(pubsub.get_message(timeout=0.05))
        await maybe(shards.publish(channel, "x"))
        assert await hear(flavour, pubsub, 1) == [("message", None, channel, "x")]
    assert dict(pubsub._lines._lines) == kept


async def test_one_that_takes_its_time_with_many_messages_loses_none(
    flavour: Any, make: Any, channel_on: Any, hearing: Any, maybe: Any, soon: float
) -> None:
    """More than are kept here, and more than a stream keeps: the others wait at the server."""
    shards = make(decode_responses=True, socket_timeout=0.3)
    pubsub, channel, count = hearing(shards), channel_on("a"), 3000
    await maybe(pubsub.subscribe(channel))
    await hear(flavour, pubsub, 1)
    pipe = shards.pipeline()
    for i in range(count):
        pipe.publish(channel, f"{i:01000}")
    await maybe(pipe.execute())
    await flavour.sleep(0.3 + 5 * soon)
    came = await hear(flavour, pubsub, count)
    assert [int(data) for _, _, _, data in came] == list(range(count))
    assert await maybe(pubsub.get_message(timeout=0.1)) is None


async def test_a_shard_that_falls_silent_is_found_out(
    flavour: Any,
    make: Any,
    channel_on: Any,
    hearing: Any,
    maybe: Any,
    soon: float,
    coordkit_faults: Any,
    coordkit_redis_shards: Any,
) -> None:
    """Its connection stays open, and nothing comes."""
    shards = make(decode_responses=True, socket_timeout=0.5, socket_connect_timeout=0.5)
    pubsub, channel = hearing(shards), channel_on("b")
    await maybe(pubsub.subscribe(channel))
    await hear(flavour, pubsub, 1)
    coordkit_faults.pause(coordkit_redis_shards[1])
    with pytest.raises(ShardDown, match=r"^b: "):
        await hear(flavour, pubsub, 1)
    coordkit_faults.resume(coordkit_redis_shards[1])
    assert (await hear(flavour, pubsub, 1))[0][:3] == ("subscribe", None, channel)
