"""Scene 5: reads are spread over the replicas of a shard by three pickers; the servers themselves count them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol

import redis

from coordkit.demo.servers import REPLICAS, client
from coordkit.routing import Random, RoundRobin, SmoothWeightedRoundRobin
from coordkit.testing.servers import wait_until

if TYPE_CHECKING:
    from coordkit.demo.story import Stage

TITLE = "Reads over the replicas of a shard, by three pickers"

READS = 1_200  # with each picker
_WEIGHTS = (5, 2, 1)
_SEED = 2026
_CHI_SQUARE = 13.82  # two degrees of freedom: 1 in 1,000 fair spreads is further out; with the seed none ever is


class Picker(Protocol):
    def pick(self) -> str: ...


def play(stage: Stage) -> None:
    server, servers = stage.servers.replicated()
    names = [f"replica-{n}" for n in range(1, REPLICAS + 1)]
    key, value = f"{stage.namespace}:price", "42"
    with client(server.url) as primary:
        replicas = {name: client(one.url) for name, one in zip(names, servers, strict=True)}
        try:
            stage.say(
                f"One primary and {REPLICAS} replicas run. A price is written to the primary, and reaches them all."
            )
            with stage.waiting("the replicas come into step with their primary"):
                in_step = wait_until(lambda: all(_in_step(one) for one in replicas.values()), 30.0, 0.05)
            primary.set(key, value)
            confirmed = int(primary.wait(REPLICAS, 10_000)) if in_step else 0
            stage.check("replicated", confirmed == REPLICAS, f"WAIT: {confirmed} of {REPLICAS} replicas have it")
            stage.say(
                f"Now it is read {READS:,} times with each picker. The counts are the servers' own (commandstats)."
            )
            everything = [
                _random(stage, replicas, key),
                _in_turn(stage, replicas, key),
                _by_weight(stage, replicas, key),
            ]
            stage.check(
                "reads_right",
                all(values == {value} for values in everything),
                f"all {3 * READS:,} reads gave the price that was written",
            )
            asked = _counted(primary)
            stage.check("primary_spared", asked == 0, f"the primary answered {asked} of them")
        finally:
            for one in replicas.values():
                one.close()


def _random(stage: Stage, replicas: dict[str, redis.Redis], key: str) -> set[str]:
    counts, values, _ = _read(stage, "random", Random(replicas, seed=_SEED), replicas, key)
    fair = READS / len(replicas)
    chi_square = sum((count - fair) ** 2 for count in counts.values()) / fair
    stage.figure(random=counts, random_chi_square=chi_square)
    stage.check(
        "random_fair",
        sum(counts.values()) == READS and chi_square <= _CHI_SQUARE,
        f"random: {_list(counts)}; chi-square {chi_square:.1f} (a fair one stays under {_CHI_SQUARE})",
    )
    return values


def _in_turn(stage: Stage, replicas: dict[str, redis.Redis], key: str) -> set[str]:
    counts, values, _ = _read(stage, "round robin", RoundRobin(replicas), replicas, key)
    stage.figure(round_robin=counts)
    exact = dict.fromkeys(replicas, READS // len(replicas))
    stage.check("round_robin_exact", counts == exact, f"round robin: {_list(counts)}; exactly equal")
    return values


def _by_weight(stage: Stage, replicas: dict[str, redis.Redis], key: str) -> set[str]:
    weights = dict(zip(replicas, _WEIGHTS, strict=True))
    picker = SmoothWeightedRoundRobin(weights)
    counts, values, order = _read(stage, "smooth weighted round robin", picker, replicas, key)
    longest = max(len(list(run)) for _, run in itertools.groupby(order))
    stage.figure(weights=weights, weighted=counts, weighted_longest_run=longest)
    exact = {name: READS * weight // sum(_WEIGHTS) for name, weight in weights.items()}
    proportion = " : ".join(map(str, _WEIGHTS))
    stage.check("weighted_exact", counts == exact, f"smooth weighted: {_list(counts)}; exactly {proportion}")
    stage.check(
        "weighted_smooth",
        longest < max(_WEIGHTS),
        f"and spread evenly: never more than {longest} reads in a row to one replica",
    )
    return values


def _read(
    stage: Stage, name: str, picker: Picker, replicas: dict[str, redis.Redis], key: str
) -> tuple[dict[str, int], set[str], list[str]]:
    before = {name: _counted(one) for name, one in replicas.items()}
    values: set[str] = set()
    order: list[str] = []
    with stage.progress(f"reads, {name}", READS) as bar:
        for done in range(1, READS + 1):
            picked = picker.pick()
            order.append(picked)
            values.add(str(replicas[picked].get(key)))
            if done % 50 == 0:
                bar.update(done)
    return {name: _counted(one) - before[name] for name, one in replicas.items()}, values, order


def _counted(server: redis.Redis) -> int:
    """Return how many GETs a server says that it carried out."""
    stats: Any = server.info("commandstats")
    return int(stats.get("cmdstat_get", {}).get("calls", 0))


def _in_step(replica: redis.Redis) -> bool:
    facts: Any = replica.info("replication")
    return bool(facts.get("master_link_status") == "up")


def _list(counts: dict[str, int]) -> str:
    return ", ".join(str(count) for count in counts.values())
