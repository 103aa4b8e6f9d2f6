"""What becomes of a command without a key: one rule for each, and none is "some shard".

=========  =========================================================================================================
routed     PUBLISH, SPUBLISH: to the shard of the channel, as if it were a key
merged     one reply that speaks for all shards: DBSIZE, SLOWLOG LEN, LATENCY RESET (sums); KEYS, PUBSUB CHANNELS
           (all of them); SCAN (one shard after the other: see ``scanning``); RANDOMKEY (each key as likely as any
           other); SCRIPT EXISTS (on all); PUBSUB NUMSUB (sums by channel); PUBSUB NUMPAT, ACL DELUSER (the greatest)
all        each shard does it, and the reply is that of one, since all say the same; PartialFailure names those that
           did not: PING, ECHO, FLUSHDB, FLUSHALL, SWAPDB, CONFIG SET, SCRIPT LOAD, FUNCTION LOAD, ACL SETUSER, ...
by shard   a dict of replies by the shard's name, where several do not make one: INFO, TIME, LASTSAVE, ROLE, CONFIG GET,
           CLIENT LIST, SLOWLOG GET, MEMORY STATS, COMMAND, ...
refused    what is about one connection (SELECT, CLIENT SETNAME, WAIT, HIMPORT), one server (SHUTDOWN, REPLICAOF,
           CLIENT KILL, SCRIPT KILL) or a Cluster, or has no meaning without a key (EVAL with no keys)
=========  =========================================================================================================

A command that is not here and has no key (of a newer server, of a module) is refused. ``on_all`` asks each shard all
the same, ``on`` one of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from coordkit.errors import CrossShardError
from coordkit.routing.commands.plan import Join, first


class Together(NamedTuple):
    """How a command that all shards are asked is answered; ``join`` is None for a dict by shard."""

    action: Literal["broadcast", "merge"]
    join: Join | None
    why: str


def _concatenated(replies: Sequence[Any]) -> list[Any]:
    return [item for reply in replies for item in reply]


def _distinct(replies: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(_concatenated(replies)))


def _everywhere(replies: Sequence[Any]) -> list[bool]:
    return [all(flags) for flags in zip(*replies, strict=True)]


def _summed(replies: Sequence[Any]) -> Any:
    """Add up numbers of subscribers by channel: pairs, as redis-py makes them, or names and numbers in turn."""
    one = replies[0]
    if not one or isinstance(one[0], (tuple, list)):
        return [(pairs[0][0], sum(int(number) for _, number in pairs)) for pairs in zip(*replies, strict=True)]
    return [sum(map(int, items)) if i % 2 else items[0] for i, items in enumerate(zip(*replies, strict=True))]


def any_key(replies: Sequence[Any]) -> Any:
    """Choose among the random keys of the shards, by how many keys each has; ``replies`` are both, in turn."""
    sizes, keys = replies[::2], replies[1::2]
    held = [(key, size) for key, size in zip(keys, sizes, strict=True) if key is not None]
    if not held:
        return None
    return random.choices([key for key, _ in held], [max(size, 1) for _, size in held])[0]  # noqa: S311  no secret


def _table(action: Literal["broadcast", "merge"], join: Join | None, why: str, names: str) -> dict[str, Together]:
    return dict.fromkeys(names.split(), Together(action, join, why))


_ALIKE = (
    "ACL|LOAD ACL|SAVE ACL|SETUSER BGREWRITEAOF BGSAVE CLIENT|PAUSE CLIENT|UNPAUSE COMMANDLOG|RESET CONFIG|RESETSTAT "
    "CONFIG|REWRITE CONFIG|SET ECHO FLUSHALL FLUSHDB FUNCTION|DELETE FUNCTION|FLUSH FUNCTION|LOAD FUNCTION|RESTORE "
    "MEMORY|PURGE MODULE|LOAD MODULE|LOADEX MODULE|UNLOAD PFSELFTEST PING SAVE SCRIPT|FLUSH SCRIPT|LOAD SLOWLOG|RESET "
    "SWAPDB COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS "
    "ACL|HELP CLIENT|HELP CLUSTER|HELP COMMAND|HELP COMMANDLOG|HELP CONFIG|HELP FUNCTION|HELP LATENCY|HELP MEMORY|HELP "
    "MODULE|HELP OBJECT|HELP PUBSUB|HELP SCRIPT|HELP SLOWLOG|HELP XGROUP|HELP XINFO|HELP"
)
_BY_SHARD = (
    "ACL|CAT ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|LIST ACL|LOG ACL|USERS ACL|WHOAMI CLIENT|LIST COMMAND "
    "COMMAND|COUNT COMMAND|DOCS COMMAND|INFO COMMAND|LIST COMMANDLOG|GET CONFIG|GET FUNCTION|DUMP FUNCTION|LIST "
    "FUNCTION|STATS INFO LASTSAVE LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HISTOGRAM LATENCY|HISTORY LATENCY|LATEST LOLWUT "
    "MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|STATS MODULE|LIST ROLE SCRIPT|SHOW SLOWLOG|GET TIME"
)

TOGETHER: dict[str, Together] = {
    **_table("broadcast", first, "each shard does it; all say the same", _ALIKE),
    **_table("broadcast", None, "each shard is asked; the reply is a dict by shard", _BY_SHARD),
    **_table("merge", sum, "the sum over all shards", "DBSIZE SLOWLOG|LEN COMMANDLOG|LEN LATENCY|RESET"),
    **_table("merge", _concatenated, "those of all shards, each key on one", "KEYS"),
    **_table("merge", _distinct, "those of all shards, each once", "PUBSUB|CHANNELS PUBSUB|SHARDCHANNELS"),
    **_table("merge", _everywhere, "whether all shards have it", "SCRIPT|EXISTS"),
    **_table("merge", _summed, "the sum over all shards, by channel", "PUBSUB|NUMSUB PUBSUB|SHARDNUMSUB"),
    **_table("merge", max, "the greatest number of any shard", "PUBSUB|NUMPAT ACL|DELUSER"),
    **_table("merge", any_key, "one of the shards' own, by how many keys each has", "RANDOMKEY"),
}

# Sent to the shard of their first argument, though that is no key.
PUBLISHING = {"PUBLISH", "SPUBLISH"}

TRANSACTION = {"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"}
SUBSCRIPTION = {"PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"}
# These change what one connection is, or take it over; sent once through a pool, they would befall some later command.
CONNECTION = {
    "ASKING", "AUTH", "HELLO", "MONITOR", "PSYNC", "QUIT", "READONLY", "READWRITE", "REPLCONF", "RESET", "SELECT",
    "SYNC", "CLIENT|CACHING", "CLIENT|CAPA", "CLIENT|IMPORT-SOURCE", "CLIENT|NO-EVICT", "CLIENT|NO-TOUCH",
    "CLIENT|REPLY", "CLIENT|SETINFO", "CLIENT|SETNAME", "CLIENT|TRACKING", "SCRIPT|DEBUG",
}  # fmt: skip
# Redis-py keeps, for each connection of a client, what it has prepared for these.
OF_CLIENT = {"HIMPORT"}
NOT_THROUGH_A_POOL = CONNECTION | TRANSACTION | SUBSCRIPTION | OF_CLIENT
# And these ask what one is, or did.
_OF_CONNECTION = {"CLIENT|GETNAME", "CLIENT|GETREDIR", "CLIENT|ID", "CLIENT|INFO", "CLIENT|TRACKINGINFO"}
WAITS = {"WAIT", "WAITAOF"}
_OF_SERVER = {
    "CLIENT|KILL", "CLIENT|UNBLOCK", "DEBUG", "FAILOVER", "FUNCTION|KILL", "REPLICAOF", "SCRIPT|KILL", "SHUTDOWN",
    "SLAVEOF",
}  # fmt: skip


_WHY: tuple[tuple[set[str], str], ...] = (
    (
        CONNECTION | _OF_CONNECTION,
        "it is about one connection: set it on the clients that you pass in, or use on(shard).client()",
    ),
    (
        OF_CLIENT,
        "redis-py prepares it for the connections of one client: client_for(key).himport_prepare(), himport_set()",
    ),
    (
        WAITS,
        "it speaks for the connection that wrote: write and wait over the same one, on(shard).client()",
    ),
    (
        TRANSACTION,
        "a transaction stays on one shard: use transaction(), pipeline().watch(), or client_for(key).pipeline()",
    ),
    (SUBSCRIPTION, "it takes a connection over: use pubsub(), or that of one shard, on(shard).pubsub()"),
    (_OF_SERVER, "it is about one server: name the shard with on(shard), or tell each with on_all(...)"),
)


def why_refused(name: str, *, container: bool) -> str:
    """Say why a command without a key is not sent anywhere, and what to do instead."""
    for names, why in _WHY:
        if name in names:
            return why
    if name.startswith("CLUSTER|"):
        return (
            "its shards are no nodes of a Redis Cluster (slot(key) and owners(key) say what is where; on(shard) asks)"
        )
    if container and "|" not in name:
        return "it is not complete: the name of a subcommand follows it"
    return "without a key it belongs to no shard: name one with on(shard), or ask each with on_all(...)"


def refused(name: str, *, container: bool = False) -> CrossShardError:
    """Return the error for a command that no shard is sent."""
    return CrossShardError(name.replace("|", " "), why_refused(name, container=container), shards={})


def joined(together: Together, shards: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    """Return what makes one reply of the shards' replies."""
    return together.join or by_shard(shards)


def by_shard(shards: Sequence[str]) -> Callable[[Sequence[Any]], Mapping[str, Any]]:
    """Return what makes a dict by shard of the shards' replies."""
    return lambda replies: dict(zip(shards, replies, strict=True))
