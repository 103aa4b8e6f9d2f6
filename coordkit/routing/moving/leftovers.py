"""Drop what a shard has of slots that are about to come to it: it had them before, and lost what it was told last.

A server that fails over to a replica which lacks the last removals has copies of keys that moved away. Nobody reads
them while the slots are elsewhere. When they come back, only keys that are at the source are replaced: a copy of one
that was deleted there would live again. So they are dropped before the move begins: at best before it is announced,
while clients go on, and again after the fence if the server has other data by then, or another mover goes on.

The database of a shard is the topology's alone: a key of these slots that somebody else keeps there goes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from coordkit._ports import Call, Runtime
from coordkit.core.answer import answered
from coordkit.errors import StoreUnavailable
from coordkit.routing.fence.fence import is_local, local_key
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import Walk, replies, said
from coordkit.routing.placement.slots import slot_of
from coordkit.scripts import load

_CLEAR = load("move_clear")


async def data_of(runtime: Runtime, port: ShardPort) -> str:
    """Return a text that is another one after a restart, a failover or a copy from elsewhere."""
    server, replication = await replies(runtime, port, [(b"INFO", b"server"), (b"INFO", b"replication")])
    return f"{said(server, 'run_id')} {said(replication, 'master_replid')}"


async def drop_leftovers(
    runtime: Runtime,
    port: ShardPort,
    topology: str,
    slots: Sequence[int],
    *,
    epoch: int,
    number: int,
    step: Callable[[], object],
) -> str:
    """Drop the keys of ``slots`` that a shard has before they come to it; return which data it had (`data_of`).

    ``epoch`` is that of the topology by which it does not own them, or that for which the move's shards are fenced.
    ``number`` is that of the move by which they will come, which has not begun, and perhaps is not announced yet.
    ``step`` is called before each page. Raise StoreUnavailable if the shard knows a later epoch.
    """
    data = await data_of(runtime, port)
    mine = frozenset(slots)
    walk = Walk(partial(replies, runtime, port), b"SCAN")
    while not walk.over:
        step()
        keys = [key for key in await walk.page() if slot_of(key) in mine and not is_local(topology, key)]
        if not keys:
            continue
        call = Call(_CLEAR, (local_key(topology, "epoch"), local_key(topology, "moves"), *keys), (epoch, number))
        dropped = await answered(runtime, partial(port.run, call), runtime.now())
        if dropped == -1:
            raise StoreUnavailable(
                port.shard, f"it knows another epoch than {epoch} by now: another rebalancer goes on, or it was wiped"
            )
        if dropped == -2:  # whoever began it has dropped them
            break
    return data
