"""A sharded client over a live topology: what it adopts, when it swaps, what it closes; three servers, ZooKeeper."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
from kazoo.exceptions import NoNodeError

import coordkit
from coordkit.errors import BadTopology, StoreUnavailable, TopologyOutdated
from coordkit.routing import Shard, Topology, slot_of
from coordkit.routing.client import live as client_live
from coordkit.routing.client import live_aio as client_live_aio
from coordkit.testing.faults import Faults
from coordkit.testing.servers import ZooKeeperEnsemble

NAMES = ("a", "b", "c")


@pytest.fixture
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    three = getattr(request, "param", "one") == "three"
    return request.getfixturevalue("coordkit_zk_ensemble" if three else "coordkit_zk_server")


one_and_three = pytest.mark.parametrize("zk_servers", ["one", "three"], indirect=True)


@pytest.fixture
def urls(coordkit_redis_shards: Any) -> dict[str, str]:
    return {name: server.url for name, server in zip(NAMES, coordkit_redis_shards, strict=True)}


@pytest.fixture
def direct(urls: dict[str, str]) -> Any:
    """Give a blocking client of each server, to look at keys with."""
    clients = {name: redis.Redis.from_url(url, decode_responses=True) for name, url in urls.items()}
    yield clients
    for each in clients.values():
        each.close()


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/users"


@pytest.fixture
def first(urls: dict[str, str]) -> Topology:
    """Give a topology of the shards a and b."""
    return Topology.first("users", {"a": urls["a"], "b": urls["b"]})


class Clients:
    """What ``connect`` was asked for, and what was closed."""

    def __init__(self, flavour: Any, **options: Any) -> None:
        self.made: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.fails: Exception | None = None
        self._flavour = flavour
        self._options = {"decode_responses": True, "socket_timeout": 10, "retry": None, **options}

    def __call__(self, name: str, address: str) -> Any:
        if self.fails is not None:
            raise self.fails
        self.made.append((name, address))
        client = self._flavour.redis(address, **self._options)
        for method in ("aclose", "close"):
            if (close := getattr(client, method, None)) is not None:
                setattr(client, method, self._noting(name, close))
        return client

    def _noting(self, name: str, close: Callable[[], Any]) -> Callable[[], Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            self.closed.append(name)
            return close(*arguments, **options)

        return noted


async def publish(flavour: Any, store: Any, *steps: Callable[[Topology], Topology]) -> Topology:
    """Take these steps from what is there, as the rebalancer."""
    async with flavour.within(store.rebalancer("test")) as leadership:
        topology: Topology = await flavour.maybe(store.read())
        for step in steps:
            following = step(topology)
            await flavour.maybe(store.publish(following, expected=topology, leadership=leadership))
            topology = following
    return topology


def moved(topology: Topology, source: str, target: str, slots: list[int]) -> Topology:
    begun = topology.begin_move(slots, source, target)
    return begun.finish_move(begun.epoch)


def live_of(flavour: Any) -> Any:
    return client_live_aio.LiveShardedRedis if flavour.is_async else client_live.LiveShardedRedis


async def unfenced(flavour: Any, source: Any, connect: Any, *, poll: float = 30.0, patience: float = 5.0) -> Any:
    """Return what from_topology does, but for shards that know no epoch."""
    live = live_of(flavour)(connect, poll=poll, patience=patience)
    await flavour.maybe(live.follow(source))
    return live


async def closing(flavour: Any, shards: Any) -> None:
    await flavour.maybe((getattr(shards, "aclose", None) or shards.close)())


def owned(topology: Topology, shard: str, prefix: str) -> str:
    return next(key for key in (f"{prefix}:{i}" for i in range(10_000)) if topology.serving.lookup(key) == shard)


@one_and_three
async def test_it_follows_the_topology(
    flavour: Any, zk_client: Any, path: str, first: Topology, urls: dict[str, str], direct: Any, coordkit_namespace: str
) -> None:
    """Routed as the present topology says; a new shard is connected to, the others' clients stay, an old one's goes."""
    connect = Clients(flavour)
    zk = zk_client()
    store = flavour.TopologyStore(zk, path)
    await flavour.maybe(store.create(first))
    shards = await flavour.maybe(unfenced(flavour, store, connect))
    assert isinstance(shards, flavour.ShardedRedis)
    assert (shards.epoch, shards.topology, list(shards.shards())) == (1, first, ["a", "b"])
    key = owned(first, "a", coordkit_namespace)
    await flavour.maybe(shards.set(key, "1"))
    assert direct["a"].get(key) == "1"
    await flavour.until(lambda: adopted(flavour, store, 1))
    kept = shards.on("b")

    def everything(topology: Topology) -> Topology:
        slots = [slot for slot in range(16384) if topology.owners.table[slot] == "a"]
        return topology.begin_move(slots, "a", "c")

    writer = flavour.TopologyStore(zk_client(), path)
    moving = await publish(flavour, writer, lambda topology: topology.with_shard("c", urls["c"]), everything)
    await flavour.until(lambda: shards.epoch == 3)
    assert shards.topology == moving
    assert shards.shard_for(key) == "c" == shards.placement.lookup(key), "while it moves, the target serves"
    await flavour.maybe(shards.set(key, "2"))
    assert direct["c"].get(key) == "2"
    assert connect.closed == []
    last = await publish(
        flavour, writer, lambda topology: topology.finish_move(3), lambda topology: topology.forget_shard("a")
    )
    await flavour.until(lambda: shards.epoch == 5 and connect.closed)
    assert connect.closed == ["a"]
    assert shards.on("b") is kept
    assert list(shards.shards()) == ["b", "c"]
    assert shards.topology == last
    assert [name for name, _ in connect.made] == ["a", "b", "c"]
    await flavour.until(lambda: adopted(flavour, store, 5))
    await closing(flavour, shards)
    assert sorted(connect.closed) == ["a", "b", "c"]
    await flavour.until(lambda: not zk.get_children(f"{path}/clients"))


async def adopted(flavour: Any, store: Any, epoch: int) -> bool:
    return list((await flavour.maybe(store.clients())).values()) == [epoch]


async def test_a_topology_without_a_store(
    flavour: Any, first: Topology, urls: dict[str, str], coordkit_namespace: str
) -> None:
    """What is newer is told by hand; each kind of operation goes by what was adopted."""
    connect = Clients(flavour)
    shards = await flavour.maybe(unfenced(flavour, first, connect))
    keys = [f"{coordkit_namespace}:{i}" for i in range(20)]
    assert await flavour.maybe(shards.mset(dict.fromkeys(keys, "1")))
    assert await flavour.maybe(shards.mget(keys)) == ["1"] * 20
    queued = shards.pipeline()
    queued.mget(keys)
    queued.dbsize()
    three = first.with_shard("c", urls["c"])
    assert shards.adopt(three)
    assert not shards.adopt(three)
    key_slots = [slot_of(key) for key in keys if first.owners.lookup(key) == "a"]
    emptied = moved(three, "a", "c", sorted(set(key_slots)))
    assert shards.adopt(emptied)
    assert shards.epoch == 4
    assert shards.explain("GET", keys[0]).shards == {keys[0]: emptied.owners.lookup(keys[0])}
    found = [None if emptied.owners.lookup(key) == "c" else "1" for key in keys]
    assert (await flavour.maybe(queued.execute()))[0] == found, "a pipeline is routed when it is executed"
    assert await flavour.maybe(shards.mget(keys)) == found
    assert set(await flavour.maybe(shards.on_all("TIME"))) == {"a", "b", "c"}
    assert shards.client_for(keys[0]) is shards.on(shards.shard_for(keys[0]))
    assert shards.owners(keys[0], 3)[0] == shards.shard_for(keys[0])
    scanned = {key async for key in flavour.each(shards.scan_iter(match=f"{coordkit_namespace}:*"))}
    assert scanned == {key for key, value in zip(keys, found, strict=True) if value}, (
        "what was left behind is not there"
    )
    script = shards.register_script("return redis.call('GET', KEYS[1])")
    assert await flavour.maybe(script([keys[0]])) == found[0]
    for older, message in [(first, "epoch 1, and 4 was adopted"), (Topology.first("x", {"a": "a:1"}), "it is of 'x'")]:
        with pytest.raises(BadTopology, match=message):
            shards.adopt(older)
    # Another address is another server: its client is made anew.
    shards.adopt(emptied.with_addresses("b", urls["b"] + "?db=1"))
    assert connect.made[-1] == ("b", urls["b"] + "?db=1")
    await flavour.until(lambda: gc.collect() is not None and connect.closed == ["b"])
    await closing(flavour, shards)
    assert repr(shards).endswith("LiveShardedRedis(a, b, c)>")


def greeting(flavour: Any, key: str) -> Callable[[str], Any]:
    """Return what has new connections read the epoch of their shard."""

    def by_thread(shard: str) -> Any:
        return lambda ask: int(ask("GET", key) or 0)

    def by_task(shard: str) -> Any:
        async def greet(ask: Any) -> int:
            return int(await ask("GET", key) or 0)

        return greet

    return by_task if flavour.is_async else by_thread


async def drop_connections(flavour: Any, shards: Any) -> None:
    """Have every connection made anew, as after a CLIENT KILL that the client has noticed."""
    for way in shards._ways.values():
        await flavour.maybe(way.close())


@one_and_three
async def test_what_a_shard_refuses_is_planned_anew(
    flavour: Any, zk_client: Any, path: str, first: Topology, urls: dict[str, str], direct: Any, coordkit_namespace: str
) -> None:
    """A client that has not heard of the change asks at once; every kind of operation ends on the new owner, once."""
    store = flavour.TopologyStore(zk_client(), path)
    await flavour.maybe(store.create(first))
    epoch_key = f"{coordkit_namespace}:epoch"
    greet = greeting(flavour, epoch_key)
    shards = live_of(flavour)(Clients(flavour), poll=100, patience=10, greet=greet)
    await flavour.maybe(shards.follow(store))
    key = owned(first, "a", coordkit_namespace)
    other = owned(first, "b", coordkit_namespace)
    assert await flavour.maybe(shards.incr(key)) == 1
    deaf = shards._following
    writer = flavour.TopologyStore(zk_client(), path)
    operations: list[Callable[[], Any]] = [
        lambda: shards.incr(key),
        lambda: shards.mset({key: "7", other: "7"}),
        lambda: shards.pipeline().incr(key).incr(other).execute(),
        lambda: shards.pipeline(transaction=True).incr(key).execute(),
        lambda: shards.on_all("INCR", key),
    ]
    for place, operation in enumerate(operations):
        source, target = ("a", "b") if place % 2 == 0 else ("b", "a")
        # It hears nothing by itself: neither its watch nor its timer.
        deaf._worker.poke, poke = (lambda: None), deaf._worker.poke
        begun = await publish(
            flavour, writer, partial(Topology.begin_move, slots=[slot_of(key)], source=source, target=target)
        )
        for each in direct.values():
            each.set(epoch_key, begun.epoch)
        await drop_connections(flavour, shards)
        assert shards.epoch < begun.epoch
        deaf._worker.poke = poke
        before = {name: each.get(key) for name, each in direct.items()}
        await flavour.maybe(operation())
        assert shards.epoch >= begun.epoch
        assert direct[target].get(key) not in (None, before[target]), "carried out on the new owner"
        if place != 4:
            assert direct[source].get(key) == before[source], "and not on the old one"
        await publish(flavour, writer, partial(Topology.finish_move, number=begun.epoch))
    await closing(flavour, shards)


async def test_without_a_newer_topology_it_says_so(
    flavour: Any, first: Topology, direct: Any, coordkit_namespace: str
) -> None:
    """Nothing is sent, the error tells what is known, and the client works once it is told."""
    epoch_key = f"{coordkit_namespace}:epoch"
    greet = greeting(flavour, epoch_key)
    shards = live_of(flavour)(Clients(flavour), poll=100, patience=0.3, greet=greet)
    await flavour.maybe(shards.follow(first))
    key = owned(first, "a", coordkit_namespace)
    for each in direct.values():
        each.set(epoch_key, 3)
    for operation in (
        lambda: shards.incr(key),
        lambda: shards.pipeline().incr(key).execute(),
        lambda: shards.on_all("INCR", key),
    ):
        with pytest.raises(TopologyOutdated, match=r"epoch 3 of topology 'users', and no newer one than 1") as outdated:
            await flavour.maybe(operation())
        assert (outdated.value.shard, outdated.value.seen, outdated.value.epoch) == ("a", 3, 1)
    assert direct["a"].get(key) is None
    shards.adopt(first.raised_to(3))
    assert await flavour.maybe(shards.incr(key)) == 1
    for each in direct.values():
        each.set(epoch_key, 4)
    await drop_connections(flavour, shards)

    async def increment() -> Any:
        return await flavour.maybe(shards.incr(key))

    shards._live._patience = 10
    waiting = flavour.spawn(increment)
    await flavour.until(lambda: shards._live._waiting)
    shards.adopt(first.raised_to(4))
    assert await waiting.result() == 2, "whoever waited for it goes on at once"
    await closing(flavour, shards)


async def test_a_client_that_cannot_be_fenced_is_refused(flavour: Any, first: Topology) -> None:
    greet = greeting(flavour, "epoch")
    shards = live_of(flavour)(Clients(flavour, max_connections=3), poll=100, patience=1, greet=greet)
    with pytest.raises(TypeError, match=r"connect\('a', ...\) returned .* only so the epoch is compared"):
        await flavour.maybe(shards.follow(first))


async def test_an_operation_ends_before_its_client_is_closed(
    flavour: Any, first: Topology, direct: Any, coordkit_namespace: str
) -> None:
    """A shard is forgotten while a command is under way there; the client is closed after it has its reply."""
    connect = Clients(flavour)
    shards = await flavour.maybe(unfenced(flavour, first, connect))
    key = owned(first, "a", coordkit_namespace)

    async def write() -> Any:
        return await flavour.maybe(shards.rpush(key, "x"))

    direct["a"].client_pause(10_000, all=False)
    writing = flavour.spawn(write)
    await flavour.until(lambda: "cmd=rpush" in str(direct["a"].execute_command("CLIENT", "LIST")))
    slots = [slot for slot in range(16384) if first.owners.table[slot] == "a"]
    shards.adopt(moved(first, "a", "b", slots).draining("a").forget_shard("a"))
    assert list(shards.shards()) == ["b"]
    await flavour.sleep(0.5)  # longer than until it is looked whether it is in use
    assert connect.closed == []
    assert not writing.done()
    direct["a"].client_unpause()
    assert await writing.result() == 1
    del writing
    await flavour.until(lambda: gc.collect() is not None and connect.closed == ["a"])
    await closing(flavour, shards)


async def test_it_serves_on_while_zookeeper_is_away(
    flavour: Any,
    zk_client: Any,
    path: str,
    first: Topology,
    urls: dict[str, str],
    coordkit_namespace: str,
    coordkit_faults: Faults,
    zk_servers: ZooKeeperEnsemble,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so once, loses no operation, and adopts what is newer when it is back."""
    proxy = coordkit_faults.proxy(zk_servers.nodes[0])
    writer = flavour.TopologyStore(zk_client(), path)
    await flavour.maybe(writer.create(first))
    store = flavour.TopologyStore(zk_client(timeout=1.0, hosts=proxy.address), path)
    shards = await flavour.maybe(unfenced(flavour, store, Clients(flavour), poll=0.2))
    caplog.set_level(logging.WARNING, "coordkit")
    proxy.cut()
    await flavour.until(lambda: said(caplog, path, "not followed for now, epoch 1 is served on"))
    await publish(flavour, writer, lambda topology: topology.with_shard("c", urls["c"]))
    for i in range(100):
        await flavour.maybe(shards.set(f"{coordkit_namespace}:{i}", "1"))
    await flavour.sleep(0.7)  # several looks
    assert said(caplog, path, "not followed for now") == 1
    assert shards.epoch == 1
    proxy.heal()
    await flavour.until(lambda: shards.epoch == 2, 20)
    await flavour.until(lambda: said(caplog, path, "followed again, with epoch 2") == 1)
    await closing(flavour, shards)


