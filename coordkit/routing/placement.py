"""Which shard owns which slot: an immutable table, and the way coordkit fills one from a list of names.

`Placement` is a finished answer that any number of threads may read; a new list of shards is a new `Placement`, put in
place by swapping one reference. `rendezvous` fills it for a static configuration: every process that is given the same
names and weights computes the same table, whatever the order, the history, PYTHONHASHSEED or the machine.

It does not promise that *only* the ideal share moves when a shard comes or goes: keeping every shard at its exact quota
moves about 0.4 % of the slots more (1 % was never seen). A stored map, which moves none needlessly, makes the same
`Placement`.
"""

from __future__ import annotations

import math
import sys
from array import array
from binascii import crc_hqx
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

from coordkit.errors import NoNodes
from coordkit.routing.slots import SLOTS, slot_of, tagged

_BLOCK = 8  # slots per digest: 64 bytes of BLAKE2b are eight scores, which makes building eight times cheaper


@dataclass(frozen=True, slots=True)
class Placement:
    """Say which shard owns each of the 16384 slots.

    ``shards`` are the names, ``table`` the owner of each slot. Raise ValueError if the table has another length or
    names an owner that is not in ``shards``.
    """

    shards: tuple[str, ...]
    table: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names(self.shards)
        if len(self.table) != SLOTS:
            raise ValueError(f"table={len(self.table)} owners; exactly {SLOTS} are allowed, one for each slot")
        strangers = sorted(set(self.table).difference(self.shards))
        if strangers:
            raise ValueError(f"table names {strangers!r}; only the shards {list(self.shards)!r} are allowed")

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {slots}" for name, slots in self.counts().items())
        return (
            f"<Placement {self.checksum()} of {SLOTS} slots: {counts if len(counts) < 200 else counts[:200] + ', ...'}>"
        )

    def lookup(self, slot: int) -> str:
        """Return the shard that owns ``slot`` (0 to 16383)."""
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot={slot!r}; 0 to {SLOTS - 1} is allowed")
        return self.table[slot]

    def lookup_many(self, slots: Iterable[int]) -> list[str]:
        """Return the owners of many slots, in their order; each must be from 0 to 16383."""
        table, slots = self.table, list(slots)
        if slots and not (min(slots) >= 0 and max(slots) < SLOTS):
            stranger = next(slot for slot in slots if not 0 <= slot < SLOTS)
            raise ValueError(f"slots has {stranger!r}; 0 to {SLOTS - 1} is allowed")
        return [table[slot] for slot in slots]

    def route(self, key: str | bytes) -> str:
        """Return the shard that owns ``key``."""
        # The same as table[slot_of(key)], written out: a third of a lookup is the call.
        if isinstance(key, str):
            key = key.encode()
        return self.table[crc_hqx(tagged(key) if b"{" in key else key, 0) & 0x3FFF]

    def route_many(self, keys: Iterable[str | bytes]) -> list[str]:
        """Return the owners of many keys, in their order."""
        table, crc, tag = self.table, crc_hqx, tagged
        wire = [key.encode() if isinstance(key, str) else key for key in keys]
        return [table[crc(tag(key) if b"{" in key else key, 0) & 0x3FFF] for key in wire]

    def owners(self, key: str | bytes, n: int = 1) -> list[str]:
        """Return ``n`` distinct shards in order of preference: the owner of ``key``, then by falling score.

        The order of the others does not depend on their weights. Raise ValueError unless ``n`` is from 1 to the number
        of shards.
        """
        if not 1 <= n <= len(self.shards):
            raise ValueError(f"n={n!r}; 1 to {len(self.shards)}, the number of shards, is allowed")
        slot = slot_of(key)
        owner = self.table[slot]
        others = sorted(set(self.shards) - {owner}, key=lambda name: (-_score(name, slot), name))
        return [owner, *others[: n - 1]]

    def diff(self, other: Placement) -> float:
        """Return the exact share (0.0 to 1.0) of the slots whose owner's name differs between the two."""
        return sum(a != b for a, b in zip(self.table, other.table, strict=True)) / SLOTS

    def counts(self) -> dict[str, int]:
        """Return how many slots each shard owns."""
        owned = dict.fromkeys(self.shards, 0)
        for name in self.table:
            owned[name] += 1
        return owned

    def checksum(self) -> str:
        """Return 16 hex digits that two placements share when they have the same shards and the same owners."""
        names = sorted(self.shards)
        number = {name: i for i, name in enumerate(names)}
        digest = blake2b(digest_size=8, person=b"coordkit-place-1")
        for name in names:
            encoded = name.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        digest.update(b"".join(number[name].to_bytes(4, "big") for name in self.table))
        return digest.hexdigest()


def rendezvous(shards: Iterable[str], weights: Mapping[str, float] | None = None) -> Placement:
    """Place all slots on ``shards``, each shard getting its exact share: capacity-bounded rendezvous hashing.

    ``weights`` are positive finite numbers, 1 where a name is missing; a shard's quota is its part of 16384, rounded by
    largest remainder. Every (shard, slot) pair has a 64-bit score; slots prefer shards, and full shards prefer slots,
    by that score, and the table is the one stable matching between them. Raise NoNodes without any shard, ValueError
    for duplicate names, for weights of other names, and for a weight too small for one slot.
    Source: rendezvous (HRW) hashing, Thaler and Ravishankar 1998, with the weights of Schindelhauer and Schomaker 2005;
    stable matching, Gale and Shapley 1962.
    """
    if isinstance(shards, (str, bytes)) or not isinstance(shards, Iterable):
        raise TypeError(f"shards={shards!r}; an iterable of names, each a non-empty str, is allowed")
    names = list(shards)
    if not names:
        raise NoNodes("placement", "shards is empty; name at least one shard")
    _check_names(names)
    names.sort()  # the order of the caller's list must not matter, not even for equal scores
    weighed = check_weights(names, weights)
    quotas = _quotas(names, weighed)
    heaviest = max(weighed.values())
    scores = [_weighted(_scores(name), weighed[name] / heaviest, weighed) for name in names]
    return Placement(tuple(names), _match(names, quotas, scores))


