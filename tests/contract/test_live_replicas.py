"""Replicas under a live topology, both flavours: who is read from while slots move, and how many copies there are.

Shard ``a`` is a primary with two replicas, shard ``b`` one server. Slots move to and fro between the two.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from reshard_cluster import Cluster

from coordkit.errors import ShardDown, StoreRefused, StoreUnavailable, TooFewReplicas, TopologyOutdated
from coordkit.routing import ReplicaSet, RoundRobin, Shard, Topology, slot_of
from coordkit.routing.fence.fence import local_key
from coordkit.testing.deployments import tell
from coordkit.testing.replicated import ReplicatedRedis

pytestmark = pytest.mark.empties_servers


class Service:
    """The two shards, a topology in memory that names the replicas of ``a``, and clients of it."""

    def __init__(self, flavour: Any, servers: ReplicatedRedis, plain: Any, name: str) -> None:
        self.flavour, self.servers, self.name = flavour, servers, name
        self.replicas = tuple(each.url for each in servers.replicas)
        self.cluster = Cluster(flavour, [servers.primary.url, plain.url], name, "ab")
        first = self.cluster.ledger.now
        self.now = replace(first, shards={**first.shards, "a": Shard(servers.primary.url, self.replicas)})
        self.plain = self.cluster.plain
        self.made: list[str] = []
        self.closed: list[str] = []

    @property
    def now(self) -> Topology:
        return self.cluster.ledger.now

    @now.setter
    def now(self, topology: Topology) -> None:
        self.cluster.ledger.now = topology

    def connect(self, _shard: str, address: str) -> Any:
        self.made.append(address)
        client = self.flavour.redis(address, socket_timeout=10, decode_responses=True, retry=None)
        for method in ("aclose", "close"):
            if (close := getattr(client, method, None)) is not None:
                setattr(client, method, self._noting(address, close))
        return client

    def _noting(self, address: str, close: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            self.closed.append(address)
            return close(*arguments, **options)

        return noted

    async def client(self, connect: Any = None, **options: Any) -> Any:
        """Return a client that is told of newer topologies by ``adopt``."""
        make = self.flavour.ShardedRedis.from_topology
        options = {"patience": 0.3, "balance": RoundRobin, **options}
        shards = await self.flavour.maybe(make(self.now, connect or self.connect, **options))
        self.flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        return shards

    def key(self, shard: str, nth: int = 0) -> str:
        keys = (f"k{i}" for i in range(10_000))
        return [key for _, key in zip(range(nth + 1), (k for k in keys if self.owner(k) == shard), strict=False)][nth]

    def owner(self, key: str) -> str:
        return self.now.owners.lookup(key)

    def announce(self, keys: list[str], source: str, target: str) -> None:
        self.now = self.now.begin_move(sorted({slot_of(key) for key in keys}), source, target)

    async def carry(self, until: str = "") -> None:
        """Carry out the move under way, up to a step if one is named."""
        reshard = self.cluster.reshard(on_step=lambda step: step == until and reshard.stop())
        await reshard._work(reshard._finish_moves)

    async def move(self, keys: list[str], source: str, target: str) -> None:
        self.announce(keys, source, target)
        await self.carry()


@pytest.fixture
def servers(coordkit_redis_replicated: ReplicatedRedis) -> Any:
    coordkit_redis_replicated.wait_ready()
    yield coordkit_redis_replicated
    coordkit_redis_replicated.wait_ready()


@pytest.fixture
def service(flavour: Any, servers: Any, coordkit_redis_server: Any, coordkit_namespace: str) -> Any:
    made = Service(flavour, servers, coordkit_redis_server, coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
    made.cluster.close()


class Calls:
    """How often each server of ``a`` was sent a command: its primary, then each replica."""

    def __init__(self, servers: ReplicatedRedis) -> None:
        self._nodes = [servers.primary, *servers.replicas]
        for node in self._nodes:
            tell(node, "CONFIG", "RESETSTAT")

    def of(self, command: str) -> list[int]:
        found = []
        for node in self._nodes:
            line = f"cmdstat_{command}:calls="
            stats = tell(node, "INFO", "commandstats").splitlines()
            found.append(sum(int(each[len(line) :].partition(",")[0]) for each in stats if each.startswith(line)))
        return found


def address(server: Any) -> str:
    return f"{server.host}:{server.port}"


async def test_the_replicas_that_the_topology_names_are_read_from(service: Service, servers: Any, maybe: Any) -> None:
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred")
    key, other, wrong = service.key("a"), service.key("b"), service.key("a", 1)
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    await maybe(shards.set(other, "w"))
    calls = Calls(servers)
    for _ in range(10):
        assert await maybe(shards.get(key)) == "v"
    assert await maybe(shards.mget([key, other])) == ["v", "w"]
    assert await maybe(shards.pipeline().get(key).strlen(key).get(other).execute()) == ["v", 1, "w"]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await maybe(shards.llen(key))
    assert await maybe(shards.execute_command("OBJECT", "ENCODING", key)) is not None
    near = shards.with_options(read_from="nearest")
    primary = shards.with_options(read_from="primary")
    assert await maybe(primary.get(key)) == "v"
    assert calls.of("get") == [1, *calls.of("get")[1:]]
    assert min(calls.of("get")[1:]) >= 5
    assert calls.of("mget")[0] == calls.of("llen")[0] == 0
    for _ in range(6):
        assert await maybe(near.get(key)) == "v"
    assert calls.of("get")[0] == 3
    # Writes, and what is sent with a write, go to the primary.
    assert await maybe(shards.pipeline().set(wrong, 1).get(wrong).execute()) == [True, "1"]
    assert calls.of("get")[0] == 4
    assert calls.of("set") == [1, 1, 1], "a replica has it by its stream"
    assert shards.replicas("a") == {address(each): "" for each in servers.replicas}
    assert shards.replicas("b") == {}


async def test_a_callback_of_ones_own_is_not_given_our_looks(service: Service, maybe: Any) -> None:
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred")
    key = service.key("a")
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    shards.set_response_callback("GET", lambda reply, **_: f"<{reply}>")
    assert await maybe(shards.get(key)) == "<v>"
    assert await maybe(shards.pipeline().get(key).execute()) == ["<v>"]
    assert set(shards.replicas("a").values()) == {""}, "and they were believed"


async def test_keys_that_move_are_read_where_they_are(service: Service, servers: Any, maybe: Any) -> None:
    """From the primary of the target, brought first; others of the same shard from its replicas meanwhile."""
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred")
    coming = [service.key("b", i) for i in range(6)]
    deleted = coming[5]
    staying = [service.key("a", i) for i in range(3)]
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).mset(dict.fromkeys(staying, "s")))
    await maybe(shards.mset(dict.fromkeys(coming, "v")))
    servers.wait_in_sync()
    service.announce(coming, "b", "a")
    await service.carry(until="pass 1")
    assert shards.adopt(service.now)
    await maybe(shards.delete(deleted))
    calls = Calls(servers)
    for _ in range(3):
        assert await maybe(shards.get(coming[0])) == "v"
        assert await maybe(shards.mget(coming[1:3])) == ["v", "v"]
        assert await maybe(shards.pipeline().get(coming[3]).get(staying[0]).execute()) == ["v", "s"]
        assert await maybe(shards.exists(deleted, coming[4])) == 1
        assert await maybe(shards.strlen(coming[1])) == 1
    for command in ("get", "mget", "exists", "strlen"):
        assert calls.of(command)[1:] == [0, 0], command
        assert calls.of(command)[0] > 0, command
    calls = Calls(servers)
    for _ in range(4):
        assert await maybe(shards.get(staying[1])) == "s"
        assert await maybe(shards.mget(staying)) == ["s"] * 3
        assert await maybe(shards.pipeline().get(staying[0]).get(staying[2]).execute()) == ["s", "s"]
    assert (calls.of("get")[0], calls.of("mget")[0]) == (0, 0)
    await service.carry()
    assert shards.adopt(service.now)
    calls = Calls(servers)
    for _ in range(4):
        assert await maybe(shards.get(coming[0])) == "v"
        assert await maybe(shards.get(deleted)) is None
    assert calls.of("get")[0] == 0, "they have come, and the replicas have them"
    assert shards.replicas("a") == {address(each): "" for each in servers.replicas}
    # What a shard knows of its moves is no key of ours, and is kept when all of ours are dropped.
    assert await maybe(shards.dbsize()) == len(coming) - 1 + len(staying)
    assert await maybe(shards.flushdb())
    assert await maybe(shards.dbsize()) == 0
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(coming[0], "w"))
    calls = Calls(servers)
    for _ in range(4):
        assert await maybe(shards.get(coming[0])) == "w"
    assert calls.of("get")[0] == 0


OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda shards, key: shards.get(key),
    "mget": lambda shards, key: shards.mget([key]),
    "split": lambda shards, key: shards.mget([key, "other"]),
    "pipeline": lambda shards, key: shards.pipeline().get(key).execute(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_replica_does_not_say_that_a_key_is_gone_which_has_moved_away(
    service: Service, servers: Any, maybe: Any, operation: str
) -> None:
    """Nobody drops the connections to replicas; a client that has heard of nothing finds the new owner all the same."""
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred", patience=10.0)
    deaf = await service.client(read_from="replica_preferred")
    key, call = service.key("a"), OPERATIONS[operation]
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    for each in (shards, deaf):
        for _ in range(2):
            assert "v" in await maybe(call(each, key))
    await service.move([key], "a", "b")
    servers.wait_in_sync()
    assert [tell(each, "EXISTS", key) for each in servers.replicas] == [0, 0]

    async def read() -> Any:
        return await maybe(call(shards, key))

    waiting = service.flavour.spawn(read)
    await service.flavour.until(lambda: shards._live._waiting)
    assert shards.adopt(service.now)
    assert "v" in await waiting.result()
    for _ in range(2):
        with pytest.raises(TopologyOutdated, match="no newer one than 1 came"):
            await maybe(call(deaf, key))


async def test_a_batch_with_a_write_is_not_sent_twice_for_a_replica_that_knows_more(
    service: Service, servers: Any, maybe: Any
) -> None:
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred", patience=10.0)
    key, counter = service.key("a"), service.key("b")
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    assert await maybe(shards.pipeline().incr(counter).get(key).execute()) == [1, "v"]
    # The epoch rises at a alone, as between two steps of a fence: b would still take the write by the old one.
    service.announce([key], "a", "b")
    await service.carry(until="raise b")
    servers.wait_in_sync()

    async def work() -> Any:
        return await maybe(shards.pipeline().incr(counter).get(key).execute())

    for way in shards._live.now._servers.primaries.values():
        await maybe(way.close())
    waiting = service.flavour.spawn(work)
    await service.flavour.until(lambda: shards._live._waiting)
    assert int(service.plain["b"].get(counter)) == 1
    await service.carry(until="pass 1")
    assert shards.adopt(service.now)
    assert await waiting.result() == [2, "v"]


async def test_a_replica_that_missed_a_move_is_not_read_from_until_it_has_all(
    service: Service, servers: Any, maybe: Any
) -> None:
    """It is in no topology, and was away while keys came; it would say that they are not there."""
    await service.cluster.reshard().initialise()
    late, other = servers.replicas
    service.now = service.now.with_addresses("a", servers.primary.url, [other.url])

    def connect(shard: str, at: str) -> Any:
        replicas = [late] if shard == "only" else [late, other]
        return ReplicaSet(service.connect(shard, at), [service.connect(shard, each.url) for each in replicas])

    key = service.key("b")
    service.plain["b"].set(key, "v")
    tell(late, "REPLICAOF", servers.primary.host, 1)
    await service.flavour.until(lambda: service.plain["a"].info("replication")["connected_slaves"] == 1)
    await service.move([key], "b", "a")
    shards = await service.client(connect, read_from="replica")
    only = await service.client(lambda _, at: connect("only", at), read_from="replica")
    for _ in range(6):
        assert await maybe(shards.get(key)) == "v"
        assert await maybe(shards.pipeline().get(key).execute()) == ["v"]
    assert (
        f"it has not all that was moved by epoch {service.now.shards['a'].fenced}"
        in shards.replicas("a")[address(late)]
    )
    for call in (lambda: only.get(key), lambda: only.pipeline().get(key).execute()):
        with pytest.raises(StoreRefused, match="this replica is not read from: it has not all"):
            await maybe(call())
    assert await maybe(only.with_options(read_from="replica_preferred").get(key)) == "v", "the primary has it"
    tell(late, "REPLICAOF", servers.primary.host, servers.primary.port)
    servers.wait_ready()
    servers.wait_in_sync()

    async def read() -> bool:
        try:
            return bool(await maybe(only.get(key)) == "v")
        except StoreRefused:
            return False

    await service.flavour.until(read, 30)


async def test_a_replica_that_is_none_of_the_topology_is_not_read_from(
    service: Service, servers: Any, maybe: Any
) -> None:
    """As one that was wiped, or is another shard's."""
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica_preferred")
    key, wiped = service.key("a"), servers.replicas[0]
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    tell(wiped, "REPLICAOF", "NO", "ONE")
    tell(wiped, "FLUSHALL")
    for _ in range(4):
        assert await maybe(shards.get(key)) == "v"
    assert "it knows no epoch of topology" in shards.replicas("a")[address(wiped)]
    # What stands there and is no number is told as well.
    tell(wiped, "SET", local_key(service.name, "epoch"), "x")
    only = await service.client(lambda _, at: ReplicaSet(service.connect("", at), [service.connect("", wiped.url)]))
    with pytest.raises(StoreRefused, match="its epoch is no number: 'x'"):
        await maybe(only.with_options(read_from="replica").get(key))
    tell(wiped, "DEL", local_key(service.name, "epoch"))
    tell(wiped, "LPUSH", local_key(service.name, "epoch"), "x")
    with pytest.raises(StoreRefused, match="it does not say what it has"):
        await maybe(only.with_options(read_from="replica").get(key))


