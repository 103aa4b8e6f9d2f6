"""Wait until what a shard was told is on its disk, where the server cannot wait itself (WAITAOF, Redis 7.2)."""

from __future__ import annotations

import re

from coordkit._ports import Runtime
from coordkit.errors import StoreUnavailable
from coordkit.routing.fence.port import ShardPort
from coordkit.routing.fence.walk import replies, said

_AT_ONCE = re.compile("'(always|no)'")  # in a list, or a dict, of bytes or text: as the client has it

_EACH = 1.5  # seconds within which a file that is written out each second is on its way to the disk
_LOOK = 0.1  # seconds between two looks
_PATIENCE = 10.0  # seconds


async def flushed(runtime: Runtime, port: ShardPort) -> None:
    """Return once all that was written before is on disk; at once if it is each time, or never (``appendfsync``).

    Where the server writes its file out each second: once nothing was on its way, and then, after a second, nothing was
    again, what was written before has been written out. Raise StoreUnavailable if the disk is too slow for that.
    """
    if await _is_on_its_way(runtime, port) is None:
        return
    [policy] = await port.ask([(b"CONFIG", b"GET", b"appendfsync")])
    if not isinstance(policy, Exception) and _AT_ONCE.search(str(policy)):
        return  # one that is not told, where a service hides its configuration, may be any
    await _until_idle(runtime, port)
    await runtime.sleep(_EACH)
    await _until_idle(runtime, port)


async def _until_idle(runtime: Runtime, port: ShardPort) -> None:
    until = runtime.now() + _PATIENCE
    while await _is_on_its_way(runtime, port):
        if runtime.now() >= until:
            raise StoreUnavailable(
                port.shard, f"its append-only file was not on disk after {_PATIENCE:.0f} s: look at INFO persistence"
            )
        await runtime.sleep(_LOOK)


async def _is_on_its_way(runtime: Runtime, port: ShardPort) -> bool | None:
    """Return whether the file is being written out just now; None if there is none."""
    [info] = await replies(runtime, port, [(b"INFO", b"persistence")])
    if said(info, "aof_enabled") != "1":
        return None
    return said(info, "aof_pending_bio_fsync") != "0" or said(info, "aof_last_write_status") != "ok"
