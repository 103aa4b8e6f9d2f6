"""What both Redis ports share: which clients they accept, how they connect, and what an error of redis-py means.

A store speaks over connections of its own, made by the recipe of the client's pool (host, password, TLS, Sentinel's
present master ...), because the client's generic path cannot be bounded in time: redis-py 8 connects and sends up to
eleven times by itself. Ours connect once and send once; every script stands being asked twice, so the core decides.
So are the nodes of a Cluster, each by the recipe of its own. Clients whose traffic is more than one pool (a sharded
client, a subclass with its own ``execute_command``) or less than one (a single connection, a bounded pool) are spoken
to through ``execute_command``, with its retries.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
from redis import exceptions

from coordkit._ports import Call, Confirm, Form, Script
from coordkit.errors import CoordError, CrossShardError, StoreRefused, StoreUnavailable

IDLE = 30.0
"""Seconds a connection is kept without work."""

_MANY = 100  # redis-py 8's own default; before, there was no bound

MAX_AGE = 60.0
"""Seconds a connection is kept at all: then it is made anew, with present credentials, at Sentinel's present master."""

PATIENCE = 5.0
"""Seconds to connect or to wait for a reply where the client itself sets no bound."""

_ENOUGH = 300  # characters of a client's own message: a Sentinel's names every connection it tried

_CROSS_SLOT = re.compile(r"CROSSSLOT|same (key )?slot|same hash slot", re.IGNORECASE)

_HALF_DONE = re.compile(r"non local key in a cluster node")
"""How a script ends that came upon a key it had deleted itself, or its last part: its slot is on its way elsewhere."""

