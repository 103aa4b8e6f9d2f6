"""What W5 looks at: one entry per kind of lock: how it is made, who may be ahead, and what the servers keep of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

import coordkit


class Kept(NamedTuple):
    """One thing that a server keeps for a holder; ``left`` is in milliseconds, negative if it never expires."""

    holder: str
    left: float


Servers = Sequence[redis.Redis]

GOES_WITHIN = 2.5  # seconds: what nobody holds is given back, and does not wait for its ttl


@dataclass(frozen=True)
class Subject:
    """One kind. ``make`` is told which API, which clients (one per server), the name, and the ttl."""

    make: Callable[[Any, Sequence[Any], str, float], Any]
    rivals: Callable[[Servers, str, float], list[Any]]  # take all there is; the first is who gives back
    kept: Callable[[Servers, str], list[Kept]]
    queue: str = ""  # the key of its queue, by its name
    servers: int = 1
    away: int = 0  # so many of the last of these cannot be reached
    needs: int = 1  # how many times a holder must be kept to have it
    certain: bool = False  # one bad line is not noticed at all
    goes: float = GOES_WITHIN
    alone: bool = True  # who is refused has nothing, not even a part


def tokens(lease: Any) -> list[int]:
    """Return the token of a lease, or those of each name."""
    several = getattr(lease, "tokens", None)
    return [int(lease.token)] if several is None else [int(token) for _, token in sorted(several.items())]


def holder_ids(lease: Any) -> list[str]:
    several = getattr(lease, "tokens", None)
    return [lease.holder] if several is None else [token.holder for _, token in sorted(several.items())]


def _plain(servers: Servers, *keys: str) -> Iterator[Kept]:
    for server in servers:
        for key in keys:
            if holder := server.get(key):
                yield Kept(
                    holder.decode().rpartition("/")[0] if key.endswith(":vote") else holder.decode(), _left(server, key)
                )


def _left(server: redis.Redis, key: str) -> float:
    return float(server.pttl(key))


def _ends(server: redis.Redis, key: str) -> list[tuple[str, float]]:
    """Return the members of a sorted set of microseconds, and the milliseconds that are left of each."""
    seconds, rest = server.time()
    found = (
        (member.decode(), (ends - seconds * 1e6 - rest) / 1000)
        for member, ends in server.zrange(key, 0, -1, withscores=True)
    )
    return [(member, left) for member, left in found if left > 0]


# -- a lock


def _lock(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.Lock(clients[0], name, ttl=ttl)


def _lock_rivals(servers: Servers, name: str, ttl: float) -> list[Any]:
    return [coordkit.Lock(servers[0], name, ttl=ttl).acquire()]


def _lock_kept(servers: Servers, name: str) -> list[Kept]:
    return list(_plain(servers, f"coordkit:1:{{{name}}}:lock"))


def _reentrant(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.Lock(clients[0], name, ttl=ttl, reentrant=True)


def _copied(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.Lock(clients[0], name, ttl=ttl, min_replicas=1)


# -- a lock shared with redis-py's


class _RedisPy:
    """redis-py's own lock, held; it has no token."""

    def __init__(self, client: redis.Redis, name: str, ttl: float) -> None:
        self._lock = client.lock(name, timeout=ttl, thread_local=False)
        self._lock.acquire()
        self.holder = self._lock.local.token.decode()

    def release(self) -> None:
        with contextlib.suppress(redis.exceptions.LockError):  # it was given back before
            self._lock.release()


