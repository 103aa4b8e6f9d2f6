"""ShardedRedis while its shards change, both flavours, with ZooKeeper: every kind of operation on keys that move."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from typing import Any

import pytest
import redis
import shard_ports
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from coordkit._ports import Call, Script
from coordkit._run import run
from coordkit.core.rebalancing import Rebalancing
from coordkit.errors import (
    CoordError,
    LeadershipLost,
    NotAcquired,
    PartialFailure,
    StoreRefused,
    StoreUnavailable,
    TopologyOutdated,
    TransactionFailed,
)
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence.fence import drop_connections, local_key, raise_epoch
from coordkit.routing.moving.moving import Carrier
from coordkit.testing.processes import start_redis

_SOURCE = "return redis.call('INCR', KEYS[1])"
INCR = Script("incr", _SOURCE, hashlib.sha1(_SOURCE.encode()).hexdigest())  # noqa: S324  as Redis has it

pytestmark = pytest.mark.empties_servers


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
            except (StoreUnavailable, PartialFailure):  # dropped by the fence while it was on its way
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
    own = {local_key(service.name, part) for part in ("epoch", "moves", "settled")}
    assert (
        {local_key(service.name, "epoch"), local_key(service.name, "settled")}
        <= set(service.plain["a"].keys("*"))
        <= own
    )
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


async def test_the_fence_costs_no_command(service: Service, maybe: Any) -> None:
    """Each connection asks once for the epoch: however many commands follow, the shards see those and no others."""
    await service.start()
    await service.resharding(("add", "c", service.urls["c"]), "run")
    shards = await service.client()
    keys = [f"k{i}" for i in range(60)]

    async def work() -> None:
        pipeline = shards.pipeline()
        for key in keys:
            await maybe(shards.incr(key))
            await maybe(shards.eval("return redis.call('STRLEN', KEYS[1])", 1, key))
            pipeline.incr(key)
        await maybe(pipeline.execute())
        await maybe(shards.mget(keys))

    await work()  # by now it is connected with all
    for client in service.plain.values():
        client.config_resetstat()
    await work()

    seen: Counter[str] = Counter()
    for client in service.plain.values():
        stats: Any = client.info("commandstats")
        seen.update({name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()})
    sent = {"incrby": 120, "eval": 60, "strlen": 60, "mget": 3}
    assert {name: seen[name] for name in sent} == sent
    ours = {"info", "config|resetstat", "ping"}  # the test's own, and a container's look at its health
    assert seen["ping"] < len(keys) / 2
    assert set(seen) - set(sent) - ours == set()


async def announced(service: Service, key: str = "") -> tuple[Any, list[str]]:
    """Have a batch announced and begun, by a mover that ends then; return the move and keys of it that have one tag.

    With ``key`` the batch is that key's slot alone.
    """
    await service.resharding(("add", "c", service.urls["c"]))
    async with service.flavour.within(service.store.rebalancer("test")) as leadership:
        now = await service.topology()
        step = ([slot_of(key)], now.owners.lookup(key.encode()), "c") if key else now.plan(16384)[0]
        moving = now.begin_move(*step)
        await service.flavour.maybe(service.store.publish(moving, expected=now, leadership=leadership))
    [move] = moving.moves
    ports = [
        shard_ports.port(service.flavour, shard, service.flavour.redis(service.urls[shard]))
        for shard in (move.source, move.target)
    ]
    for port in ports:
        await raise_epoch(port, service.name, move.number)
        await drop_connections(port, subscribers=True)
    await Carrier(shard_ports.runtime(service.flavour), service.name, move, *ports).begin()
    tag = key or next(tag for i in itertools.count() if slot_of(tag := f"{{ключ{i}}}") in set(move.slots))
    return move, [f"{tag}{i}" for i in range(6)]


@pytest.mark.parametrize("decode", [False, True])
async def test_clients_that_decode_move_bytes(service: Service, maybe: Any, decode: bool) -> None:
    await service.start()
    service.connect = lambda _, address: service.flavour.redis(address, decode_responses=decode)  # type: ignore[method-assign]  # that is the test
    shards = await service.client()
    move, [key, *_] = await announced(service)
    service.plain[move.source].set(key, b"\xff\xfe\x00binary")
    await service.flavour.until(lambda: shards.epoch == move.number)
    assert await maybe(shards.append(key, b"!")) == 10
    assert service.plain["c"].get(key) == b"\xff\xfe\x00binary!"
    assert (await service.resharding("run")).phase == "done"


async def test_every_kind_of_operation_brings_its_keys(service: Service, flavour: Any, maybe: Any) -> None:
    await service.start()
    shards = await service.client()
    move, keys = await announced(service)
    source, target = service.plain[move.source], service.plain["c"]
    script = "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])"

    async def watched() -> Any:
        pipeline = shards.pipeline()
        await maybe(pipeline.watch(keys[0]))
        value = int(await maybe(pipeline.get(keys[0])))
        pipeline.multi()
        pipeline.set(keys[0], value + 1).incr(keys[1])
        return await maybe(pipeline.execute())

    async def in_transaction() -> Any:
        return await maybe(shards.pipeline(transaction=True).incr(keys[0]).incr(keys[1]).execute())

    operations = {
        "single": (lambda: shards.incr(keys[0]), 6),
        "many": (lambda: shards.mget(keys[:3]), [b"5", b"5", b"5"]),
        "split": (lambda: shards.mset({keys[0]: 8, keys[1]: 8}), True),
        "delete": (lambda: shards.delete(*keys[:2]), 2),
        "pipeline": (lambda: shards.pipeline().incr(keys[0]).get(keys[1]).execute(), [6, b"5"]),
        "transaction": (in_transaction, [6, 6]),
        "watch": (watched, [True, 6]),
        "script": (lambda: shards.eval(script, 2, *keys[:2]), 12),
        "registered": (lambda: shards.register_script(script)(keys[:2]), 12),
        "rename": (lambda: shards.rename(keys[0], keys[3]), True),
        "blocking": (lambda: shards.blpop([f"{keys[0]}-list"], timeout=5), (f"{keys[0]}-list".encode(), b"x")),
        "missing": (lambda: shards.get(f"{keys[0]}-none"), None),
    }
    await flavour.until(lambda: shards.epoch == move.number)
    for kind, (operation, expected) in operations.items():
        target.srem(local_key(service.name, f"moved:{move.number}"), *keys, f"{keys[0]}-list", f"{keys[0]}-none")
        target.delete(*keys)
        source.mset(dict.fromkeys(keys[:3], 5))
        source.rpush(f"{keys[0]}-list", "x")
        target.script_flush()  # so that it knows none of ours or of theirs, as one that has just been added
        for carrier in shards._live.now._touch._carriers[1].values():
            carrier._known.keys.clear()
        reply = await maybe(operation())
        assert (tuple(reply) if kind == "blocking" else reply) == expected, kind
        assert target.exists(*keys) > 0 or kind in {"blocking", "missing", "delete"}, kind
    assert (await service.resharding("run")).phase == "done"
    assert not source.exists(*keys)


async def test_what_a_shard_keeps_for_itself_is_not_brought(service: Service, flavour: Any, maybe: Any) -> None:
    """A client that only looks at all keys took the target's moves for those of the source, which has none."""
    await service.start()
    shards = await service.client()
    move, [key, *_] = await announced(service, f"{{{service.name}}}")
    target, moves, epoch = service.plain["c"], local_key(service.name, "moves"), local_key(service.name, "epoch")
    service.plain[move.source].set(key, 1)
    await flavour.until(lambda: shards.epoch == move.number)
    before = target.hgetall(moves)
    assert before
    seen = [each async for each in flavour.each(shards.scan_iter())]
    assert seen == [key.encode()]
    for each in (moves, epoch, *seen):
        await maybe(shards.type(each))
    await maybe(shards.mget([moves.decode() + "x", epoch, key]))
    assert target.hgetall(moves) == before
    assert int(service.plain[move.source].get(epoch)) == int(target.get(epoch)) == move.number
    assert target.get(key) == b"1"
    assert (await service.resharding("run")).phase == "done"


