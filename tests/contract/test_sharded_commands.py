"""Every command in the server's own COMMAND table is routed, split, broadcast, merged or refused: none silently to one
shard.

The server is asked where the keys of a sample of each command are (COMMAND GETKEYS), and the router must agree. What
becomes of each command without a key, and why, stands here once more, by hand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from coordkit.errors import CrossShardError
from coordkit.routing import rendezvous
from coordkit.routing.commands import table as command_table
from coordkit.routing.commands.keyless import PUBLISHING
from coordkit.routing.commands.keys import ASK, key_positions, word
from coordkit.routing.commands.plan import Explanation, Plan, Question
from coordkit.routing.commands.router import SPLIT, Router
from coordkit.routing.ways.batch import TAKE

PLACEMENT = rendezvous(["a", "b", "c"])
SHIPPED = {name for names in command_table.RULES.values() for name in names.split()}
# What is refused though the table knows a key for it, and why.
NEEDS_A_CONNECTION = {"WATCH"}
# What becomes of the commands without a key: what is done, and a word of the reason that `explain` gives.
KEYLESS = {
    ("merge", "sum over all shards$"): "DBSIZE SLOWLOG|LEN LATENCY|RESET COMMANDLOG|LEN",
    ("merge", "sum .* by channel"): "PUBSUB|NUMSUB PUBSUB|SHARDNUMSUB",
    ("merge", "those of all shards"): "KEYS PUBSUB|CHANNELS PUBSUB|SHARDCHANNELS",
    ("merge", "the cursor says which"): "SCAN",
    ("merge", "how many keys"): "RANDOMKEY",
    ("merge", "all shards have it"): "SCRIPT|EXISTS",
    ("merge", "greatest"): "PUBSUB|NUMPAT ACL|DELUSER",
    ("broadcast", "all say the same"): "PING ECHO SAVE BGSAVE BGREWRITEAOF FLUSHALL FLUSHDB SWAPDB CONFIG|SET "
    "CONFIG|RESETSTAT CONFIG|REWRITE SCRIPT|LOAD SCRIPT|FLUSH FUNCTION|LOAD FUNCTION|DELETE FUNCTION|FLUSH "
    "FUNCTION|RESTORE CLIENT|PAUSE CLIENT|UNPAUSE ACL|SETUSER ACL|LOAD ACL|SAVE SLOWLOG|RESET COMMANDLOG|RESET "
    "MEMORY|PURGE MODULE|LOAD MODULE|LOADEX MODULE|UNLOAD PFSELFTEST COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS "
    "ACL|HELP CLIENT|HELP CLUSTER|HELP COMMAND|HELP COMMANDLOG|HELP CONFIG|HELP FUNCTION|HELP LATENCY|HELP MEMORY|HELP "
    "MODULE|HELP OBJECT|HELP PUBSUB|HELP SCRIPT|HELP SLOWLOG|HELP XGROUP|HELP XINFO|HELP",
    (
        "broadcast",
        "a dict by shard",
    ): "INFO TIME LASTSAVE ROLE LOLWUT CONFIG|GET CLIENT|LIST SLOWLOG|GET COMMANDLOG|GET "
    "LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HISTOGRAM LATENCY|HISTORY LATENCY|LATEST MEMORY|DOCTOR MEMORY|MALLOC-STATS "
    "MEMORY|STATS MODULE|LIST FUNCTION|DUMP FUNCTION|LIST FUNCTION|STATS SCRIPT|SHOW ACL|CAT ACL|DRYRUN ACL|GENPASS "
    "ACL|GETUSER ACL|LIST ACL|LOG ACL|USERS ACL|WHOAMI COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|INFO COMMAND|LIST",
    ("refuse", "about one connection"): "ASKING AUTH HELLO MONITOR PSYNC QUIT READONLY READWRITE REPLCONF RESET SELECT "
    "SYNC SCRIPT|DEBUG CLIENT|CACHING CLIENT|CAPA CLIENT|GETNAME CLIENT|GETREDIR CLIENT|ID CLIENT|IMPORT-SOURCE "
    "CLIENT|INFO CLIENT|NO-EVICT CLIENT|NO-TOUCH CLIENT|REPLY CLIENT|SETINFO CLIENT|SETNAME CLIENT|TRACKING "
    "CLIENT|TRACKINGINFO",
    ("refuse", "the connections of one client"): "HIMPORT|SET HIMPORT|PREPARE HIMPORT|DISCARD HIMPORT|DISCARDALL",
    ("refuse", "the connection that wrote"): "WAIT WAITAOF",
    ("refuse", "a transaction stays on one shard"): "MULTI EXEC DISCARD UNWATCH WATCH",
    ("refuse", r"use pubsub\(\)"): "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE",
    ("refuse", "about one server"): "CLIENT|KILL CLIENT|UNBLOCK DEBUG FAILOVER FUNCTION|KILL REPLICAOF SCRIPT|KILL "
    "SHUTDOWN SLAVEOF",
    ("refuse", "no nodes of a Redis Cluster"): "CLUSTER|ADDSLOTS CLUSTER|ADDSLOTSRANGE CLUSTER|BUMPEPOCH "
    "CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|COUNTKEYSINSLOT CLUSTER|DELSLOTS CLUSTER|DELSLOTSRANGE CLUSTER|FAILOVER "
    "CLUSTER|FLUSHSLOTS CLUSTER|FORGET CLUSTER|GETKEYSINSLOT CLUSTER|INFO CLUSTER|KEYSLOT CLUSTER|LINKS CLUSTER|MEET "
    "CLUSTER|MYID CLUSTER|NODES CLUSTER|REPLICAS CLUSTER|REPLICATE CLUSTER|RESET CLUSTER|SAVECONFIG "
    "CLUSTER|SET-CONFIG-EPOCH CLUSTER|SETSLOT CLUSTER|SHARDS CLUSTER|SLAVES CLUSTER|SLOTS",
}
BECOMES = {name: becomes for becomes, names in KEYLESS.items() for name in names.split()}
# A sample that the server's own parser accepts, where a row of plain words is none. K stands for a key.
SAMPLES = {
    "SCAN": "SCAN 0",
    "STRALGO": "STRALGO LCS KEYS K K",  # of Redis 6.2
    "XREAD": "XREAD COUNT 1 STREAMS K K 0 0",
    "XREADGROUP": "XREADGROUP GROUP g c STREAMS K K 0 0",
    "MIGRATE": "MIGRATE host 6379 K 0 1000",
    "SORT": "SORT K LIMIT 0 1 STORE K",
    "GEORADIUS": "GEORADIUS K 1 2 3 m STORE K",
    "GEORADIUSBYMEMBER": "GEORADIUSBYMEMBER K m 3 m STOREDIST K",
}


class Server:
    """The server's table of commands, and its word on where keys are, without redis-py's parsing of either."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def raw(self, *words: Any) -> Any:
        connection: Any = self.client.connection_pool.get_connection(*TAKE)
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            self.client.connection_pool.release(connection)

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yield each command and subcommand; of a container (OBJECT) only the subcommands, which are what is sent."""
        for entry in self.raw("COMMAND"):
            subcommands = entry[9] if len(entry) > 9 else []
            for called in subcommands or [entry]:
                name = word(called[0])
                # A server before 7.0 lists no subcommands.
                for one in [each for each in SHIPPED if each.startswith(f"{name}|")] or [name]:
                    yield one, called

    def keys(self, args: list[str]) -> list[bytes] | None:
        """Return the keys of a command as the server sees them, None when it says there are none."""
        if len(args) == 1:  # GETKEYS wants an argument, and a bare name has no key
            return None
        try:
            keys: list[bytes] = self.raw("COMMAND", "GETKEYS", *args)
        except redis.ResponseError as error:
            if "no key arguments" in str(error):
                return None
            raise AssertionError(f"{args}: {error}") from error
        return keys


@pytest.fixture
def server(coordkit_redis_shards: Any) -> Iterator[Server]:
    server = Server(coordkit_redis_shards[0].url)
    yield server
    server.client.close()


def planned(router: Router, server: Server, args: list[str]) -> Plan | CrossShardError:
    try:
        plan: Any = router.plan(args, {})
        while isinstance(plan, Question):
            plan = router.answer(plan, server.raw(*plan.ask))
    except CrossShardError as refused:
        return refused
    assert plan is not None, args
    assert isinstance(plan, Plan)
    return plan


def sample(router: Router, name: str, entry: Any, key: str, other: str) -> list[str]:
    """Return a call of the command as long as its arity asks for, with ``key`` and ``other`` where it has keys."""
    keys = iter([key, *[other] * 20])
    if name in SAMPLES:
        return [next(keys) if part == "K" else part for part in SAMPLES[name].split()]
    words = name.split("|")
    rule = router._rules.get(name, "")
    length = max(abs(entry[1]), len(words), 3 if rule == "2:0:1" else 0)
    if rule in {"", ASK}:
        return words + ["1"] * (length - len(words))
    counted = [int(part[1:]) for part in rule.split() if part.startswith("#")]
    if counted:
        length = max(length, counted[0] + 2)
    if "-1:" in rule and not counted:
        length += 2 if rule == "1:-1:2" else 1  # room for a second key
    args = words + ["1"] * (length - len(words))
    for at in key_positions(rule, args):
        args[at] = next(keys)
    return args


def test_every_command_of_the_server_is_dealt_with_on_purpose(server: Server) -> None:
    router = Router(PLACEMENT)
    done = Counter[str]()
    entries = dict(server.entries())
    assert len(entries) > 200
    for name, entry in entries.items():
        args = sample(router, name, entry, "{tag}:key", "{tag}:other")
        keys = None if name in BECOMES else server.keys(args)
        outcome = planned(router, server, args)
        if keys and not is_channel(name):
            assert isinstance(outcome, Plan), f"{name} has keys {keys} but: {outcome}"
            assert outcome.action == "route"
            [part] = outcome.parts
            assert [part.shard] * len(keys) == [PLACEMENT.lookup(key) for key in keys], args
            assert sorted(map(router.bytes_of, part.names)) == sorted(keys), args
            assert list(part.args) == args
            done["routed"] += 1
        elif name in PUBLISHING:
            assert isinstance(outcome, Plan)
            assert [(part.shard, part.names) for part in outcome.parts] == [(PLACEMENT.lookup(args[1]), (args[1],))]
            done["routed by channel"] += 1
        else:
            done[check_keyless(router, name, args, outcome)] += 1
    assert done["routed"] > 120
    assert done["routed by channel"] in (1, 2)  # SPUBLISH came with 7.0
    assert done["refuse"] > 50
    assert done["broadcast"] > 50
    assert done["merge"] > 8


def check_keyless(router: Router, name: str, args: list[str], outcome: Plan | CrossShardError) -> str:
    """Check what becomes of a command without a key; return what."""
    explained = router.explain(args)
    if name not in BECOMES:  # newer than this test: whoever knows it not sends it nowhere
        assert isinstance(outcome, CrossShardError), f"{name} has no key, but goes to {outcome.parts}"
        assert name not in SHIPPED, f"{name} is in coordkit's table: say here what becomes of it"
        return "new"
    action, why = BECOMES[name]
    assert (explained.action, bool(re.search(why, explained.why))) == (action, True), (name, explained)
    if isinstance(outcome, CrossShardError):
        assert action == "refuse", f"{name}: {outcome}"
        return action
    assert outcome.action == action, name
    asked = {part.shard for part in outcome.parts}
    assert asked == ({PLACEMENT.shards[0]} if name == "SCAN" else set(PLACEMENT.shards)), name
    return action


def test_a_command_of_which_the_keys_are_left_out_is_refused(server: Server) -> None:
    router = Router(PLACEMENT)
    known = {name for name, _ in server.entries()}
    for name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"):
        if name in known:
            refused = planned(router, server, [name, "x", "0"])
            assert isinstance(refused, CrossShardError)
            assert "without a key it belongs to no shard" in str(refused)


def test_every_command_with_keys_on_two_shards_is_split_or_refused(server: Server) -> None:
    router = Router(PLACEMENT)
    one, other = (
        "key:1",
        next(f"key:{i}" for i in range(99) if PLACEMENT.lookup(f"key:{i}") != PLACEMENT.lookup("key:1")),
    )
    done = Counter[str]()
    for name, entry in server.entries():
        args = sample(router, name, entry, one, other)
        keys = None if name in BECOMES else server.keys(args)
        if (
            keys is None
            or len({PLACEMENT.lookup(key) for key in keys}) < 2
            or name in NEEDS_A_CONNECTION
            or is_channel(name)
        ):
            continue
        outcome = planned(router, server, args)
        if isinstance(outcome, CrossShardError):
            named = {router.bytes_of(key).decode(): shard for key, shard in outcome.shards.items()}
            assert named == {one: PLACEMENT.lookup(one), other: PLACEMENT.lookup(other)}, name
            done["refused"] += 1
        else:
            assert name in SPLIT
            assert outcome.action == "split"
            sent = {key: part.shard for part in outcome.parts for key in part.names}
            assert sent == {one: PLACEMENT.lookup(one), other: PLACEMENT.lookup(other)}, name
            done[name] += 1
    assert done["refused"] > 20
    assert {name for name in done if name != "refused"} == set(SPLIT)


def test_the_table_that_coordkit_ships_agrees_with_this_server(server: Server) -> None:
    """Where both know a command; a server says it in its key specifications, which came with 7.0."""
    shipped, learned, compared = Router(PLACEMENT), Router(PLACEMENT), 0
    if int(server.client.info("server")["redis_version"].partition(".")[0]) < 7:
        pytest.skip("a Redis before 7.0 has no key specifications to compare with")
    for name, entry in server.entries():
        if name not in shipped._rules:
            continue
        assert len(entry) > 8, f"{name} has no key specifications"
        del learned._rules[name]
        question = Question(("COMMAND", "INFO", name.lower()), tuple(name.split("|")), {})
        with suppress(CrossShardError, ValueError):  # what was learned counts; without arguments it cannot be planned
            learned.answer(question, [entry])
        assert learned._rules[name] == shipped._rules[name], name
        compared += bool(shipped._rules[name])  # that there is no key is told by an empty rule, which proves less
    assert compared > 150


def test_explain_never_raises_for_a_command_of_the_server(server: Server) -> None:
    router = Router(PLACEMENT)
    for name, entry in server.entries():
        explained = router.explain(sample(router, name, entry, "key:1", "key:2"))
        assert isinstance(explained, Explanation)
        assert explained.action in {"route", "split", "broadcast", "merge", "refuse", "ask"}
        assert explained.why


def is_channel(name: str) -> bool:
    return "SUBSCRIBE" in name or name in {"PUBLISH", "SPUBLISH"}
