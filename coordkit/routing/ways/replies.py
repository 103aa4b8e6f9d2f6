"""What redis-py does to a command before it is sent and to a reply before it is returned; no I/O.

Kept connections hand over raw replies. What becomes of one must be exactly what the client's own ``execute_command``
would have returned: response callbacks, the options that redis-py's methods pass, errors of its classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import chain
from types import FunctionType
from typing import Any

from redis import exceptions

from coordkit import _redis
from coordkit._redis_packing import NUMBERS, without_numbers

OF_PARSING = {"NEVER_DECODE", "EMPTY_RESPONSE", "keys"}
"""Options that redis-py takes away before its callbacks."""

RAW: dict[str, Any] = {"NEVER_DECODE": True}
"""The options of a command whose reply is wanted as bytes, also of a client that decodes."""

_QUICK = """
APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS COPY DECR DECRBY DEL EXISTS EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST
GEOHASH GEOPOS GET GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETDEL HGETEX
HINCRBY HINCRBYFLOAT HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSET HSETEX HSETNX
HSTRLEN HTTL INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LMOVE LPOP LPOS LPUSH LPUSHX LREM LSET LTRIM MGET MSET MSETNX
PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PFCOUNT PING PSETEX PTTL RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SADD
SCARD SET SETBIT SETEX SETNX SETRANGE SISMEMBER SMISMEMBER SMOVE SPOP SRANDMEMBER SREM STRLEN SUBSTR TOUCH TTL TYPE
UNLINK XACK XADD XCLAIM XDEL XLEN XPENDING XTRIM ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER
ZRANK ZREM ZREVRANK ZSCORE
"""

QUICK = frozenset(_QUICK.split())
"""Commands that many tasks may have under way on one connection: none blocks, none walks a whole value to answer."""

_SENT_BY = ("send_packed_command", "read_response", "pack_command", "pack_commands", "can_read")
_PACKER: Any = getattr(import_module("redis.connection"), "HiredisRespSerializer", None)
_SAME_IN_C = frozenset({bytes, str})  # types, exactly: of a memoryview in steps C sends other bytes
try:
    _IN_C: Any = import_module("hiredis").pack_command
except (ImportError, AttributeError):  # hiredis is optional
    _IN_C = None


def is_kept(client: Any) -> bool:
    """Whether commands of this client may go over connections of our own, made by the recipe of its pool.

    Not where that would go round something: a bounded or customised pool's accounts, a client-side cache, a connection
    that sends in its own way, or a tracer that has wrapped redis-py's method.
    """
    theirs = inspect.getattr_static(type(client), "execute_command", None)
    traced = not isinstance(theirs, FunctionType) or hasattr(theirs, "__wrapped__") or not _is_redis_pys(theirs)
    return _redis.keeps_connections(client) and not traced and not _has_its_own(client, "send_command")


def speaks_plainly(connection: Any) -> bool:
    """Whether a connection sends and reads as redis-py's do, so that its socket may be spoken to instead of it."""
    kind = type(connection)
    return all(_is_redis_pys(getattr(kind, name, None)) for name in _SENT_BY)


def _has_its_own(client: Any, method: str) -> bool:
    return not _is_redis_pys(getattr(client.connection_pool.connection_class, method, None))


def _is_redis_pys(method: Any) -> bool:
    return method is None or str(getattr(method, "__module__", "")).partition(".")[0] == "redis"


class Packer:
    """Packs commands as a connection of redis-py does, which need not be connected; in C where that is the same."""

    def __init__(self, connection: Any) -> None:
        self._theirs = connection.pack_command
        encoder = connection.encoder
        packs_in_c = type(getattr(connection, "_command_packer", None)) is _PACKER  # and then in utf-8, whatever is set
        same = packs_in_c or (encoder.encoding, encoder.encoding_errors) == ("utf-8", "strict")
        self._in_c = _IN_C if same and speaks_plainly(connection) else None

    def one(self, args: tuple[Any, ...]) -> bytes:
        """Return the bytes of a command; redis-py's DataError for what it does not take."""
        name = args[0]
        # "CONFIG GET" are two words.
        if self._in_c is not None and type(name) is str and name.isalpha() and _SAME_IN_C.issuperset(map(type, args)):
            packed: bytes = self._in_c(args)
            return packed
        if not NUMBERS.isdisjoint(map(type, args)):
            return self.one(without_numbers(args))
        return b"".join(map(bytes, self._theirs(*args)))

    def many(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        """Return the bytes of several."""
        in_c = self._in_c
        kinds = set(map(type, chain.from_iterable(commands)))
        if not NUMBERS.isdisjoint(kinds):
            commands, kinds = [without_numbers(args) for args in commands], kinds - NUMBERS
        if in_c is not None and _SAME_IN_C.issuperset(kinds):
            names = [args[0] for args in commands]
            if {str}.issuperset(map(type, names)) and "".join(names).isalpha():
                return b"".join([in_c(args) for args in commands])
        return b"".join([self.one(args) for args in commands])


def callback_of(callbacks: Any, name: Any) -> Any:
    """Return redis-py's callback for the replies to a command; None if it has none."""
    found = dict.get(callbacks, name)  # its own methods fold the case in Python
    return callbacks.get(name) if found is None and not name.isupper() else found


def parsed(callbacks: Any, args: Sequence[Any], options: Mapping[str, Any], reply: Any) -> Any:
    """Return what redis-py makes of a reply (asyncio: perhaps an awaitable), or raise it if it is an error."""
    if isinstance(reply, Exception):
        if "EMPTY_RESPONSE" in options and isinstance(reply, exceptions.ResponseError):
            return options["EMPTY_RESPONSE"]
        raise reply
    callback = callback_of(callbacks, args[0])
    return reply if callback is None else called(callback, reply, options)


def called(callback: Callable[..., Any], reply: Any, options: Mapping[str, Any]) -> Any:
    """Call a callback of redis-py with what it is given of the options."""
    if not options:
        return callback(reply)
    return callback(reply, **{name: value for name, value in options.items() if name not in OF_PARSING})


def decoded(reply: Any, encoder: Any) -> Any:
    """Return a reply that was read as bytes as hiredis would have decoded it."""
    if isinstance(reply, bytes):
        return reply.decode(encoder.encoding, encoder.encoding_errors)
    if isinstance(reply, list):
        return [decoded(item, encoder) for item in reply]
    if isinstance(reply, set):
        return {decoded(item, encoder) for item in reply}
    if isinstance(reply, dict):
        return {decoded(name, encoder): decoded(value, encoder) for name, value in reply.items()}
    return reply
