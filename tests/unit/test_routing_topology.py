"""A topology's transitions, its plan, and the bytes in which others read it."""

from __future__ import annotations

import json
import pickle
import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.errors import BadTopology, NoNodes
from coordkit.routing import SLOTS, Moving, Shard, SlotMap, Stable, Step, Topology, rendezvous
from coordkit.routing.topology import form as topology_form

some = settings(max_examples=10, deadline=None)  # a deadline would measure the machine
weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1, max_size=6)


def three(**given: Any) -> Topology:
    return Topology.first("users", {name: given.get(name, f"redis://{name}:6379/0") for name in "abc"})


def valid(topology: Topology, before: Topology | None = None) -> None:
    """Every slot has one owner that is there, the epoch is the next, and its bytes say the same."""
    assert len(topology.owners.table) == SLOTS
    assert set(topology.owners.table) <= set(topology.shards)
    assert set(topology.serving.table) <= set(topology.shards)
    if before is not None:
        assert topology.epoch == before.epoch + 1
        changed = sum(map(len, before.serving.moves(topology.serving).values()))
        stable = [slot for slot in range(SLOTS) if slot not in before.moving and slot not in topology.moving]
        assert all(before.owners.table[slot] == topology.owners.table[slot] for slot in stable), "moved without a move"
        assert changed == 0 or topology.moves != before.moves
    again = Topology.from_bytes(topology.to_bytes())
    assert again == topology
    assert again.checksum() == topology.checksum()
    assert again.serving == topology.serving


def carried_out(topology: Topology, batch: int) -> Topology:
    for step in topology.plan(batch):
        begun = topology.begin_move(*step)
        valid(begun, topology)
        topology = begun.finish_move(begun.epoch)
        valid(topology, begun)
    return topology


@some
@given(weights, weights, st.integers(1500, SLOTS))
def test_a_plan_carried_out_is_the_rebalance(one: dict[str, int], other: dict[str, int], batch: int) -> None:
    """Add, drain and reweight at once: the end is what SlotMap.rebalance gives, and no slot moved twice."""
    topology = Topology.first("t", {name: Shard(f"{name}:1", weight=weight) for name, weight in one.items()})
    for name, weight in other.items():
        if name in one:
            topology = topology.reweighted(name, weight)
        else:
            topology = topology.with_shard(name, Shard(f"{name}:1", weight=weight))
        valid(topology)
    for name in set(one) - set(other):
        topology = topology.draining(name)
        valid(topology)
    expected = topology.owners.rebalance(other, other)
    assert topology.goal().table == expected.table
    steps = topology.plan(batch)
    assert all(len(step.slots) <= batch for step in steps)
    assert sum(len(step.slots) for step in steps) == sum(map(len, topology.owners.moves(expected).values()))
    ended = carried_out(topology, batch)
    assert ended.owners.table == expected.table
    assert ended.epoch == topology.epoch + 2 * len(steps)
    assert ended.plan() == []
    for name in set(one) - set(other):
        forgotten = ended.forget_shard(name)
        valid(forgotten, ended)
        ended = forgotten
    assert ended.owners == expected


@some
@given(weights, st.integers(300, 5000), st.data())
def test_what_is_rolled_back_has_its_owners_again(shards: dict[str, int], batch: int, data: st.DataObject) -> None:
    first = Topology.first("t", {name: Shard(f"{name}:1", weight=weight) for name, weight in shards.items()})
    topology = first.with_shard("new", "new:1")
    step = data.draw(st.sampled_from(topology.plan(batch)))
    moving = topology.begin_move(*step)
    back = moving.roll_back_move(moving.epoch)
    valid(back, moving)
    assert back.serving.table == first.owners.table, "from the first moment on, commands run where they ran before"
    assert back.state_of(step.slots[0]) == Moving(step.target, step.source)
    assert [(move.number, move.state) for move in back.moves] == [(back.epoch, "rolling back")]
    assert back.moves[0].undoes == moving.epoch
    with pytest.raises(ValueError, match="is rolled back already"):
        back.roll_back_move(back.epoch)
    ended = back.finish_move(back.epoch)
    valid(ended, back)
    assert ended.owners.table == first.owners.table
    assert ended.moves == ()
    assert ended.shards["new"].fenced == ended.shards[step.source].fenced == back.epoch


