"""Who of a shard is asked to read, and which commands are reads: pure decisions, no server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis.asyncio

from coordkit._asyncio.runtime import RUNTIME
from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable, TooFewReplicas
from coordkit.routing import LeastOutstanding, PeakEwma, RoundRobin, SmoothWeightedRoundRobin, rendezvous
from coordkit.routing.commands import table as command_table
from coordkit.routing.commands.plan import Plan, Question
from coordkit.routing.commands.reads import OTHER, READ, WRITE
from coordkit.routing.commands.router import Router
from coordkit.routing.replicas import questions, questions_aio
from coordkit.routing.replicas.lag import MaxLag
from coordkit.routing.replicas.probes import Probes
from coordkit.routing.replicas.readers import Node, Readers
from coordkit.routing.replicas.terms import Terms


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


PRIMARY = Node("p", None, None, is_primary=True)
A, B = Node("a", None, None, weight=5), Node("b", None, None, weight=1)


def readers(balance: Any = RoundRobin, nodes: Any = (A, B), **options: Any) -> Readers:
    return Readers("s", PRIMARY, nodes, balance, **{"clock": Clock(), **options})


def picked(one: Readers, read_from: Any, times: int = 60, tried: Any = ()) -> set[str]:
    found = set()
    for _ in range(times):
        node, picker = one.pick(read_from, tried)
        one.worked(node, picker, 0.0)
        found.add(node.address)
    return found


@pytest.mark.parametrize("balance", [RoundRobin, LeastOutstanding, PeakEwma, SmoothWeightedRoundRobin])
def test_who_is_picked_first(balance: Any) -> None:
    one = readers(balance)
    assert picked(one, "replica") == picked(one, "replica_preferred") == {"a", "b"}
    assert picked(one, "nearest") == {"a", "b", "p"}


def test_a_retry_goes_to_another_and_at_last_to_the_primary() -> None:
    one = readers()
    assert picked(one, "replica", tried=[A]) == {"b"}
    assert picked(one, "replica_preferred", tried=[A]) == {"b"}
    assert picked(one, "replica_preferred", tried=[A, B]) == {"p"}
    assert picked(one, "nearest", tried=[A, B]) == {"p"}
    for read_from in ("replica", "replica_preferred", "nearest"):
        with pytest.raises(NoNodes):
            one.pick(read_from, [A, B, PRIMARY])
    with pytest.raises(NoNodes):
        one.pick("replica", [A, B])


def test_three_are_tried_and_the_last_is_the_primary_where_it_may_be() -> None:
    many = [Node(str(i), None, None) for i in range(5)]
    one = readers(nodes=many)
    assert picked(one, "replica_preferred", tried=many[:1]) == {"1", "2", "3", "4"}
    assert picked(one, "replica_preferred", tried=many[:2]) == {"p"}
    assert picked(one, "replica", tried=many[:2]) == {"2", "3", "4"}
    with pytest.raises(NoNodes):
        one.pick("replica", many[:3])


def test_who_failed_is_picked_only_where_nobody_else_is_left() -> None:
    one = readers()
    one.ended(A, None, StoreUnavailable("s", "gone"))
    assert one.told() == {"a": "it failed lately (gone)", "b": ""}
    assert picked(one, "replica") == {"b"}
    one.ended(B, None, OSError("gone, too"))
    assert picked(one, "replica_preferred") == {"p"}
    assert picked(one, "nearest") == {"p"}
    node, picker = one.pick("replica")
    one.ended(node, picker, OSError("still"))
    one.worked(A, None)
    assert picked(one, "replica") == {"a"}
    one.ended(PRIMARY, None, OSError("gone"))
    one.ended(A, None, OSError("gone"))
    found = {one.pick("nearest")[0].address for _ in range(6)}
    assert found == {"a", "b", "p"}, "all are suspected, so all are tried"


def test_one_that_is_cancelled_is_not_suspected() -> None:
    one = readers(LeastOutstanding)
    node, picker = one.pick("replica")
    one.ended(node, picker, None)
    assert one.told() == {"a": "", "b": ""}
    assert set(picker._busy.values()) == {0}


def test_who_lags_is_never_picked() -> None:
    one = readers(max_lag=MaxLag(bytes=10))
    assert one.to_probe() == {PRIMARY, A, B}
    primary = {"role": "master", "master_replid": "h", "master_repl_offset": 100}
    replica = {"role": "slave", "master_replid": "h", "master_link_status": "up"}
    one.found({PRIMARY: primary, A: {**replica, "slave_repl_offset": 50}, B: {**replica, "slave_repl_offset": 95}}, 1.0)
    assert one.told() == {"a": "it is 50 bytes behind its primary, and max_lag_bytes is 10", "b": ""}
    assert picked(one, "replica") == {"b"}
    one.ended(B, None, OSError("gone"))
    assert picked(one, "replica_preferred") == {"p"}
    assert picked(one, "replica") == {"b"}, "it is only suspected, and a is known to lag"
    with pytest.raises(NoNodes):
        one.pick("replica", [B])
    assert "50 bytes behind" in str(one.down("replica"))
    one.found({PRIMARY: primary, A: {**replica, "slave_repl_offset": 100}}, 2.0)
    assert picked(one, "replica_preferred") == {"a", "b"}


def test_who_is_set_aside_is_probed_when_it_is_time_and_then_counts() -> None:
    clock = Clock()
    one, told = readers(clock=clock), []
    one.on_failure = lambda: told.append(one.aside.next_due())
    one.ended(A, None, OSError("gone"))
    assert told == [clock.now + 0.5]
    assert one.to_probe() == set()
    clock.now += 0.5
    assert one.to_probe() == {A}
    one.found({A: OSError("still")}, clock.now)
    clock.now += 0.9
    assert one.to_probe() == set(), "twice as long"
    clock.now += 0.1
    assert one.to_probe() == {A}
    one.found({A: {"role": "slave"}}, clock.now)
    assert one.told() == {"a": "", "b": ""}
    assert picked(one, "replica") == {"a", "b"}


def test_replicas_come_and_go() -> None:
    one, c = readers(SmoothWeightedRoundRobin), Node("c", None, None)
    counts = Counter(one.pick("replica")[0].address for _ in range(60))
    assert counts == {"a": 50, "b": 10}, "by their weights"
    one.ended(A, None, OSError("gone"))
    one.update([B, c])
    assert picked(one, "replica") == {"b", "c"}
    assert picked(one, "nearest") == {"b", "c", "p"}
    one.update([])
    assert picked(one, "replica_preferred") == {"p"}
    with pytest.raises(NoNodes):
        one.pick("replica")
    assert "no replica is known" in str(one.down("replica"))


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("GET k", READ), ("get k", READ), ("MGET a b", READ), ("EVAL_RO s 1 k", READ), ("FCALL_RO f 1 k", READ),
        ("SORT_RO k", READ), ("OBJECT ENCODING k", READ), ("XINFO STREAM k", READ), ("DUMP k", READ),
        ("SET k v", WRITE), ("mset a 1", WRITE), ("EVAL s 1 k", WRITE), ("EVALSHA s 1 k", WRITE), ("SORT k", WRITE),
        ("FCALL f 1 k", WRITE), ("GETEX k", WRITE), ("FLUSHDB", WRITE), ("XGROUP CREATE k g 0", WRITE),
        ("SCAN 0", OTHER), ("HSCAN k 0", OTHER), ("SSCAN k 0", OTHER), ("ZSCAN k 0", OTHER), ("TOUCH k", OTHER),
        ("XREAD STREAMS k 0", OTHER), ("OBJECT IDLETIME k", OTHER), ("EVALSHA_RO s 1 k", OTHER), ("KEYS *", OTHER),
        ("PING", OTHER), ("WATCH k", OTHER), ("PUBLISH c m", OTHER), ("NO.SUCH k", OTHER),
    ],
)  # fmt: skip
def test_kinds_of_commands(command: str, kind: str) -> None:
    router = Router(rendezvous(["a"]))
    assert router.kind_of(command.split()) == kind
    assert router.kind_of([word.encode() for word in command.split()]) == kind


def test_every_command_that_is_flagged_is_one_kind() -> None:
    router = Router(rendezvous(["a"]))
    writes, reads = command_table.WRITE.split(), command_table.READONLY.split()
    assert not set(writes) & set(reads)
    assert {router.kind_of(name.split("|")) for name in writes} == {WRITE}
    assert {router.kind_of(name.split("|")) for name in reads} == {READ, OTHER}
    assert sum(router.kind_of(name.split("|")) == READ for name in reads) == len(reads) - 14


def test_kinds_of_commands_that_the_server_tells_of() -> None:
    router = Router(rendezvous(["a"]))
    for name, flag, kind in (("m.get", b"readonly", READ), ("m.set", b"write", WRITE), ("m.do", b"fast", OTHER)):
        question = router.plan((name, "k"), {})
        assert isinstance(question, Question)
        assert isinstance(router.answer(question, [[name.encode(), -2, [flag], 1, 1, 1]]), Plan)
        assert router.kind_of((name, "k")) == kind


def test_too_few_copies_stand_in_the_place_of_writes_alone() -> None:
    terms = Terms(min_replicas=2, wait_timeout=0.5)
    no = StoreRefused("s", "no")
    replies = [1, "v", no]
    copying = terms.copying([WRITE, READ, WRITE])
    assert copying is not None
    assert copying.judged("s", replies, 2) == replies
    assert terms.copying([READ, OTHER]) is None
    assert Terms().copying([WRITE]) is None
    short = copying.judged("s", replies, 1)
    assert isinstance(short[0], TooFewReplicas)
    assert (short[0].replicas, short[0].reply, short[1:]) == (1, 1, ["v", no])
    [unknown, *_] = copying.judged("s", replies, StoreUnavailable("s", "no answer"))
    assert unknown.replicas is None
    assert "unknown (no answer)" in str(unknown)


def test_with_a_max_lag_nobody_is_read_from_before_the_first_look() -> None:
    one = readers(max_lag=MaxLag(seconds=1))
    assert {one.pick("nearest")[0].address for _ in range(9)} == {"p"}
    assert one.pick("replica_preferred")[0].address == "p"
    with pytest.raises(NoNodes):
        one.pick("replica")
    assert one.told() == {"a": "it was not looked at yet", "b": "it was not looked at yet"}


def test_one_that_is_closed_while_its_first_look_is_waited_for_looks_again_when_it_is_used_again() -> None:
    looking = asyncio.Event()

    class Questions:
        def begin(self, _: Any) -> None:
            pass

        async def infos(self, _: Any) -> Any:
            looking.set()
            await asyncio.sleep(3600)

        async def close(self) -> None:
            pass

    async def story() -> None:
        questions: Any = Questions()
        probes = Probes(readers(max_lag=MaxLag(1.0)), questions, RUNTIME, follows_sentinel=False)
        reading = asyncio.ensure_future(probes.begin())
        await looking.wait()
        await probes.close()
        await reading
        assert not probes.begun

    asyncio.run(story())


@pytest.mark.parametrize("flavour", ["blocking", "asyncio"])
def test_what_was_made_for_a_replica_goes_with_it(flavour: str) -> None:
    """Where replicas come and go with new addresses, clients of old ones would pile up."""
    kind: Any = redis.asyncio.Redis if flavour == "asyncio" else redis.Redis
    made: Any = (questions_aio if flavour == "asyncio" else questions).Questions("s", None)

    class Followed:
        def client_at(self, address: tuple[str, int], _: Any) -> Any:
            return kind(host=address[0], port=address[1])

    async def story() -> None:
        for port in range(1, 4):
            found = made._as_nodes(Followed(), [("127.0.0.1", port)])
            [node] = await found if flavour == "asyncio" else found
            made._bounded(node.client)
            assert node.address == f"127.0.0.1:{port}"
            assert list(made._clients) == [node.client]

    asyncio.run(story())
