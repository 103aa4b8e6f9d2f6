"""Resharding by a user who may not CLIENT KILL: the weaker barrier, with ZooKeeper and clients in other processes.

It waits until every registered client has adopted the change, and ``lease`` seconds longer. What that gives, and what
it does not give, is said in ``routing/fence/barrier.py``, whose unit tests have the times.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordkit.errors import StoreUnavailable
from coordkit.routing import Topology
from coordkit.routing.fence.fence import local_key

pytestmark = pytest.mark.empties_servers

USER = "weak"
FORBIDDEN = {"kill": ["-client|kill"], "client": ["-client"]}  # the latter: nor LIST, nor anything of CLIENT

CONNECT = f"""
import redis, redis.asyncio
from coordkit.errors import StoreUnavailable

store = flavour.TopologyStore(zk, path)
kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

def connect(_shard, url):
    return kind.from_url(url, username={USER!r}, password="any", socket_timeout=10)

async def connected():
    return await flavour.maybe(flavour.ShardedRedis.from_topology(store, connect, poll=0.2))
"""

# Counts on its own counters until it hears a line, and says what it has counted.
COUNTING = (
    CONNECT
    + """
async def work():
    shards = await connected()
    counted, unknown, ended, turn = {}, {}, [], 0
    threading.Thread(target=lambda: ended.append(heard()), daemon=True).start()
    while not ended:
        key = f"p{os.getpid()}-{turn % 40}"
        turn += 1
        try:
            await flavour.maybe(shards.incr(key))
        except StoreUnavailable:
            unknown[key] = unknown.get(key, 0) + 1
        else:
            counted[key] = counted.get(key, 0) + 1
        if turn == 80:
            say("warm")
    say(json.dumps([counted, unknown, shards.epoch]))
    await flavour.maybe((getattr(shards, "aclose", None) or shards.close)())

flavour.run(work())
"""
)

# Counts once on each line, which is a key; stops itself when it has decided where that goes, if it was told to.
STOPPING = (
    CONNECT
    + """
from coordkit.routing.commands.router import Router

route, stops = Router.route, []

def deciding(self, key):
    shard = route(self, key)
    if stops:
        stops.clear()
        os.kill(os.getpid(), signal.SIGSTOP)
    return shard

Router.route = deciding

async def work():
    shards = await connected()
    say("warm")
    while (line := heard()):
        key, _, stop = line.partition(" ")
        if stop:
            stops.append(stop)
        try:
            say(await flavour.maybe(shards.incr(key)))
        except StoreUnavailable as error:
            say("unknown", str(error).replace(chr(10), " "))