async def test_keys_that_cannot_be_brought_fail_alone(service: Service, flavour: Any, maybe: Any) -> None:
    """A pipeline, and a split, of which one key's move has a source that is down: all else is carried out."""
    await service.start()
    shards = await service.client()
    move, [stuck, *_] = await announced(service)
    await flavour.until(lambda: shards.epoch == move.number)
    slots = set(move.slots)
    here, there = (
        next(key for i in itertools.count() if slot_of(key := f"k{i}") not in slots and shards.shard_for(key) == shard)
        for shard in "ab"
    )
    number, moment = move.number, shards._live.now
    await maybe(shards.get(stuck + "-other"))  # makes the carrier

    async def ensure(_keys: Any) -> None:
        raise StoreUnavailable(move.source, "it is down")

    carrier = moment._touch._carriers[1][number]
    carrier.ensure = ensure
    pipeline = shards.pipeline().set(here, 1).incr(stuck).mset({there: 2, here: 3}).dbsize().incr(there)
    done, failed, split, size, last = await maybe(pipeline.execute(raise_on_error=False))
    assert (done, split, last) == (True, True, 3)
    assert isinstance(failed, StoreUnavailable)
    assert size > 0
    with pytest.raises(PartialFailure) as partial:
        await maybe(shards.mget([here, stuck, there]))
    assert partial.value.ok == {here: b"3", there: b"3"}
    assert list(partial.value.failed) == [stuck]
    with pytest.raises(StoreUnavailable, match="it is down"):
        await maybe(shards.pipeline(transaction=True).incr(stuck).execute())
    del carrier.ensure
    assert await maybe(shards.incr(stuck)) == 1, "nothing of it was sent"


