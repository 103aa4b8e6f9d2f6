"""Everything that can be held, made by one function, and what servers keep of it: for tests that all must pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis

KINDS = ("lock", "reentrant", "read", "write", "permit", "several", "quorum")
SERVERS = {"quorum": 3}
"""How many servers a kind needs, if not one."""

_PARTS = ("lock", "queue", "rw:writer", "rw:readers", "rw:queue", "semaphore:permits", "semaphore:queue", "vote")


def made(flavour: Any, clients: Sequence[Any], kind: str, name: str, ttl: float, **options: Any) -> Any:
    """Return something to hold; of a semaphore the only permit."""
    options["ttl"] = ttl
    if kind == "quorum":
        return flavour.QuorumLock(flavour.Quorum(clients), name, **options)
    if kind == "several":
        return flavour.MultiLock(clients[0], [f"{name}-a", f"{name}-b"], **options)
    if kind in ("read", "write"):
        return getattr(flavour.ReadWriteLock(clients[0], name, **options), kind)
    if kind == "permit":
        return flavour.Semaphore(clients[0], name, permits=1, **options)
    return flavour.Lock(clients[0], name, reentrant=kind == "reentrant", **options)


def rival(kind: str) -> str:
    """Return what cannot be held at the same time."""
    return {"read": "write", "reentrant": "lock"}.get(kind, kind)


def tokens(lease: Any) -> list[int]:
    """Return the token of a lease, or those of its names in order."""
    several = getattr(lease, "tokens", None)
    return [int(lease.token)] if several is None else [int(several[name]) for name in sorted(several)]


def kept(servers: Iterable[Any], names: Iterable[str]) -> list[str]:
    """Return the keys under which the servers keep holders and waiters of these names."""
    wanted = [f"coordkit:1:{{{each}}}:{part}" for name in names for each in _names(name) for part in _PARTS]
    found: list[str] = []
    for server in servers:
        with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipe:
            for key in wanted:
                pipe.exists(key)
            found += [key for key, there in zip(wanted, pipe.execute(), strict=True) if there]
    return found


def forget(servers: Iterable[Any], name: str) -> None:
    """Let the servers forget who holds it, as an eviction or a clock that jumped does; nobody is told."""
    keys = [key for key in kept(servers, [name]) if not key.endswith("queue")]
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            client.delete(*keys)


def waiters(servers: Iterable[Any], name: str) -> int:
    """Return how many stand in the queues of a name."""
    queues = [f"coordkit:1:{{{each}}}:{part}" for each in _names(name) for part in _PARTS if part.endswith("queue")]
    number = 0
    for server in servers:
        with redis.Redis.from_url(server.url) as client:
            number += sum(client.zcard(queue) for queue in queues)
    return number


def _names(name: str) -> tuple[str, ...]:
    return name, f"{name}-a", f"{name}-b"
