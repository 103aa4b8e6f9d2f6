"""Keys on their way from one shard to another, in both flavours: each type, times to live, and whoever is late."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
import shard_ports

from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing import Move as Whole
from coordkit.routing import slot_of
from coordkit.routing.fence import fence
from coordkit.routing.fence.fence import local_key, raise_epoch
from coordkit.routing.moving.leftovers import drop_leftovers
from coordkit.routing.moving.mover import Mover
from coordkit.routing.moving.moving import AT_ONCE, Carrier
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.progress import Progress


class Move(NamedTuple):
    number: int
    source: str
    target: str
    undoes: int = 0


class Pair:
    """Two shards, and moves between them."""

    def __init__(self, flavour: Any, urls: list[str], namespace: str) -> None:
        self.flavour, self.name, self.urls = flavour, namespace, urls
        self.clients = {name: flavour.redis(url) for name, url in zip("ab", urls, strict=True)}
        self.ports = {name: shard_ports.port(flavour, name, client) for name, client in self.clients.items()}
        self.a, self.b = self.clients["a"], self.clients["b"]

    def carrier(self, move: Move, patience: float = 5.0, **ports: Any) -> Carrier:
        ways = {**self.ports, **ports}
        runtime = shard_ports.runtime(self.flavour)
        return Carrier(runtime, self.name, move, ways[move.source], ways[move.target], patience=patience)

    def key(self, name: str) -> bytes:
        return f"{self.name}:{name}".encode()


class Between:
    """A port before (or after) a request of which something else happens, once."""

    def __init__(self, port: Any, before: Any, what: bytes, after: Any = None) -> None:
        self._port, self._before, self._what, self._after = port, before, what, after
        self.shard, self.patience = port.shard, port.patience

    @property
    def made(self) -> int:
        return int(self._port.made)

    async def ask(self, commands: Any) -> Any:
        if commands[0][0] == self._what and self._before is not None:
            before, self._before = self._before, None
            await before()
        replies = await self._port.ask(commands)
        if commands[0][0] == self._what and self._after is not None:
            after, self._after = self._after, None
            await after()
        return replies

    async def run(self, call: Any) -> Any:
        if call.script.name.encode() == self._what and self._before is not None:
            before, self._before = self._before, None
            await before()
        return await self._port.run(call)


@pytest.fixture
def pair(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Pair:
    return Pair(flavour, [server.url for server in coordkit_redis_shards[:2]], coordkit_namespace)


async def fill(maybe: Any, client: Any, key: Any) -> list[bytes]:
    """Make one key of each type; return their names."""
    steps = [
        client.set(key("text"), b"\x00\xff\r\n"),
        client.set(key("number"), 12345678901),
        client.set(key("{brace"), "odd"),
        client.set(b"\x00\xfe" + key("binary"), "name"),
        client.rpush(key("list"), *range(300), "x" * 9000),
        client.hset(key("hash"), mapping={f"f{i}": i for i in range(700)}),
        client.hset(key("little hash"), mapping={"f": 1}),
        client.sadd(key("set"), *"abc"),
        client.sadd(key("numbers"), *range(30)),
        client.zadd(key("sorted"), {f"m{i}": i / 7 for i in range(200)}),
        client.geoadd(key("geo"), (13.36, 38.11, "Palermo")),
        client.pfadd(key("count"), *map(str, range(500))),
        client.setbit(key("bits"), 10_000, 1),
        client.xadd(key("stream"), {"f": "v"}, id="5-1"),
        client.xgroup_create(key("stream"), "g", id="0"),
        client.xreadgroup("g", "c", {key("stream"): ">"}),
    ]
    for step in steps:
        await maybe(step)
    return sorted(await maybe(client.keys(b"*" + key("") + b"*")))


async def content(maybe: Any, client: Any, key: bytes) -> Any:
    """Return all that a key has, and how it is kept."""
    readers = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    kind = await maybe(client.type(key))
    return kind, await maybe(client.object("encoding", key)), await maybe(readers[kind](key))


async def test_every_type_arrives_as_it_was(pair: Pair, maybe: Any) -> None:
    keys = await fill(maybe, pair.a, pair.key)
    before = {key: await content(maybe, pair.a, key) for key in keys}
    size = sum([len(await maybe(pair.a.dump(key))) for key in keys])
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    brought = await carrier.bring(keys)

    assert len(keys) == 14
    assert {key: await content(maybe, pair.b, key) for key in keys} == before
    assert (brought.keys, brought.size) == (14, size)
    assert await maybe(pair.a.exists(*keys)) == 0
    assert await maybe(pair.b.xpending(pair.key("stream"), "g")) == {
        "pending": 1,
        "min": b"5-1",
        "max": b"5-1",
        "consumers": [{"name": b"c", "pending": 1}],
    }
    assert (await carrier.bring(keys)).keys == 0


async def test_more_keys_than_one_script_takes_and_one_that_is_large(pair: Pair, maybe: Any) -> None:
    large = pair.key("large")
    keys = [pair.key(str(i)) for i in range(2 * AT_ONCE + 1)]
    await maybe(pair.a.mset(dict.fromkeys(keys, "v")))
    await maybe(pair.a.set(large, "x" * (3 << 20)))
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    brought = await carrier.bring([*keys[:70], large, *keys[70:]])

    assert brought.keys == len(keys) + 1
    assert brought.largest_key == large
    assert await maybe(pair.b.exists(*keys)) == len(keys)
    assert await maybe(pair.b.strlen(large)) == 3 << 20
    assert await maybe(pair.a.exists(*keys, large)) == 0


@pytest.mark.parametrize("step", ["before DUMP", "after DUMP", "before move_take", ""])
async def test_a_time_to_live_is_neither_extended_nor_lost(pair: Pair, maybe: Any, flavour: Any, step: str) -> None:
    """Whoever brings it is paused between two steps. Never earlier: a lock's holder counts on that."""
    long, short, none = pair.key("long"), pair.key("short"), pair.key("none")
    await maybe(pair.a.set(long, "v", px=60_000))
    await maybe(pair.a.set(short, "v", px=300 if step else 20_000))
    await maybe(pair.a.set(none, "v"))
    due = await maybe(pair.a.pexpiretime(long))

    async def pause() -> None:
        await flavour.sleep(2.0 if step.startswith("after") else 0.4)

    before, after = (pause if step.startswith(when) else None for when in ("before", "after"))
    what = step.partition(" ")[2].encode()
    ports = {name: Between(port, before, what, after) for name, port in pair.ports.items()}
    carrier = pair.carrier(Move(2, "a", "b"), **ports)
    await carrier.begin()
    await carrier.bring([long, short, none])

    assert due <= await maybe(pair.b.pexpiretime(long)) <= due + 1500  # of one machine, so by one clock
    assert await maybe(pair.b.exists(short)) == (0 if step else 1)
    assert await maybe(pair.b.pttl(none)) == -1