async def test_writes_wait_for_their_replicas(service: Service, servers: Any, maybe: Any) -> None:
    await service.cluster.reshard().initialise()
    shards = await service.client(min_replicas=2, wait_timeout=10.0)
    key, other = service.key("a"), service.key("b")
    calls = Calls(servers)
    for i in range(10):
        assert await maybe(shards.set(key, i)) is True
        assert [tell(each, "GET", key) for each in servers.replicas] == [str(i)] * 2
    assert calls.of("wait") == [10, 0, 0]
    quick = shards.with_options(wait_timeout=0.05)
    with pytest.raises(TooFewReplicas, match="0 of 2") as caught:
        await maybe(quick.incr(other))
    assert (caught.value.reply, caught.value.replicas) == (1, 0)
    replies = await maybe(quick.pipeline().incr(key).incr(other).execute(raise_on_error=False))
    assert (replies[0], type(replies[1])) == (10, TooFewReplicas)
    with pytest.raises(TooFewReplicas, match="2 of 3"):
        await maybe(shards.with_options(min_replicas=3, wait_timeout=0.05).incr(key))
    assert await maybe(shards.get(key)) == "11"


async def test_a_key_that_is_brought_by_a_write_has_its_copies_too(service: Service, servers: Any, maybe: Any) -> None:
    """Who acknowledged has all of it: what the source had, and what was written upon it."""
    await service.cluster.reshard().initialise()
    keys = [service.key("b", i) for i in range(7)]
    for key in keys:
        service.plain["b"].rpush(key, *range(2000))
    service.announce(keys, "b", "a")
    shards = await service.client(min_replicas=2, wait_timeout=10.0, read_from="replica_preferred")
    await service.carry(until="pass 1")

    async def watched(key: str) -> Any:
        pipe = shards.pipeline()
        await maybe(pipe.watch(key))
        pipe.multi()
        pipe.rpush(key, "new")
        try:
            return await maybe(pipe.execute())
        finally:
            await maybe(pipe.reset())

    script = "return redis.call('RPUSH', KEYS[1], 'new')"
    operations: list[Callable[[str], Any]] = [
        lambda key: shards.rpush(key, "new"),
        lambda key: shards.pipeline().rpush(key, "new").execute(),
        lambda key: shards.pipeline(transaction=True).rpush(key, "new").execute(),
        lambda key: shards.eval(script, 1, key),
        watched,
    ]
    calls = Calls(servers)
    for key, operation in zip(keys, operations, strict=False):
        await maybe(operation(key))
        for replica in servers.replicas:
            assert tell(replica, "LLEN", key) == 2001
            assert tell(replica, "LRANGE", key, -1, -1) == ["new"]
    assert calls.of("wait") == [len(operations), 0, 0], "and what brings them waits for nobody"
    far = shards.with_options(min_replicas=3, wait_timeout=0.05)
    for key, operation in (
        (keys[5], far.rpush),
        (keys[6], lambda key, value: far.pipeline().rpush(key, value).execute()),
    ):
        with pytest.raises(TooFewReplicas) as caught:
            await maybe(operation(key, "new"))
        assert caught.value.reply == 2001
    await service.carry()
    for key in keys:
        assert service.plain["a"].llen(key) == 2001
        assert not service.plain["b"].exists(key)


