"""Ending a session in bounded time: at the end of a block, and at the end of the interpreter.

A session that is closed is over at once; one that is left to itself is over when its timeout has passed, and until then
its leader is believed to lead. kazoo closes nothing when the interpreter ends, and its ``stop()`` may wait for servers
that are gone.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kazoo.protocol.serialization import CloseInstance

if TYPE_CHECKING:
    from coordkit._kazoo import Wire

_PATIENCE = 1.0
"""Seconds that the end of the interpreter may be put off for sessions to be closed, all together."""

_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


def close_at_exit(wire: Wire) -> None:
    """Have the session closed when the interpreter ends, unless the client was stopped or freed before."""
    _wires.add(wire)


@atexit.register
def _close_all() -> None:
    # Not kazoo's stop(): it has no bound, and threads to wait for it can no longer be started (Python 3.12).
    closing = [wire.client for wire in list(_wires) if wire.session_is_ours()]
    for client in closing:
        client._stopped.set()  # noqa: SLF001  what stop() does before it waits
        client._queue.append((CloseInstance, None))  # noqa: SLF001  as above
        with suppress(OSError, AttributeError):  # it was closed just now
            client._connection._write_sock.send(b"\0")  # noqa: SLF001  as above
    until = time.monotonic() + _PATIENCE
    for client in closing:
        if not client._connection.connection_stopped.wait(max(0.0, until - time.monotonic())):  # noqa: SLF001  as above
            client._stopped.clear()  # noqa: SLF001  the program's own stop(), if it comes yet, finds what it expects


def stop(client: Any, stopped: Callable[[], None]) -> None:
    """Stop and close a client in a thread of its own, and call ``stopped`` then: it may take a session timeout."""

    def run() -> None:
        try:
            client.stop()
            client.close()
        finally:
            stopped()

    threading.Thread(target=run, name="coordkit-stop", daemon=True).start()
