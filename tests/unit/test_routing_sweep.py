"""Going through all keys while they move: thousands of histories, in none of which a key is missed."""

from __future__ import annotations

import random

import pytest

from coordkit.routing import Topology
from coordkit.routing.topology.sweep import Sweep, order

_PAGES = 4
_SHARDS = {shard: f"redis://{shard}" for shard in "abc"}


class World:
    """Shards and keys as they are; a client that hears of it late goes through them."""

    def __init__(self, seed: int, *, swift: bool) -> None:
        self.random = random.Random(seed)
        self.topology = Topology.first("t", _SHARDS)
        self.fenced = dict.fromkeys("abc", 0)
        self.keys = {slot: {self.owner(slot)} for slot in self.slots()}  # where the one key of each slot is
        self.swift = swift

    def slots(self) -> list[int]:
        return [slot + part for slot in (0, 6000, 12000) for part in range(4)]

    def owner(self, slot: int) -> str:
        return self.topology.owners.table[slot]

    def goes_on(self) -> None:
        """Begin a move, bring or remove a key, end a move, or turn one round."""
        moves = self.topology.moves
        what = self.random.choice(["begin", "bring", "bring", "bring", "remove", "end", "back"])
        if what == "begin" and len(moves) < 3:
            source, target = self.random.sample("abc", 2)
            free = [slot for slot in self.slots() if self.owner(slot) == source and slot not in self.topology.moving]
            if free:
                some = self.random.sample(free, self.random.randint(1, len(free)))
                self.announce(self.topology.begin_move(sorted(some), source, target))
        if not moves:
            return
        move = self.random.choice(moves)
        mine = [slot for slot in move.slots if slot in self.keys]
        slot = self.random.choice(mine)
        if what == "bring":
            self.keys[slot].add(move.target)
        elif what == "remove" and move.target in self.keys[slot]:
            self.keys[slot].discard(move.source)
        elif what == "end":
            for slot in mine:
                self.keys[slot] = {move.target}
            self.topology = self.topology.finish_move(move.number)
        elif what == "back" and not move.undoes:
            self.announce(self.topology.roll_back_move(move.number))
            for slot in mine:  # what was not brought stays; what was is at the former target alone
                self.keys[slot] = {move.target} if move.target in self.keys[slot] else {move.source}

    def announce(self, topology: Topology) -> None:
        self.topology = topology
        [move] = [move for move in topology.moves if move.number == topology.epoch]
        self.fenced[move.source] = self.fenced[move.target] = topology.epoch

    def page(self, shard: str, number: int, epoch: int) -> set[int] | None:
        """Return the keys of a page, None if the shard knows of something newer."""
        if self.fenced[shard] > epoch:
            return None
        return {slot for slot, shards in self.keys.items() if shard in shards and slot % _PAGES == number}


def gone_through(world: World, *, adopting: bool = True) -> set[int]:
    known = world.topology
    sweep = Sweep(known)
    seen: set[int] = set()
    passes = 0
    while (shard := sweep.begin()) is not None:
        passes += 1
        number = 0
        while sweep.slots:
            for _ in range(world.random.choice([0, 0, 1, 2, 20]) if passes < 30 else 0):
                world.goes_on()
            if world.swift and world.random.random() < 0.3:
                known = world.topology
                sweep.adopt(known)
                continue
            found = world.page(shard, number, known.epoch)
            if found is None:
                known = world.topology
                if adopting:
                    sweep.adopt(known)
                continue
            seen |= found & sweep.slots
            number += 1
            if number == _PAGES:
                sweep.ended()
    return seen


@pytest.mark.parametrize("swift", [False, True])
def test_no_history_misses_a_key(swift: bool) -> None:
    for seed in range(25):
        world = World(seed, swift=swift)
        for _ in range(seed % 20):
            world.goes_on()
        assert gone_through(world) == set(world.keys), seed


def test_one_that_does_not_go_by_what_it_hears_misses_keys() -> None:
    """So that the histories are such that one can."""
    missed = 0
    for seed in range(12):
        world = World(seed, swift=False)
        missed += len(set(world.keys) - gone_through(world, adopting=False))
    assert missed


def test_a_shard_is_gone_through_once_where_nothing_moves() -> None:
    topology = Topology.first("t", _SHARDS)
    assert [shard for shard, _ in order(topology)] == ["a", "b", "c"]
    assert sum(len(slots) for _, slots in order(topology)) == 16384


def test_sources_come_first_and_a_circle_is_gone_round() -> None:
    topology = Topology.first("t", _SHARDS)
    moving = topology.begin_move([16000], "c", "a")
    assert [shard for shard, _ in order(moving)] == ["b", "c", "a"]
    circle = moving.begin_move([0], "a", "c")
    assert [shard for shard, _ in order(circle)] in (["b", "a", "c", "a"], ["b", "c", "a", "c"])


def test_a_server_that_was_replaced_is_begun_with_anew() -> None:
    topology = Topology.first("t", _SHARDS)
    sweep = Sweep(topology)
    assert sweep.begin() == "a"
    sweep.adopt(topology.with_addresses("b", "redis://y"))
    assert sweep.slots
    sweep.adopt(topology.with_addresses("a", "redis://z").raised_to(9))
    assert not sweep.slots
    assert sweep.begin() == "a"