async def test_a_write_that_had_to_be_asked_about_waits_too(service: Service, servers: Any, maybe: Any) -> None:
    """As a module's: what it is, is learnt from the server, by each topology's router for itself."""
    await service.cluster.reshard().initialise()
    shards = await service.client(min_replicas=2, wait_timeout=10.0)
    key = service.key("b")
    await maybe(shards.set(service.key("a"), "v"))
    service.announce([key], "b", "a")
    await service.carry(until="pass 1")
    assert shards.adopt(service.now)
    router = shards.router()
    router._of_first_key.discard("SETRANGE")
    for known in (router._rules, router._kinds._of):
        del known["SETRANGE"]
    calls = Calls(servers)
    assert await maybe(shards.setrange(key, 0, "x")) == 1
    assert (calls.of("setrange"), calls.of("wait")) == ([1, 1, 1], [1, 0, 0])
    assert "SETRANGE" in router._rules
    await service.carry()


async def test_what_is_adopted_keeps_what_stays_and_closes_what_goes(
    service: Service, servers: Any, maybe: Any
) -> None:
    await service.cluster.reshard().initialise()
    primary, (one, two) = servers.primary.url, service.replicas
    shards = await service.client(read_from="replica_preferred", max_lag=30)
    key, b = service.key("a"), service.now.shards["b"].primary
    assert service.made == [primary, one, two, b]
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "v"))
    assert await maybe(shards.get(key)) == "v"
    given, way = shards._servers.given("a"), shards._servers.made["a"]

    async def adopted(change: Callable[[Topology], Topology]) -> None:
        service.now = change(service.now)
        assert shards.adopt(service.now)
        for _ in range(3):
            assert await maybe(shards.get(key)) == "v"

    # Nothing of it is concerned: the very same set, and whoever looks at its replicas goes on.
    await adopted(lambda topology: topology.reweighted("b", 2))
    assert (shards._servers.given("a"), shards._servers.made["a"]) == (given, way)
    await service.flavour.sleep(0.5)  # longer than until it is looked whether something is left over
    gc.collect()
    assert not way._probes._closed
    # One replica leaves: what it had is closed, once nobody of an earlier topology uses it; the others' clients stay.
    await adopted(lambda topology: topology.with_addresses("a", primary, [one]))
    assert list(shards.replicas("a")) == [address(servers.replicas[0])]
    await service.flavour.until(lambda: gc.collect() is not None and service.closed == [two])
    assert way._probes._closed
    assert len(service.made) == 4
    # It returns, and is connected to anew.
    await adopted(lambda topology: topology.with_addresses("a", primary, [one, two]))
    assert service.made[4:] == [two]
    assert shards.on("a") is given.primary
    # A failover by hand: the same servers in other roles need no new client.
    servers.promote(servers.replicas[1])
    servers.wait_ready()
    servers.wait_in_sync()
    await adopted(lambda topology: topology.with_addresses("a", two, [primary, one]))
    assert len(service.made) == 5
    await maybe(shards.with_options(min_replicas=2, wait_timeout=10).set(key, "w"))
    assert tell(servers.primary, "GET", key) == "w"
    assert await maybe(shards.get(key)) == "w"
    servers.promote(servers.nodes[0])
    servers.wait_ready()
    await maybe((getattr(shards, "aclose", None) or shards.close)())
    assert sorted(service.closed) == sorted(service.made)
    assert shards._servers.made["a"]._probes._closed