def _shared(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.Lock(clients[0], name, ttl=ttl, compatible_with="redis-py")


def _shared_rivals(servers: Servers, name: str, ttl: float) -> list[Any]:
    return [_RedisPy(servers[0], name, ttl)]


# -- readers and writers


def _read(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.ReadWriteLock(clients[0], name, ttl=ttl).read


def _write(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.ReadWriteLock(clients[0], name, ttl=ttl).write


def _writer(servers: Servers, name: str, ttl: float) -> list[Any]:
    return [coordkit.ReadWriteLock(servers[0], name, ttl=ttl).write.acquire()]


def _reader(servers: Servers, name: str, ttl: float) -> list[Any]:
    return [coordkit.ReadWriteLock(servers[0], name, ttl=ttl).read.acquire()]


def _rw_kept(servers: Servers, name: str) -> list[Kept]:
    readers = [Kept(*each) for each in _ends(servers[0], f"coordkit:1:{{{name}}}:rw:readers")]
    return [*_plain(servers, f"coordkit:1:{{{name}}}:rw:writer"), *readers]


# -- permits

PERMITS = 2


def _permit(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.Semaphore(clients[0], name, permits=PERMITS, ttl=ttl)


def _permit_rivals(servers: Servers, name: str, ttl: float) -> list[Any]:
    # The one that stays has a longer ttl: it is the first that must be the next to end.
    return [coordkit.Semaphore(servers[0], name, permits=PERMITS, ttl=each).acquire() for each in (ttl, 60)]


def _permits_kept(servers: Servers, name: str) -> list[Kept]:
    tag = f"coordkit:1:{{{name}}}:semaphore:"
    holders = {key.decode(): value.decode() for key, value in servers[0].hgetall(f"{tag}holders").items()}
    return [Kept(holders.get(f"#{slot}", "nobody"), left) for slot, left in _ends(servers[0], f"{tag}permits")]


# -- several names


def _several(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.MultiLock(clients[0], [f"{name}-a", f"{name}-b"], ttl=ttl)


def _several_rivals(servers: Servers, name: str, ttl: float) -> list[Any]:
    return [coordkit.Lock(servers[0], f"{name}-b", ttl=ttl).acquire()]


def _several_kept(servers: Servers, name: str) -> list[Kept]:
    return list(_plain(servers, *(f"coordkit:1:{{{name}-{each}}}:lock" for each in "ab")))


# -- votes


def _votes(api: Any, clients: Sequence[Any], name: str, ttl: float) -> Any:
    return api.QuorumLock(api.Quorum(clients), name, ttl=ttl)


def _votes_rivals(servers: Servers, name: str, ttl: float) -> list[Any]:
    # A busy machine renews less often; and nobody waits for the end of a ttl here, but asks again and again.
    return [_votes(coordkit, servers, name, 4 * ttl).acquire()]


def _votes_kept(servers: Servers, name: str) -> list[Kept]:
    return list(_plain(servers, f"coordkit:1:{{{name}}}:vote"))


# -- a fence, which nobody holds


def _fence(api: Any, clients: Sequence[Any], name: str, _ttl: float) -> Any:
    return api.Fence(clients[0], name)


_QUEUE = "coordkit:1:{%s}:queue"

SUBJECTS = {
    "lock": Subject(_lock, _lock_rivals, _lock_kept, _QUEUE),
    "copied": Subject(_copied, _lock_rivals, _lock_kept, _QUEUE, goes=1.5),
    "reentrant": Subject(_reentrant, _lock_rivals, _lock_kept, _QUEUE),
    "redis-py": Subject(_shared, _shared_rivals, lambda servers, name: list(_plain(servers, name))),
    "read": Subject(_read, _writer, _rw_kept, "coordkit:1:{%s}:rw:queue"),
    "write": Subject(_write, _reader, _rw_kept, "coordkit:1:{%s}:rw:queue"),
    "permit": Subject(_permit, _permit_rivals, _permits_kept, "coordkit:1:{%s}:semaphore:queue"),
    "several": Subject(_several, _several_rivals, _several_kept, "coordkit:1:{%s-b}:queue", alone=False),
    "quorum": Subject(_votes, _votes_rivals, _votes_kept, servers=3, needs=2, alone=False, certain=True),
    "bare quorum": Subject(_votes, _votes_rivals, _votes_kept, servers=3, away=1, needs=2, alone=False),
    "fence": Subject(_fence, lambda *_: [], lambda *_: []),
}
"""``copied`` waits longer for an answer, so less is left of a ttl then.

``bare quorum`` has one of three away, so that the other two must agree, one of them over the bad line.
"""