async def test_a_late_take_resurrects_nothing(pair: Pair, maybe: Any) -> None:
    """A client reads the key at the source and is paused; meanwhile another brings it, and it is deleted."""
    key = pair.key("k")
    await maybe(pair.a.set(key, "old"))
    other = pair.carrier(Move(2, "a", "b"))
    await other.begin()

    async def meanwhile() -> None:
        await other.bring([key])
        await maybe(pair.b.delete(key))

    late = pair.carrier(Move(2, "a", "b"), b=Between(pair.ports["b"], meanwhile, b"move_take"))
    assert (await late.bring([key])).keys == 0
    assert await maybe(pair.b.exists(key)) == 0


async def test_a_key_that_is_not_there_is_marked_as_well(pair: Pair, maybe: Any) -> None:
    """Else what is made at the target and deleted there would come again with a copy that turns up at the source."""
    key = pair.key("k")
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    await carrier.ensure([key])
    await maybe(pair.a.set(key, "copy"))  # nobody does, under the fence; but a copy might come back

    assert (await pair.carrier(Move(2, "a", "b")).bring([key])).keys == 0
    assert await maybe(pair.b.exists(key)) == 0
    assert await maybe(pair.a.exists(key)) == 0


async def test_a_take_after_the_end_is_refused(pair: Pair, maybe: Any) -> None:
    """A client looked, read nothing at the source, and was paused: by now the key is made at the target."""
    key, other = pair.key("k"), pair.key("l")
    mover = pair.carrier(Move(2, "a", "b"))
    await mover.begin()

    async def meanwhile() -> None:
        await mover.close()
        await maybe(pair.b.set(key, "new"))

    late = pair.carrier(Move(2, "a", "b"), b=Between(pair.ports["b"], meanwhile, b"move_take"))
    assert (await late.bring([key])).over
    assert await maybe(pair.b.get(key)) == b"new"
    await late.ensure([key, other])
    assert await mover.state() == "over"
    await mover.begin()  # of a rebalancer that was paused as well
    assert await mover.state() == "over"
    assert await maybe(pair.b.exists(local_key(pair.name, "moved:2"))) == 0


