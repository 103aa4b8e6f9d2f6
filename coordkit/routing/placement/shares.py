"""Who of several works on which partition: shares by weight, the same for everybody who knows the same members.

Each partition ranks the members by rendezvous hashing (`hrw`, with the weights of coordkit's own `rendezvous`), and
takes the first that has room: each member has its exact share, rounded down or up. Not promised is that only the ideal
share moves when a member comes or goes: keeping the shares exact moves some more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from coordkit.routing.placement.hrw import Hrw, hrw
from coordkit.routing.placement.rendezvous import weighted


def share_out(
    partitions: Iterable[str], members: Iterable[str], weights: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Return which of ``members`` works on each of ``partitions``; {} without a member. The order does not matter.

    ``weights`` are positive ints, 1 where a member is missing.
    """
    names, wanted = sorted(members), sorted(partitions)
    if not names:
        return {}
    weighed = {name: 1 if weights is None else weights.get(name, 1) for name in names}
    total = sum(weighed.values())
    room = {name: len(wanted) * weighed[name] // total for name in names}
    uneven = {name for name in names if len(wanted) * weighed[name] % total}  # of these some have one more
    more = len(wanted) - sum(room.values())
    ranks = _ranking(tuple(names))
    owners = {}
    for partition in wanted:
        for name in _ranked(ranks, partition, weighed):
            if not room[name]:
                if not more or name not in uneven:
                    continue
                uneven.discard(name)
                more -= 1
                room[name] += 1
            room[name] -= 1
            owners[partition] = name
            break
    return owners


def _ranked(ranks: Hrw, partition: str, weights: Mapping[str, int]) -> list[str]:
    heaviest = max(weights.values())
    if heaviest == min(weights.values()):
        return ranks.owners(partition, len(weights))
    counted = [(weighted(score, weights[name] / heaviest), name) for score, name in ranks.scored(partition)]
    return [name for _, name in sorted(counted, reverse=True)]


@lru_cache(maxsize=4)
def _ranking(names: tuple[str, ...]) -> Hrw:
    return hrw(names)