_REFUSALS = (
    exceptions.AuthenticationError,  # redis-py counts it among the connection errors
    exceptions.AuthorizationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_NO_ANSWER = (
    exceptions.ConnectionError,  # also BusyLoadingError
    exceptions.TimeoutError,
    asyncio.TimeoutError,  # the builtin one from Python 3.11 on
    exceptions.ClusterError,  # ClusterDownError, and what a client says that was sent from node to node too often
    exceptions.RedisClusterException,
    exceptions.TryAgainError,  # the keys are on their way from one node to another:
    exceptions.AskError,  # until they are there, neither takes a script with several
    OSError,
    EOFError,
)
_RIGHTS = (
    "grant the user the command and its keys; the README lists the rights that coordkit itself needs, for locks and "
    "for a topology"
)
_Advice = tuple[tuple[type[Exception] | None, str, str], ...]
_OF_THE_SERVER: _Advice = (  # what it says of its own state and rules; redis-py takes the code off some messages
    (exceptions.AuthenticationError, "WRONGPASS", "give the client the right user name and password"),
    (None, "NOAUTH", "the server wants a password: give the client one"),
    (None, "HELLO must be called", "the server wants a password: give the client one"),
    (
        exceptions.NoPermissionError,
        "NOPERM",
        _RIGHTS,
    ),
    (None, "The user executing the script", _RIGHTS),
    (exceptions.ReadOnlyError, "READONLY", "this server is a read-only replica: point the client at the primary"),
    (exceptions.OutOfMemoryError, "maxmemory", "the server is out of memory: raise maxmemory, or free some"),
    (None, "MISCONF", "the server takes no writes because it cannot save: look at its log and its disk"),
    (None, "NOREPLICAS", "too few replicas are connected: see min-replicas-to-write"),
)
_ADVICE: _Advice = (
    *_OF_THE_SERVER,
    (None, "BUSY Redis", "a script of somebody's has run there for too long: wait for its end, or SCRIPT KILL it"),
    (None, "WRONGTYPE", "the key holds another kind of value: choose another name, or delete the key"),
    (
        None,
        "nknown command",
        "this server lacks a command that coordkit needs: see the supported versions in the README",
    ),
)


def check_client(client: Any, *, flavour: str) -> None:
    """Raise ``TypeError`` unless ``client`` is a redis-py client of the flavour, "blocking" or "asyncio"."""
    execute = getattr(client, "execute_command", None)
    if not callable(execute) or hasattr(client, "command_stack"):  # a pipeline does nothing until it is executed
        # A URL is for from_url, and has the password in it.
        found = f"a {type(client).__name__}" if isinstance(client, str | bytes) else repr(client)
        raise TypeError(f"redis must be a redis-py client (and no pipeline), got {found}")
    found = "asyncio" if inspect.iscoroutinefunction(execute) else "blocking"
    if found != flavour:
        home = {"asyncio": "coordkit.aio", "blocking": "coordkit"}[found]
        raise TypeError(f"redis must be a client of the {flavour} flavour, got {client!r}: import from {home} instead")


def check_servers(clients: Any, *, flavour: str) -> list[Any]:
    """Return the clients of a quorum: an odd number of them, three at least, each of one server."""
    servers = list(clients)
    for i, client in enumerate(servers):
        check_client(client, flavour=flavour)
        if not hasattr(getattr(client, "connection_pool", None), "connection_class"):
            raise TypeError(f"servers must be clients of one server each, got {client!r}")
        if any(client is other for other in servers[:i]):
            raise ValueError(f"servers must be different servers, got {client!r} twice")
    if len(servers) < 3 or len(servers) % 2 == 0:
        raise ValueError(
            f"servers must be 3 or more, and an odd number, got {len(servers)}: two need both, and an even number "
            "survives no more failures than one less"
        )
    return servers


def keeps_connections(client: Any) -> bool:
    """Whether a store may make connections of its own by the recipe of this client's pool."""
    plain = (redis.Redis.execute_command, redis.asyncio.Redis.execute_command)
    if getattr(type(client), "execute_command", None) not in plain:
        return False
    pool = client.connection_pool
    bounded = (redis.BlockingConnectionPool, redis.asyncio.BlockingConnectionPool)
    single = getattr(client, "connection", None) is not None or getattr(client, "single_connection_client", False)
    caching = getattr(pool, "cache", None) is not None
    few = getattr(pool, "max_connections", _MANY) < _MANY  # somebody chose that number
    return not (single or caching or few or isinstance(pool, bounded))


def has_pipeline(client: Any) -> bool:
    """Whether the client's own pipeline asks the same server in the same way, over a connection of its pool."""
    plain = (redis.Redis, redis.asyncio.Redis)
    single = getattr(client, "connection", None) is not None or getattr(client, "single_connection_client", False)
    return not single and any(
        getattr(type(client), "execute_command", None) is each.execute_command
        and getattr(type(client), "pipeline", None) is each.pipeline
        for each in plain
    )


def repeats(client: Any) -> bool:
    """Whether what goes through the client itself may be sent again by it, unseen by us."""
    retry = client.get_retry() if hasattr(client, "get_retry") else None
    tries = 0 if retry is None else getattr(retry, "_retries", 1)  # get_retries() came with redis-py 6
    kwargs = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    return tries != 0 or bool(kwargs.get("retry_on_timeout") or kwargs.get("retry_on_error")) or is_cluster(client)


def is_cluster(client: Any) -> bool:
    """Whether this is redis-py's client of a Cluster, with its own way of asking."""
    ways = (redis.RedisCluster.execute_command, redis.asyncio.cluster.RedisCluster.execute_command)
    return getattr(type(client), "execute_command", None) in ways


def cannot_confirm(client: Any) -> str | None:
    """Say why this client cannot WAIT on the connection that wrote; None if it can."""
    if keeps_connections(client) or is_cluster(client):
        return None
    return (
        f"{type(client).__name__} does not let coordkit choose the connection, and WAIT speaks for the one that wrote; "
        "give a plain client, a Sentinel's master or a Cluster, without single_connection_client, client-side cache, "
        "bounded pool or an execute_command of its own"
    )


def recipe(pool: Any, retry: Any, network: type, within: float | None = None) -> dict[str, Any]:
    """Return the pool's own arguments for a connection, bounded in time (by ``within`` too) and without retries."""
    # Maintenance notices concern the client's pool, of which our connections are no part.
    kwargs = {k: v for k, v in pool.connection_kwargs.items() if not k.startswith(("maint_", "oss_cluster_maint_"))}
    kwargs.update(retry=retry, retry_on_timeout=False, retry_on_error=[])
    bounds = ["socket_timeout"]
    if issubclass(pool.connection_class, network):  # a Unix socket has no connect timeout
        bounds.append("socket_connect_timeout")
    for bound in bounds:
        kwargs[bound] = min(kwargs.get(bound) or PATIENCE, within or math.inf)
    return kwargs


def doubtful(used: float, within: float, silent: tuple[float, float]) -> bool:
    """Whether who waits ``within`` seconds should rather make a connection than take one that answered at ``used``.

    One whose wait was as long, ``silent`` since when and for how long, may have met a line that went dead, and with it
    went all that were idle; whoever waits longer may only have a slow server, to which connecting is slow, too.
    """
    since, waited = silent
    return used < since and within <= waited


def patience(client: Any) -> float:
    """Return how long the client (or a node of an asyncio Cluster) waits for an answer, in seconds."""
    kwargs = getattr(getattr(client, "connection_pool", client), "connection_kwargs", {})
    return float(kwargs.get("socket_timeout") or PATIENCE)


def bound(pool: Any) -> float:
    """Return how long a pool's own connections wait for a reply, in seconds; infinite if nobody set a bound.

    What is not among the pool's arguments is the connection's own default: 5 from redis-py 8 on, none before.
    """
    kwargs = dict(pool.connection_kwargs)
    if "socket_timeout" not in kwargs:
        return getattr(pool.connection_class(**kwargs), "socket_timeout", None) or math.inf
    return kwargs["socket_timeout"] or math.inf


def where(client: Any) -> str:
    """Say which server a client speaks to, without its password."""
    pool = getattr(client, "connection_pool", None)
    kwargs = getattr(pool, "connection_kwargs", {})
    if "host" in kwargs:
        return f"Redis at {kwargs['host']}:{kwargs.get('port', 6379)}"
    if "path" in kwargs:
        return f"Redis at {kwargs['path']}"
    if service := getattr(pool, "service_name", None):
        return f"Redis master {service!r}"
    return type(client).__name__


def translated(error: BaseException, name: str, server: str) -> CoordError | None:
    """Return what an error of redis-py means for the resource ``name``; None if it is none of Redis's."""
    if isinstance(error, CoordError):
        return error
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) > _ENOUGH:
        said = f"{said[:_ENOUGH]}..."
    if isinstance(error, exceptions.RedisClusterException | exceptions.ResponseError) and _CROSS_SLOT.search(said):
        return CrossShardError(name, f"{server} answered no: {said}; let the keys share a {{hash tag}}", shards={})
    if is_silence(error):
        return StoreUnavailable(name, f"no answer from {server}: {said}; whether it was carried out is unknown")
    if isinstance(error, UnicodeDecodeError):
        why = f"{server} has what is no text in the client's encoding, {error.encoding}"
        return StoreRefused(name, f"{why}; give a client without decode_responses")
    if isinstance(error, exceptions.RedisError):
        advice = next(
            (text for kind, mark, text in _ADVICE if mark in said or (kind and isinstance(error, kind))),
            "see the cause",
        )
        return StoreRefused(name, f"{server} answered no: {said}; {advice}")
    return None


