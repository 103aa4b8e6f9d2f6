"""What the regime can hold: one entry per kind of lock, with what the checkers must know of it.

To put another kind under the regime, add it here: the workloads ask a thing for ``acquire``, ``try_acquire`` and leases
and know no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import coordkit


@dataclass(frozen=True)
class Kind:
    """How to make one over the clients of its servers, and how many may hold it at once."""

    make: Callable[..., Any]  # api, clients, name, the lock's own options
    servers: int = 1
    at_once: int = 1
    shared: bool = False  # any number of some, or one of others
    keys: tuple[str, ...] = ("lock",)  # what is behind ``coordkit:1:{name}:`` while it is held

    def initialise(self, clients: Sequence[Any]) -> None:
        """Make its servers ready, once."""
        if self.servers > 1:
            coordkit.Quorum(clients).initialise()


PERMITS = 3


def _lock(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return api.Lock(clients[0], name, **options)


def _write(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return api.ReadWriteLock(clients[0], name, **options).write


class _Either:
    """A readers-writer lock of which one side is asked for by chance: two readers for each writer."""

    def __init__(self, both: Any) -> None:
        self._both = both

    def _side(self) -> Any:
        return random.choice((self._both.read, self._both.read, self._both.write))

    def acquire(self, timeout: float | None) -> Any:
        return self._side().acquire(timeout=timeout)

    def try_acquire(self) -> Any:
        return self._side().try_acquire()


def _either(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return _Either(api.ReadWriteLock(clients[0], name, **options))


def _permit(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return api.Semaphore(clients[0], name, permits=PERMITS, **options)


def _quorum(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return api.QuorumLock(api.Quorum(clients), name, **options)


KINDS = {
    "lock": Kind(_lock),
    "write": Kind(_write, keys=("rw:writer", "rw:readers")),
    "either": Kind(_either, shared=True, keys=("rw:writer", "rw:readers")),
    "permit": Kind(_permit, at_once=PERMITS, keys=("semaphore:permits",)),
    "quorum": Kind(_quorum, servers=3, keys=("vote",)),
}
