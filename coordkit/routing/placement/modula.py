"""Modulo hashing, ``hash(key) % n``: the ``modula`` of twemproxy and libmemcached. To find data, not to place any.

When the eleventh shard comes to ten, 91 % of all keys move.
Sources: twitter/twemproxy src/hashkit/nc_modula.c; awesomized/libmemcached src/libmemcached/hash.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordkit.routing.placement.hashes import hash_named
from coordkit.routing.placement.quotas import checked_names, whole_weights
from coordkit.routing.placement.table import Table


def modula(
    shards: Iterable[str],
    weights: Mapping[str, float] | None = None,
    *,
    hash: str = "fnv1a_64",  # noqa: A002  # what twemproxy's configuration calls it
    hash_tags: bool = False,
) -> Table:
    """Place keys by the remainder of their hash, in **the order of the list**, which is the order of its configuration.

    ``weights`` are whole numbers, 1 where a name is missing: so many places in the list. ``hash`` is twemproxy's
    default (libmemcached's: "one_at_a_time"; `coordkit.routing.HASHES` has all names), ``hash_tags`` its
    ``hash_tag: "{}"``. Raise NoNodes without any shard, ValueError for what is not allowed.
    """
    names = checked_names(shards)
    weighed = whole_weights(names, weights)
    table = [name for name in names for _ in range(weighed[name])]
    return Table(tuple(names), tuple(table), hash_named(hash), hash_tags)
