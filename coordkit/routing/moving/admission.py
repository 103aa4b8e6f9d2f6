"""Look at servers before they become shards, or change owners: what would lose data is refused before it begins.

- **Each shard is another database.** A server under two names (a host name and its address, a proxy, the same string
  twice) would be source and target of one move: what is removed "at the source" is what came to the target. So
  databases are compared by what the server says of itself, its ``run_id``, and the number of the database.
- **A shard has the keys of its own slots only**, when it becomes one. Any other key would never be found, and dropped
  when its slot comes there (`leftovers`). One SCAN of the shard, which ends at the first page with such keys.
- **A database belongs to one topology.** The epoch of another one there is a key as any other to this one, and would
  be moved away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from coordkit._ports import Runtime
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.routing.fence.fence import is_local, local_key
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import Walk, replies, said
from coordkit.routing.placement.slots import slot_of
from coordkit.routing.topology.topology import Topology

_OF_A_TOPOLOGY = re.compile(rb"coordkit:1:\{(.+)\}:topology:(epoch|moves)", re.DOTALL)
_SHOWN = 3  # keys that an error names


async def check_distinct(runtime: Runtime, ports: Sequence[ShardPort], *, absent_too: bool = False) -> None:
    """Raise CoordError if two of these shards are one database, or one is a replica; two round trips for each.

    With ``absent_too`` those that do not answer are passed over, but not the first.
    """
    found: list[tuple[str, str, str]] = []
    for port in ports:
        try:
            server, number = await database_of(runtime, port)
        except StoreUnavailable:
            if not absent_too or port is ports[0]:
                raise
            continue
        for other, known, its in found:
            if server and server == known and (number == its or "" in (number, its)):
                which = f"database {number}" if number else "CLIENT INFO, which would tell the database, is forbidden"
                raise CoordError(
                    port.shard,
                    f"it is the same database as shard {other!r} (run_id {server}; {which}): what moves from one to "
                    "the other would be removed from both; check the addresses",
                )
        found.append((port.shard, server, number))


async def check_keys(runtime: Runtime, port: ShardPort, topology: Topology) -> None:
    """Raise CoordError if a shard has keys of slots that are none of its own, or belongs to another topology."""
    name = port.shard
    [known] = await replies(runtime, port, [(b"GET", local_key(topology.name, "epoch"))])
    if known is not None and known.isdigit() and int(known) > topology.epoch:
        raise CoordError(
            name,
            f"it knows epoch {int(known)} of a topology {topology.name!r}, and this one has {topology.epoch}: it is a "
            "shard of another topology of this name, or this one was set back; check the address and the path",
        )
    owners, serving = topology.owners.table, topology.serving.table
    walk = Walk(partial(replies, runtime, port), b"SCAN")
    while not walk.over:
        keys = [key for key in await walk.page() if not is_local(topology.name, key)]
        check_foreign(name, topology.name, keys)
        strays = [key for key in keys if name not in (owners[slot := slot_of(key)], serving[slot])]
        if strays:
            shown = ", ".join(
                f"{key.decode('utf-8', 'backslashreplace')!r} (slot {slot_of(key)}, of {serving[slot_of(key)]!r})"
                for key in strays[:_SHOWN]
            )
            raise CoordError(
                name,
                f"it has keys of slots that it does not own, as {shown}: nobody would find them, and they would be "
                "dropped when their slots come here. Nothing was changed. Make a topology of empty shards, or of the "
                "one shard that has all keys, and add the others; if a static ShardedRedis placed them, give its "
                "placement (`coordkit reshard init --static`, Topology.first(placement=rendezvous(names, weights)))",
            )


async def check_is(runtime: Runtime, port: ShardPort, topology: Topology) -> None:
    """Raise CoordError unless a server has the data of the shard of that name, as far as its epoch says."""
    [known] = await replies(runtime, port, [(b"GET", local_key(topology.name, "epoch"))])
    least = max(1, topology.shards[port.shard].fenced)
    if known is None or int(known) < least:
        has = "no epoch" if known is None else f"epoch {int(known)}"
        raise CoordError(
            port.shard,
            f"at the new address it knows {has} of topology {topology.name!r}, and {least} at least is what its data "
            "has: it is another server, or an older copy, and what it lacks would be lost. If that is all there is, "
            f"write {least} to {local_key(topology.name, 'epoch').decode()!r} there, and try again",
        )


def check_foreign(shard: str, topology: str, keys: Sequence[bytes]) -> None:
    """Raise CoordError if one of the keys is what a shard of another topology keeps for itself."""
    for key in keys:
        if (found := _OF_A_TOPOLOGY.fullmatch(key)) and not is_local(topology, key):
            raise CoordError(
                shard,
                f"it is a shard of the topology {found[1].decode('utf-8', 'backslashreplace')!r} as well: it has "
                f"{key!r}. A database belongs to one topology; nothing was changed. Give this shard another database, "
                "or remove that key if the other topology is no more",
            )


async def database_of(runtime: Runtime, port: ShardPort) -> tuple[str, str]:
    """Return which server a shard is, by its run_id, and the number of its database there, "" if that is not told.

    Raise CoordError for a replica.
    """
    server, replication = await replies(runtime, port, [(b"INFO", b"server"), (b"INFO", b"replication")])
    if said(replication, "role") == "slave":
        raise CoordError(
            port.shard,
            f"it is a replica, of {said(replication, 'master_host')}:{said(replication, 'master_port')}: give the "
            "address of its primary",
        )
    [client] = await port.ask([(b"CLIENT", "INFO")])
    if isinstance(client, Exception):  # forbidden, as in some managed services
        return said(server, "run_id"), ""
    number = re.search(rb"(?:^| )db=(\d+)", client if isinstance(client, bytes) else str(client).encode())
    if number is None:
        raise StoreRefused(port.shard, f"its CLIENT INFO does not name a database: {client!r}")
    return said(server, "run_id"), number[1].decode()