@some
@given(weights, st.integers(300, 3000), st.data())
def test_a_plan_that_is_made_anew_halfway_moves_no_more(
    shards: dict[str, int], batch: int, data: st.DataObject
) -> None:
    """A mover that takes over finds what is left, not another goal; also while a batch is on its way."""
    topology = Topology.first("t", {name: Shard(f"{name}:1", weight=weight) for name, weight in shards.items()})
    topology = topology.with_shard("new", Shard("new:1", weight=2))
    steps = topology.plan(batch)
    done = data.draw(st.integers(0, len(steps) - 1))
    for step in steps[:done]:
        topology = topology.begin_move(*step)
        topology = topology.finish_move(topology.epoch)
    topology = topology.begin_move(*steps[done])
    left = sum(len(step.slots) for step in topology.plan(batch))
    assert left == sum(len(step.slots) for step in steps[done + 1 :])


def test_a_slot_is_stable_or_moving() -> None:
    topology = three()
    slots = [slot for slot in range(SLOTS) if topology.owners.table[slot] == "a"]
    moving = topology.begin_move(slots[:3], "a", "b")
    assert topology.state_of(slots[0]) == Stable("a")
    assert topology.state_of(slots[0]).serving == "a"
    assert moving.state_of(slots[0]) == Moving("a", "b")
    assert moving.state_of(slots[0]).serving == "b" == moving.serving.table[slots[0]]
    assert moving.state_of(slots[3]) == Stable("a")
    assert moving.owners.table[slots[0]] == "a"
    assert moving.moving[slots[0]].number == moving.epoch == 2
    assert moving.move(2).slots == tuple(slots[:3])
    for slot in (-1, SLOTS):
        with pytest.raises(ValueError, match="slot="):
            moving.state_of(slot)


def test_several_moves_are_on_their_way_at_once() -> None:
    topology = three()
    a, b, _ = (slots for _, slots in sorted(topology.owners.moves(SlotMap(("z",), ("z",) * SLOTS)).items()))
    topology = topology.begin_move(a[:5], "a", "b").begin_move(b[:5], "b", "c").begin_move(a[5:10], "a", "c")
    valid(topology)
    assert [move.number for move in topology.moves] == [2, 3, 4]
    topology = topology.finish_move(3)
    assert [topology.owners.table[slot] for slot in (a[0], b[0], a[5])] == ["a", "c", "a"]
    assert [move.number for move in topology.moves] == [2, 4]


def test_other_transitions() -> None:
    topology = three()
    moved = topology.with_addresses("b", "redis://elsewhere:1", ["redis://b:6379"])
    assert moved.shards["b"] == Shard("redis://elsewhere:1", ("redis://b:6379",))
    assert moved.owners == topology.owners
    drained = topology.draining("b")
    assert drained.shards["b"].state == "draining"
    assert drained.weights == {"a": 1, "c": 1}
    assert drained.undrained("b").plan() == []
    assert Topology.first("t", {"a": "a:1", "b": Shard("b:1", state="draining")}).owners.counts() == {
        "a": SLOTS,
        "b": 0,
    }