async def test_nothing_is_brought_before_the_move_has_begun(pair: Pair, maybe: Any, flavour: Any) -> None:
    key = pair.key("k")
    await maybe(pair.a.set(key, "v"))
    with pytest.raises(StoreUnavailable, match="has not begun"):
        await pair.carrier(Move(2, "a", "b"), patience=0.05).ensure([key])
    assert await maybe(pair.b.exists(key)) == 0

    client = pair.carrier(Move(2, "a", "b"), patience=20)
    waiting = flavour.spawn(lambda: client.ensure([key]))
    await pair.carrier(Move(2, "a", "b")).begin()
    await waiting.result()
    assert await maybe(pair.b.get(key)) == b"v"


async def test_what_is_left_from_another_time_gives_way(pair: Pair, maybe: Any) -> None:
    there, gone = pair.key("there"), pair.key("gone")
    await maybe(pair.a.set(there, "true"))
    await maybe(pair.b.mset({there: "left", gone: "left"}))
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    await carrier.ensure([there, gone])

    assert await maybe(pair.b.mget(there, gone)) == [b"true", None]


async def test_who_comes_late_drops_nothing_that_is_alive(pair: Pair, maybe: Any, flavour: Any) -> None:
    """One that was paused in front of its move, which another has begun; and one in front of an earlier one."""
    key, runtime = pair.key("k"), shard_ports.runtime(flavour)

    async def drop(epoch: int) -> None:
        port, slots = pair.ports["b"], [slot_of(key)]
        await drop_leftovers(runtime, port, pair.name, slots, epoch=epoch, number=epoch, step=lambda: None)

    await maybe(pair.b.set(key, "left"))
    await raise_epoch(pair.ports["b"], pair.name, 2, create=True)
    await drop(2)
    assert await maybe(pair.b.exists(key)) == 0
    await pair.carrier(Move(2, "a", "b")).begin()
    await maybe(pair.b.set(key, "alive"))
    await drop(2)
    with pytest.raises(StoreUnavailable, match="another epoch than 1"):
        await drop(1)
    assert await maybe(pair.b.get(key)) == b"alive"


@pytest.mark.parametrize("ended", [False, True])
async def test_a_move_that_is_rolled_back(pair: Pair, maybe: Any, ended: bool) -> None:
    """What was brought comes back as it is now; what was not is kept. The removal at the source was not reached."""
    changed, deleted, kept, copied = map(pair.key, ("changed", "deleted", "kept", "copied"))
    await maybe(pair.a.mset(dict.fromkeys((changed, deleted, kept, copied), "old")))
    forth = pair.carrier(Move(2, "a", "b"))
    await forth.begin()
    await forth.ensure([changed, deleted, copied, *([kept] if ended else [])])
    await maybe(pair.b.set(changed, "new"))
    await maybe(pair.b.delete(deleted))
    if ended:
        await forth.close()
        await maybe(pair.b.set(pair.key("made"), "since"))  # by one who knows that it is over, and so without a mark
    await maybe(pair.a.mset(dict.fromkeys((changed, deleted, copied), "old")))  # as if nobody had come to remove them

    back = pair.carrier(Move(3, "b", "a", undoes=2))
    await back.begin()
    walk = back.former()
    assert walk is not None
    assert set(await walk.page()) - {local_key(pair.name, "moved:2")} == (
        set() if ended else {changed, deleted, copied}
    )
    assert walk.over
    await back.bring([changed, deleted, kept, copied, pair.key("made")])
    await back.close()

    made = b"since" if ended else None
    names = (changed, deleted, kept, copied, pair.key("made"))
    assert await maybe(pair.a.mget(names)) == [b"new", None, b"old", b"old", made]
    assert await maybe(pair.b.exists(*names)) == 0
    for client in (pair.a, pair.b):
        assert await maybe(client.keys(local_key(pair.name, "moved:*"))) == []


async def test_marks_that_are_gone_are_missed(pair: Pair, maybe: Any) -> None:
    """An eviction policy that may take anything would take them, too: then nobody knows what was brought."""
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    await carrier.ensure([pair.key("k")])
    await maybe(pair.b.delete(local_key(pair.name, "moved:2")))
    await carrier.begin()  # asked again, it does not begin anew
    with pytest.raises(StoreRefused, match="marks of move 2 are gone"):
        await carrier.ensure([pair.key("l")])


async def test_a_take_that_finds_no_move_is_not_the_end(pair: Pair, maybe: Any) -> None:
    """What says that it is open was removed between the look and the take: nothing was brought, so nobody goes on."""
    key = pair.key("k")
    await maybe(pair.a.set(key, 1000))

    async def removed() -> None:
        await maybe(pair.b.delete(local_key(pair.name, "moves")))

    carrier = pair.carrier(Move(2, "a", "b"), patience=0.05, b=Between(pair.ports["b"], removed, b"move_take"))
    await carrier.begin()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="has not begun"):
            await carrier.ensure([key])
    assert await maybe(pair.b.exists(key)) == 0
    assert await maybe(pair.a.get(key)) == b"1000"


