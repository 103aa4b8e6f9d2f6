"""Who of several works on which partition: even shares, the same for everybody who knows the same members.

Each partition ranks the members by rendezvous hashing (`hrw`), and takes the first that has room: no
member has more than one partition more than another. Not promised is that only the ideal share moves when a member
comes or goes: keeping the shares even moves some more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from coordkit.routing.placement import Placement
from coordkit.routing.placements.hrw import hrw


def share_out(partitions: Iterable[str], members: Iterable[str]) -> dict[str, str]:
    """Return which of ``members`` works on each of ``partitions``; {} without a member. The order does not matter."""
    names, wanted = sorted(members), sorted(partitions)
    if not names:
        return {}
    ranks = _ranking(tuple(names))
    fewest, more = divmod(len(wanted), len(names))  # so many have one more than the fewest
    had = dict.fromkeys(names, 0)
    owners = {}
    for partition in wanted:
        for name in ranks.owners(partition, len(names)):
            if had[name] < fewest or (had[name] == fewest and more > 0):
                more -= had[name] == fewest
                had[name] += 1
                owners[partition] = name
                break
    return owners


@lru_cache(maxsize=4)
def _ranking(names: tuple[str, ...]) -> Placement:
    return hrw(names)