def test_what_cannot_be_is_refused() -> None:
    topology = three()
    a = [slot for slot in range(SLOTS) if topology.owners.table[slot] == "a"]
    moving = topology.begin_move(a[:3], "a", "b")
    refusals: list[tuple[Any, str]] = [
        (lambda: topology.begin_move(a[:3], "b", "c"), "source='b' does not own"),
        (lambda: topology.begin_move(a[:3], "a", "a"), "target='a' is the source"),
        (lambda: topology.begin_move(a[:3], "a", "x"), "target='x'; one of the shards"),
        (lambda: topology.begin_move(a[:3], "x", "a"), "source='x'; one of the shards"),
        (lambda: topology.begin_move([], "a", "b"), "slots is empty"),
        (lambda: topology.begin_move([1, 1], "a", "b"), r"slots names \[1\] more than once"),
        (lambda: topology.begin_move([SLOTS], "a", "b"), "slot 16384"),
        (lambda: topology.draining("b").begin_move(a[:3], "a", "b"), "target='b' is draining"),
        (lambda: moving.begin_move(a[2:4], "a", "c"), "move already"),
        (lambda: moving.finish_move(1), r"number=1; one of \[2\]"),
        (lambda: moving.roll_back_move(3), "number=3"),
        (lambda: topology.forget_shard("a"), "owns 54.. slots"),
        (lambda: topology.forget_shard("x"), "name='x'"),
        (lambda: topology.with_shard("a", "x:1"), "name='a' is a shard already"),
        (lambda: topology.reweighted("a", 0), "weight"),
        (lambda: topology.reweighted("a", 1e-9), "too small for one of"),
        (lambda: topology.draining("a").draining("b").draining("c"), "no shard is up"),
        (lambda: topology.plan(0), "batch=0"),
        (lambda: Topology.first("", {"a": "a:1"}), "name must not be empty"),
        (lambda: Topology("t", 0, topology.shards, topology.owners), "epoch=0"),
        (lambda: Topology("t", 1 << 53, topology.shards, topology.owners), "epoch="),
        (lambda: Topology("t", 1, topology.shards, rendezvous(["a"])), "owners has the shards"),
        (lambda: Shard("redis://:secret@host:1"), "primary has a password"),
        (lambda: Shard("redis://me:sec/secret@host:1"), "primary has a password"),
        (lambda: Shard("a:1", ["unix:///s?db=1&password=secret"]), "replicas has a password"),  # type: ignore[arg-type]  # a mistake on purpose
        (lambda: Shard(""), "primary=''"),
        (lambda: Shard("a b"), "primary='a b'"),
        (lambda: Shard("a:1", state="down"), "state='down'"),  # type: ignore[arg-type]  # a mistake on purpose
    ]
    for act, message in refusals:
        with pytest.raises(ValueError, match=message) as caught:
            act()
        assert "secret" not in str(caught.value)
    wrong: list[Any] = [
        lambda: Shard(1),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: Shard("a:1", "b:1"),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: Shard("a:1", weight="2"),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: topology.with_shard("d", 1),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: topology.begin_move(["1"], "a", "b"),  # type: ignore[list-item]  # a mistake on purpose
        lambda: topology.begin_move("1", "a", "b"),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: Topology.first("t", ["a"]),  # type: ignore[arg-type]  # a mistake on purpose
        lambda: Topology("t", True, topology.shards, topology.owners),
    ]
    for act in wrong:
        with pytest.raises(TypeError):
            act()
    with pytest.raises(NoNodes):
        Topology.first("t", {})
    assert Shard("redis://me@host:1").primary == "redis://me@host:1"


def test_a_shard_to_which_slots_move_is_not_forgotten() -> None:
    topology = three().with_shard("d", "d:1")
    moving = topology.begin_move(*topology.plan()[0])
    assert moving.owners.counts()["d"] == 0
    with pytest.raises(ValueError, match="256 are on their way"):
        moving.forget_shard("d")
    assert "d" not in topology.forget_shard("d").shards


@some
@given(weights, st.lists(st.integers(0, SLOTS - 1), unique=True, min_size=1, max_size=40))
def test_bytes_say_all_of_it(shards: dict[str, int], slots: list[int]) -> None:
    topology = Topology.first("größe", {n: Shard(f"{n}:1", (f"{n}:2",), w / 3) for n, w in shards.items()})
    topology = topology.with_shard("neu", Shard("neu:1", state="draining")).undrained("neu")
    for slot in slots[:4]:
        topology = topology.begin_move([slot], topology.owners.table[slot], "neu")
    valid(topology)
    again = pickle.loads(pickle.dumps(topology))
    assert again == topology
    assert hash(again) == hash(topology)


def test_a_small_document_is_text_and_a_large_one_compressed() -> None:
    small = three().to_bytes()
    assert json.loads(small)["shards"]["a"]["primary"] == "redis://a:6379/0"
    names = [f"shard-{i:04}" for i in range(1000)]
    owners = SlotMap(tuple(names), tuple(names[slot * 7 % 1000] for slot in range(SLOTS)))  # each slot is a run
    large = Topology("t", 1, {name: Shard(f"redis://{name}.example.com:6379/0") for name in names}, owners)
    assert len(large.to_bytes()) < 100_000
    assert Topology.from_bytes(large.to_bytes()) == large


def test_a_document_beyond_the_limit_of_a_znode_is_refused() -> None:
    some_of = random.Random(5)
    shards = {some_of.randbytes(60_000).hex(): Shard("a:1") for _ in range(20)}
    names = tuple(shards)
    with pytest.raises(ValueError, match="at most 1,000,000 are allowed"):
        Topology("t", 1, shards, SlotMap(names, names[:1] * SLOTS)).to_bytes()


def changed(topology: Topology, *, sealed: bool = True, **values: Any) -> bytes:
    document = {**json.loads(topology.to_bytes()), **values}
    if sealed:
        document["checksum"] = topology_form.checksum(document)
    return json.dumps(document).encode()


