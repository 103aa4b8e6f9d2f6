"""What a command returns over kept connections is what redis-py's own client returns, to the type; both flavours.

A long list of redis-py's methods runs through a plain client and through ShardedRedis on the same server: one by one,
in a pipeline, and in a transaction, decoded or not, with both protocols, and where its own pool is used.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from coordkit.errors import CoordError
from coordkit.routing.client import client, client_aio

# What redis-py calls deprecated, users still call.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

K = "{ck-same}:"  # one tag, so that commands of several keys and transactions stay on one shard
SCRIPT = "return {KEYS[1], ARGV[1], 7, {1, 'two', false}, redis.status_reply('FINE')}"
SHA = "0" * 40

CALLS: list[Callable[[Any], Any]] = [
    # strings
    lambda c: c.set(K + "s", "value"),
    lambda c: c.set(K + "s", "värde", ex=100),
    lambda c: c.set(K + "s", b"\x00bytes", px=100_000, xx=True),
    lambda c: c.set(K + "s", "no", nx=True),
    lambda c: c.set(K + "s", "value", get=True),
    lambda c: c.set(K + "n", 5),
    lambda c: c.set(K + "f", 1.5),
    lambda c: c.set(memoryview(b"{ck-same}:m"), bytearray(b"array")),
    lambda c: c.get(K + "s"),
    lambda c: c.get(K + "m"),
    lambda c: c.get(K + "none"),
    lambda c: c.getex(K + "s", ex=100),
    lambda c: c.getrange(K + "s", 0, 2),
    lambda c: c.getset(K + "s", "next"),
    lambda c: c.append(K + "s", "-more"),
    lambda c: c.strlen(K + "s"),
    lambda c: c.setrange(K + "s", 2, "XX"),
    lambda c: c.setex(K + "e", 100, "v"),
    lambda c: c.psetex(K + "e", 100_000, "v"),
    lambda c: c.setnx(K + "e", "v"),
    lambda c: c.getdel(K + "e"),
    lambda c: c.incr(K + "n"),
    lambda c: c.incrby(K + "n", 10),
    lambda c: c.decr(K + "n"),
    lambda c: c.decrby(K + "n", 3),
    lambda c: c.incrbyfloat(K + "f", 0.25),
    lambda c: c.mset({K + "m1": 1, K + "m2": "two"}),
    lambda c: c.msetnx({K + "m1": 1, K + "m3": "two"}),
    lambda c: c.mget(K + "m1", K + "none", K + "m2"),
    lambda c: c.mget([]),
    lambda c: c.lcs(K + "m1", K + "m2"),
    lambda c: c.execute_command("get", K + "s"),
    lambda c: c.execute_command("SET", K + "s", "x" * 100_000),
    lambda c: c.get(K + "s"),
    lambda c: c.set(K + "s", ""),
    lambda c: c.get(K + "s"),
    # bits
    lambda c: c.setbit(K + "b", 7, 1),
    lambda c: c.getbit(K + "b", 7),
    lambda c: c.bitcount(K + "b"),
    lambda c: c.bitpos(K + "b", 1),
    lambda c: c.bitop("AND", K + "b2", K + "b", K + "b"),
    lambda c: c.execute_command("BITFIELD", K + "b", "SET", "u8", 0, 7, "GET", "u8", 0),
    # keys
    lambda c: c.exists(K + "s", K + "none", K + "s"),
    lambda c: c.expire(K + "s", 1000),
    lambda c: c.expire(K + "none", 1000),
    lambda c: c.expireat(K + "s", 4_000_000_000),
    lambda c: c.expiretime(K + "s"),
    lambda c: c.pexpiretime(K + "s"),
    lambda c: c.pexpire(K + "none", 1000),
    lambda c: c.ttl(K + "n"),
    lambda c: c.ttl(K + "none"),
    lambda c: c.pttl(K + "n"),
    lambda c: c.persist(K + "s"),
    lambda c: c.type(K + "s"),
    lambda c: c.type(K + "none"),
    lambda c: c.touch(K + "s", K + "n"),
    lambda c: c.copy(K + "s", K + "copy"),
    lambda c: c.rename(K + "copy", K + "copy2"),
    lambda c: c.renamenx(K + "copy2", K + "s"),
    lambda c: c.unlink(K + "copy2"),
    lambda c: c.delete(K + "none", K + "m3"),
    lambda c: c.object("encoding", K + "n"),
    lambda c: c.object("refcount", K + "none"),
    lambda c: c.object("freq", K + "n"),
    lambda c: c.object("idletime", K + "none"),
    lambda c: c.dump(K + "n"),
    lambda c: c.dump(K + "none"),
    lambda c: c.restore(K + "n", 0, b"not a dump"),
    lambda c: c.memory_usage(K + "none"),
    lambda c: c.sort(K + "none"),
    # hashes
    lambda c: c.hset(K + "h", mapping={"f": 1, "g": "två", "e": ""}),
    lambda c: c.hset(K + "h", "f", 2),
    lambda c: c.hsetnx(K + "h", "f", 3),
    lambda c: c.hget(K + "h", "f"),
    lambda c: c.hget(K + "h", "none"),
    lambda c: c.hgetall(K + "h"),
    lambda c: c.hgetall(K + "none"),
    lambda c: c.hmget(K + "h", ["f", "none"]),
    lambda c: c.hmget(K + "h", "f", "g"),
    lambda c: c.hkeys(K + "h"),
    lambda c: c.hvals(K + "h"),
    lambda c: c.hlen(K + "h"),
    lambda c: c.hexists(K + "h", "f"),
    lambda c: c.hstrlen(K + "h", "g"),
    lambda c: c.hincrby(K + "h", "f", 4),
    lambda c: c.hincrbyfloat(K + "h", "f", 0.5),
    lambda c: c.hscan(K + "h"),
    lambda c: c.hscan(K + "h", match="f*", count=5),
    lambda c: c.hrandfield(K + "h", 0),
    lambda c: c.hrandfield(K + "h", 9, withvalues=True),
    lambda c: c.hdel(K + "h", "e", "none"),
    # lists
    lambda c: c.rpush(K + "l", "a", "b", "c", 4),
    lambda c: c.lpush(K + "l", "z"),
    lambda c: c.brpoplpush(K + "l", K + "l2", timeout=1),
    lambda c: c.blmove(K + "l2", K + "l", timeout=1),
    lambda c: c.lpushx(K + "none", "z"),
    lambda c: c.rpushx(K + "l", "y"),
    lambda c: c.lrange(K + "l", 0, -1),
    lambda c: c.lrange(K + "none", 0, -1),
    lambda c: c.llen(K + "l"),
    lambda c: c.lindex(K + "l", 1),
    lambda c: c.lset(K + "l", 0, "first"),
    lambda c: c.linsert(K + "l", "before", "b", "new"),
    lambda c: c.lpos(K + "l", "b"),
    lambda c: c.lpos(K + "l", "none", count=2),
    lambda c: c.lrem(K + "l", 1, "new"),
    lambda c: c.ltrim(K + "l", 0, 4),
    lambda c: c.lpop(K + "l"),
    lambda c: c.lpop(K + "l", 2),
    lambda c: c.rpop(K + "none"),
    lambda c: c.lmove(K + "l", K + "l2", "LEFT", "RIGHT"),
    lambda c: c.rpoplpush(K + "l", K + "l2"),
    lambda c: c.lmpop(1, K + "l2", direction="LEFT"),
    lambda c: c.rpush(K + "l2", 1, 2),
    lambda c: c.blpop([K + "l2"], timeout=0.01),
    lambda c: c.brpop([K + "none"], timeout=0.01),
    lambda c: c.blmpop(0.01, 1, K + "l2", direction="LEFT"),
    lambda c: c.rpush(K + "sort", 3, 1, 2),
    lambda c: c.sort(K + "sort", desc=True),
    lambda c: c.sort(K + "sort", get=["#", K + "none*"], groups=True),
    lambda c: c.sort(K + "sort", store=K + "sorted"),
    lambda c: c.sort_ro(K + "sort"),
    # sets
    lambda c: c.sadd(K + "set", "a"),
    lambda c: c.sadd(K + "set2", "a", "b", 3),
    lambda c: c.scard(K + "set2"),
    lambda c: c.smembers(K + "set2"),
    lambda c: c.smembers(K + "none"),
    lambda c: c.sismember(K + "set", "a"),
    lambda c: c.sismember(K + "set", "none"),
    lambda c: c.smismember(K + "set", ["a", "none"]),
    lambda c: c.sinter(K + "set", K + "set2"),
    lambda c: c.sintercard(2, [K + "set", K + "set2"]),
    lambda c: c.sunion(K + "set", K + "set2"),
    lambda c: c.sdiff(K + "set2", K + "set"),
    lambda c: c.sdiffstore(K + "set3", K + "set2", K + "set"),
    lambda c: c.smove(K + "set2", K + "set", "b"),
    lambda c: c.srandmember(K + "none"),
    lambda c: c.srandmember(K + "none", 2),
    lambda c: c.sscan(K + "set"),
    lambda c: c.srem(K + "set", "b", "none"),
    lambda c: c.spop(K + "set"),
    lambda c: c.spop(K + "none", 2),
    # sorted sets
    lambda c: c.zadd(K + "z", {"a": 1, "b": 2.5, "c": float("inf")}),
    lambda c: c.zadd(K + "z", {"a": 2}, ch=True, gt=True),
    lambda c: c.zadd(K + "z", {"a": 1}, incr=True),
    lambda c: c.zadd(K + "z", {"none": 1}, incr=True, xx=True),
    lambda c: c.zcard(K + "z"),
    lambda c: c.zcount(K + "z", "-inf", 3),
    lambda c: c.zincrby(K + "z", 0.5, "a"),
    lambda c: c.zscore(K + "z", "a"),
    lambda c: c.zscore(K + "z", "none"),
    lambda c: c.zmscore(K + "z", ["a", "none"]),
    lambda c: c.zrank(K + "z", "b"),
    lambda c: c.zrank(K + "z", "b", withscore=True),
    lambda c: c.zrevrank(K + "z", "b"),
    lambda c: c.zrevrank(K + "z", "none"),
    lambda c: c.zrange(K + "z", 0, -1),
    lambda c: c.zrange(K + "z", 0, -1, withscores=True),
    lambda c: c.zrange(K + "z", 0, -1, desc=True, withscores=True, score_cast_func=int_or_zero),
    lambda c: c.zrevrange(K + "z", 0, -1, withscores=True),
    lambda c: c.zrangebyscore(K + "z", 0, 3, withscores=True),
    lambda c: c.zrevrangebyscore(K + "z", 3, 0),
    lambda c: c.zrangebylex(K + "z", "-", "+"),
    lambda c: c.zlexcount(K + "z", "-", "+"),
    lambda c: c.zrangestore(K + "z2", K + "z", 0, 1),
    lambda c: c.zunion([K + "z", K + "z2"], withscores=True),
    lambda c: c.zinter({K + "z": 1, K + "z2": 2}, withscores=True),
    lambda c: c.zdiff([K + "z", K + "z2"], withscores=True),
    lambda c: c.zunionstore(K + "z3", [K + "z", K + "z2"]),
    lambda c: c.zintercard(2, [K + "z", K + "z2"]),
    lambda c: c.zrandmember(K + "z", 0),
    lambda c: c.zrandmember(K + "z", 9, withscores=True),
    lambda c: c.zscan(K + "z"),
    lambda c: c.zpopmin(K + "z"),
    lambda c: c.zpopmax(K + "z", 2),
    lambda c: c.zpopmax(K + "none"),
    lambda c: c.zmpop(1, [K + "z2"], min=True),
    lambda c: c.bzpopmin([K + "z3"], timeout=0.01),
    lambda c: c.bzmpop(0.01, 1, [K + "z3"], max=True),
    lambda c: c.zrem(K + "z3", "a", "b"),
    lambda c: c.zremrangebyrank(K + "z3", 0, 0),
    # streams
    lambda c: c.xadd(K + "x", {"f": "v", "g": 1}, id="1-1"),
    lambda c: c.xadd(K + "x", {"f": "w"}, id="2-0", maxlen=10, approximate=False),
    lambda c: c.xadd(K + "x", {"f": "w"}, id="1-0"),
    lambda c: c.xlen(K + "x"),
    lambda c: c.xrange(K + "x"),
    lambda c: c.xrevrange(K + "x", count=1),
    lambda c: c.xread({K + "x": 0}),
    lambda c: c.xread({K + "x": "$"}, block=1),
    lambda c: c.xgroup_create(K + "x", "g", id="0"),
    lambda c: c.xgroup_create(K + "x", "g", id="0"),
    lambda c: c.xreadgroup("g", "c", {K + "x": ">"}),
    lambda c: c.xreadgroup("g", "c", {K + "x": ">"}, block=1),
    lambda c: c.xpending(K + "x", "g"),
    lambda c: c.xack(K + "x", "g", "1-1"),
    lambda c: c.xclaim(K + "x", "g", "d", 0, ["2-0"]),
    lambda c: c.xclaim(K + "x", "g", "d", 0, ["2-0"], justid=True),
    lambda c: c.xautoclaim(K + "x", "g", "e", 0),
    lambda c: c.xinfo_stream(K + "x"),
    lambda c: c.xinfo_stream(K + "none"),
    lambda c: c.xdel(K + "x", "1-1"),
    lambda c: c.xtrim(K + "x", maxlen=0, approximate=False),
    lambda c: c.xgroup_destroy(K + "x", "g"),
    # places and counts
    lambda c: c.geoadd(K + "g", [13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"]),
    lambda c: c.geodist(K + "g", "Palermo", "Catania", unit="km"),
    lambda c: c.geodist(K + "g", "Palermo", "none"),
    lambda c: c.geohash(K + "g", "Palermo", "none"),
    lambda c: c.geopos(K + "g", "Palermo", "none"),
    lambda c: c.geosearch(K + "g", longitude=15, latitude=37, radius=200, unit="km", sort="ASC"),
    lambda c: c.geosearch(
        K + "g", longitude=15, latitude=37, radius=200, unit="km", withdist=True, withcoord=True, withhash=True
    ),
    lambda c: c.georadius(K + "g", 15, 37, 200, unit="km", withdist=True),
    lambda c: c.pfadd(K + "p", "a", "b"),
    lambda c: c.pfcount(K + "p"),
    lambda c: c.pfmerge(K + "p2", K + "p"),
    # scripts
    lambda c: c.eval(SCRIPT, 1, K + "s", "arg"),
    lambda c: c.eval_ro(SCRIPT, 1, K + "s", "arg"),
    lambda c: c.evalsha(SHA, 1, K + "s", "arg"),
    lambda c: c.eval("return redis.error_reply('MINE my own')", 1, K + "s"),
    lambda c: c.eval("return 1 +", 1, K + "s"),
    lambda c: c.eval("redis.setresp(3); return {double=3.5}", 1, K + "s"),
    lambda c: c.eval("redis.setresp(3); return {map={a=1}}", 1, K + "s"),
    lambda c: c.eval("redis.setresp(3); return {true, false}", 1, K + "s"),
    # errors
    lambda c: c.incr(K + "h"),
    lambda c: c.lpush(K + "n", 1),
    lambda c: c.hgetall(K + "n"),
    lambda c: c.execute_command("SET", K + "s"),
    lambda c: c.execute_command("SET", K + "s", "v", "WRONG"),
    lambda c: c.setrange(K + "s", -1, "x"),
    lambda c: c.set(K + "s", None),
    lambda c: c.set(K + "s", True),
    lambda c: c.set(K + "s", {"a": 1}),
    lambda c: c.set(K + "bin", b"\xff\xfe"),
    lambda c: c.get(K + "bin"),
    lambda c: c.mget(K + "n", K + "bin"),
    lambda c: c.get(K + "n"),
    lambda c: c.delete(K + "bin"),
    # what all shards are asked
    lambda c: c.ping(),
    lambda c: c.keys(K + "nosuch*"),
    lambda c: c.script_load(SCRIPT),
    lambda c: c.script_exists(SHA),
]


Terms = tuple[int, bool, int]
"""Protocol, whether replies are decoded, and ``max_connections``: with few, the client itself is used."""
TERMS: list[Terms] = [(2, False, 100), (2, True, 100), (3, False, 100), (3, True, 100), (2, True, 20), (3, False, 20)]


def int_or_zero(score: Any) -> int:
    return int(float(score)) if float(score) < 1e9 else 0


def told(value: Any) -> Any:
    """Return a reply with its types, or what an error says."""
    if isinstance(value, Exception):
        cause = value.__cause__ if isinstance(value, CoordError) else value
        return (type(cause), str(cause))
    if isinstance(value, dict):
        return (dict, [(told(name), told(each)) for name, each in value.items()])
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted(map(repr, value)))
    if isinstance(value, (list, tuple)):
        return (type(value), [told(each) for each in value])
    return (type(value), "nan" if isinstance(value, float) and math.isnan(value) else value)


async def outcome(flavour: Any, call: Callable[[], Any]) -> Any:
    try:
        return told(await flavour.maybe(call()))
    except Exception as error:  # noqa: BLE001 - what is raised is compared
        return told(error)


def clients(flavour: Any, url: str, terms: Terms) -> tuple[Any, Any]:
    protocol, decoded, most = terms
    options = {"protocol": protocol, "decode_responses": decoded, "socket_timeout": 10, "max_connections": most}
    kind = client_aio.ShardedRedis if flavour.is_async else client.ShardedRedis
    return flavour.redis(url, **options), flavour.closing(kind({"a": flavour.redis(url, **options)}))


def is_their_fault(calls: list[Any], told: Any) -> bool:
    """Return whether redis-py decoded a DUMP, which it knows not to: in version 5.0 asyncio's does, with hiredis."""
    return told[0] is UnicodeDecodeError and any("dump" in call.__code__.co_names for call in calls)


