"""How our half of a connection that waits is ended, asyncio; `coordkit.routing.ways.waits` says when and why."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from coordkit._asyncio.runtime import running_loop
from coordkit._asyncio.wire import Wire


def end_half_of(wire: Wire) -> None:
    """End it in its own loop, which alone closes sockets: elsewhere the number may be another socket's by then."""
    if running_loop() is wire.loop:
        _end_half_now(wire)
        return
    with suppress(RuntimeError):  # a loop that is closed has nobody who waits
        wire.loop.call_soon_threadsafe(_end_half_now, wire)


def _end_half_now(wire: Wire) -> None:
    stream = wire.connection._writer  # noqa: SLF001  redis-py has no other name for it
    if stream is None:  # it was lost, and closed, meanwhile
        return
    # By another name for the same socket: the loop's own has no such thing for TLS.
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(stream.get_extra_info("socket").fileno())) as twin:
        twin.shutdown(socket.SHUT_WR)