@pytest.mark.parametrize("queued", [False, True])
async def test_a_watch_ends_if_the_shard_that_is_asked_about_a_command_knows_more(
    service: Service, flavour: Any, maybe: Any, queued: bool
) -> None:
    """It is another shard than that of the watch, whose connection is whole: no internal error tells of that."""
    await service.start()
    shards = await service.client(patience=0.5)
    key = next(key for i in itertools.count() if shards.shard_for(key := f"k{i}") == "b")
    pipeline = shards.pipeline()
    await maybe(pipeline.watch(key))
    service.plain["a"].incrby(local_key(service.name, "epoch"), 10)
    service.plain["a"].execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    if queued:
        pipeline.multi()
        pipeline.execute_command("OF.A.MODULE", key)
    with pytest.raises(StoreUnavailable, match="its WATCH with it: reset"):
        await maybe(pipeline.execute() if queued else pipeline.execute_command("OF.A.MODULE", key))
    await maybe(pipeline.reset())
    await maybe(pipeline.watch(key))
    assert await maybe(pipeline.get(key)) is None
    await maybe(pipeline.reset())


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


@pytest.mark.parametrize(("weight", "which"), [(2, "target"), (0.5, "source")])
async def test_who_moves_slots_takes_no_shard_for_well_that_has_lost_its_epoch(
    service: Service, maybe: Any, weight: float, which: str
) -> None:
    """It was restored from an older copy: a move would raise its epoch, and have it served with what it has."""
    await service.start()
    await service.resharding(("add", "c", service.urls["c"]), "run")
    epoch, before = local_key(service.name, "epoch"), await service.topology()
    service.plain["c"].set(epoch, 1)
    with pytest.raises(StoreRefused, match=rf"^c: it knows epoch 1 .*, and was told {before.shards['c'].fenced}"):
        await service.resharding(("reweight", "c", weight), "run")
    assert service.plain["c"].get(epoch) == b"1"
    shards = await service.client()
    key = next(key for i in itertools.count() if shards.shard_for(key := f"k{i}") == "c")
    with pytest.raises(StoreRefused, match="was told"):
        await maybe(shards.set(key, 1))
    await service.resharding(("repair", "c"), "run")
    assert (await service.topology()).plan() == []
    assert await maybe(shards.set(key, 1))


