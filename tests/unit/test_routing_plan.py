"""Keys of commands and what is done with a command: pure decisions, no server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coordkit.errors import CrossShardError, PartialFailure, ShardDown, StoreRefused, StoreUnavailable
from coordkit.routing import ketama, rendezvous
from coordkit.routing.commands.keys import entries_of, key_positions, wire_arguments
from coordkit.routing.commands.plan import Plan, Question, listed
from coordkit.routing.commands.router import Router
from coordkit.routing.ways.batch import Gathering

PLACEMENT = rendezvous(["a", "b", "c"])


def key_on(shard: str, nth: int = 0) -> str:
    return [key for key in (f"key:{i}" for i in range(100)) if PLACEMENT.lookup(key) == shard][nth]


A, B, C = (key_on(shard) for shard in "abc")
A2 = key_on("a", 1)


def plan(*args: Any, **options: Any) -> Plan:
    planned = Router(PLACEMENT).plan(args, options)
    assert isinstance(planned, Plan)
    return planned


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("GET k", ["k"]),
        ("set k v EX 10", ["k"]),
        ("MSET a 1 b 2", ["a", "b"]),
        ("BLPOP a b 0", ["a", "b"]),
        ("EVAL script 2 a b c", ["a", "b"]),
        ("EVALSHA sha 0 a", []),
        ("FCALL f 1 a b", ["a"]),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", ["d", "a", "b"]),
        ("ZINTER 2 a b", ["a", "b"]),
        ("LMPOP 2 a b LEFT", ["a", "b"]),
        ("BZMPOP 0 2 a b MIN", ["a", "b"]),
        ("XREAD COUNT 2 BLOCK 10 STREAMS a b 0 1-0", ["a", "b"]),
        ("XREADGROUP GROUP streams c STREAMS a >", ["a"]),
        ("BITOP AND d a b", ["d", "a", "b"]),
        ("OBJECT ENCODING k", ["k"]),
        ("MEMORY USAGE k SAMPLES 5", ["k"]),
        ("XINFO STREAM k FULL", ["k"]),
        ("XGROUP CREATE k g $", ["k"]),
        ("COPY a b REPLACE", ["a", "b"]),
        ("LCS a b LEN", ["a", "b"]),
        ("GEORADIUS k 1 2 3 m COUNT 5 STORE d", ["k", "d"]),
        ("GEORADIUSBYMEMBER k m 3 m STOREDIST d", ["k", "d"]),
        ("GEOSEARCHSTORE d k FROMMEMBER m BYRADIUS 1 m ASC", ["d", "k"]),
        ("SORT k BY nosort GET # LIMIT 0 5 STORE d", ["k", "d"]),
        ("SORT k BY STORE", ["k"]),
        ("SORT k STORE a STORE d", ["k", "d"]),
        ("SORT_RO k DESC", ["k"]),
        ("MIGRATE host 6379 k 0 1000", ["k"]),
        ("PFMERGE d a b", ["d", "a", "b"]),
        ("PFCOUNT a b", ["a", "b"]),
        ("DBSIZE", []),
    ],
)
def test_where_the_keys_of_a_command_stand(command: str, keys: list[str]) -> None:
    router = Router(PLACEMENT)
    args = command.split()
    name = args[0].upper()
    if name in {"OBJECT", "MEMORY", "XINFO", "XGROUP"}:
        name = f"{name}|{args[1].upper()}"
    assert [args[i] for i in key_positions(router._rules[name], args)] == keys


def test_migrate_of_many_keys_and_with_a_password() -> None:
    args = ["MIGRATE", "host", 6379, "", 0, 1000, "AUTH2", "KEYS", "secret", "KEYS", "a", "b"]
    assert [args[i] for i in key_positions("migrate", args)] == ["a", "b"]


def test_names_are_read_as_redis_py_sends_them() -> None:
    assert wire_arguments(("OBJECT ENCODING", "k")) == ("OBJECT", "ENCODING", "k")
    for args in [("OBJECT ENCODING", A), ("object", b"encoding", A), (b"Object Encoding", A), ("GET " + A,)]:
        assert plan(*args).parts[0].shard == "a"
        assert plan(*args).parts[0].args == args  # untouched, so that redis-py finds its response callback


@pytest.mark.parametrize("numkeys", ["two", -1, 3, None])
def test_a_number_of_keys_that_is_none_is_refused_by_name(numkeys: Any) -> None:
    with pytest.raises(ValueError, match=r"EVAL: number of keys .*; 0 to 2"):
        plan("EVAL", "return 1", numkeys, A, B)


def test_a_command_with_keys_on_one_shard_is_sent_as_it_is() -> None:
    planned = plan("MGET", A, A2)
    assert planned.action == "route"
    assert planned.parts[0][:2] == ("a", ("MGET", A, A2))


def test_a_split_keeps_keys_and_values_together_and_options_narrow() -> None:
    planned = plan("MSET", A, 1, B, 2, A2, 3)
    assert [part[:2] for part in planned.parts] == [("a", ("MSET", A, 1, A2, 3)), ("b", ("MSET", B, 2))]
    read = plan("MGET", C, A, B, A, keys=[C, A, B, A])
    assert [part.options["keys"] for part in read.parts] == [[A, A], [B], [C]]
    assert read.settle([["1", "2"], ["3"], ["4"]]) == ["4", "1", "3", "2"]


@pytest.mark.parametrize("command", ["DEL", "UNLINK", "EXISTS", "TOUCH"])
def test_counts_of_a_split_add_up(command: str) -> None:
    assert plan(command, A, B, C).settle([1, 0, 1]) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("RENAME", A, B),
        ("MSETNX", A, 1, B, 2),
        ("SINTERSTORE", A, B, C),
        ("BLPOP", A, B, 0),
        ("EVAL", "script", 2, A, B),
        ("XREAD", "STREAMS", A, B, 0, 0),
        ("ZUNIONSTORE", A, 1, B),
        ("SORT", A, "STORE", B),
        ("PFCOUNT", A, B),
        ("BITOP", "AND", A, B),
        ("RPOPLPUSH", A, B),
        ("GEORADIUS", A, 1, 2, 3, "m", "STORE", B),
    ],
)
def test_keys_on_several_shards_are_refused_naming_each_key_and_its_shard(command: tuple[Any, ...]) -> None:
    with pytest.raises(CrossShardError) as refused:
        plan(*command)
    assert refused.value.shards.items() >= {A: "a", B: "b"}.items()
    assert f"{A!r} on a" in str(refused.value)
    assert f"{B!r} on b" in str(refused.value)


@pytest.mark.parametrize("pattern", ["weight_*", "*", "weight_*->f", "w{*}", "x{}_*"])
def test_sort_by_keys_that_may_be_anywhere_is_refused(pattern: str) -> None:
    with pytest.raises(CrossShardError, match="may be on other shards"):
        plan("SORT", A, "BY", pattern)
    with pytest.raises(CrossShardError):
        plan("SORT_RO", A, "GET", "#", "GET", pattern)


def test_sort_by_keys_of_the_same_tag_is_routed() -> None:
    tagged = "{" + A + "}"
    assert plan("SORT", tagged, "BY", f"w:{tagged}:*", "GET", "#").parts[0].shard == "a"
    with pytest.raises(CrossShardError):
        plan("SORT", A, "BY", "w:{" + B + "}:*")


@pytest.mark.parametrize(
    "command",
    [
        ("SHUTDOWN",), ("WAIT", 1, 0), ("SUBSCRIBE", "c"), ("SSUBSCRIBE", "c"), ("MULTI",), ("EXEC",), ("WATCH", A),
        ("EVAL", "return 1", 0), ("FCALL", "f", 0), ("DEBUG", "SLEEP", 0), ("CLIENT ID",), ("CLIENT KILL", "a:1"),
        ("CLUSTER", "SLOTS"), ("SCRIPT KILL",),
    ],
)  # fmt: skip
def test_what_belongs_to_no_key_is_refused_and_told_what_to_do(command: tuple[Any, ...]) -> None:
    with pytest.raises(CrossShardError, match=r"on\(shard\)|client_for"):
        plan(*command)


@pytest.mark.parametrize(
    "command",
    [
        ("SELECT", 1), ("select 1",), (b"SELECT", 1), ("AUTH", "x"), ("HELLO", 3), ("RESET",), ("QUIT",), ("MONITOR",),
        ("SYNC",), ("PSYNC", "?", -1), ("REPLCONF", "x"), ("CLIENT", "REPLY", "OFF"), ("CLIENT TRACKING", "ON"),
        ("CLIENT", b"setname", "x"), ("CLIENT SETINFO", "LIB-NAME", "x"), ("CLIENT", "NO-EVICT", "ON"),
        ("CLIENT", "NO-TOUCH", "ON"), ("CLIENT", "CACHING", "YES"), ("READONLY",), ("READWRITE",), ("ASKING",),
        ("SCRIPT", "DEBUG", "YES"),
    ],
)  # fmt: skip
def test_what_changes_a_connection_is_refused_and_told_where_to_set_it(command: tuple[Any, ...]) -> None:
    """Through a pool it would befall one connection of many, and a later command that meets it."""
    for refuse in (Router(PLACEMENT).plan, Router(PLACEMENT).plan_everywhere):
        with pytest.raises(CrossShardError, match="set it on the clients that you pass in"):
            refuse(command, {})


@pytest.mark.parametrize(
    "name",
    ["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE",
     "PUNSUBSCRIBE", "SUNSUBSCRIBE"],
)  # fmt: skip
def test_what_opens_a_transaction_or_a_subscription_is_not_put_to_all_shards(name: str) -> None:
    with pytest.raises(
        CrossShardError, match=rf"^{name}: (a transaction stays on one shard|it takes a connection over)"
    ):
        Router(PLACEMENT).plan_everywhere((name, "x"), {})


@pytest.mark.parametrize("command", [("FLUSHDB",), ("CONFIG", "GET", "*"), ("PUBLISH", "c", "m"), ("CLIENT", "LIST")])
def test_anything_else_may_be_put_to_all_shards_and_is_answered_by_shard(command: tuple[Any, ...]) -> None:
    planned = Router(PLACEMENT).plan_everywhere(command, {})
    assert [part[:2] for part in planned.parts] == [(shard, command) for shard in "abc"]
    assert planned.settle([1, 2, 3]) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("command", "replies", "reply"),
    [
        (("PING",), [True, True, True], True),
        (("DBSIZE",), [1, 2, 3], 6),
        (("KEYS", "*"), [["x"], [], ["y"]], ["x", "y"]),
        (("SCRIPT LOAD", "return 1"), ["sha", "sha", "sha"], "sha"),
        (("SCRIPT EXISTS", "s", "t"), [[True, True], [True, False], [True, True]], [True, False]),
        (("SCRIPT FLUSH",), [True, True, True], True),
        (("FLUSHDB",), [True, True, True], True),
        (("CONFIG SET", "a", 1), [True, True, True], True),
        (("INFO",), [{"n": 1}, {"n": 2}, {}], {"a": {"n": 1}, "b": {"n": 2}, "c": {}}),
        (("TIME",), [(1, 2), (1, 3), (2, 0)], {"a": (1, 2), "b": (1, 3), "c": (2, 0)}),
        (("PUBSUB CHANNELS",), [["x"], [], ["y", "x"]], ["x", "y"]),
        (("PUBSUB", "NUMSUB", "x", "y"), [[("x", 1), ("y", 0)]] * 3, [("x", 3), ("y", 0)]),
        (("PUBSUB NUMSUB", "x", "y"), [["x", 1, "y", 2]] * 3, ["x", 3, "y", 6]),
        (("PUBSUB NUMSUB",), [[], [], []], []),
        (("PUBSUB NUMPAT",), [1, 2, 2], 2),
        (("ACL DELUSER", "u"), [0, 1, 1], 1),
    ],
)
def test_a_question_to_all_shards_has_one_answer(command: tuple[Any, ...], replies: list[Any], reply: Any) -> None:
    planned = plan(*command)
    assert [part.shard for part in planned.parts] == ["a", "b", "c"]
    assert planned.settle(replies) == reply


def test_a_random_key_is_of_a_shard_as_often_as_it_has_keys() -> None:
    planned = plan("RANDOMKEY")
    assert [part.shard for part in planned.parts] == ["a", "a", "b", "b", "c", "c"]
    assert [part.args for part in planned.parts[:2]] == [("DBSIZE",), ("RANDOMKEY",)]
    drawn = Counter(planned.settle([0, None, 100, "y", 300, "z"]) for _ in range(4000))
    assert set(drawn) == {"y", "z"}
    assert 2 < drawn["z"] / drawn["y"] < 4.5
    assert planned.settle([1, None, 0, None, 0, "late"]) == "late"  # a key may come or go between the two
    assert planned.settle([0, None, 0, None, 0, None]) is None


def scanned(cursor: Any, after: Any) -> tuple[str, Any, Any]:
    planned = plan("SCAN", cursor, "MATCH", "x*")
    [part] = planned.parts
    assert part.args[2:] == ("MATCH", "x*")
    found, keys = planned.settle([(after, ["k"])])
    assert keys == ["k"]
    return part.shard, part.args[1], found


def test_scan_goes_from_shard_to_shard_by_its_cursor() -> None:
    shard, theirs, cursor = scanned(0, 2**64 - 1)
    assert (shard, theirs) == ("a", 0)
    shard, theirs, cursor = scanned(cursor, 0)
    assert (shard, theirs) == ("a", 2**64 - 1)
    shard, theirs, cursor = scanned(str(cursor), 7)  # as text, which redis-py takes as well
    assert (shard, theirs) == ("b", 0)
    shard, theirs, cursor = scanned(str(cursor).encode(), 0)
    assert (shard, theirs) == ("b", 7)
    assert scanned(cursor, 0) == ("c", 0, 0)
    assert plan("SCAN", 0).settle([[b"5", [b"k"]]])[0].isdigit()  # as the server sends it, without redis-py's parsing


@pytest.mark.parametrize("cursor", [7, -1, "x", None, 1 << 40, (1 << 200) - 1])
def test_a_cursor_of_other_shards_is_refused(cursor: Any) -> None:
    """It would skip keys without a word."""
    with pytest.raises(ValueError, match=r"SCAN: cursor=.*0, or the cursor that the last call"):
        plan("SCAN", cursor)
    of_two = Router(rendezvous(["a", "b"])).plan(("SCAN", 0), {})
    assert isinstance(of_two, Plan)
    with pytest.raises(ValueError, match="the same shards"):
        plan("SCAN", of_two.settle([(5, [])])[0])


def test_a_message_goes_to_the_shard_of_its_channel() -> None:
    for name in ("PUBLISH", "SPUBLISH"):
        assert (plan(name, B, "m").action, plan(name, B, "m").parts[0].shard) == ("route", "b")
        assert Router(PLACEMENT).explain((name, A, "m")).shards == {A: "a"}


@pytest.mark.parametrize(
    "command", [("GET",), ("DEL",), ("MGET",), ("MSET", A), ("MSET", A, 1, B), (), ("MIGRATE", "h", 1)]
)
def test_a_command_without_the_arguments_that_it_needs_is_a_value_error(command: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"allowed"):
        plan(*command)


def test_mget_of_nothing_gives_what_redis_py_gives() -> None:
    assert plan("MGET", EMPTY_RESPONSE=[], keys=[]).settle([]) == []


def test_a_partial_failure_says_what_worked() -> None:
    down = ConnectionError("down")
    with pytest.raises(PartialFailure) as failure:
        plan("MGET", A, B, A2).settle([["1", "2"], down])
    assert failure.value.ok == {A: "1", A2: "2"}
    assert failure.value.failed == {B: ("b", down)}
    assert failure.value.__cause__ is down
    with pytest.raises(PartialFailure) as failure:
        plan("DEL", A, B).settle([down, 1])
    assert (failure.value.ok, failure.value.failed) == ({B: 1}, {A: ("a", down)})


def test_a_broadcast_that_failed_in_part_says_whole_replies_by_shard() -> None:
    planned = Router(PLACEMENT).plan_everywhere(("MGET", A), {})
    with pytest.raises(PartialFailure, match=r"^MGET: 1 of 3 shards failed") as failure:
        planned.settle([["1"], ConnectionError("down"), ["2"]])
    assert failure.value.ok == {"a": ["1"], "c": ["2"]}


def test_a_split_that_failed_everywhere_says_why_and_not_that_some_of_it_worked() -> None:
    split, cause = plan("MGET", A, B), ConnectionError("cause")
    down, silent = ShardDown("a", "down", shard="a"), StoreUnavailable("b", "silent")
    down.__cause__ = cause
    with pytest.raises(StoreUnavailable, match=r"^MGET: none of its 2 shards answered: a: down; b: silent") as error:
        split.settle([down, silent])
    assert error.value.__cause__ is cause
    with pytest.raises(StoreRefused, match=r"^MGET: none of its 2 shards carried it out: a: full; b: full"):
        split.settle([StoreRefused("a", "full"), StoreRefused("b", "full")])
    users = ValueError("syntax")
    with pytest.raises(ValueError, match=r"^syntax$"):
        split.settle([users, ValueError("syntax")])
    with pytest.raises(PartialFailure) as failure:
        split.settle([silent, StoreRefused("b", "full")])
    assert failure.value.ok == {}
    with pytest.raises(StoreUnavailable, match=r"^SCRIPT LOAD: "):
        plan("SCRIPT LOAD", "return 1").settle([silent] * 3)


def test_explain_says_what_would_be_done() -> None:
    router = Router(PLACEMENT)
    assert router.explain(("MGET", A, B)).shards == {A: "a", B: "b"}
    assert router.explain(("MGET", A, B)).action == "split"
    assert router.explain(("GET", A)).action == "route"
    assert router.explain(("RENAME", A, B)).shards == {A: "a", B: "b"}
    assert router.explain(("RENAME", A, B)).action == "refuse"
    assert router.explain(("PING",)).action == "broadcast"
    assert router.explain(("INFO",)) == ("INFO", "broadcast", {s: s for s in "abc"}, router.explain(("TIME",)).why)
    assert router.explain(("DBSIZE",))[1:] == ("merge", {s: s for s in "abc"}, "the sum over all shards")
    assert router.explain(("SCAN", 0))[1:3] == ("merge", {"a": "a"})
    assert router.explain(("WAIT", 1, 1)).action == "refuse"
    assert router.explain(("JSON.GET", A)).action == "ask"


@pytest.mark.parametrize("kind", [bytearray, lambda key: memoryview(bytearray(key))])
def test_keys_of_every_buffer_are_named_as_bytes(kind: Any) -> None:
    """They cannot be hashed, and so not stand in the dicts of an error or an explanation."""
    one, other = A.encode(), B.encode()
    assert Router(PLACEMENT).explain(("MGET", kind(one), kind(other))).shards == {one: "a", other: "b"}
    for command in (("RENAME", kind(one), kind(other)), ("SORT", kind(one), "STORE", kind(other))):
        with pytest.raises(CrossShardError) as refused:
            plan(*command)
        assert refused.value.shards == {one: "a", other: "b"}
    with pytest.raises(CrossShardError) as refused:
        plan("SORT", kind(one), "BY", kind(b"w_*"))
    assert refused.value.shards == {one: "a", b"w_*": "any shard"}
    with pytest.raises(PartialFailure) as failure:
        plan("MSET", kind(one), 1, kind(other), 2).settle([True, ConnectionError("down")])
    assert (set(failure.value.ok), set(failure.value.failed)) == ({one}, {other})
    gathering = Gathering()
    for key, shard in ((one, "a"), (other, "b")):
        gathering.add_simple(shard, (("INCR", kind(key)), {}))
    with pytest.raises(CrossShardError) as refused:
        gathering.check_one_shard()
    assert refused.value.shards == {one: "a", other: "b"}


@pytest.mark.parametrize("name", [5, None, "", " ", bytearray(b"GET")])
def test_a_name_that_is_no_name_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError, match=r"args\[0\]=.*; the name of a command"):
        plan(name, A)


def test_keys_of_other_types_are_refused_without_an_encoder_and_never_misread() -> None:
    router = Router(PLACEMENT)
    assert router.route(memoryview(A.encode())) == router.route(bytearray(A.encode())) == "a"
    with pytest.raises(TypeError):
        router.route(5)


def test_an_unknown_command_is_asked_for_once() -> None:
    """With the entry of Redis 6.2 (no key specifications), of 7 as lists, and of RESP3 as maps."""
    old = ["json.get", -2, ["readonly"], 1, 1, 1, []]
    spec = ["flags", ["RO"], "begin_search", ["type", "index", "spec", ["index", 1]], "find_keys",
            ["type", "range", "spec", ["lastkey", 0, "keystep", 1, "limit", 0]]]  # fmt: skip
    new = ["json.get", -2, ["readonly"], 1, 1, 1, [], [], [spec], []]
    maps = [b"json.get", -2, {b"readonly"}, 1, 1, 1, set(), [], [{
        b"flags": {b"RO"}, b"begin_search": {b"type": b"index", b"spec": {b"index": 1}},
        b"find_keys": {b"type": b"range", b"spec": {b"lastkey": 0, b"keystep": 1, b"limit": 0}}}], []]  # fmt: skip
    for entry in (old, new, maps):
        router = Router(PLACEMENT)
        question = router.plan(("JSON.GET", A, "$"), {})
        assert isinstance(question, Question)
        assert question.ask == ("COMMAND", "INFO", "json.get")
        planned = router.answer(question, [entry])
        assert isinstance(planned, Plan)
        assert planned.parts[0].shard == "a"
        assert router.shard_of_first_key(("JSON.GET", B)) == "b"


def test_what_no_server_knows_is_not_sent() -> None:
    router = Router(PLACEMENT)
    for args in [("NOSUCH", A), ("XINFO", "NOSUCH", A)]:
        question = router.plan(args, {})
        assert isinstance(question, Question)
        assert router.answer(question, [None]) is None


def test_keys_that_only_a_server_can_find_are_asked_for_each_time() -> None:
    router = Router(PLACEMENT)
    movable = ["mod.cmd", -2, ["write", "movablekeys"], 0, 0, 0, []]
    assert entries_of(movable) == {"MOD.CMD": "?"}
    question = router.plan(("MOD.CMD", "x", A), {})
    assert isinstance(question, Question)
    again = router.answer(question, [movable])
    assert isinstance(again, Question)
    assert again.ask == ("COMMAND", "GETKEYS", "MOD.CMD", "x", A)
    planned = router.answer(again, [A.encode()])
    assert isinstance(planned, Plan)
    assert planned.parts[0].shard == "a"
    with pytest.raises(CrossShardError):
        router.answer(again, [A, B])
    with pytest.raises(CrossShardError, match="without a key"):
        router.answer(again, [])


def test_of_a_placement_without_hash_tags_a_pattern_says_nothing_of_the_shard() -> None:
    placement = ketama(["a", "b", "c"], dialect="libketama")
    with pytest.raises(CrossShardError, match="BY or GET"):
        Router(placement).plan(("SORT", "{x}", "BY", "{x}:*"), {})
    tagged = ketama(["a", "b", "c"], dialect="libketama", hash_tags=True)
    planned = Router(tagged).plan(("SORT", "{x}", "BY", "{x}:*"), {})
    assert isinstance(planned, Plan)
    assert planned.parts[0].shard == tagged.lookup("x")


def test_an_error_names_as_many_keys_as_anybody_reads() -> None:
    where = {f"k{i}": "ab"[i % 2] for i in range(1000)}
    assert listed(dict(list(where.items())[:2])) == "'k0' on a, 'k1' on b"
    assert listed(where).endswith("'k99' on b, and 900 more keys (`.shards` has all)")