def test_what_must_not_be_adopted_says_why() -> None:
    topology = three()
    data = topology.to_bytes()
    for bad, message in [
        (changed(topology, epoch=7, sealed=False), "its checksum is"),
        (changed(topology, format=3), "format 3, and this coordkit reads up to 2: bring coordkit up to date"),
        (changed(topology, format="x"), "format 'x', which is none"),
        (changed(topology, format=0), "format 0, which is none"),
        (changed(topology, format=2), "contradicts itself.*cache"),
        (changed(topology, format=2, cache="no"), "contradicts itself.*cache=.no."),
        (changed(topology, format=True), "format True, which is none"),
        (changed(topology, hash="xxh64"), "contradicts itself.*xxh64"),
        (changed(topology, slots=[[0, 5, "a"]]), "contradicts itself.*6 owners"),
        (changed(topology, slots=[[0, SLOTS - 1, "z"]]), "contradicts itself.*'z'"),
        (changed(topology, shards={}), "contradicts itself"),
        (changed(topology, epoch=-1), "contradicts itself.*epoch=-1"),
        (changed(topology, moves=[{"number": 1, "slots": [[9, 5]], "source": "a", "target": "b", "state": "moving"}]),
         r"contradicts itself.*run \[9, 5\]"),
        (changed(topology, moves=[{"number": 1, "slots": [[0, 5]], "source": "a", "target": "b", "state": "odd"}]),
         "contradicts itself.*state='odd'"),
        (b"", "it is no topology"),
        (b"[1]", "it is no topology"),
        (data[:-1], "it is no topology"),
        (b"\x78\x9cgarbage", "it is no topology"),
        (zlib.compress(data)[:-5], "cut off"),
        (zlib.compress(b" " * (65 << 20)), "larger than"),
    ]:  # fmt: skip
        with pytest.raises(BadTopology, match=message) as caught:
            Topology.from_bytes(bad, "/shards")
        assert caught.value.name == "/shards"
    assert Topology.from_bytes(zlib.compress(data)) == topology, "compressed or not, it says the same"
    assert Topology.from_bytes(json.dumps(json.loads(data), indent=2).encode()) == topology


def test_what_may_be_published_after_what() -> None:
    """Each transition, several at once; but between two owners there is a move that was published."""
    before = three().with_shard("d", "d:1")
    step = before.plan(50)[0]
    begun = before.begin_move(*step)
    ended, back = begun.finish_move(begun.epoch), begun.roll_back_move(begun.epoch)
    for after, earlier in [
        (begun, before),
        (ended, begun),
        (back, begun),
        (back.finish_move(back.epoch), back),
        (before.draining("a").reweighted("b", 3).begin_move(*step), before),
        (ended.begin_move(step.slots, step.target, "c"), begun),
        (begun.raised_to(99), begun),
    ]:
        after.check_follows(earlier)
    for after, earlier, message in [
        (ended, before, "publish a move first"),
        (back, before, "publish a move first"),
        (back.finish_move(back.epoch), begun, "roll back that move instead"),
        (before.begin_move(step.slots, step.source, "c").raised_to(9), begun, "roll back that move instead"),
        (before, begun, "epoch=2 after 3; a greater one is allowed"),
        (begun, begun, "epoch=3 after 3"),
        (Topology.first("x", {"a": "a:1"}).raised_to(9), begun, "name='x' after 'users'"),
    ]:
        with pytest.raises(ValueError, match=message):
            after.check_follows(earlier)
    with pytest.raises(ValueError, match="epoch=3; one greater than 3"):
        begun.raised_to(3)


def test_only_what_is_newer_is_adopted() -> None:
    first = three()
    second = first.draining("a")
    assert second.check_newer(first, "/shards")
    assert not second.check_newer(Topology.from_bytes(second.to_bytes()), "/shards")
    for topology, message in [
        (first, "has epoch 1, and 2 was adopted.*above 2"),
        (first.draining("b"), "has epoch 2, and 2 was adopted"),
        (Topology.first("carts", {"a": "a:1"}).raised_to(7), "it is of 'carts', and 'users' was adopted"),
    ]:
        with pytest.raises(BadTopology, match=message):
            topology.check_newer(second, "/shards")


def test_a_step_is_what_begin_move_takes() -> None:
    topology = three().with_shard("d", "d:1")
    step = topology.plan(100)[0]
    assert isinstance(step, Step)
    assert topology.begin_move(*step).moves[0].slots == step.slots
    assert repr(topology) == "<Topology users epoch=2 a: 5462, b: 5461, c: 5461, d: 0>"
    assert repr(topology.begin_move(*step)).endswith("d: 0; 100 move>")
