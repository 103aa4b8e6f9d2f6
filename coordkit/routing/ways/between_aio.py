"""One command between two of ours, over one connection, asyncio; as `coordkit.routing.ways.between`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit._reader import PLAIN
from coordkit.routing.ways.errors import NO_ANSWER, answered, unanswered
from coordkit.routing.ways.replies import QUICK, callback_of, parsed
from coordkit.routing.ways.way_aio import Way


async def asked_between(
    way: Way, first: bytes, args: tuple[Any, ...], options: Mapping[str, Any], last: bytes
) -> tuple[Any, Any, Any]:
    """Send a command between two packed ones; return the three replies, its own as `Way.execute` returns it.

    An error that the server answers with stands in the place of its reply; any other is raised as `Way.execute` does.
    """
    data, quick = first + way.packed([args]) + last, args[0] in QUICK
    try:
        wire = (way.shared_now(0) or await way.shared(0)) if quick else None
        if wire is not None:
            asking = way.end(wire, way.begin(wire, data, 3))
        else:
            asking = way.ask_alone(await way.take(0), data, 3, quick=quick)
    except ResponseError as error:  # in the handshake
        raise answered(way.name, error) from error
    except NO_ANSWER as error:
        raise unanswered(way.name, error, sent=False) from error
    try:
        before, reply, after = await asking
    except NO_ANSWER as error:
        raise unanswered(way.name, error, sent=True) from error
    callbacks = way.response_callbacks
    if type(reply) not in PLAIN or callback_of(callbacks, args[0]) is not None:
        try:
            reply = parsed(callbacks, args, options, reply)
            reply = await reply if inspect.isawaitable(reply) else reply
        except ResponseError as error:
            reply = answered(way.name, error)
    return before, reply, after
