"""What can go wrong, in one tree.

::

    CoordError                      every error that coordkit raises by itself
    ├── NotAcquired                 somebody else holds it, and you asked once          normal
    │   └── AcquireTimeout          ... and you waited until your timeout ran out       (also a TimeoutError)
    ├── LeaseLost                   what you held may be another's by now               stop working
    │   └── LeadershipLost          the same for an election
    ├── StaleToken                  the resource has seen a later holder                stop working
    ├── StoreUnavailable            no answer: the outcome is unknown                   incident
    │   ├── NoQuorum                fewer than a majority answered
    │   ├── ShardDown               cannot be reached, so the command was not sent
    │   ├── TooFewReplicas          written on the primary, and too few replicas have it
    │   └── TopologyOutdated        its shard knows a newer topology than we can get, so the command was not sent
    ├── TransactionFailed           a step of a leader's transaction was refused, so nothing was done
    ├── StoreRefused                answered, and the answer was no (password, read-only, memory, type)
    ├── BadTopology                 a topology that must not be adopted (damaged, of another name, older)
    ├── CrossShardError             one command, keys on several shards
    ├── PartialFailure              a split command worked on some shards only
    └── NoNodes                     nothing to choose from                              (also a LookupError)

"Held by another" and "could not ask" are different branches: the first is normal, the second is an incident.
Bad arguments are not here: they are ``ValueError`` or ``TypeError``, raised at construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "AcquireTimeout",
    "BadTopology",
    "CoordError",
    "CrossShardError",
    "LeadershipLost",
    "LeaseLost",
    "NoNodes",
    "NoQuorum",
    "NotAcquired",
    "PartialFailure",
    "ShardDown",
    "StaleToken",
    "StoreRefused",
    "StoreUnavailable",
    "TooFewReplicas",
    "TopologyOutdated",
    "TransactionFailed",
]


class CoordError(Exception):
    """The base of every error that coordkit raises by itself.

    ``name`` is the resource: a lock's name, an election's path, a shard. ``why`` says what happened and what to do.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries (process pools, task queues); the default would call __init__ with args only.
        return _rebuild, (type(self), self.args, self.__dict__)


class NotAcquired(CoordError):
    """Somebody else holds it, and you asked only once (``timeout=0``)."""


class AcquireTimeout(NotAcquired, TimeoutError):
    """Somebody else held it until your ``timeout`` (seconds) ran out."""

    def __init__(self, name: str, why: str, *, timeout: float) -> None:
        super().__init__(name, why)
        self.timeout = timeout


class LeaseLost(CoordError):
    """What you held may be another's by now: stop working, and let the resource refuse what is late.

    ``token`` is the fencing token of the lease that was lost.
    """

    def __init__(self, name: str, why: str, *, token: int) -> None:
        super().__init__(name, why)
        self.token = token


class LeadershipLost(LeaseLost):
    """You lead no longer, or cannot prove that you do."""


class StaleToken(CoordError):
    """The resource has seen a later holder, so this one's access was refused.

    ``token`` is what you offered, ``seen`` is the highest that the resource has seen.
    """

    def __init__(self, name: str, why: str, *, token: int, seen: int) -> None:
        super().__init__(name, why)
        self.token = token
        self.seen = seen


class StoreUnavailable(CoordError):
    """No answer came from Redis or ZooKeeper: whether the request was carried out is unknown.

    ``__cause__`` is the client library's own error.
    """


class NoQuorum(StoreUnavailable):
    """Fewer than a majority of the servers answered. ``errors`` says why, for each server that did not."""

    def __init__(self, name: str, why: str, *, errors: Mapping[str, Exception] | None = None) -> None:
        super().__init__(name, why)
        self.errors = dict(errors or {})


class ShardDown(StoreUnavailable):
    """The shard of this key cannot be reached, and the command was certainly not sent. ``shard`` is its name.

    Where a command may have been sent, StoreUnavailable itself is raised.
    """

    def __init__(self, name: str, why: str, *, shard: str) -> None:
        super().__init__(name, why)
        self.shard = shard


class TooFewReplicas(StoreUnavailable):
    """A write was done on the primary of its shard, and fewer replicas have it than ``min_replicas`` asks for.

    It stands: nothing is taken back. ``replicas`` is how many have it, None if that could not be learnt; ``reply`` is
    what the primary answered.
    """

    def __init__(self, name: str, why: str, *, replicas: int | None, reply: Any) -> None:
        super().__init__(name, why)
        self.replicas = replicas
        self.reply = reply


class TopologyOutdated(StoreUnavailable):
    """The shard of this key knows a newer topology than this client could get, so the command was not sent.

    ``shard`` is its name, ``seen`` the epoch that it told, ``epoch`` the one by which the command was routed.
    """

    def __init__(self, name: str, why: str, *, shard: str, seen: int, epoch: int) -> None:
        super().__init__(name, why)
        self.shard = shard
        self.seen = seen
        self.epoch = epoch


class TransactionFailed(CoordError):
    """A step of a leader's transaction was refused, so nothing of it was done.

    ``step`` is its place, counted from 0, ``path`` its znode; ``__cause__`` is the client library's own error.
    """

    def __init__(self, name: str, why: str, *, step: int, path: str) -> None:
        super().__init__(name, why)
        self.step = step
        self.path = path


class StoreRefused(CoordError):
    """The server answered, and the answer was no: wrong password, read-only, out of memory, a key of another type.

    ``__cause__`` is the client library's own error.
    """


class BadTopology(CoordError):
    """A topology that must not be adopted: damaged, of a format or name that is not expected, or not newer."""


class CrossShardError(CoordError):
    """One command names keys on several shards and cannot be split. ``shards`` maps each key to its shard."""

    def __init__(self, name: str, why: str, *, shards: Mapping[Any, str]) -> None:
        super().__init__(name, why)
        self.shards = dict(shards)


class PartialFailure(CoordError):
    """A split command, or a pipeline, worked on some shards only.

    ``ok`` maps each key that succeeded to its result; ``failed`` maps each other key to its shard and the error. For a
    command that was put to all shards, both have the shards' names instead of keys; for a pipeline the numbers of its
    commands, from 1 on.
    """

    def __init__(
        self, name: str, why: str, *, ok: Mapping[Any, Any], failed: Mapping[Any, tuple[str, Exception]]
    ) -> None:
        super().__init__(name, why)
        self.ok = dict(ok)
        self.failed = dict(failed)


class NoNodes(CoordError, LookupError):
    """A picker or a placement has nothing to choose from."""


def _rebuild(kind: type[CoordError], args: tuple[Any, ...], state: dict[str, Any]) -> CoordError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
