"""The ring of Envoy's ``RING_HASH`` load balancer, bit for bit.

A host has points ``<host>_<i>``, in number by its weight, on a ring that is scaled so that the lightest host has a
whole number of them. With the default minimum of 1024 points *in all*, ten hosts have a hundred each and the fullest
of them 15 % more keys than the mean.
Source: envoyproxy/envoy source/extensions/load_balancing_policies/ring_hash/ring_hash_lb.cc, and for the hash of keys,
which is not the ring's, source/extensions/clusters/redis/redis_cluster_lb.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from coordkit.routing.placement.hashes import hash_named
from coordkit.routing.placement.quotas import checked_names, whole_weights
from coordkit.routing.placement.ring import Ring


def envoy_ring(
    shards: Iterable[str],
    weights: Mapping[str, float] | None = None,
    *,
    minimum_ring_size: int = 1024,
    maximum_ring_size: int = 8 * 1024 * 1024,
    hash_function: str = "xxh64",
    hash_tags: bool = False,
) -> Ring:
    """Place keys as Envoy's Redis proxy does over a cluster with ``RING_HASH``, to find the data that it placed.

    ``shards`` are what Envoy hashes, in the order of its configuration: "address:port", or host names with
    ``use_hostname_for_hashing``. The order counts only where weights leave shards with fractions of points. ``weights``
    are whole numbers, 1 where a name is missing. ``hash_function`` is the ring's: "xxh64" or "murmur2_64" (Envoy:
    MURMUR_HASH_2); ``hash_tags`` is Envoy's ``enable_hashtagging``. Keys are hashed by murmur2_64 always. Raise NoNodes
    without any shard, ValueError for what is not allowed.
    """
    if not 1 <= minimum_ring_size <= maximum_ring_size <= 8 * 1024 * 1024:
        raise ValueError(
            f"minimum_ring_size={minimum_ring_size!r}, maximum_ring_size={maximum_ring_size!r}; "
            "1 <= minimum <= maximum <= 8388608 is allowed"
        )
    if hash_function not in {"xxh64", "murmur2_64"}:
        raise ValueError(f"hash_function={hash_function!r}; 'xxh64' or 'murmur2_64' is allowed")
    names = checked_names(shards)
    weighed = whole_weights(names, weights)
    total = sum(weighed.values())
    # In C's doubles, step for step: how a sum of fractions is rounded decides who gets the point.
    least = min(weighed.values()) / total
    scale = min(math.ceil(least * minimum_ring_size) / least, float(maximum_ring_size))
    of = hash_named(hash_function).of
    points: list[tuple[int, str]] = []
    target = 0.0
    for name in names:
        target += scale * (weighed[name] / total)
        i = 0
        while len(points) < target:
            points.append((of(f"{name}_{i}".encode()), name))
            i += 1
    return Ring(tuple(sorted(names)), tuple(points), hash_named("murmur2_64"), hash_tags)