async def cleared(flavour: Any, plain: Any) -> None:
    for key in await flavour.maybe(plain.keys(K + "*")):
        await flavour.maybe(plain.delete(key))


def place(call: Any) -> str:
    return inspect.getsource(call).strip()


@pytest.mark.parametrize("terms", TERMS, ids=str)
async def test_each_command_returns_what_redis_py_returns(
    flavour: Any, coordkit_redis_server: Any, terms: Terms
) -> None:
    plain, shards = clients(flavour, coordkit_redis_server.url, terms)
    told_by: list[list[Any]] = []
    for one in (plain, shards):
        await cleared(flavour, plain)
        told_by.append([await outcome(flavour, lambda call=call, one=one: call(one)) for call in CALLS])
    await cleared(flavour, plain)
    for call, theirs, ours in zip(CALLS, *told_by, strict=True):
        if not is_their_fault([call], theirs):
            assert ours == theirs, place(call)
    assert sum(isinstance(value, tuple) and value[0] is redis.exceptions.ResponseError for value in told_by[0]) > 5


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("terms", TERMS, ids=str)
async def test_each_pipeline_returns_what_redis_py_returns(
    flavour: Any, coordkit_redis_server: Any, terms: Terms, transaction: bool
) -> None:
    """In batches of ten, as large and as mixed as they come."""
    plain, shards = clients(flavour, coordkit_redis_server.url, terms)
    told_by: list[list[Any]] = []
    batches = [CALLS[i : i + 10] for i in range(0, len(CALLS), 10)]
    for one in (plain, shards):
        await cleared(flavour, plain)
        told_by.append([])
        for batch in batches:
            pipe = one.pipeline(transaction=transaction)
            for call in batch:
                call(pipe)
            told_by[-1].append(await outcome(flavour, lambda pipe=pipe: pipe.execute(raise_on_error=False)))
    await cleared(flavour, plain)
    for batch, theirs, ours in zip(batches, *told_by, strict=True):
        if transaction and theirs[0] is redis.exceptions.ResponseError:
            # What the server refuses to queue redis-py raises, asked to or not; here it stands in its place.
            assert any(said[0] is theirs[0] and said[1] in theirs[1] for said in ours[1]), place(batch[0])
        elif not is_their_fault(batch, theirs):
            assert ours == theirs, place(batch[0])