async def test_many_topologies_leave_nothing_behind(service: Service, servers: Any, maybe: Any) -> None:
    """No connection, thread or task but those of the present one."""
    await service.cluster.reshard().initialise()
    primary, (one, two) = servers.primary.url, service.replicas
    shards = await service.client(read_from="nearest", max_lag=0.4)
    view = shards.with_options(min_replicas=1, wait_timeout=10.0)
    key = service.key("a")

    def connections() -> int:
        listed = [tell(each, "CLIENT", "LIST", "TYPE", "NORMAL") for each in (servers.primary, *servers.replicas)]
        return sum(text.count("\n") for text in listed)

    def working() -> int:
        return len(asyncio.all_tasks()) if service.flavour.is_async else threading.active_count()

    async def turn(replicas: list[str]) -> None:
        service.now = service.now.with_addresses("a", primary, replicas)
        assert shards.adopt(service.now)
        await maybe(view.set(key, "v"))
        assert await maybe(shards.get(key)) == "v"
        assert await maybe(view.get(key)) == "v"

    for replicas in ([one], [two], [one, two]):
        await turn(replicas)
    await service.flavour.until(lambda: gc.collect() is not None and not shards._live._left)
    before, busy = connections(), working()
    for _ in range(12):
        for replicas in ([one], [two], [one, two]):
            await turn(replicas)
    await service.flavour.until(lambda: gc.collect() is not None and not shards._live._left)
    await service.flavour.until(lambda: connections() <= before + 3 and working() <= busy + 2, 30)
    assert len(service.made) - len(service.closed) == 4