def said(caplog: pytest.LogCaptureFixture, path: str, text: str) -> int:
    """Return how often a text was logged of one topology: clients of earlier tests may have their own to say yet."""
    return sum(text in (line := record.getMessage()) and path in line for record in list(caplog.records))


async def test_what_is_older_or_damaged_is_refused_and_reported(
    flavour: Any, zk_client: Any, path: str, first: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an ensemble was restored from a backup: each document is told once, and a right one is adopted."""
    store = flavour.TopologyStore(zk_client(), path)
    await flavour.maybe(store.create(first))
    last = await publish(flavour, store, lambda topology: topology.reweighted("a", 2))
    shards = await flavour.maybe(unfenced(flavour, store, Clients(flavour), poll=0.1))
    zk = zk_client()
    for document, message in [
        (first.to_bytes(), "it has epoch 1, and 2 was adopted: it is not adopted. The store was set back"),
        (first.draining("a").to_bytes(), "it has epoch 2, and 2 was adopted"),
        (Topology.first("carts", first.shards).raised_to(9).to_bytes(), "it is of 'carts', and 'users' was adopted"),
        (b"{}", "format None"),
        (last.to_bytes()[:-9], "it is no topology"),
    ]:
        caplog.clear()
        zk.set(path, document)
        await flavour.until(lambda message=message: said(caplog, path, message))
        await flavour.sleep(0.35)  # several looks
        assert said(caplog, path, message) == 1
        assert said(caplog, path, "epoch 2 is served on") == 1
        assert shards.topology == last
    zk.set(path, b"")
    await flavour.until(lambda: said(caplog, path, "the topology is gone; epoch 2 is served on") == 1)
    await flavour.maybe(store.create(last.raised_to(3)))
    await flavour.until(lambda: shards.epoch == 3)
    await closing(flavour, shards)


async def test_a_shard_that_cannot_be_connected_to_is_tried_again(
    flavour: Any, zk_client: Any, path: str, first: Topology, urls: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    connect = Clients(flavour)
    store = flavour.TopologyStore(zk_client(), path)
    await flavour.maybe(store.create(first))
    connect.fails = OSError("no password yet")
    with pytest.raises(OSError, match="no password yet"):
        await flavour.maybe(unfenced(flavour, store, connect))
    connect.fails = None
    shards = await flavour.maybe(unfenced(flavour, store, connect, poll=0.1))
    connect.fails = OSError("no password yet")
    await publish(flavour, store, lambda topology: topology.with_shard("c", urls["c"]))
    await flavour.until(lambda: said(caplog, path, "not adopted; epoch 1 is served on"))
    assert shards.epoch == 1
    connect.fails = None
    await flavour.until(lambda: shards.epoch == 2)
    await closing(flavour, shards)


def clients_at(zk: Any, path: str) -> list[str]:
    """Return who is counted; the container goes some time after the last of them."""
    with contextlib.suppress(NoNodeError):
        return zk.get_children(f"{path}/clients")
    return []


async def test_nobody_need_close_it(flavour: Any, zk_client: Any, path: str, first: Topology) -> None:
    """A client that is dropped leaves no listener, no watch and no member behind."""
    zk = zk_client()
    store = flavour.TopologyStore(zk, path)
    await flavour.maybe(store.create(first))
    session = store._core._session()
    shards = await flavour.maybe(unfenced(flavour, store, Clients(flavour), poll=0.1))
    await flavour.until(lambda: adopted(flavour, store, 1))
    del shards
    await flavour.until(lambda: gc.collect() is not None and not session._listeners)
    await flavour.until(lambda: not clients_at(zk, path))
    assert zk._coordkit_wire.bells._waiting == {}


async def test_what_can_only_be_mistakes(flavour: Any, zk_client: Any, path: str, first: Topology) -> None:
    store = flavour.TopologyStore(zk_client(), path)
    connect = Clients(flavour)
    other = coordkit.TopologyStore if flavour.is_async else coordkit.aio.TopologyStore
    make = flavour.ShardedRedis.from_topology
    with pytest.raises(BadTopology, match="there is no topology"):
        await flavour.maybe(make(store, connect))
    for source in ("/users", other(zk_client(), path), None):
        with pytest.raises(TypeError, match="a TopologyStore of this flavour, or a Topology, is allowed"):
            await flavour.maybe(make(source, connect))
    with pytest.raises(TypeError, match="connect must be callable"):
        await flavour.maybe(make(first, "redis://"))
    with pytest.raises(TypeError, match=r"shards\['a'\]=None"):
        await flavour.maybe(make(first, lambda _name, _address: None))
    for options in ({"poll": 0.01}, {"poll": float("inf")}, {"patience": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            await flavour.maybe(make(first, connect, **options))
    store.client.stop()
    with pytest.raises(StoreUnavailable):
        await flavour.maybe(make(store, connect))


async def test_a_client_of_other_terms_is_refused(flavour: Any, first: Topology, urls: dict[str, str]) -> None:
    options = {"decode_responses": True}
    shards = await flavour.maybe(
        flavour.ShardedRedis.from_topology(first, lambda _, address: flavour.redis(address, **options))
    )
    options["decode_responses"] = False
    with pytest.raises(ValueError, match="decode_responses"):
        shards.adopt(first.with_shard("c", Shard(urls["c"])))
    assert shards.epoch == 1
    await closing(flavour, shards)


async def test_watched_keys_over_a_swap(
    flavour: Any, first: Topology, direct: Any, coordkit_namespace: str, urls: dict[str, str]
) -> None:
    """WATCH begins on the present owner, by its epoch; transaction() does, and plain pipelines go on as before."""
    epoch_key = f"{coordkit_namespace}:epoch"
    shards = live_of(flavour)(Clients(flavour), poll=100, patience=10, greet=greeting(flavour, epoch_key))
    await flavour.maybe(shards.follow(first))
    key = owned(first, "a", coordkit_namespace)
    await flavour.maybe(shards.set(key, "1"))
    early = shards.pipeline(transaction=True)
    begun = first.begin_move([slot_of(key)], "a", "b")
    for each in direct.values():
        each.set(epoch_key, begun.epoch)
    await drop_connections(flavour, shards)
    direct["b"].set(key, "5")

    async def watch() -> Any:
        await flavour.maybe(early.watch(key))
        return await flavour.maybe(early.get(key))

    watching = flavour.spawn(watch)
    await flavour.until(lambda: shards._live._waiting)
    assert shards.adopt(begun)
    assert await watching.result() == "5", "it was told by the shard, waited, and watches on the new owner"
    assert early.watching
    early.multi()
    early.incr(key)
    direct["b"].set(key, "7")
    with pytest.raises(redis.WatchError):
        await flavour.maybe(early.execute())
    assert not early.watching
    early.incr(key)
    assert await flavour.maybe(early.execute()) == [8]

    def increment(pipe: Any) -> Any:
        pipe.multi()
        pipe.incr(key)

    async def increment_awaited(pipe: Any) -> Any:
        increment(pipe)

    work = increment_awaited if flavour.is_async else increment
    assert await flavour.maybe(shards.transaction(work, key)) == [9]
    await flavour.maybe(early.watch(key))
    assert await flavour.maybe(early.unwatch())
    early.incr(key)
    assert len(early) == 1
    assert await flavour.maybe(early.execute()) == [10]
    assert direct["a"].get(key) == "1"
    await closing(flavour, shards)


async def test_a_lock_goes_by_the_topology(flavour: Any, first: Topology, direct: Any, coordkit_namespace: str) -> None:
    """It is spoken of through this client, by its epoch; a move of its keys is the fence's part."""
    shards = live_of(flavour)(Clients(flavour), poll=100, patience=10)
    await flavour.maybe(shards.follow(first))
    name = next(
        name for name in (f"{coordkit_namespace}:{i}" for i in range(999)) if first.owners.lookup(f"{{{name}}}") == "b"
    )
    lock = flavour.Lock(shards, name, ttl=5)
    async with flavour.within(lock) as lease:
        assert lease.token > 0
        assert direct["b"].keys(f"coordkit:1:{{{name}}}*")
        assert not direct["a"].keys(f"coordkit:1:{{{name}}}*")
    await closing(flavour, shards)


async def test_a_response_callback_is_that_of_later_shards_too(
    flavour: Any, first: Topology, urls: dict[str, str], coordkit_namespace: str
) -> None:
    shards = await flavour.maybe(unfenced(flavour, first, Clients(flavour)))
    shards.set_response_callback("GET", lambda reply, **_: f"parsed {reply}")
    grown = first.with_shard("c", urls["c"])
    shards.adopt(moved(grown, "a", "c", [slot for slot in range(16384) if grown.owners.table[slot] == "a"]))
    for shard in "bc":
        key = owned(shards.topology, shard, coordkit_namespace)
        await flavour.maybe(shards.set(key, "v", px=60_000))
        assert await flavour.maybe(shards.get(key)) == "parsed v"
        assert await flavour.maybe(shards.pipeline().get(key).execute()) == ["parsed v"]
    await closing(flavour, shards)


async def test_the_breakers_of_a_topology_are_as_asked(flavour: Any, first: Topology) -> None:
    moved_away = first.with_addresses("b", "redis://127.0.0.1:1")
    make = flavour.ShardedRedis.from_topology
    for wrong, kind in (({"failure_threshold": 0}, ValueError), ({"reset_timeout": "1"}, TypeError)):
        with pytest.raises(kind, match=next(iter(wrong))):
            await flavour.maybe(make(moved_away, Clients(flavour), **wrong))
    shards = await flavour.maybe(make(moved_away, Clients(flavour), failure_threshold=2, reset_timeout=60.0))
    key = owned(moved_away, "b", "k")
    for state in ("closed", "open"):
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(shards.get(key))
        assert shards.breakers()["b"] == state
    await closing(flavour, shards)
