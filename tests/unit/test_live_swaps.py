"""A topology that changes all the time: what a thread reads belongs to one epoch, whatever it asks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from coordkit.routing import SLOTS, SlotMap, Topology
from coordkit.routing.client import live as client_live
from coordkit.routing.client.client import ShardedRedis

SWAPS, LOOKUPS, THREADS = 1000, 10_000, 4


def _owner(epoch: int) -> str:
    return f"shard-{epoch % 7}"


def _first(owner: str) -> Topology:
    shards = Topology.first("t", {owner: f"{owner}:1", "common": "common:1"}).shards
    return Topology("t", 1, shards, SlotMap(tuple(sorted(shards)), (owner,) * SLOTS))


KINDS = {_owner(epoch): _first(_owner(epoch)) for epoch in range(7)}


def of_epoch(epoch: int) -> Topology:
    """Return a topology in which the epoch says who owns everything: an answer of two epochs does not add up."""
    return replace(KINDS[_owner(epoch)], epoch=epoch)


class Recording:
    """Stands for the way to a shard: says for which epoch it was made, and by which a command was routed."""

    def __init__(self, name: str, _client: Any, _breaker: Any) -> None:
        self.name = name

    def execute(self, _args: Any, _options: Any, decided: int) -> Any:
        return self.name, decided

    def close(self) -> None:
        pass


@pytest.fixture
def connect() -> Iterator[Callable[[str, str], Any]]:
    made: dict[str, Any] = {}  # they are never connected, and redis-py takes long to make one

    def make(name: str, address: str) -> Any:
        if name not in made:
            made[name] = redis.Redis(host=address)
        return made[name]

    yield make
    for each in made.values():
        each.close()


@pytest.fixture
def busy() -> Iterator[None]:
    """Have threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy")
def test_each_lookup_belongs_to_one_epoch(connect: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand lookups in four threads during a thousand swaps: no error, and none of two epochs."""
    monkeypatch.setattr(ShardedRedis, "_ways_of", staticmethod(Recording))
    shards = client_live.LiveShardedRedis(connect, poll=100, patience=0)
    shards.adopt(of_epoch(1))
    found: list[str] = []
    epochs: set[int] = set()
    looked = [0] * THREADS

    def look(number: int) -> None:
        try:
            while looked[number] < LOOKUPS // THREADS:
                while sum(looked) > (shards.epoch + 2) * LOOKUPS // SWAPS and shards.epoch < SWAPS:
                    time.sleep(0)  # side by side: about ten lookups to a swap
                name, decided = shards.execute_command("GET", "k")
                assert name == _owner(decided)
                epochs.add(decided)
                assert shards.owners("k", 1)[0] != "common"
                plan = shards.explain("MGET", "k", "l", "m")
                assert len(set(plan.shards.values())) == 1
                assert shards.client_for("k") is not None
                assert len(shards.shards()) == 2
                looked[number] += 1
        except Exception as error:  # noqa: BLE001 - told by the test
            found.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=look, args=(number,)) for number in range(THREADS)]
    for each in threads:
        each.start()
    for epoch in range(2, SWAPS + 2):
        while sum(looked) < (epoch - 2) * LOOKUPS // SWAPS and not found:
            time.sleep(0)
        shards.adopt(of_epoch(epoch))
    for each in threads:
        each.join(50)
    assert found == []
    assert len(epochs) > 200, "they looked while it was swapped"
    assert shards.epoch == SWAPS + 1
    shards.close()