def check_weights(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return a weight for each name, 1 where none is given; ValueError or TypeError names what is wrong."""
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"weights={weights!r}; a mapping of shard names to positive finite numbers is allowed")
    given = dict(weights or {})
    strangers = [name for name in given if name not in names]
    if strangers:
        raise ValueError(f"weights has {strangers!r}; only the shards {list(names)!r} are allowed")
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f"weights[{name!r}]={weight!r}; a positive finite number is allowed")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weights[{name!r}]={weight!r}; a positive finite number is allowed")
    return {name: given.get(name, 1) for name in names}


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"shard name {name!r} is {type(name).__name__}; a non-empty str is allowed")
        if not name:
            raise ValueError("shard name ''; a non-empty str is allowed")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"shards names {twice!r} more than once; each name is allowed once")


def _quotas(names: Sequence[str], weights: Mapping[str, float]) -> list[int]:
    # Exact fractions: floats would round differently when summed in another order.
    exact = [Fraction(weights[name]) for name in names]
    total = sum(exact)
    shares = [divmod(SLOTS * part, total) for part in exact]
    quotas, remainders = [int(whole) for whole, _ in shares], [rest for _, rest in shares]
    by_remainder = sorted(range(len(names)), key=lambda i: (-remainders[i], names[i]))
    for i in by_remainder[: SLOTS - sum(quotas)]:
        quotas[i] += 1
    for name, quota in zip(names, quotas, strict=True):
        if quota == 0:
            raise ValueError(
                f"weights[{name!r}]={weights[name]!r} is too small for one of {SLOTS} slots beside the others; "
                f"a share of at least 1/{SLOTS} is allowed"
            )
    return quotas


def _match(names: Sequence[str], quotas: Sequence[int], scores: Sequence[Sequence[float]]) -> tuple[str, ...]:
    # Deferred acceptance. Its result does not depend on who asks first, which is what makes the table canonical.
    columns = range(len(names))
    held: list[list[tuple[float, int]]] = [[] for _ in names]  # for each shard, (score, slot) of those that ask it
    for slot, column in enumerate(zip(*scores, strict=True)):
        best = max(column)
        held[column.index(best)].append((best, slot))
    preferences: dict[int, list[int]] = {}  # only of slots that were refused once: the shards they ask next, last first
    full = [i for i in columns if len(held[i]) > quotas[i]]
    while full:
        asked: set[int] = set()
        for i in full:
            held[i].sort(reverse=True)
            refused = held[i][quotas[i] :]
            del held[i][quotas[i] :]
            for score, slot in refused:
                if slot not in preferences:
                    preferences[slot] = sorted(
                        (j for j in columns if (scores[j][slot], -j) < (score, -i)), key=lambda j: (scores[j][slot], -j)
                    )
                j = preferences[slot].pop()
                held[j].append((scores[j][slot], slot))
                asked.add(j)
        full = [i for i in sorted(asked) if len(held[i]) > quotas[i]]
    table = [""] * SLOTS
    for name, slots in zip(names, held, strict=True):
        for _, slot in slots:
            table[slot] = name
    return tuple(table)


def _digest(name: bytes, block: int) -> bytes:
    return blake2b(block.to_bytes(4, "big") + name, digest_size=64, person=b"coordkit-score-1").digest()


def _scores(name: str) -> array[int]:
    encoded = name.encode()
    scores = array("Q", b"".join([_digest(encoded, block) for block in range(SLOTS // _BLOCK)]))
    if sys.byteorder == "big":
        scores.byteswap()
    return scores


def _score(name: str, slot: int) -> int:
    block, place = divmod(slot, _BLOCK)
    return int.from_bytes(_digest(name.encode(), block)[place * 8 : place * 8 + 8], "little")


def _weighted(scores: array[int], weight: float, weights: Mapping[str, float]) -> Sequence[float]:
    # -weight / ln(score as a fraction of 1) makes first choices as frequent as the weights, so that quotas refuse few;
    # quotas alone moved up to 4 % needlessly. With equal weights the order would be that of the bare scores.
    if len(set(weights.values())) == 1:
        return scores
    # Not math.log, whose last digit differs between C libraries: IEEE sums and products are the same everywhere. This
    # is the atanh series on [1/2, 1), good to nine digits: the table needs the same values everywhere, not exact ones.
    frexp, unit, root_half, ln_2 = math.frexp, 2.0**-53, 0.7071067811865476, 0.6931471805599453
    weighted = []
    for score in scores:
        mantissa, exponent = frexp((score >> 11 | 1) * unit)  # odd, so strictly between 0 and 1; 53 bits, so exact
        s = (mantissa - root_half) / (mantissa + root_half)
        q = s * s
        series = 2.0 * s * (1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q / 9))))
        weighted.append(-weight / ((exponent - 0.5) * ln_2 + series))
    return weighted