flavour.run(work())
"""
)


class Service:
    """Two shards and a third server, a user of few rights on each, and the topology in ZooKeeper."""

    def __init__(self, flavour: Any, urls: list[str], zk_client: Any, name: str) -> None:
        self.flavour, self.name = flavour, name
        self.urls = dict(zip("abc", urls, strict=True))
        self.plain = {shard: redis.Redis.from_url(url) for shard, url in self.urls.items()}
        self.store = flavour.TopologyStore(zk_client(), f"/{name}/x")  # as the programs have it
        for client in self.plain.values():
            client.flushdb()

    async def start(self, forbidden: str) -> None:
        commands = ["+@all", *FORBIDDEN.get(forbidden, [])]
        for client in self.plain.values():
            client.acl_setuser(
                USER, enabled=True, nopass=True, keys=["*"], channels=["*"], commands=commands, reset=True
            )
        first = Topology.first(self.name, {shard: self.urls[shard] for shard in "ab"})
        await self.flavour.maybe(self.store.create(first))
        await self.resharding("initialise")

    def close(self) -> None:
        for client in self.plain.values():
            client.flushdb()
            client.acl_deluser(USER)
            client.close()

    def connect(self, _shard: str, address: str) -> Any:
        return self.flavour.redis(address, username=USER, password="any", socket_timeout=10)

    async def resharding(self, *steps: Any, **options: Any) -> Any:
        """Take steps, each the name of a method or that with arguments, as an elected rebalancer; return the last."""
        maybe, result = self.flavour.maybe, None
        async with self.flavour.within(self.store.rebalancer("test")) as leadership:
            options = {"batch": 16384, "lease": 0.3, **options}
            async with self.flavour.within(
                self.flavour.Reshard(self.store, leadership, self.connect, **options)
            ) as reshard:
                for step in steps:
                    name, *arguments = (step,) if isinstance(step, str) else step
                    result = await maybe(getattr(reshard, name)(*arguments))
        return result

    async def there(self, key: str) -> int:
        """Return what a counter stands at on its owner."""
        topology = await self.flavour.maybe(self.store.read())
        return int(self.plain[topology.owners.lookup(key)].get(key) or 0)

    async def check(self, counted: dict[str, int], unknown: dict[str, int]) -> None:
        """Each counter stands at what was acknowledged, or that and what nobody can know."""
        assert sum(counted.values()) > 50
        for key, count in counted.items():
            assert count <= await self.there(key) <= count + unknown.get(key, 0), key


@pytest.fixture
def zk_servers(coordkit_zk_server: Any) -> Any:
    return coordkit_zk_server


@pytest.fixture
def service(flavour: Any, coordkit_redis_shards: Any, zk_client: Any, coordkit_namespace: str) -> Iterator[Service]:
    made = Service(flavour, [server.url for server in coordkit_redis_shards], zk_client, coordkit_namespace)
    yield made
    made.close()


def warnings(caplog: Any) -> list[str]:
    return [line for line in caplog.messages if "a weaker barrier takes the place of the fence" in line]


@pytest.mark.parametrize("forbidden", list(FORBIDDEN))
async def test_clients_that_follow_lose_nothing(service: Service, program: Any, caplog: Any, forbidden: str) -> None:
    """They count on while a shard comes; it is said that the barrier is the weaker one, and it has waited for them."""
    await service.start(forbidden)
    workers = [program(COUNTING) for _ in range(2)]
    for worker in workers:
        assert worker.line() == "warm"

    progress = await service.resharding(("add", "c", service.urls["c"]), "run")

    assert (progress.phase, progress.weaker, progress.as_dict()["weaker_barrier"]) == ("done", True, True)
    assert progress.keys > 0
    said = [line.partition(",")[0] for line in warnings(caplog)]
    assert said == ["CLIENT KILL is forbidden on a and c", "CLIENT KILL is forbidden on b"]
    for worker in workers:
        worker.tell("end")
        counted, unknown, epoch = json.loads(worker.line())
        assert epoch >= 5  # added, two moves begun and one finished: it has followed
        await service.check(counted, unknown)
    assert service.plain["c"].keys("p*")


async def test_who_does_not_acknowledge_holds_the_move_up(service: Service, program: Any, flavour: Any) -> None:
    """Until patience is over, which is said with its name; then until it runs on, and nothing is lost."""
    await service.start("kill")
    workers = [program(COUNTING, timeout=4.0) for _ in range(2)]  # the session of the one that is stopped lasts so long
    for worker in workers:
        assert worker.line() == "warm"
    maybe = flavour.maybe
    await flavour.until(lambda: len(service.plain["a"].keys("p*")) > 20)
    await service.resharding(("add", "c", service.urls["c"]))
    os.kill(workers[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match=r"\(1 in all\) have not adopted epoch 3 .*CLIENT KILL is forbidden"):
            await service.resharding("run", patience=0.3)
        [move] = (await maybe(service.store.read())).moves
        assert not service.plain[move.target].exists(local_key(service.name, "moves"))  # it has not begun
        assert service.plain[move.target].keys("p*") == []
        waiting = flavour.spawn(lambda: service.resharding("run"))
        behind = [name for name, epoch in (await maybe(service.store.clients())).items() if epoch < move.number]
        assert len(behind) == 1
    finally:
        os.kill(workers[0].pid, signal.SIGCONT)
    assert (await waiting.result()).phase == "done"
    for worker in workers:
        worker.tell("end")
        counted, unknown, _ = json.loads(worker.line())
        await service.check(counted, unknown)


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)
@pytest.mark.parametrize("forbidden", ["", "kill"])
async def test_who_is_stopped_for_longer_may_lose_a_write(
    service: Service, program: Any, flavour: Any, forbidden: str
) -> None:
    """What the warning says: past its session and the lease nobody waits for it. With CLIENT KILL nothing is lost."""
    await service.start(forbidden)
    worker = program(STOPPING, timeout=0.5)
    assert worker.line() == "warm"
    goal = (await flavour.maybe(service.store.read())).with_shard("c", service.urls["c"]).goal()
    key = next(key for key in (f"n{i}" for i in range(1000)) if goal.lookup(key) == "c")
    worker.tell(key)
    assert worker.line() == "1"
    worker.tell(f"{key} stop")
    await flavour.until(lambda: _state(worker.pid) == "T")
    try:
        progress = await service.resharding(("add", "c", service.urls["c"]), "run")
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert progress.weaker is bool(forbidden)
    answer = worker.line()
    if forbidden:
        assert answer == "1"  # counted anew, at a shard that owns it no more
        assert await service.there(key) == 1
    else:
        assert answer.partition(" ")[0] in {"2", "unknown"}
        assert await service.there(key) == (2 if answer == "2" else 1)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("forbidden", ["", "kill"])
async def test_who_waits_listens_or_watches_at_the_old_owner(
    service: Service, flavour: Any, zk_client: Any, forbidden: str
) -> None:
    """Under the fence it is dropped; else its own client sees to it. Nobody waits for ever, and no item is lost."""
    await service.start(forbidden)
    maybe = flavour.maybe

    def connect(_shard: str, address: str) -> Any:
        return flavour.redis(address, username=USER, password="any", socket_timeout=None)

    store = flavour.TopologyStore(zk_client(), service.store.path)
    shards = await maybe(flavour.ShardedRedis.from_topology(store, connect, poll=0.2))
    flavour.on_exit(getattr(shards, "aclose", None) or shards.close)
    goal = (await maybe(service.store.read())).with_shard("c", service.urls["c"]).goal()
    queue, absent, channel = [key for key in map("n{}".format, range(1000)) if goal.lookup(key) == "c"][:3]
    old = shards.shard_for(queue)

    waiting = flavour.spawn(lambda: maybe(shards.blpop(queue, timeout=0)))
    pipe = shards.pipeline(transaction=True)
    await maybe(pipe.watch(absent))
    pipe.multi()
    pipe.set(absent, "mine")
    pubsub = shards.pubsub(ignore_subscribe_messages=True)
    flavour.on_exit(pubsub.aclose if flavour.is_async else pubsub.close)
    await maybe(pubsub.subscribe(channel))
    await flavour.until(lambda: service.plain[old].info("clients")["blocked_clients"] == 1)

    progress = await service.resharding(("add", "c", service.urls["c"]), "run")

    assert progress.weaker is bool(forbidden)
    with pytest.raises(StoreUnavailable):
        await waiting.result()
    assert await maybe(shards.rpush(queue, "item")) == 1
    assert (await maybe(shards.blpop(queue, timeout=0)))[1] == b"item"
    assert service.plain[old].info("clients")["blocked_clients"] == 0
    assert await maybe(shards.set(absent, "theirs")) is True
    with pytest.raises(StoreUnavailable):
        await maybe(pipe.execute())
    assert service.plain["c"].get(absent) == b"theirs"
    assert [service.plain[shard].exists(absent) for shard in "ab"] == [0, 0]

    async def heard() -> bool:
        await maybe(shards.publish(channel, "word"))
        try:
            return (await maybe(pubsub.get_message(timeout=0.2)) or {}).get("data") == b"word"
        except StoreUnavailable:  # of the connection that was dropped
            return False

    await flavour.until(heard)
