"""What waits at an old owner when a topology is adopted, and nobody drops its connections: under the weaker barrier."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from coordkit import ShardedRedis
from coordkit.errors import PartialFailure, StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence.fence import local_key
from coordkit.testing.servers import wait_until

pytestmark = pytest.mark.empties_servers

FOR_EVER = {"socket_timeout": None, "socket_connect_timeout": 5}


class Place:
    def __init__(self, flavour: Any, servers: Any, name: str) -> None:
        self.flavour = flavour
        self.urls = dict(zip("ab", (server.url for server in servers), strict=False))
        self.plain = {shard: redis.Redis.from_url(url) for shard, url in self.urls.items()}
        self.before = Topology.first(name, self.urls)
        for client in self.plain.values():
            client.flushdb()
            client.set(local_key(name, "epoch"), 1)
        self.key = next(key for key in (f"queue{i}" for i in range(99)) if self.before.owners.lookup(key) == "a")
        self.other = next(key for key in (f"other{i}" for i in range(99)) if self.before.owners.lookup(key) == "b")

    async def client(self, **options: Any) -> Any:
        made = self.flavour.ShardedRedis.from_topology(
            self.before, lambda _, url: self.flavour.redis(url, **{**FOR_EVER, **options})
        )
        shards = await self.flavour.maybe(made)
        self.flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        return shards

    def moved(self) -> Topology:
        """Return what says that the key has moved from "a" to "b", and all of it is there."""
        move = self.before.begin_move([slot_of(self.key)], "a", "b")
        for client in self.plain.values():
            client.set(local_key(move.name, "epoch"), move.moves[0].number)
        return move.finish_move(move.moves[0].number)

    async def blocked(self, shard: str, count: int = 1) -> None:
        plain = self.plain[shard]
        await self.flavour.until(lambda: plain.info("clients")["blocked_clients"] == count)


@pytest.fixture
def place(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Iterator[Place]:
    made = Place(flavour, coordkit_redis_shards, coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
        client.close()


WAITS = {
    "alone": lambda shards, key: shards.blpop(key, timeout=0),
    "in small letters": lambda shards, key: shards.execute_command("blpop", key, 0),
    "in all letters": lambda shards, key: shards.execute_command("BlPop", key, 0),
    "in bytes": lambda shards, key: shards.execute_command(b"BLpop", key, 0),
    "a stream": lambda shards, key: shards.xread({key: "$"}, block=0),
    "undecoded": lambda shards, key: shards.execute_command("BLPOP", key, 0, NEVER_DECODE=True),
    "in a pipeline": lambda shards, key: shards.pipeline().set(key + "x", 1).blpop(key, timeout=0).execute(),
}


@pytest.mark.parametrize("how", WAITS)
async def test_who_waits_for_a_key_that_moves_is_told(place: Place, flavour: Any, maybe: Any, how: str) -> None:
    """And hears what comes at the new owner when it asks again; who waits elsewhere waits on."""
    shards = await place.client()

    async def wait(key: str) -> Any:
        return await maybe(WAITS[how](shards, key))

    waiting, elsewhere = flavour.spawn(wait, place.key), flavour.spawn(wait, place.other)
    for shard in "ab":
        await place.blocked(shard)
    assert shards.adopt(place.moved())
    with pytest.raises(
        (StoreUnavailable, PartialFailure), match=r"slots of 'a' move to another shard, so nobody waits"
    ):
        await waiting.result()
    await place.blocked("a", 0)
    await place.blocked("b", 1)

    again = flavour.spawn(lambda: maybe(shards.blpop(place.key, timeout=0)))
    await place.blocked("b", 2)
    place.plain["b"].rpush(place.key, "item")
    assert (await again.result())[1] == b"item"
    if how == "a stream":
        place.plain["b"].xadd(place.other, {"f": "item"})
    else:
        place.plain["b"].rpush(place.other, "item")
    assert b"item" in str(await elsewhere.result()).encode()
    assert await maybe(shards.set(place.key, 1))


@pytest.mark.parametrize("name", ["BLPOP", "blpop", "BlPop", b"blpop"])
async def test_who_waits_at_all_shards_is_told(place: Place, flavour: Any, maybe: Any, name: Any) -> None:
    shards = await place.client()
    waiting = flavour.spawn(lambda: maybe(shards.on_all(name, place.key, 5)))
    for shard in "ab":
        await place.blocked(shard)
    shards.adopt(place.moved())
    await place.blocked("a", 0)
    place.plain["b"].rpush(place.key, "item")
    with pytest.raises(PartialFailure, match="so nobody waits there") as partial:
        await waiting.result()
    assert set(partial.value.failed) == {"a"}


async def test_what_had_been_popped_is_not_lost(place: Place, flavour: Any, maybe: Any) -> None:
    """Its reply is on its way when the wait is ended: it is read all the same; that connection is not used again."""
    shards = await place.client()
    way = shards._live.now._servers.primaries["a"]
    waiting = flavour.spawn(lambda: maybe(shards.blpop(place.key, timeout=0)))
    await place.blocked("a")
    begun = list(way.waits._waiting)
    assert len(begun) == 1
    assert place.plain["a"].rpush(place.key, "item") == 1  # answered, which it may not have read yet
    way.waits.end(1)
    assert (await waiting.result())[1] == b"item"
    assert way.waits._waiting == set()
    for _ in range(3):
        assert await maybe(shards.set(place.key, 1))


@pytest.mark.parametrize("how", WAITS)
async def test_one_whose_wait_is_over_is_kept(place: Place, maybe: Any, how: str) -> None:
    """However it waited, and also if it did not: its connection is as good as before."""
    shards = await place.client()
    way = shards._live.now._servers.primaries["a"]
    made = set()
    for _ in range(4):
        if how == "a stream":
            place.plain["a"].xadd(place.key, {"f": "item"}, id="9-1")
            reply = await maybe(shards.xread({place.key: "0"}, block=0))
            place.plain["a"].delete(place.key)
        else:
            place.plain["a"].rpush(place.key, "item")
            reply = await maybe(WAITS[how](shards, place.key))
        assert b"item" in str(reply).encode()
        await maybe(shards.execute_command("LRANGE", place.key, 0, -1, NEVER_DECODE=True))
        await maybe(shards.pipeline().lrange(place.key, 0, -1).execute())
        made.add(way.connected)
    assert len(made) == 1
    assert way.waits._waiting == set()


async def test_one_that_was_lost_just_now_keeps_nobody_waiting(place: Place, flavour: Any, maybe: Any) -> None:
    """Its connection is closed already, by who waited there: the others are ended, and the change is adopted."""
    shards = await place.client()
    way = shards._live.now._servers.primaries["a"]
    lost = [await maybe(way.take(1)) for _ in range(3)]
    for wire in lost:
        way.waits.begin(wire, 1)
    waiting = flavour.spawn(lambda: maybe(shards.blpop(place.key, timeout=0)))
    await place.blocked("a")
    for wire in lost:
        await maybe(wire.close())
    assert shards.adopt(place.moved())
    with pytest.raises(StoreUnavailable, match="so nobody waits there any more"):
        await waiting.result()
    assert way.waits._waiting == set()


async def test_who_decided_before_and_asks_after_it_is_routed_anew(place: Place, flavour: Any, maybe: Any) -> None:
    """Between its decision and its sending the change was adopted: it would wait for ever, and nobody would end it."""
    shards = await place.client()
    moment = shards._live.now
    assert await maybe(shards.set(place.key, 1))  # a connection that has seen no newer epoch
    assert await maybe(shards.delete(place.key))
    shards.adopt(place.moved())
    swapped, shards._live._now = shards._live._now, moment
    newer = shards._live.newer

    async def swap(outdated: Any) -> Any:
        shards._live._now = swapped
        return await newer(outdated)

    shards._live.newer = swap
    waiting = flavour.spawn(lambda: maybe(shards.blpop(place.key, timeout=0)))
    await place.blocked("b")
    place.plain["b"].rpush(place.key, "item")
    assert (await waiting.result())[1] == b"item"


async def test_an_absent_key_that_is_watched_and_comes_to_be_elsewhere(place: Place, maybe: Any) -> None:
    """The old owner, at which nothing changes, is not asked to carry out what depends on it."""
    shards = await place.client()

    async def watching() -> Any:
        pipe = shards.pipeline(transaction=True)
        await maybe(pipe.watch(place.key))
        assert await maybe(pipe.get(place.key)) is None
        return pipe

    writes, empty, reads = await watching(), await watching(), await watching()
    writes.multi()
    writes.set(place.key, "mine")
    empty.multi()
    shards.adopt(place.moved())
    place.plain["b"].set(place.key, "theirs")
    for pipe in (writes, empty):
        with pytest.raises(StoreUnavailable, match=r"a: 'queue\d+' is watched there, and is served by 'b' now"):
            await maybe(pipe.execute())
    with pytest.raises(StoreUnavailable, match=r"is served by 'b' now; nothing was sent"):
        await maybe(reads.get(place.key))
    await maybe(reads.reset())
    assert not place.plain["a"].exists(place.key)
    assert await maybe(shards.get(place.key)) == b"theirs"


async def test_who_watches_what_stays_goes_on(place: Place, maybe: Any) -> None:
    shards = await place.client()
    pipe = shards.pipeline(transaction=True)
    await maybe(pipe.watch(place.other))
    pipe.multi()
    pipe.set(place.other, "mine")
    shards.adopt(place.moved())
    assert await maybe(pipe.execute()) == [True]


@pytest.mark.parametrize("kind", ["", "s"])
async def test_who_listens_hears_it_at_the_new_owner(place: Place, flavour: Any, maybe: Any, kind: str) -> None:
    shards = await place.client(socket_timeout=5)
    pubsub = shards.pubsub(ignore_subscribe_messages=True)
    flavour.on_exit(pubsub.aclose if flavour.is_async else pubsub.close)
    await maybe(getattr(pubsub, f"{kind}subscribe")(place.key))
    heard: list[Any] = []

    async def listen() -> None:
        while not heard:
            if message := await maybe(pubsub.get_message(timeout=30)):
                heard.append(message["data"])

    listening = flavour.spawn(listen)
    shards.adopt(place.moved())
    publish = {"": "PUBLISH", "s": "SPUBLISH"}[kind]
    await flavour.until(lambda: heard or (place.plain["b"].execute_command(publish, place.key, "word") and heard))
    await listening.result()
    assert heard == [b"word"]


async def test_a_change_that_another_thread_adopts_ends_the_waits_of_this_one(
    place: Place, flavour: Any, maybe: Any
) -> None:
    """As it is adopted in the thread of a KazooClient; a socket is closed by its own loop alone."""
    shards = await place.client()
    waiting = flavour.spawn(lambda: maybe(shards.blpop(place.key, timeout=0)))
    await place.blocked("a")
    adopting = threading.Thread(target=shards.adopt, args=(place.moved(),))
    adopting.start()
    with pytest.raises(StoreUnavailable, match="so nobody waits there any more"):
        await waiting.result()
    adopting.join(10)


def test_a_forked_child_ends_no_wait_of_its_parent(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    """The connections are the parent's, which may not have adopted what the child has."""
    with redis.Redis.from_url(coordkit_redis_server.url) as plain, ThreadPoolExecutor(1) as thread:
        shards = ShardedRedis({"a": redis.Redis.from_url(coordkit_redis_server.url, **FOR_EVER)})
        waits = shards._ways["a"].waits
        waiting = thread.submit(shards.blpop, coordkit_namespace, 20)
        assert wait_until(lambda: plain.info("clients")["blocked_clients"] == 1 and len(waits._waiting) == 1, 10)
        child = os.fork()
        if not child:
            shards._ways["a"].waits.end(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        plain.rpush(coordkit_namespace, "item")
        assert waiting.result(20)[1] == b"item"
        shards.close()