async def test_a_target_without_memory_leaves_the_key_where_it_is(pair: Pair, maybe: Any) -> None:
    key = pair.key("k")
    await maybe(pair.a.set(key, "v"))
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    await maybe(pair.b.config_set("maxmemory", "1"))
    try:
        with pytest.raises(StoreRefused, match="maxmemory"):
            await carrier.ensure([key])
    finally:
        await maybe(pair.b.config_set("maxmemory", "0"))
    assert await maybe(pair.a.get(key)) == b"v"
    await carrier.ensure([key])
    assert await maybe(pair.b.get(key)) == b"v"


@pytest.mark.parametrize("megabytes", [2, 30])
async def test_a_value_that_is_too_large_for_the_target_stays_and_is_named(
    pair: Pair, maybe: Any, megabytes: int
) -> None:
    """512 MB in one piece, where nobody has set it otherwise; of so much the server hangs up before it is all sent."""
    large, length = pair.key("large"), megabytes << 20
    await maybe(pair.a.set(large, os.urandom(length)))
    size = len(await maybe(pair.a.dump(large)))
    carrier = pair.carrier(Move(2, "a", "b"))
    await carrier.begin()
    before = (await maybe(pair.b.config_get("proto-max-bulk-len")))["proto-max-bulk-len"]
    await maybe(pair.b.config_set("proto-max-bulk-len", 1 << 20))
    try:
        with pytest.raises(StoreRefused, match=rf"large' is {size:,} bytes .*: raise its proto-max-bulk-len"):
            await carrier.ensure([pair.key("small"), large])
    finally:
        await maybe(pair.b.config_set("proto-max-bulk-len", before))
    assert await maybe(pair.a.strlen(large)) == length
    await carrier.ensure([large])
    assert await maybe(pair.b.strlen(large)) == length


async def test_a_value_that_the_target_cannot_read_stays(pair: Pair, maybe: Any) -> None:
    """A newer server's format, as when a move goes back to an older one: the key is not marked, and not removed."""
    good, bad = pair.key("good"), pair.key("bad")
    await maybe(pair.a.mset({good: "v", bad: "v"}))

    class Garbled(Between):
        async def run(self, call: Any) -> Any:
            if call.script.name == "move_take":
                call = call._replace(args=[*call.args[:4], b"garbled", *call.args[5:]])  # of the second key
            return await self._port.run(call)

    carrier = pair.carrier(Move(2, "a", "b"), b=Garbled(pair.ports["b"], None, b""))
    await carrier.begin()
    with pytest.raises(StoreRefused, match=r"payload .*\(key .*bad\)"):
        await carrier.ensure([good, bad])
    assert await maybe(pair.a.exists(good, bad)) == 2
    await pair.carrier(Move(2, "a", "b")).ensure([good, bad])
    assert await maybe(pair.b.mget(good, bad)) == [b"v", b"v"]


async def test_nothing_is_removed_before_the_replicas_of_the_target_have_it(
    pair: Pair, maybe: Any, flavour: Any, coordkit_redis_replicated: Any, coordkit_faults: Any
) -> None:
    """A failover of the target would else lose what the source had kept safely for years."""
    key = pair.key("k")
    await maybe(pair.a.set(key, "v"))
    target = shard_ports.port(flavour, "b", flavour.redis(coordkit_redis_replicated.primary.url, socket_timeout=10))
    await raise_epoch(target, pair.name, 2, create=True)
    coordkit_faults.pause(coordkit_redis_replicated.replicas[0])
    runtime, pace, progress = shard_ports.runtime(flavour), Pace(), Progress()
    move = Whole(2, (slot_of(key),), "a", "b")

    async def unused(_epoch: int) -> None:
        raise AssertionError("CLIENT KILL is allowed")

    mover = Mover(
        runtime,
        pair.name,
        move,
        pair.ports["a"],
        target,
        pace=pace,
        progress=progress,
        barrier=unused,
        big=1 << 30,
        step=lambda _: None,
    )
    await mover.carrier.begin()
    fence.PATIENCE, patience = 0.2, fence.PATIENCE
    try:
        with pytest.raises(StoreUnavailable, match="1 of its 2 replicas"):
            await mover.emptying.bring([key])
            await mover.emptying.settle()
        assert await maybe(pair.a.get(key)) == b"v"
    finally:
        fence.PATIENCE = patience
        coordkit_faults.heal()
    await mover.emptying.settle()
    assert await maybe(pair.a.exists(key)) == 0