async def test_options_of_a_client_that_is_not_kept(
    service: Service, servers: Any, zk_client: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """What has other options follows the topology, also when the client that it was made from is forgotten."""
    await service.cluster.reshard().initialise()
    flavour = service.flavour
    store = flavour.TopologyStore(zk_client(), f"/{coordkit_namespace}/users")
    await maybe(store.create(service.now))
    made = await maybe(flavour.ShardedRedis.from_topology(store, service.connect, balance=RoundRobin))
    view = made.with_options(read_from="replica_preferred").with_options(min_replicas=2, wait_timeout=10)
    assert type(view) is type(made)
    del made
    gc.collect()
    async with flavour.within(store.rebalancer("test")) as leadership:
        topology = await maybe(store.read())
        await maybe(store.publish(topology.reweighted("b", 2), expected=topology, leadership=leadership))
    await flavour.until(lambda: view.epoch == 2)
    key = service.key("a")
    await maybe(view.set(key, "v"))  # and greets
    calls = Calls(servers)
    await maybe(view.set(key, "v"))
    for _ in range(4):
        assert await maybe(view.get(key)) == "v"
    assert (calls.of("get")[0], calls.of("wait")) == (0, [1, 0, 0])
    lock = flavour.Lock(view, f"{{{key}}}", ttl=5)
    async with flavour.within(lock) as lease:
        assert lease.token > 0
    await maybe((getattr(view, "aclose", None) or view.close)())
    assert sorted(service.closed) == sorted(service.made)


async def test_what_can_only_be_mistakes(service: Service, servers: Any, maybe: Any) -> None:
    await service.cluster.reshard().initialise()
    with pytest.raises(ValueError, match=r"shards\['b'\] has no replicas"):
        await service.client(read_from="replica")
    shards = await service.client()
    with pytest.raises(ValueError, match=r"shards\['b'\] has no replicas"):
        shards.with_options(read_from="replica")
    for options in ({"read_from": "x"}, {"min_replicas": -1}, {"wait_timeout": 0}, {"max_lag": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            await service.client(**options)
    with pytest.raises(TypeError, match="balance='x'"):
        await service.client(balance="x")
    nested = ReplicaSet(service.connect("a", servers.primary.url))
    with pytest.raises(TypeError, match=r"shards\['a'\].replicas\[0\]=<ReplicaSet"):
        await service.client(lambda _, at: nested if at in service.replicas else service.connect("", at))


async def test_a_shard_without_replicas_that_comes_later(service: Service, maybe: Any) -> None:
    """It must not keep a client that reads from replicas from adopting what is newer."""
    both = Shard(service.now.shards["b"].primary, service.replicas)  # none of it, and so not read from
    service.now = replace(service.now, shards={**service.now.shards, "b": both})
    await service.cluster.reshard().initialise()
    shards = await service.client(read_from="replica")
    service.now = service.now.with_addresses("b", both.primary)
    assert shards.adopt(service.now)
    with pytest.raises(ShardDown, match="no replica is known"):
        await maybe(shards.get(service.key("b")))
    assert await maybe(shards.set(service.key("b"), 1))
    with pytest.raises(StoreUnavailable):
        await maybe(shards.mget([service.key("b"), service.key("b", 1)]))