async def test_it_serves_on_while_zookeeper_is_away(
    service: Service, flavour: Any, maybe: Any, zk_servers: Any, coordkit_faults: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Over new connections, too: what they ask is on the shards. What moves meanwhile is not sent to where it was."""
    await service.start()
    proxy = coordkit_faults.proxy(zk_servers)
    store = flavour.TopologyStore(service.zk_client(timeout=1.0, hosts=proxy.address), service.path)
    shards = await maybe(flavour.ShardedRedis.from_topology(store, service.connect, poll=0.2, patience=0.3))
    flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
    counted: Counter[str] = Counter()

    async def count(number: int) -> None:
        key = f"k{number % 20}"
        await maybe(shards.incr(key))
        counted[key] += 1

    def said(text: str) -> bool:
        return any(text in (line := record.getMessage()) and service.path in line for record in list(caplog.records))

    proxy.cut()
    await flavour.until(lambda: said("not followed for now, epoch 1 is served on"))
    for _ in range(3):
        for number in range(40):
            await count(number)
        for client in service.plain.values():
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for key in counted:
            with contextlib.suppress(StoreUnavailable):  # who hears of it first
                await maybe(shards.get(key))
    await service.resharding(("add", "c", service.urls["c"]), "run")
    assert shards.epoch == 1
    for shard in "ab":
        with contextlib.suppress(StoreUnavailable):  # the same
            await maybe(shards.get(next(key for key in counted if shards.shard_for(key) == shard)))
    for number in range(3):
        with pytest.raises(TopologyOutdated, match="is ZooKeeper reachable"):
            await maybe(shards.incr(f"k{number}"))
    proxy.heal()
    await flavour.until(lambda: shards.epoch > 1, 20)
    for number in range(40):
        await count(number)
    assert {key: int(await maybe(shards.get(key))) for key in counted} == counted


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


@pytest.mark.parametrize("kind", ["single", "pipeline", "watch", "of many locks"])
async def test_what_was_brought_is_not_relied_on_after_the_target_has_lost_it(
    service: Service, flavour: Any, maybe: Any, kind: str, monkeypatch: Any
) -> None:
    """A target that starts anew without its last writes: the key is at the source as it was, and is brought again."""
    await service.start()
    shards = await service.client()
    with start_redis() as target, redis.Redis.from_url(target.url) as plain:
        monkeypatch.setitem(service.urls, "c", target.url)
        monkeypatch.setitem(service.plain, "c", plain)
        move, keys = await announced(service)
        source = service.plain[move.source]
        store = flavour.Fence(shards, "any")._core._store
        count = Call(INCR, (keys[0].encode(),), ())
        for key in keys:
            source.set(key, 1000)
        await flavour.until(lambda: shards.epoch == move.number)

        async def watched() -> Any:
            pipeline = shards.pipeline()
            await maybe(pipeline.watch(keys[0]))
            value = int(await maybe(pipeline.get(keys[0])) or 0)
            pipeline.multi()
            pipeline.set(keys[0], value + 1).get(keys[0])
            return int((await maybe(pipeline.execute()))[1])

        async def first(call: Any) -> Any:
            return (await maybe(call))[0]

        async def last(call: Any) -> Any:
            [reply] = await call
            if isinstance(reply, Exception):
                raise reply
            return reply

        operations = {
            "single": lambda: shards.incr(keys[0]),
            "pipeline": lambda: first(shards.pipeline().incr(keys[0]).incr(keys[1]).execute()),
            "watch": watched,
            "of many locks": lambda: last(store.run_many([("any", count)])),
        }
        operation = operations[kind]
        plain.save()
        before = [int(await maybe(operation())) for _ in range(2)]
        target.restart()
        after = 0
        while not after:
            with contextlib.suppress(StoreUnavailable):  # the first who comes to know of it
                after = int(await maybe(operation()))
        assert (before, after) == ([1001, 1002], 1001)
        assert (await service.resharding("run")).phase == "done"
        assert int(plain.get(keys[0])) == after
        assert int(plain.get(keys[5])) == 1000


async def test_a_sort_by_keys_that_it_does_not_name_is_refused_while_they_move(service: Service, maybe: Any) -> None:
    """They may be at the source yet: it would be in the wrong order, without a word."""
    await service.start()
    shards = await service.client()
    move, keys = await announced(service)
    tag = keys[0][:-1]
    service.plain[move.source].rpush(f"{tag}l", 1, 2, 3)
    for at in (1, 2, 3):
        service.plain[move.source].set(f"{tag}w{at}", 40 - at)
    stays = next(f"{{s{i}}}" for i in range(999) if slot_of(f"{{s{i}}}") not in set(move.slots))
    await maybe(shards.rpush(f"{stays}l", 1, 2, 3))
    await maybe(shards.mset({f"{stays}w{at}": 40 - at for at in (1, 2, 3)}))
    for options in ({"by": f"{tag}w*"}, {"get": f"{tag}w*"}, {"by": f"{tag}w*", "store": f"{tag}out"}):
        with pytest.raises(StoreUnavailable, match=r"^SORT: .*their slot .* moves to 'c' just now.*nothing was sent"):
            await maybe(shards.sort(f"{tag}l", **options))
        with pytest.raises(StoreUnavailable, match="nothing was sent"):
            await maybe(shards.pipeline().sort(f"{tag}l", **options).execute())
    assert await maybe(shards.sort(f"{tag}l", desc=True)) == [b"3", b"2", b"1"]
    assert await maybe(shards.sort(f"{stays}l", by=f"{stays}w*")) == [b"3", b"2", b"1"]
    await service.resharding("run")
    assert await maybe(shards.sort(f"{tag}l", by=f"{tag}w*")) == [b"3", b"2", b"1"]


async def test_what_was_written_since_it_was_read_is_not_overwritten(
    service: Service, flavour: Any, maybe: Any
) -> None:
    """Also by a change of several epochs, which comes after the one that was written meanwhile by its number."""
    await service.start()
    async with flavour.within(service.store.rebalancer("test")) as leadership:
        ledger = Rebalancing(service.store._core, leadership._core)
        before = await service.topology()
        await maybe(service.store.publish(before.draining("a"), expected=before, leadership=leadership))
        following = before.draining("b").undrained("b").reweighted("b", 2)
        write = ledger.write(following, before)
        with pytest.raises(TransactionFailed):
            await write if flavour.is_async else run(write)
    assert (await service.topology()).shards["a"].state == "draining"
