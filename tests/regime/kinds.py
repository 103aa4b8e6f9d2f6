"""What the regime can hold: one entry per kind of lock, with what the checkers must know of it.

To put another kind under the regime, add it here: the workloads ask a thing for ``acquire``, ``try_acquire`` and leases
and know no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """How to make one over the clients of its servers, and how many may hold it at once."""

    make: Callable[..., Any]  # api, clients, name, the lock's own options
    servers: int = 1
    at_once: int = 1


def _lock(api: Any, clients: Sequence[Any], name: str, **options: Any) -> Any:
    return api.Lock(clients[0], name, **options)


KINDS = {"lock": Kind(_lock)}
