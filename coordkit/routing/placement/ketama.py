"""Ketama, the ring of memcached's clients, in the dialects that share its name and agree on little else.

All take MD5 digests of labels ``server-k`` as four points each, 160 for a shard of mean weight. They differ in the
label, in how a weight becomes a number of points, and in the hash of keys:

=================  ===========================  ============================  =================
dialect            label of 10.0.0.1:11211      points of a shard             hash of keys
=================  ===========================  ============================  =================
libketama          ``10.0.0.1:11211-k``         4 * floor(p * 40 * n)         md5
libmemcached       ``10.0.0.1-k``               4 * floor(p * 40 * n + tiny)  md5
libmemcached-spy   ``/10.0.0.1:11211-k``        4 * floor(p * 40 * n + tiny)  md5
spymemcached       ``10.0.0.1:11211-k``         160, and no weights           md5
twemproxy          ``10.0.0.1-k``               4 * floor(p * 40 * n + tiny)  fnv1a_64
=================  ===========================  ============================  =================

p is the shard's part of all weights and n the number of shards, both in C's single precision. A port of 11211 is left
out by libmemcached and twemproxy. twemproxy may be configured to give a server a name, which is then the label, and to
another ``hash`` of keys.
Weighted ketama is not minimal: a shard that comes or goes changes the number of points of all others, and up to 7 % of
*their* keys move among them. For new data take a `SlotMap`.
Sources: RJ/ketama libketama/ketama.c; awesomized/libmemcached src/libmemcached/hosts.cc; couchbase/spymemcached
KetamaNodeLocator; twitter/twemproxy src/hashkit/nc_ketama.c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from struct import pack, unpack
from typing import Literal, NamedTuple, get_args

from coordkit.routing.placement.hashes import hash_named, md5_words
from coordkit.routing.placement.quotas import checked_names, whole_weights
from coordkit.routing.placement.ring import Ring

Dialect = Literal["libketama", "libmemcached", "libmemcached-spy", "spymemcached", "twemproxy"]


class _Rules(NamedTuple):
    label: Callable[[str], str]
    digests: Callable[[int, int, int], int]  # of a weight, the sum of weights and the number of shards
    hash: str


def _single(value: float) -> float:
    (rounded,) = unpack("<f", pack("<f", value))
    return float(rounded)


def _libketama(weight: int, total: int, shards: int) -> int:
    part = _single(_single(weight) / _single(total))
    return math.floor(_single(part * 40.0 * shards))


def _libmemcached(weight: int, total: int, shards: int) -> int:
    part = _single(_single(weight) / _single(total))
    return math.floor(_single(_single(_single(_single(part * 160) / 4) * shards) + 1e-10))


def _whole(name: str) -> str:
    return name


def _without_port(name: str) -> str:
    return name.removesuffix(":11211")


_RULES: dict[str, _Rules] = {
    "libketama": _Rules(_whole, _libketama, "md5"),
    "libmemcached": _Rules(_without_port, _libmemcached, "md5"),
    "libmemcached-spy": _Rules(lambda name: "/" + name, _libmemcached, "md5"),
    "spymemcached": _Rules(_whole, lambda *_: 40, "md5"),
    "twemproxy": _Rules(_without_port, _libmemcached, "fnv1a_64"),
}


def ketama(
    shards: Iterable[str],
    weights: Mapping[str, float] | None = None,
    *,
    dialect: Dialect,
    hash: str | None = None,  # noqa: A002  # what twemproxy's configuration calls it
    hash_tags: bool = False,
) -> Ring:
    """Place keys as a client or proxy with a ketama ring does, to find the data that it placed.

    ``shards`` are the names that it hashed, such as "10.0.0.1:11211"; ``weights`` whole numbers, 1 where a name is
    missing. ``hash`` is the hash of keys where it is not the dialect's own (`coordkit.routing.HASHES` has the names),
    ``hash_tags`` twemproxy's ``hash_tag: "{}"``. Raise NoNodes without any shard, ValueError for duplicate names,
    weights that are not whole, another dialect or hash, and weights for spymemcached, which has none.
    """
    if dialect not in _RULES:
        raise ValueError(f"dialect={dialect!r}; one of {', '.join(get_args(Dialect))} is allowed")
    if dialect == "spymemcached" and weights is not None:
        raise ValueError(f"weights={weights!r}; spymemcached's shards have none, None is allowed")
    names = sorted(checked_names(shards))
    weighed = whole_weights(names, weights)
    rules, total = _RULES[dialect], sum(weighed.values())
    points = [
        (point, name)
        for name in names
        for k in range(rules.digests(weighed[name], total, len(names)))
        for point in md5_words(f"{rules.label(name)}-{k}".encode())
    ]
    return Ring(tuple(names), tuple(points), hash_named(hash or rules.hash), hash_tags)