def refusal(error: Exception, name: str, server: str) -> StoreRefused | None:
    """Return what an error means by which a server refuses for its own sake: password, rights, role, memory, disk.

    None for any other: what is wrong with a command itself is the affair of whoever sent it.
    """
    said = str(error)
    state = any((kind and isinstance(error, kind)) or said.startswith(mark) for kind, mark, _ in _OF_THE_SERVER)
    meant = translated(error, name, server) if state or isinstance(error, _REFUSALS) else None
    return meant if isinstance(meant, StoreRefused) else None


def evalsha(call: Call) -> tuple[Any, ...]:
    """Return the command that runs a script which the server knows."""
    return ("EVALSHA", call.script.sha, *_plain(len(call.keys), *call.keys, *call.args))


def _plain(*words: bytes | str | int) -> tuple[bytes, ...]:
    """Return words as bytes: hiredis crashes where a signal handler raises while it formats a number."""
    return tuple(word if isinstance(word, bytes) else str(word).encode() for word in words)


def packed(call: Call) -> bytes:
    """Return the same as the bytes of the protocol: half the time goes when a client packs each command anew."""
    if call.form is not None:
        return filled(call.form, str(call.args[0]))
    return _head(call.script.sha, tuple(call.keys), len(call.args)) + _words(call.args)


PING = b"*1\r\n$4\r\nPING\r\n"
"""Sent ahead of a script, in one piece, so that whom the script tells something hears of it before we do.

Redis writes to its clients in the opposite of the order in which it first had something for each of them. Whoever hands
a lock on would wake first, and on a busy machine the one who waits for it would wait for that, too.
"""


