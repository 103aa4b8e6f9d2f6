"""The default placement of a fixed list of shards: capacity-bounded rendezvous hashing of the 16384 slots.

Every process that is given the same names and weights computes the same table, whatever the order, the history,
PYTHONHASHSEED or the machine, and every shard has its exact share to within one slot.
Not promised is that *only* the ideal share moves when a shard comes or goes: keeping every shard at its quota moves
about 0.4 % of the slots more (1 % was never seen); with ``bound=1.05``, hardly any, and none with 1.1. A stored map,
`SlotMap.rebalance`, moves none needlessly and is as even as can be.
For rendezvous hashing of keys, as other routers have it, see `hrw`.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from coordkit.routing.placement.quotas import capacities, checked_names, checked_weights, quotas
from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.placement.slots import SLOTS

_BLOCK = 8  # slots per digest: 64 bytes of BLAKE2b are eight scores, which makes building eight times cheaper
_BLOCKS = tuple(block.to_bytes(4, "big") for block in range(SLOTS // _BLOCK))
_BLAKE = blake2b(digest_size=64, person=b"coordkit-score-1")
_DOZEN = 12
_ROOT_HALF, _LN_2 = 0.7071067811865476, 0.6931471805599453


def rendezvous(shards: Iterable[str], weights: Mapping[str, float] | None = None, *, bound: float = 1.0) -> SlotMap:
    """Place all slots on ``shards``, each shard getting its exact share: capacity-bounded rendezvous hashing.

    ``weights`` are positive finite numbers, 1 where a name is missing; a shard's quota is its part of 16384, rounded by
    largest remainder. Every (shard, slot) pair has a 64-bit score; slots prefer shards, and full shards prefer slots,
    by that score, and the table is the one stable matching between them. With a ``bound`` above 1 a shard is full at
    that multiple of its share, rounded up: less even, fewer needless moves. Raise NoNodes without any shard, ValueError
    for duplicate names, for weights of other names, for a weight too small for one slot, and for a bound below 1.
    Source: rendezvous (HRW) hashing, Thaler and Ravishankar 1998, with the weights of Schindelhauer and Schomaker 2005;
    stable matching, Gale and Shapley 1962.
    """
    names = sorted(checked_names(shards))  # the order of the caller's list must not matter, not even for equal scores
    weighed = checked_weights(names, weights)
    due = quotas(names, weighed, SLOTS)
    if bound != 1:
        due = capacities(names, weighed, SLOTS, bound)
    return SlotMap(tuple(names), _match(names, [due[name] for name in names], _Scores(names, weighed)))


class _Scores:
    """The score of every pair of slot and shard, held only where it is high.

    A wish is (score, -index of the shard), so that the greatest is the one that a slot likes best and equal scores go
    by name. Of a thousand shards a slot will hardly ask more than its dozen best: the rest is computed when it does.
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, float]) -> None:
        heaviest = max(weights.values())
        self._names = [name.encode() for name in names]
        # With equal weights the order would be that of the bare scores.
        self._weights = [weights[name] / heaviest for name in names] if len(set(weights.values())) > 1 else None
        few = len(names) <= 2 * _DOZEN
        self._columns = list(zip(*map(self._of, range(len(names))), strict=True)) if few else None
        self._best = [] if few else self._highest()

    def _highest(self) -> list[list[tuple[float, int]]]:
        best: list[list[tuple[float, int]]] = [[] for _ in range(SLOTS)]
        if self._weights is None:
            bar = int(2**64 * (1 - _DOZEN / len(self._names)))
            for i, name in enumerate(self._names):
                for slot, score in enumerate(_scores(name)):
                    if score > bar:
                        best[slot].append((score, -i))
            return best
        # A slot has about a dozen scores above the sum of the weights / 12. The bar on the bare score is a little lower
        # than that, because exp is not the same everywhere; what decides is the comparison of the weighted score.
        least = math.fsum(self._weights) / _DOZEN
        for i, (name, weight) in enumerate(zip(self._names, self._weights, strict=True)):
            bar = int(2**64 * math.exp(-weight / least) * (1 - 1e-6))
            for slot, score in enumerate(_scores(name)):
                if score > bar and (counts := weighted(score, weight)) > least:
                    best[slot].append((counts, -i))
        return best

    def _of(self, i: int) -> Sequence[float]:
        scores = _scores(self._names[i])
        return scores if self._weights is None else [weighted(score, self._weights[i]) for score in scores]

    def first(self, slot: int) -> tuple[float, int]:
        """Return what ``slot`` wishes most."""
        if self._columns is None:
            return max(self._best[slot] or self._all(slot))
        score = max(self._columns[slot])
        return score, -self._columns[slot].index(score)

    def after(self, slot: int, wish: tuple[float, int]) -> list[tuple[float, int]]:
        """Return what ``slot`` wishes less than ``wish``, the next last: the best of it, or all if none is left."""
        if self._columns is None:
            below = sorted(other for other in self._best[slot] if other < wish)
            if below:
                return below
        return sorted(other for other in self._all(slot) if other < wish)

    def _all(self, slot: int) -> list[tuple[float, int]]:
        if self._columns is not None:
            return [(score, -i) for i, score in enumerate(self._columns[slot])]
        block, place = divmod(slot, _BLOCK)
        eight = slice(place * 8, place * 8 + 8)
        scores = [int.from_bytes(_digest(name, _BLOCKS[block])[eight], "little") for name in self._names]
        if self._weights is None:
            return [(score, -i) for i, score in enumerate(scores)]
        return [
            (weighted(score, weight), -i) for i, (score, weight) in enumerate(zip(scores, self._weights, strict=True))
        ]


