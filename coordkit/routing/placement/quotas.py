"""What the placements check and compute of names and weights: the quota of each shard in whole slots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from coordkit.errors import NoNodes


def checked_names(shards: Iterable[str]) -> list[str]:
    """Return the names in the caller's order; NoNodes if there is none, ValueError or TypeError for what is no name."""
    if isinstance(shards, (str, bytes)) or not isinstance(shards, Iterable):
        raise TypeError(f"shards={shards!r}; an iterable of names, each a non-empty str, is allowed")
    names = list(shards)
    if not names:
        raise NoNodes("placement", "shards is empty; name at least one shard")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"shard name {name!r} is {type(name).__name__}; a non-empty str is allowed")
        if not name:
            raise ValueError("shard name ''; a non-empty str is allowed")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"shards names {twice!r} more than once; each name is allowed once")
    return names


def checked_weights(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return a weight for each name, 1 where none is given; ValueError or TypeError names what is wrong."""
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"weights={weights!r}; a mapping of shard names to positive finite numbers is allowed")
    given = dict(weights or {})
    strangers = set(given).difference(names)
    if strangers:
        raise ValueError(f"weights has {sorted(strangers, key=repr)!r}; only the shards {list(names)!r} are allowed")
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f"weights[{name!r}]={weight!r}; a positive finite number is allowed")
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weights[{name!r}]={weight!r}; a positive finite number is allowed")
    return {name: given.get(name, 1) for name in names}


def whole_weights(names: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, int]:
    """Return a whole weight for each name, 1 where none is given: for routers whose weights are integers."""
    weighed = {}
    for name, weight in checked_weights(names, weights).items():
        if weight != int(weight):
            raise ValueError(f"weights[{name!r}]={weight!r}; here a positive whole number is allowed")
        weighed[name] = int(weight)
    return weighed


def quotas(
    names: Sequence[str], weights: Mapping[str, float], slots: int, owned: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Share ``slots`` by weight: each exact share rounded down, what is left over given out singly.

    It is given to those first that own more than their share of it already (``owned``), which saves a move each, then
    by largest remainder, then by name. Raise ValueError for a weight that is too small for one slot.
    """
    # Exact fractions: floats would round differently when summed in another order.
    exact = {name: Fraction(weights[name]) for name in names}
    total = sum(exact.values())
    shares = {name: divmod(slots * exact[name], total) for name in names}
    whole = {name: int(share) for name, (share, _) in shares.items()}
    if owned is not None:
        quotas(names, weights, slots)  # what is too small does not depend on what it owns

    def precedence(name: str) -> tuple[bool, bool, Fraction, str]:
        rest = shares[name][1]
        if owned is None:
            return (False, False, -rest, name)
        return (whole[name] > 0, not (rest and owned.get(name, 0) > whole[name]), -rest, name)

    for name in sorted(names, key=precedence)[: slots - sum(whole.values())]:
        whole[name] += 1
    for name in names:
        if whole[name] == 0:
            raise ValueError(
                f"weights[{name!r}]={weights[name]!r} is too small for one of {slots} slots beside the others; "
                f"a share of at least 1/{slots} is allowed"
            )
    return whole


def capacities(names: Sequence[str], weights: Mapping[str, float], slots: int, bound: float) -> dict[str, int]:
    """Return ``bound`` times the share of each name in ``slots``, rounded up; ValueError or TypeError for no bound."""
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        raise TypeError(f"bound={bound!r}; a number of at least 1 is allowed")
    if not (math.isfinite(bound) and bound >= 1):
        raise ValueError(f"bound={bound!r}; a finite number of at least 1 is allowed")
    total = sum(Fraction(weights[name]) for name in names)
    return {name: math.ceil(Fraction(bound) * slots * Fraction(weights[name]) / total) for name in names}
