"""One command between two of ours, over one kept connection, blocking: a read with a look before and after it.

The quick way of what a `Sending` of three commands does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit._reader import PLAIN
from coordkit.routing.ways.errors import NO_ANSWER, answered, unanswered
from coordkit.routing.ways.replies import QUICK, callback_of, parsed
from coordkit.routing.ways.way import Way


def asked_between(
    way: Way, first: bytes, args: tuple[Any, ...], options: Mapping[str, Any], last: bytes
) -> tuple[Any, Any, Any]:
    """Send a command between two packed ones; return the three replies, its own as `Way.execute` returns it.

    An error that the server answers with stands in the place of its reply; any other is raised as `Way.execute` does.
    """
    data = way.packed([args])
    try:
        wire = way.take(0)
    except ResponseError as error:  # in the handshake
        raise answered(way.name, error) from error
    except NO_ANSWER as error:
        raise unanswered(way.name, error, sent=False) from error
    replies: list[Any] = []
    try:
        wire.send(first + data + last)
        wire.read_into(replies, 3, decoding=True)
    except BaseException as error:
        meant = way.lost(wire, error, quick=args[0] in QUICK)
        if meant is error:
            raise
        raise meant from meant.__cause__
    way.heard()
    way.give_back(wire)
    before, reply, after = replies
    callbacks = way.response_callbacks
    if type(reply) not in PLAIN or callback_of(callbacks, args[0]) is not None:
        try:
            reply = parsed(callbacks, args, options, reply)
        except ResponseError as error:
            reply = answered(way.name, error)
    return before, reply, after
