"""Give a new shard the functions that the others have (FUNCTION, Redis 7): FCALL runs on the shard of its keys.

Scripts that were loaded by SCRIPT LOAD cannot be copied; EVALSHA says NOSCRIPT there, as after a restart.
"""

from __future__ import annotations

import logging
import re

from coordkit._ports import Runtime
from coordkit.core.answer import answered
from coordkit.routing.fence.port import Command, ShardPort
from coordkit.routing.fence.walk import replies

_log = logging.getLogger("coordkit")

_NONE = re.compile(r"nknown (sub)?command", re.IGNORECASE)
_FORBIDDEN = re.compile(r"NOPERM|no permission", re.IGNORECASE)


async def copy_functions(runtime: Runtime, source: ShardPort, target: ShardPort) -> None:
    """Have ``target`` have the functions of ``source`` as well; nothing where the server knows none.

    Where FUNCTION is forbidden a warning is logged. Raises what the target answers if it cannot take them.
    """
    dump: list[Command] = [(b"FUNCTION", b"DUMP")]
    [functions] = await answered(runtime, lambda: source.ask(dump), runtime.now())
    if isinstance(functions, Exception):
        if _NONE.search(str(functions)):
            return
        if not _FORBIDDEN.search(str(functions)):
            raise functions
        _log.warning("%s forbids FUNCTION DUMP: load into %s what FCALL needs there", source.shard, target.shard)
        return
    await replies(runtime, target, [(b"FUNCTION", b"RESTORE", functions, b"REPLACE")])
