"""Scene 4: ten thousand keys over three shards; a fourth shard is added, and only about a quarter of the keys move."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from coordkit.demo.servers import client
from coordkit.routing.client.client import ShardedRedis

if TYPE_CHECKING:
    from coordkit.demo.output import Progress
    from coordkit.demo.story import Stage

TITLE = "Ten thousand keys over three shards, then four"

KEYS = 10_000
_BATCH = 1_000
_OLD, _NEW = ("east", "north", "south"), "west"


def play(stage: Stage) -> None:
    clients = [client(server.url) for server in stage.servers.shards()]
    three = ShardedRedis(dict(zip(_OLD, clients, strict=False)))
    four = ShardedRedis(dict(zip((*_OLD, _NEW), clients, strict=True)))
    with four:  # closes the clients of both
        values = {f"{stage.namespace}:user:{n}": f"name {n}" for n in range(KEYS)}
        _fill(stage, three, values)
        moved = _add_the_fourth(stage, three, four, values)
        _copy(stage, three, four, moved)
        _look_again(stage, four, values)


def _fill(stage: Stage, three: ShardedRedis, values: dict[str, str]) -> None:
    stage.say(
        f"{KEYS:,} keys are written through one ShardedRedis over three Redis servers. The name of a key decides its "
        "shard (slot as in Redis Cluster, placement by rendezvous hashing); nobody keeps a list."
    )
    began = time.monotonic()
    with stage.progress("keys written", KEYS) as bar:
        _write(three, values, bar)
    took = time.monotonic() - began
    held = _held(three, values)
    spread = max(held.values()) * len(held) / KEYS
    stage.figure(keys=KEYS, keys_per_shard=held, max_to_mean=spread, written_per_second=KEYS / took)
    stage.say(f"The servers say that they hold {_list(held)}; written at {KEYS / took:,.0f} keys per second.")
    stage.check("all_stored", sum(held.values()) == KEYS, f"each of the {KEYS:,} keys is on the shard that owns it")
    stage.check("spread_even", spread <= 1.10, f"the fullest shard has {spread:.3f} times the mean (at most 1.10)")


def _add_the_fourth(
    stage: Stage, three: ShardedRedis, four: ShardedRedis, values: dict[str, str]
) -> dict[str, tuple[str, str]]:
    stage.say("A fourth, empty shard is added to the placement.")
    moved = {
        key: (before, after) for key in values if (before := three.shard_for(key)) != (after := four.shard_for(key))
    }
    share = len(moved) / KEYS
    elsewhere = sum(after != _NEW for _, after in moved.values()) / KEYS
    modulo = sum(n % 3 != n % 4 for n in range(KEYS)) / KEYS
    missed = sum(value is None for value in _read(four, values).values())
    stage.figure(
        moved_share=share,
        moved_elsewhere_share=elsewhere,
        slots_moved_share=three.placement.diff(four.placement),
        modulo_would_move_share=modulo,
        misses_before_copy=missed,
    )
    stage.check(
        "a_quarter_moves", 0.22 <= share <= 0.28, f"{_percent(share)} of the keys have a new owner (22 to 28 %)"
    )
    stage.check(
        "moves_to_the_new_shard",
        elsewhere <= 0.01,
        f"all of them move to the new shard but {_percent(elsewhere)}, which keep the old shards even (at most 1 %)",
    )
    stage.say(
        f"(Number of the key modulo number of shards would have moved {_percent(modulo)}.) Placement does not move "
        f"data: read now, the {missed:,} moved keys are misses. A cache fills them again; a store must copy them."
    )
    stage.check("only_moved_keys_miss", missed == len(moved), "every other key is found as before")
    return moved


def _copy(stage: Stage, three: ShardedRedis, four: ShardedRedis, moved: dict[str, tuple[str, str]]) -> None:
    stage.say("The demo copies the moved keys itself, while nobody writes; moving them under load is a later feature.")
    with stage.progress("keys copied", len(moved)) as bar:
        _write(four, _read(three, moved), bar)
        for batch in _batches(moved):
            three.delete(*batch)


def _look_again(stage: Stage, four: ShardedRedis, values: dict[str, str]) -> None:
    held = _held(four, values)
    spread = max(held.values()) * len(held) / KEYS
    stage.figure(keys_per_shard_after=held, max_to_mean_after=spread)
    stage.say(f"Now the servers hold {_list(held)}: the fullest has {spread:.3f} times the mean.")
    everything = _read(four, values) == values and sum(held.values()) == KEYS
    stage.check("all_found_again", everything, f"all {KEYS:,} keys are read back with their values, from four shards")


def _write(shards: ShardedRedis, values: dict[str, str], bar: Progress) -> None:
    done = 0
    for batch in _batches(values):
        with shards.pipeline() as pipeline:
            for key in batch:
                pipeline.set(key, values[key])
            pipeline.execute()
        done += len(batch)
        bar.update(done)


def _read(shards: ShardedRedis, keys: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for batch in _batches(keys):
        values: Any = shards.mget(batch)
        found.update(zip(batch, values, strict=True))
    return found


def _held(shards: ShardedRedis, keys: Iterable[str]) -> dict[str, int]:
    """Ask each server by itself, past the routing, how many of these keys that it should own it has."""
    held: Counter[str] = Counter(dict.fromkeys(shards.shards(), 0))
    for batch in _batches(keys):
        owned: dict[str, list[str]] = {}
        for key in batch:
            owned.setdefault(shards.shard_for(key), []).append(key)
        for shard, names in owned.items():
            held[shard] += int(shards.on(shard).exists(*names))
    return dict(held)


def _batches(keys: Iterable[str]) -> Iterable[Sequence[str]]:
    names = list(keys)
    return [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]


def _list(held: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in held.items())


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