def _match(names: Sequence[str], due: Sequence[int], scores: _Scores) -> tuple[str, ...]:
    # Deferred acceptance. Its result does not depend on who asks first, which is what makes the table canonical.
    held: list[list[tuple[float, int]]] = [[] for _ in names]  # for each shard, (score, slot) of those that ask it
    for slot in range(SLOTS):
        score, column = scores.first(slot)
        held[-column].append((score, slot))
    wishes: dict[int, list[tuple[float, int]]] = {}  # only of slots that were refused once: what they ask next is last
    full = [i for i in range(len(names)) if len(held[i]) > due[i]]
    while full:
        asked: set[int] = set()
        for i in full:
            held[i].sort(reverse=True)
            refused = held[i][due[i] :]
            del held[i][due[i] :]
            for score, slot in refused:
                if not wishes.get(slot):
                    wishes[slot] = scores.after(slot, (score, -i))
                better, column = wishes[slot].pop()
                held[-column].append((better, slot))
                asked.add(-column)
        full = [i for i in sorted(asked) if len(held[i]) > due[i]]
    table = [""] * SLOTS
    for name, slots in zip(names, held, strict=True):
        for _, slot in slots:
            table[slot] = name
    return tuple(table)


def _digest(name: bytes, block: bytes) -> bytes:
    digest = _BLAKE.copy()  # twice as fast as a new one with the same parameters
    digest.update(block + name)
    return digest.digest()


def _scores(name: bytes) -> array[int]:
    scores = array("Q", b"".join([_digest(name, block) for block in _BLOCKS]))
    if sys.byteorder == "big":
        scores.byteswap()
    return scores


def weighted(score: int, weight: float) -> float:
    """Return what a score of 64 bits counts with a weight, the same on all machines."""
    # -weight / ln(score as a fraction of 1) makes first choices as frequent as the weights, so that quotas refuse few;
    # quotas alone moved up to 4 % needlessly.
    # Not math.log, whose last digit differs between C libraries: IEEE sums and products are the same everywhere. This
    # is the atanh series on [1/2, 1), good to nine digits: the table needs the same values everywhere, not exact ones.
    mantissa, exponent = math.frexp((score >> 11 | 1) * 2.0**-53)  # odd, so strictly between 0 and 1; 53 bits, so exact
    s = (mantissa - _ROOT_HALF) / (mantissa + _ROOT_HALF)
    q = s * s
    series = 2.0 * s * (1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q / 9))))
    return -weight / ((exponent - 0.5) * _LN_2 + series)