def filled(form: Form, first: str) -> bytes:
    """Return a form with its first argument, as the bytes of the protocol; nearly all of them are made once."""
    word = first.encode()
    before, after = form.packed or _packed_around(form)
    return b"".join((before[len(word)], word, after))


def _packed_around(form: Form) -> tuple[_Before, bytes]:
    form.packed = packed = _Before(form), b"\r\n" + _words(form.args)
    return packed


class _Before(dict[int, bytes]):
    """What is sent in front of the first argument of a form, by the length of that: nearly always the same."""

    def __init__(self, form: Form) -> None:
        self._head = _head(form.script.sha, tuple(form.keys), 1 + len(form.args))

    def __missing__(self, length: int) -> bytes:
        before = self[length] = self._head + b"$%d\r\n" % length
        return before


def _words(args: Sequence[bytes | str | int]) -> bytes:
    parts = []
    for arg in args:
        if isinstance(arg, int):
            parts.append(_number(arg))  # a ttl: always the same few
        else:
            value = arg if isinstance(arg, bytes) else arg.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _head(sha: str, keys: tuple[bytes, ...], args: int) -> bytes:
    words = (b"EVALSHA", sha.encode(), b"%d" % len(keys), *keys)
    return b"*%d\r\n" % (len(words) + args) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@lru_cache(maxsize=1024)
def _number(value: int) -> bytes:
    digits = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(digits), digits)


def evals(calls: Sequence[Call]) -> list[tuple[Any, ...]]:
    """Return the commands that teach the server each script once, and run it by name from then on."""
    taught: set[Script] = set()
    commands: list[tuple[Any, ...]] = []
    for call in calls:
        if call.script in taught:
            commands.append(evalsha(call))
        else:
            taught.add(call.script)
            commands.append(("EVAL", call.script.source, *_plain(len(call.keys), *call.keys, *call.args)))
    return commands


def confirming(command: tuple[Any, ...], confirm: Confirm) -> list[tuple[Any, ...]]:
    """Return the commands that write, and wait for the copies."""
    within = max(1, math.ceil(confirm.within * 1000))  # 0 would wait for ever
    copies = (1, confirm.replicas) if confirm.fsync else (confirm.replicas,)
    return [command, ("WAITAOF" if confirm.fsync else "WAIT", *_plain(*copies, within))]


def confirmed(replies: list[Any], confirm: Confirm, name: str, server: str) -> tuple[Any, int, int]:
    """Return a script's reply, the local disks and the replicas that have it; raise what either error means."""
    reply, copies = replies
    if isinstance(reply, Exception):
        raise named(reply, name, server)
    if not isinstance(copies, Exception):
        return (reply, int(copies[0]), int(copies[1])) if confirm.fsync else (reply, 0, int(copies))
    said = str(copies)
    if "nknown command" in said:
        advice = "WAITAOF needs Redis 7.2 or newer: ask for replicas only, or use a newer server"
    elif "appendonly is disabled" in said:
        advice = "set `appendonly yes`, or do not ask for the disk"
    else:
        raise named(copies, name, server)
    raise StoreRefused(name, f"{server} answered no: {said}; {advice}") from copies


def is_silence(error: BaseException) -> bool:
    """Whether an error means that there was no answer, rather than a no."""
    if isinstance(error, _REFUSALS):
        return False
    return isinstance(error, _NO_ANSWER) or _HALF_DONE.search(str(error)) is not None


def check_primary(replies: Sequence[Any], *, fresh: bool) -> None:
    """Raise redis-py's ConnectionError if a server says it is no primary, and the connection is not a ``fresh`` one.

    A name, an address or a Sentinel may lead to another server by now. So that counts as no answer, once: whoever asks
    again does so over a connection made after that, and is told what that server says.
    """
    for reply in replies:
        if isinstance(reply, Exception) and not fresh and _is_no_primary(reply):
            raise exceptions.ConnectionError(f"the server is a primary no longer: {reply}") from reply


def _is_no_primary(error: Exception) -> bool:
    # Redis 6.2 says it inside of a message about the script.
    return isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError) or "-READONLY " in str(error)


def is_no(error: BaseException) -> bool:
    """Whether an error means that the server refused, and will again."""
    return isinstance(error, exceptions.ResponseError | StoreRefused) and not is_silence(error)


def named(reply: Exception, name: str, server: str) -> Exception:
    """Return the error of coordkit that an error among the replies means."""
    meant = translated(reply, name, server) or reply
    meant.__cause__ = reply
    return meant
