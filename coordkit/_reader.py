"""Reading Redis's replies without redis-py, where hiredis is installed: a parser of our own on a connection of its."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from redis import exceptions


def _parts(*names: str) -> tuple[Any, ...]:
    """Return what is named ``module:attribute``; nothing at all where a part of it is missing."""
    try:
        return tuple(getattr(import_module(module), part) for module, part in (name.split(":") for name in names))
    except (ImportError, AttributeError):  # hiredis is optional, and redis-py may lay out its parts in another way
        return ()


_KNOWN = _parts(
    "redis._parsers.hiredis:_HiredisParser",
    "redis._parsers.hiredis:_AsyncHiredisParser",
    "redis._parsers.encoders:Encoder",
    "hiredis:Reader",
)
_PUSH: Any = next(iter(_parts("hiredis:PushNotification")), None)  # from hiredis 3.2 on
_NOTHING = object()
PLAIN = frozenset({bytes, str, int, list, type(None), bool, float, dict, set})
"""The exact types of replies that are neither an error, nor a push message, nor none yet."""


def reader_for(connection: Any) -> Any | None:
    """Return a parser like the one of a connection that redis-py made and nobody used yet; None where it has its own.

    The replies come out as the client's options say: decoded or not, errors as redis-py's.
    """
    parser: Any = getattr(connection, "_parser", None)
    encoder: Any = getattr(connection, "encoder", None)
    if not _KNOWN or type(parser) not in _KNOWN[:2] or type(encoder) is not _KNOWN[2]:
        return None
    theirs: Any = getattr(parser, "_reader", None)
    if theirs is None or theirs.has_data() or (_PUSH is None and connection.protocol not in (2, "2")):
        return None
    decoding = {"encoding": encoder.encoding, "errors": encoder.encoding_errors} if encoder.decode_responses else {}
    return _KNOWN[3](
        protocolError=exceptions.InvalidResponse,
        replyError=parser.parse_error,
        notEnoughData=_NOTHING,
        **decoding,
    )


def is_push(reply: Any) -> bool:
    """Whether a reply is none: a message that a server pushes to a client of RESP3."""
    return _PUSH is not None and type(reply) is _PUSH
