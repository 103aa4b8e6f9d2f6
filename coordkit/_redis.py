"""What both Redis ports share: which clients they accept, and how they connect.

A store speaks over connections of its own, made by the recipe of the client's pool (host, password, TLS, Sentinel's
present master ...), because the client's generic path cannot be bounded in time: redis-py 8 connects and sends up to
eleven times by itself. Ours connect once and send once; every script stands being asked twice, so the core decides.
So are the nodes of a Cluster, each by the recipe of its own. Clients whose traffic is more than one pool (a sharded
client, a subclass with its own ``execute_command``) or less than one (a single connection, a bounded pool) are spoken
to through ``execute_command``, with its retries.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster

IDLE = 30.0
"""Seconds a connection is kept without work."""

_MANY = 100  # redis-py 8's own default; before, there was no bound

MAX_AGE = 60.0
"""Seconds a connection is kept at all: then it is made anew, with present credentials, at Sentinel's present master."""

PATIENCE = 5.0
"""Seconds to connect or to wait for a reply where the client itself sets no bound."""


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


def shards_of(client: Any) -> list[Any]:
    """Return the clients of a sharded client's shards; none for another client."""
    return list(client.shards().values()) if hasattr(client, "store_client") else []


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
