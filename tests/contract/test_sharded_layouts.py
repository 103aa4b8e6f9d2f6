"""ShardedRedis as people run it: three shards, five, shards with replicas, shards behind Sentinels; both flavours.

Where replicas are read from, all reads are theirs, and each write waits until the replica of its shard has it: so every
test holds there as well.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis.exceptions
from deployed import Deployed

from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing import ReplicaSet
from coordkit.testing.deployments import tell

pytestmark = pytest.mark.empties_servers

LAYOUTS = {
    "three": "coordkit_redis_shards",
    "five": "coordkit_redis_quorum",
    "replicas": "coordkit_redis_sentinel_shards",  # without asking the Sentinels
    "sentinel": "coordkit_redis_sentinel_shards",
    "reads from replicas": "coordkit_redis_sentinel_shards",  # by their addresses
    "reads from sentinel's": "coordkit_redis_sentinel_shards",
}
READING = {"read_from": "replica", "min_replicas": 1, "wait_timeout": 10}


class Layout:
    """Shards of one kind, as a test in one flavour reaches them."""

    def __init__(self, flavour: Any, kind: str, servers: Any) -> None:
        self.kind = kind
        self.servers = dict(zip("abcde", servers, strict=False))
        self._flavour = flavour

    def shards(self, **options: Any) -> Any:
        """Return a ShardedRedis with clients of its own."""
        options = {"socket_timeout": 5, "socket_connect_timeout": 5, **options}
        terms: Any = READING if self.kind.startswith("reads") else {}
        made = self._flavour.ShardedRedis(
            {name: self._shard(one, options) for name, one in self.servers.items()}, **terms
        )
        if terms:  # what looks at replicas goes on until then
            self._flavour.on_exit(made.aclose if self._flavour.is_async else made.close)
        return made

    def _shard(self, server: Any, options: dict[str, Any]) -> Any:
        if self.kind == "reads from replicas":
            nodes = [server.primary(), *server.replicas()]
            primary, *replicas = (Deployed(self._flavour, "standalone", node).redis(**options) for node in nodes)
            return ReplicaSet(primary, replicas)
        if self.kind == "reads from sentinel's":
            return Deployed(self._flavour, "sentinel", server).replica_set(**options)
        return self._client(server, options)

    def _client(self, server: Any, options: dict[str, Any]) -> Any:
        kind = "sentinel" if self.kind == "sentinel" else "standalone"
        return Deployed(self._flavour, kind, server.primary() if self.kind == "replicas" else server).redis(**options)


@pytest.fixture(params=LAYOUTS)
def layout(request: Any, flavour: Any) -> Layout:
    return Layout(flavour, request.param, request.getfixturevalue(LAYOUTS[request.param]))


@pytest.fixture
def sentinels(request: Any, flavour: Any) -> Layout:
    return Layout(flavour, "sentinel", request.getfixturevalue(LAYOUTS["sentinel"]))


@pytest.fixture
def replicas(request: Any, flavour: Any) -> Layout:
    return Layout(flavour, "replicas", request.getfixturevalue(LAYOUTS["replicas"]))


@pytest.fixture
def keys(coordkit_namespace: str) -> list[str]:
    return [f"{coordkit_namespace}:{i}" for i in range(60)]


async def test_keys_are_spread_and_found(flavour: Any, layout: Layout, maybe: Any, keys: list[str]) -> None:
    shards = layout.shards(decode_responses=True)
    assert await maybe(shards.mset({key: i for i, key in enumerate(keys)})) is True
    found = await maybe(shards.on_all("KEYS", f"{keys[0][:-2]}*"))
    assert set(found) == set(layout.servers)
    assert all(found.values())
    assert sorted(key for some in found.values() for key in some) == sorted(keys)
    assert {key: shard for shard, some in found.items() for key in some} == {key: shards.shard_for(key) for key in keys}
    assert await maybe(shards.mget(keys)) == [str(i) for i in range(len(keys))]
    pipe = shards.pipeline()
    for key in keys:
        pipe.incr(key)
    assert await maybe(pipe.execute()) == [i + 1 for i in range(len(keys))]
    assert await maybe(shards.transaction(lambda pipe: pipe.incr(keys[0]).incr(keys[0]))) == [2, 3]
    assert await maybe(shards.eval("return redis.call('GET', KEYS[1])", 1, keys[1])) == "2"
    assert await maybe(shards.delete(*keys)) == len(keys)


async def test_what_is_without_a_key_is_merged_or_told_by_shard(
    flavour: Any, layout: Layout, maybe: Any, keys: list[str], coordkit_namespace: str
) -> None:
    shards, names, pattern = layout.shards(decode_responses=True), set(layout.servers), f"{coordkit_namespace}:*"
    assert await maybe(shards.randomkey()) is None or await maybe(shards.dbsize())
    await maybe(shards.mset(dict.fromkeys(keys, "v")))
    assert sorted(await maybe(shards.keys(pattern))) == sorted(keys)
    assert await maybe(shards.dbsize()) == sum((await maybe(shards.on_all("DBSIZE"))).values()) >= len(keys)
    assert await maybe(shards.randomkey()) is not None
    assert sorted([key async for key in flavour.each(shards.scan_iter(pattern, count=7))]) == sorted(keys)
    cursor, scanned, calls = 0, [], 0
    while calls == 0 or cursor:
        cursor, some = await maybe(shards.scan(cursor, match=pattern, count=1000))
        scanned, calls = scanned + some, calls + 1
        assert isinstance(cursor, int)
    assert sorted(scanned) == sorted(keys)
    assert calls >= len(names)
    replies = await maybe(shards.pipeline().scan(0, match=pattern).dbsize().time().execute())
    assert replies[0][0] > 0
    assert set(replies[2]) == names
    with pytest.raises(ValueError, match="on the same shards"):
        await maybe(shards.scan(17))
    for by_shard in (
        shards.info(), shards.time(), shards.lastsave(), shards.role(), shards.client_list(), shards.slowlog_get(),
        shards.config_get("maxmemory"), shards.memory_stats(), shards.acl_whoami(), shards.command_count(),
    ):  # fmt: skip
        told = await maybe(by_shard)
        assert set(told) == names
    infos = await maybe(shards.info("server"))
    assert len({info["run_id"] for info in infos.values()}) == len(names)
    assert await maybe(shards.echo("e")) == "e"
    before = await maybe(shards.config_get("slowlog-max-len"))
    assert await maybe(shards.config_set("slowlog-max-len", 77)) is True
    assert {told["slowlog-max-len"] for told in (await maybe(shards.config_get("slowlog-max-len"))).values()} == {"77"}
    assert await maybe(shards.config_set("slowlog-max-len", before["a"]["slowlog-max-len"])) is True
    sha = await maybe(shards.script_load(f"return '{coordkit_namespace}'"))
    assert await maybe(shards.script_exists(sha, "0" * 40)) == [True, False]


async def test_it_may_be_emptied(flavour: Any, layout: Layout, maybe: Any, keys: list[str]) -> None:
    """In a database that nobody else uses here."""
    if "sentinel" in layout.kind:
        shards = layout.shards(db=9)
    else:
        shards = layout.shards()
        for one in shards._servers.clients():
            one.connection_pool.connection_kwargs["db"] = 9
    await maybe(shards.mset(dict.fromkeys(keys, 1)))
    assert await maybe(shards.dbsize()) == len(keys)
    assert (await maybe(shards.randomkey())).decode() in keys
    assert await maybe(shards.flushdb()) is True
    assert await maybe(shards.on_all("DBSIZE")) == dict.fromkeys(layout.servers, 0)
    assert await maybe(shards.randomkey()) is None
    assert await maybe(shards.scan()) != (0, [])  # the cursor of the next shard
    assert [key async for key in flavour.each(shards.scan_iter())] == []


async def test_locks_and_messages(flavour: Any, layout: Layout, maybe: Any, keys: list[str]) -> None:
    shards, others = layout.shards(decode_responses=True), layout.shards()
    channels = {shards.shard_for(key): key for key in keys}
    assert set(channels) == set(layout.servers)
    pubsub = shards.pubsub(ignore_subscribe_messages=True)
    flavour.on_exit(pubsub.aclose if flavour.is_async else pubsub.close)
    await maybe(pubsub.subscribe(*channels.values()))
    heard = []
    for shard, channel in channels.items():
        async with flavour.within(flavour.Lock(shards, channel, ttl=20)) as lease:
            assert await maybe(flavour.Lock(others, channel, ttl=20).try_acquire()) is None
            assert await maybe(others.on(shard).exists(f"coordkit:1:{{{channel}}}:lock")) == 1
            assert lease.token > 0

        async def published(channel: str = channel) -> bool:
            return bool(await maybe(others.publish(channel, channel)) == 1)

        await flavour.until(published)
    while len(heard) < len(channels):
        if message := await maybe(pubsub.get_message(timeout=10)):
            heard.append(message["data"])
    assert sorted(heard) == sorted(channels.values())


async def test_a_write_may_be_waited_for_over_its_own_connection(
    flavour: Any, replicas: Layout, maybe: Any, keys: list[str]
) -> None:
    shards = replicas.shards()
    for shard in replicas.servers:
        key = next(key for key in keys if shards.shard_for(key) == shard)
        pipe = shards.client_for(key).pipeline(transaction=False)
        assert await maybe(pipe.set(key, 1).execute_command("WAIT", 1, 5000).execute()) == [True, 1]
        lease = await maybe(flavour.Lock(shards, key, ttl=10, min_replicas=1).acquire(timeout=10))
        await maybe(lease.release())
        assert (await maybe(shards.info("replication")))[shard]["connected_slaves"] == 1


async def test_a_shard_that_fails_over_is_found_again_and_the_others_do_not_notice(
    flavour: Any, sentinels: Layout, maybe: Any, keys: list[str]
) -> None:
    shards = sentinels.shards(decode_responses=True, retry=None)
    by_shard: dict[str, str] = {shards.shard_for(key): key for key in keys}
    pubsub = shards.pubsub(ignore_subscribe_messages=True)
    flavour.on_exit(pubsub.aclose if flavour.is_async else pubsub.close)
    await maybe(pubsub.subscribe(by_shard["b"]))
    await maybe(shards.mset(dict.fromkeys(by_shard.values(), 1)))
    failing: Any = sentinels.servers["b"]
    before = failing.primary()
    assert failing.failover() is not before
    for shard in "ac":
        assert await maybe(shards.incr(by_shard[shard])) == 2

    async def written() -> bool:
        with contextlib.suppress(StoreUnavailable, StoreRefused, redis.exceptions.ResponseError):
            return await maybe(shards.set(by_shard["b"], "after")) is True
        return False

    await flavour.until(written, timeout=20)
    assert await maybe(shards.mget(by_shard["a"], by_shard["b"])) == ["2", "after"]
    lock = flavour.Lock(shards, by_shard["b"], ttl=10)
    lease = await maybe(lock.acquire(timeout=20))
    await maybe(lease.release())

    async def heard() -> bool:
        await maybe(shards.publish(by_shard["b"], "x"))
        with contextlib.suppress(StoreUnavailable):
            message = await maybe(pubsub.get_message(timeout=0.2))
            return bool(message and message["data"] == "x")
        return False

    await flavour.until(heard, timeout=20)


@pytest.fixture(autouse=True)
def _cleaned(request: Any) -> Any:
    """Wait until a deployment that failed over agrees again, for whoever comes next."""
    yield
    if "sentinels" in request.fixturenames:
        for one in request.getfixturevalue(LAYOUTS["sentinel"]):
            one.wait_ready()


def test_the_layouts_are_what_they_say(request: Any) -> None:
    sizes = {
        kind: [len(getattr(one, "nodes", [one])) for one in request.getfixturevalue(name)]
        for kind, name in LAYOUTS.items()
    }
    assert sizes == {"three": [1] * 3, "five": [1] * 5, **dict.fromkeys((*LAYOUTS,)[2:], [3] * 3)}


@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind.startswith("reads")])
async def test_reads_are_those_of_the_replicas(
    request: Any, flavour: Any, maybe: Any, keys: list[str], kind: str
) -> None:
    layout = Layout(flavour, kind, request.getfixturevalue(LAYOUTS[kind]))
    shards = layout.shards(decode_responses=True)
    await maybe(shards.mset({key: key for key in keys}))
    before = {name: [calls(one.primary()), calls(*one.replicas())] for name, one in layout.servers.items()}
    assert await maybe(shards.mget(keys)) == keys
    pipe = shards.pipeline()
    for key in keys:
        assert await maybe(shards.get(key)) == key
        pipe.get(key)
    assert await maybe(pipe.execute()) == keys
    for name, one in layout.servers.items():
        mine = sum(shards.shard_for(key) == name for key in keys)
        primary, replicas = before[name]
        assert calls(one.primary()) == primary, name
        assert calls(*one.replicas()) >= replicas + 1 + 2 * mine, name  # more where a busy machine answers late
    assert await maybe(shards.delete(*keys)) == len(keys)


def calls(*servers: Any) -> int:
    """Return how many GETs and MGETs these were sent."""
    lines = [line for one in servers for line in tell(one, "INFO", "commandstats").splitlines()]
    counted = [line.partition("calls=")[2] for line in lines if line.startswith(("cmdstat_get:", "cmdstat_mget:"))]
    return sum(int(each.partition(",")[0]) for each in counted)