async def test_many_clients_and_a_mover_at_once(pair: Pair, maybe: Any, flavour: Any) -> None:
    """Each brings a counter before it counts on it; the mover brings all, again and again."""
    counters = [pair.key(f"c{i}") for i in range(20)]
    await maybe(pair.a.mset(dict.fromkeys(counters, 1000)))
    mover = pair.carrier(Move(2, "a", "b"))
    await mover.begin()

    async def count(worker: int) -> None:
        carrier = pair.carrier(Move(2, "a", "b"))
        client = flavour.redis(pair.urls[1])
        for turn in range(3):
            for i in range(len(counters)):
                key = counters[(i * 7 + worker) % len(counters)]
                carrier._known.keys.clear()
                await carrier.ensure([key])
                assert await maybe(client.incr(key)) > 1000 + turn

    working = [flavour.spawn(count, worker) for worker in range(4)]
    while not all(each.done() for each in working):
        await mover.bring(counters)
        await flavour.sleep(0)
    for each in working:
        await each.result()
    assert await maybe(pair.b.mget(counters)) == [b"1012"] * 20


class Watched:
    """A port that notes which of some commands it was asked for together, and may refuse one, or be slow."""

    def __init__(self, port: Any, flavour: Any, refuses: bytes = b"", slow: float = 0.0) -> None:
        self._port, self._flavour, self._refuses, self._slow = port, flavour, refuses, slow
        self.shard, self.patience = port.shard, port.patience
        self.asked: list[tuple[bytes, list[bytes]]] = []

    @property
    def made(self) -> int:
        return int(self._port.made)

    async def ask(self, commands: Any) -> Any:
        if commands[0][0] == self._refuses:
            return [StoreRefused(self.shard, "no permission")] * len(commands)
        names = dict.fromkeys(command[0] for command in commands)
        self.asked += [(name, [each[-1] for each in commands if each[0] == name]) for name in names]
        replies = await self._port.ask(commands)
        await self._flavour.sleep(self._slow if b"DUMP" in names else 0)
        return replies

    async def run(self, call: Any) -> Any:
        return await self._port.run(call)

    def together(self, name: bytes) -> list[list[bytes]]:
        return [keys for asked, keys in self.asked if asked == name]


@pytest.mark.parametrize("refuses", [b"", b"MEMORY"])
async def test_large_values_are_read_some_at_a_time(pair: Pair, maybe: Any, flavour: Any, refuses: bytes) -> None:
    """Sixty-four of a hundred megabytes in one answer would be more than a client, or its patience, can hold."""
    large = [pair.key(f"large{i}") for i in range(12)]
    small = [pair.key(f"small{i}") for i in range(20)]
    for i, key in enumerate(large):
        await maybe(pair.a.set(key, "x" * ((9 if i == 5 else 1) << 20)))
    await maybe(pair.a.mset(dict.fromkeys(small, "v")))
    watched = Watched(pair.ports["a"], flavour, refuses)
    carrier = pair.carrier(Move(2, "a", "b"), a=watched)
    await carrier.begin()
    await carrier.bring([*large, *small], remove=False)

    together = watched.together(b"DUMP")
    assert sorted(key for keys in together for key in keys) == sorted([*large, *small])
    if refuses:
        assert max(map(len, together)) == 8
    else:
        assert max(len(set(keys) & set(large)) for keys in together) == 3
        assert [large[5]] in together
        assert len(together) < 8
    assert await maybe(pair.b.exists(*large, *small)) == 32
    assert await maybe(pair.b.strlen(large[5])) == 9 << 20


async def test_a_value_that_takes_long_to_read_is_read_once(pair: Pair, maybe: Any, flavour: Any) -> None:
    """How long it lives is asked again, until that is known well enough."""
    key, gone = pair.key("k"), pair.key("gone")
    await maybe(pair.a.set(key, "v", px=60_000))
    await maybe(pair.a.set(gone, "v", px=100))
    due = await maybe(pair.a.pexpiretime(key))
    watched = Watched(pair.ports["a"], flavour, slow=0.3)
    carrier = pair.carrier(Move(2, "a", "b"), a=watched)
    await carrier.begin()
    await carrier.bring([key, gone], remove=False)
    assert watched.together(b"DUMP") == [[key, gone]]
    assert len(watched.together(b"PTTL")) >= 2
    assert due <= await maybe(pair.b.pexpiretime(key)) <= due + 1500
    assert await maybe(pair.b.exists(gone)) == 0
