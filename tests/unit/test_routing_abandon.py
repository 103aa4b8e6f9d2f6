"""What a topology becomes when a shard is given up: which slots go where, what is kept of moves that were under way."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit._run import run
from coordkit.routing import SLOTS, Moving, Shard, Topology
from coordkit.routing.resharding.abandoning import Abandonment

some = settings(max_examples=25, deadline=None)  # a deadline would measure the machine
weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=2, max_size=7)


def made(shards: dict[str, int], **options: Any) -> Topology:
    return Topology.first("users", {n: Shard(f"{n}:1", weight=w) for n, w in shards.items()}, **options)


def valid(topology: Topology, before: Topology) -> None:
    topology.check_follows(before)
    again = Topology.from_bytes(topology.to_bytes())
    assert (again, again.checksum(), again.cache) == (topology, topology.checksum(), before.cache)


@some
@given(weights, st.booleans(), st.data())
def test_no_slot_moves_needlessly(shards: dict[str, int], cache: bool, data: st.DataObject) -> None:
    """Only what the dead shard had goes, where a drain would have it go; what else is planned is planned as before."""
    topology = made(shards, cache=cache)
    dead = data.draw(st.sampled_from(sorted(shards)))
    if data.draw(st.booleans()):  # not balanced: others have something to move as well
        topology = topology.with_shard("new", Shard("new:1", weight=data.draw(st.integers(1, 9))))
        topology = topology.reweighted(min(set(shards) - {dead}), data.draw(st.integers(1, 9)))
    drained = topology.draining(dead)
    giving_up = topology.abandoning(dead)
    valid(giving_up, topology)
    assert giving_up.epoch == topology.epoch + len(giving_up.moves)
    mine = [slot for slot, owner in enumerate(topology.owners.table) if owner == dead]
    assert giving_up.leaving == {dead: len(mine)}
    assert sorted(slot for move in giving_up.moves for slot in move.slots) == mine
    assert {m.target: list(m.slots) for m in giving_up.moves} == {
        target: slots for (source, target), slots in drained.serving.moves(drained.goal()).items() if source == dead
    }
    assert giving_up.owners.table == topology.owners.table, "nothing has changed hands yet"

    gone = giving_up.abandoned(dead)
    valid(gone, giving_up)
    assert dead not in gone.shards
    assert gone.moves == ()
    changed = {slot for slot in range(SLOTS) if gone.owners.table[slot] != topology.owners.table[slot]}
    assert changed == set(mine)
    assert gone.goal().counts() == {name: n for name, n in drained.goal().counts().items() if name != dead}
    assert sum(len(step.slots) for step in gone.plan()) == sum(
        len(step.slots) for step in drained.plan() if step.source != dead
    ), "in all no more than a drain would move"
    for move in giving_up.moves:
        assert gone.shards[move.target].fenced == move.number


def three(**options: Any) -> Topology:
    return made({"a": 1, "b": 1, "c": 1}, **options)


def under_way(source: str, target: str, *, back: bool = False, **options: Any) -> Topology:
    topology = three(**options)
    slots = [slot for slot, owner in enumerate(topology.owners.table) if owner == source][:50]
    topology = topology.begin_move(slots, source, target)
    return topology.roll_back_move(topology.epoch) if back else topology


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("source", "target", "back", "undoes"),
    [
        ("c", "b", False, {True: 0, False: 0}),  # what was brought to b is the newest: the very same move goes on
        ("b", "c", False, {True: 0, False: 2}),  # b has old copies: kept only where there is nothing better
        ("c", "b", True, {True: 0, False: 3}),  # on its way back to c: b has it
        ("b", "c", True, {True: 0, False: 2}),  # on its way back from c
    ],
)
def test_what_was_under_way_with_it(source: str, target: str, back: bool, undoes: dict[bool, int], cache: bool) -> None:
    topology = under_way(source, target, back=back, cache=cache)
    [before] = topology.moves
    giving_up = topology.abandoning("c")
    valid(giving_up, topology)
    move = giving_up.moves[0]
    assert (move.slots, move.source, move.target, move.state) == (before.slots, "c", "b", "abandoning")
    assert move.undoes == undoes[cache]
    kept = before.source == "c" and not (cache and before.undoes)
    assert (move.number == before.number) == kept
    assert giving_up.state_of(move.slots[0]) == Moving("c", "b")
    numbers = [each.number for each in giving_up.moves]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= giving_up.epoch
    gone = giving_up.abandoned("c")
    valid(gone, giving_up)
    assert sorted(gone.owners.counts().values()) == [8192, 8192]


def test_a_shard_that_has_nothing_is_only_forgotten() -> None:
    topology = three().with_shard("d", "d:1")
    giving_up = topology.abandoning("d")
    assert (giving_up.moves, giving_up.leaving) == ((), {})
    assert "d" not in giving_up.abandoned("d").shards


def test_what_cannot_be_is_refused() -> None:
    topology = three(cache=True)
    giving_up = topology.abandoning("c")
    for act, message in [
        (lambda: topology.abandoning("x"), "name='x'; one of the shards"),
        (lambda: made({"a": 1}).abandoning("a"), "no shard is up"),
        (lambda: three().draining("a").draining("b").abandoning("c"), "no shard is up"),
        (lambda: under_way("a", "b").abandoning("c"), r"while moves \[2\] of others are under way"),
        (lambda: giving_up.abandoning("c"), "is given up already"),
        (lambda: giving_up.abandoning("b"), "of others are under way"),
        (lambda: giving_up.undrained("c"), "is given up, which is final"),
        (lambda: giving_up.roll_back_move(giving_up.moves[0].number), "is final"),
        (lambda: topology.abandoned("c"), "owns 5461 slots"),
        (lambda: replace(giving_up, cache=False).check_follows(topology), "cache=False after True"),
        (lambda: replace(three().draining("c"), cache=True).check_follows(three()), "cache=True after False"),
        (lambda: giving_up.abandoned("c").check_follows(topology), "publish a move first"),
    ]:
        with pytest.raises(ValueError, match=message):
            act()
    with pytest.raises(TypeError, match="cache=1"):
        three(cache=1)


def test_an_older_coordkit_reads_what_it_can_carry_out() -> None:
    """Format 1 as long as it says all; format 2 for a cache, and while a shard is given up."""
    plain = three()
    for topology, found in [
        (plain, (1, None)),
        (three(cache=True), (2, True)),
        (plain.abandoning("c"), (2, False)),
        (plain.abandoning("c").abandoned("c"), (1, None)),
    ]:
        document = json.loads(topology.to_bytes())
        assert (document["format"], document.get("cache")) == found
    assert repr(three(cache=True)) == "<Topology users (a cache) epoch=1 a: 5462, b: 5461, c: 5461>"


class Clocks:
    """Shards whose clocks are apart by so many seconds, in the places of a runtime, a barrier and their ports."""

    lease = 30.0

    def __init__(self, *apart: float) -> None:
        self.time, self.apart, self.adopted_by = 50.0, dict(zip("abd", apart, strict=True)), 0

    def now(self) -> float:
        return self.time

    def port(self, name: str, *_: Any) -> Any:
        self.asked = name
        return self

    async def ask(self, commands: Any) -> Any:
        assert commands == [(b"TIME",)]
        self.time += 20  # slow as they are, that is no difference of clocks
        return [[b"%d" % (1_000_000 + self.time - 20 + self.apart[self.asked]), b"0"]]

    async def adopted(self, epoch: int, _otherwise: str) -> None:
        self.adopted_by = epoch


@pytest.mark.parametrize(("apart", "warned"), [((0, 3, -9), False), ((0, 16, 0), True), ((-10, 0, 9), True)])
def test_clocks_that_are_apart_are_told(apart: tuple[float, ...], warned: bool, caplog: Any) -> None:
    """So may have been that of the dead one, and tokens fall."""
    clocks: Any = Clocks(*apart)
    topology = made({"a": 1, "b": 1, "c": 1, "d": 1}).abandoning("c")
    progress: Any = type("Progress", (), {})()
    abandonment = Abandonment(clocks, clocks.port, None, barrier=clocks, progress=progress, step=str)  # type: ignore[arg-type]  # nothing moves
    run(abandonment._wait(topology, "c"))
    assert clocks.adopted_by == topology.epoch
    assert [f"up to {max(apart) - min(apart):.0f} s apart" in record.getMessage() for record in caplog.records] == (
        [True] if warned else []
    )
