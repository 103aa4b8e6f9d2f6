"""ShardedRedis while its shards change, both flavours, with ZooKeeper: every kind of operation on keys that move."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from coordkit.errors import CoordError, LeadershipLost, NotAcquired, PartialFailure, StoreRefused, StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence import local_key


class Service:
    """Three servers, of which two are shards; a topology in ZooKeeper; clients of one flavour."""

    def __init__(self, flavour: Any, urls: list[str], zk_client: Any, name: str) -> None:
        self.flavour, self.name = flavour, name
        self.urls = dict(zip("abc", urls, strict=True))
        self.path = f"/{name}/users"
        self.store = flavour.TopologyStore(zk_client(), self.path)
        self.zk_client = zk_client
        self.plain = {
            shard: redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.01), 50)) for shard, url in self.urls.items()
        }
        for client in self.plain.values():
            client.flushdb()

    def connect(self, _shard: str, address: str) -> Any:
        return self.flavour.redis(address, socket_timeout=10)

    async def start(self) -> None:
        first = Topology.first(self.name, {shard: self.urls[shard] for shard in "ab"})
        await self.flavour.maybe(self.store.create(first))
        await self.resharding("initialise")

    async def client(self, **options: Any) -> Any:
        store = self.flavour.TopologyStore(self.zk_client(), self.path)
        maybe = self.flavour.maybe
        shards = await maybe(self.flavour.ShardedRedis.from_topology(store, self.connect, poll=1.0, **options))
        self.flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
        return shards

    async def resharding(self, *steps: Any, **options: Any) -> Any:
        """Take steps, each the name of a method or that with arguments, as an elected rebalancer; return the last."""
        maybe, result = self.flavour.maybe, None
        async with self.flavour.within(self.store.rebalancer("test")) as leadership:
            made = self.flavour.Reshard(self.store, leadership, self.connect, **{"batch": 4000, **options})
            async with self.flavour.within(made) as reshard:
                for step in steps:
                    name, *arguments = (step,) if isinstance(step, str) else step
                    result = await maybe(getattr(reshard, name)(*arguments))
        return result

    async def topology(self) -> Topology:
        return await self.flavour.maybe(self.store.read())


@pytest.fixture
def service(flavour: Any, coordkit_redis_shards: Any, zk_client: Any, coordkit_namespace: str) -> Any:
    made = Service(flavour, [server.url for server in coordkit_redis_shards], zk_client, coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
        client.close()


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


async def test_counters_while_a_shard_comes_and_goes(service: Service, flavour: Any, maybe: Any) -> None:
    """Single commands, splits, pipelines, transactions and scripts, by clients that follow and one that is deaf."""
    await service.start()
    clients = [await service.client() for _ in range(2)]
    counted: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    ended: list[bool] = []
    script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"

    async def work(number: int) -> None:
        shards, tag = clients[number], f"{{w{number}"
        for turn in itertools.count():
            if ended and turn > 40:
                return
            keys = [f"{tag}-{(turn * 3 + i) % 50}}}" for i in range(3)]
            one = keys[0]
            pipeline, transaction = shards.pipeline(), shards.pipeline(transaction=True)
            for key in keys:
                pipeline.incr(key)
            transaction.incr(one).incr(one)
            kinds = [
                ({one: 1}, lambda one=one: shards.incr(one)),
                (dict.fromkeys(keys, 1), lambda pipeline=pipeline: pipeline.execute()),
                ({one: 2}, lambda transaction=transaction: transaction.execute()),
                ({one: 3}, lambda one=one: shards.eval(script, 1, one, 3)),
            ]
            adds, call = kinds[turn % 4]
            try:
                await maybe(call())
            except StoreUnavailable:  # dropped by the fence while it was on its way
                unknown.update(adds)
            else:
                counted.update(adds)
            with contextlib.suppress(StoreUnavailable, PartialFailure):  # the same
                assert len(await maybe(shards.mget(keys))) == 3

    working = [flavour.spawn(work, number) for number in range(2)]
    try:
        progress = await service.resharding(("add", "c", service.urls["c"]), "run", ("drain", "a"), "run")
    finally:
        ended.append(True)
    for each in working:
        await each.result()
    assert progress.phase == "done"
    topology = await service.topology()
    assert list(topology.shards) == ["b", "c"]
    assert service.plain["a"].keys("*") == [local_key(service.name, "epoch")] or set(service.plain["a"].keys("*")) == {
        local_key(service.name, "epoch"),
        local_key(service.name, "moves"),
    }
    assert sum(counted.values()) > 100
    for key, count in counted.items():
        there = int(service.plain[topology.owners.lookup(key)].get(key) or 0)
        assert count <= there <= count + unknown[key], key
    for shards in clients:
        values = await maybe(shards.mget(sorted(counted)))
        assert [int(value) for value in values] == [
            int(service.plain[topology.owners.lookup(key)].get(key)) for key in sorted(counted)
        ]
        assert await maybe(shards.dbsize()) >= len(counted)


async def test_a_client_that_has_heard_nothing_adopts_before_it_writes(
    service: Service, flavour: Any, maybe: Any
) -> None:
    """Its connections were dropped while it was idle; each kind of operation finds the new owner, and is sent once."""
    await service.start()
    shards = await service.client()
    shards._following._worker.poke, poke = (lambda: None), shards._following._worker.poke
    first = await service.topology()
    grown = first.with_shard("c", service.urls["c"])
    going = {slot: step for step in grown.plan(16384) for slot in step.slots}
    keys = [key for i in range(4000) if slot_of(key := f"k{i}") in going][:60]
    for key in keys:
        await maybe(shards.set(key, 0))
    await service.resharding(("add", "c", service.urls["c"]), "run")
    assert shards.epoch == first.epoch
    shards._following._worker.poke = poke
    assert await maybe(shards.incr(keys[0])) == 1
    assert shards.epoch > first.epoch
    pipeline = shards.pipeline()
    for key in keys:
        pipeline.incr(key)
    assert await maybe(pipeline.execute()) == [2] + [1] * (len(keys) - 1)
    assert {service.plain["c"].get(key) for key in keys[1:]} == {b"1"}
    assert service.plain["a"].exists(*keys) == service.plain["b"].exists(*keys) == 0


@pytest.mark.parametrize("decode", [False, True])
async def test_clients_that_decode_move_bytes(service: Service, maybe: Any, decode: bool) -> None:
    await service.start()
    service.connect = lambda _, address: service.flavour.redis(address, decode_responses=decode)  # type: ignore[method-assign]  # that is the test
    shards = await service.client()
    topology = await service.topology()
    step = topology.with_shard("c", service.urls["c"]).plan(16384)[0]
    key = next(key for i in itertools.count() if slot_of(key := f"ключ{i}") in set(step.slots))
    service.plain[step.source].set(key, b"\xff\xfe\x00binary")
    await service.resharding(("add", "c", service.urls["c"]))
    async with service.flavour.within(service.store.rebalancer("test")) as leadership:
        moving = (await service.topology()).begin_move(step.slots, step.source, step.target)
        now = await service.topology()
        await maybe(service.store.publish(moving, expected=now, leadership=leadership))
    # The mover ends here; the client waits for another one, which opens the move, and then brings its key itself.
    import shard_ports

    from coordkit.routing.moving import Carrier

    ports = {s: shard_ports.port(service.flavour, s, service.flavour.redis(service.urls[s])) for s in "abc"}
    carrier = Carrier(
        shard_ports.runtime(service.flavour), service.name, moving.moves[0], ports[step.source], ports["c"]
    )
    await carrier.begin()
    await service.flavour.until(lambda: shards.epoch == moving.epoch)
    assert await maybe(shards.append(key, b"!")) == 10
    assert service.plain["c"].get(key) == b"\xff\xfe\x00binary!"
    assert not service.plain[step.source].exists(key)
    assert (await service.resharding("run")).phase == "done"


async def test_one_rebalancer_at_a_time(service: Service, flavour: Any, maybe: Any) -> None:
    await service.start()
    other = flavour.TopologyStore(service.zk_client(), service.path)
    async with flavour.within(service.store.rebalancer("one")) as leadership:
        with pytest.raises(NotAcquired):
            async with flavour.within(other.rebalancer("two").lead(timeout=0)):
                pass
        reshard = flavour.Reshard(service.store, leadership, service.connect)
        await maybe(leadership.resign())
        with pytest.raises((LeadershipLost, CoordError)):
            await maybe(reshard.drain("a"))
        with pytest.raises((LeadershipLost, CoordError)):
            await maybe(reshard.run())
    assert (await service.topology()).epoch == 1


async def test_a_shard_that_was_wiped_is_refused_until_it_is_repaired(
    service: Service, flavour: Any, maybe: Any
) -> None:
    await service.start()
    await service.resharding(("add", "c", service.urls["c"]), "run")
    shards = await service.client()
    key = next(key for i in itertools.count() if shards.shard_for(key := f"k{i}") == "c")
    service.plain["c"].flushall()
    service.plain["c"].execute_command("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises((StoreRefused, StoreUnavailable)):
        await maybe(shards.set(key, 1))
    with pytest.raises(StoreRefused, match="coordkit reshard repair c"):
        await maybe(shards.set(key, 1))
    with pytest.raises(StoreRefused, match="knows no epoch"):
        await service.resharding("initialise")
    service.plain["c"].set(local_key(service.name, "epoch"), 1)
    with pytest.raises(StoreRefused, match="was told"):
        await maybe(shards.set(key, 1))
    await service.resharding(("repair", "c"))
    assert await maybe(shards.set(key, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch=0; 1 to 16384"),
        ({"batch": "1"}, TypeError, "batch='1'"),
        ({"keys_per_second": 0}, ValueError, "keys_per_second=0"),
        ({"lease": -1}, ValueError, "lease must be"),
        ({"on_progress": 1}, TypeError, "on_progress must be"),
    ],
)
async def test_arguments_that_can_only_be_mistakes(
    service: Service, flavour: Any, options: Any, error: Any, message: str
) -> None:
    await service.start()
    async with flavour.within(service.store.rebalancer("test")) as leadership:
        with pytest.raises(error, match=message):
            flavour.Reshard(service.store, leadership, service.connect, **options)
