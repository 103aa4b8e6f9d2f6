"""What the core may await of ZooKeeper: requests, what they are answered with, one client's ensemble, its companion.

As `_ports` does for Redis; the same three runtimes implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from coordkit.errors import StoreRefused


class Link(Enum):
    """What a client is to its ensemble."""

    CONNECTED = "connected"
    CONNECTING = "not connected"  # suspended or expired: it connects by itself, perhaps with a new session
    CLOSED = "not running"  # never started, or stopped
    REFUSED = "refused"  # authentication failed
    FORKED = "forked"  # it was started by the parent of this process


class Kind(Enum):
    """How long a znode lives."""

    PERSISTENT = 0
    EPHEMERAL = 1  # as long as the session that made it
    SEQUENTIAL = 3  # ephemeral, and its name ends with a number that rises
    CONTAINER = 4  # until it is empty


class Stat(NamedTuple):
    """What ZooKeeper knows of a znode; ``owner`` is the session of an ephemeral one, else 0.

    ``born`` is when it was made, in seconds since the epoch by the servers' clock;
    ``listed`` is the zxid by which the list of its children changed last; ``size`` is that of its data, in bytes.
    """

    created: int
    modified: int
    version: int
    owner: int
    born: float = 0.0
    listed: int = 0
    size: int = 0


Watch = Callable[[bool], None]
"""Called once when the znode changed or the connection was lost; its argument says whether the znode is gone."""


class Create(NamedTuple):
    """Answered by ``(path, Stat)``; in a ``Multi`` by the path."""

    path: str
    data: bytes = b""
    kind: Kind = Kind.PERSISTENT


class Delete(NamedTuple):
    path: str
    version: int = -1


class SetData(NamedTuple):
    """Answered by a ``Stat``."""

    path: str
    data: bytes
    version: int = -1


class Check(NamedTuple):
    """Part of a ``Multi``: it fails unless the znode is there (and has this version)."""

    path: str
    version: int = -1


class GetData(NamedTuple):
    """Answered by ``(data, Stat)``."""

    path: str
    watch: Watch | None = None


class GetStat(NamedTuple):
    """Answered by a ``Stat``, or None; its watch hears of a creation as well."""

    path: str
    watch: Watch | None = None


class GetChildren(NamedTuple):
    """Answered by a list of names, in no order; ``with_stat`` by that and the ``Stat`` of the parent."""

    path: str
    watch: Watch | None = None
    with_stat: bool = False


TreeWatch = Callable[["str | None"], None]
"""Called with what changed: its path below the one that is watched, "" for that itself; None where news may be lost."""


class WatchTree(NamedTuple):
    """Watch all at and below ``path`` until the connection is lost; answered by True, or False where servers cannot."""

    path: str
    watch: TreeWatch


class Sync(NamedTuple):
    """Let our server catch up, so that what follows sees what was sent over an earlier connection; answered by None."""

    path: str


class Multi(NamedTuple):
    """All or nothing, and always through the quorum; answered by the list of answers."""

    steps: tuple[Create | Delete | SetData | Check, ...]


Request = Create | Delete | SetData | GetData | GetStat | GetChildren | WatchTree | Sync | Multi


class NodeError(Exception):
    """An answer that the core expects and handles; ``path`` is the znode it is about.

    Of a ``Multi``, ``step`` is the place of the step that failed.
    """

    def __init__(self, path: str, step: int = 0) -> None:
        super().__init__(path)
        self.path = path
        self.step = step


class NoNode(NodeError):
    """There is no such znode (or, creating one, no such parent)."""


class NodeExists(NodeError):
    """There is such a znode already."""


class BadVersion(NodeError):
    """The znode has changed since."""


class NotEmpty(NodeError):
    """The znode has children, so it cannot be deleted."""


class OverQuota(StoreRefused):
    """The znodes here are as many, or as large, as a quota allows: the one refusal that passes when others leave."""


class Companion(Protocol):
    """A small process beside this one, which ends the session when this one dies or does not beat."""

    def start(self) -> None:
        """Start it, ending a former one; raises ``CoordError``. What it does not answer is seen by ``trouble``."""
        ...

    def beat(self) -> None:
        """Say that we live; never blocks."""
        ...

    def ready(self) -> bool:
        """Return whether it has said that it guards."""
        ...

    def trouble(self) -> str:
        """Return why it does not guard; an empty text if it does."""
        ...

    def dismiss(self) -> None:
        """Have it end without ending the session."""
        ...

    def gone(self) -> bool:
        """Return whether its process has ended."""
        ...

    def stop(self) -> None:
        """End it at once, without its ending the session, and leave nothing of it behind."""
        ...


class Ensemble(Protocol):
    """One client's ZooKeeper. Every call ends in a bounded time, connected or not."""

    def __str__(self) -> str:
        """Say which servers these are, for messages."""
        ...

    def link(self) -> Link: ...

    def cause(self) -> Exception:
        """Return the client library's own error for a link that is not connected."""
        ...

    def why(self) -> str:
        """Return why the link is not what it should be, where the client library does not know; else an empty text."""
        ...

    def suspend(self, why: str) -> None:
        """Have the link count as not connected, for this reason; an empty one ends that."""
        ...

    def session(self) -> int | None:
        """Return the id of the session, or None while there is no connection."""
        ...

    def session_timeout(self) -> float:
        """Return the seconds of silence after which the servers end the session, as negotiated with them."""
        ...

    def end(self, stopped: Callable[[], None]) -> None:
        """Close the session and stop the client, in the background; call ``stopped`` then, from wherever that is."""
        ...

    def listen(self, listener: Callable[[Link], None]) -> None:
        """Have every change of the link told to ``listener``, in order; it must be short and must not block."""
        ...

    def may_wait(self, name: str) -> None:
        """Raise ``CoordError`` where waiting for an answer would keep the answer from coming."""
        ...

    def unwatch(self, request: GetData | GetStat | GetChildren | WatchTree) -> None:
        """Forget the watch of a request that was made."""
        ...

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        """Send all requests at once, for the resource ``name``; return the answers in order.

        An answer that is an error stands in its place: a ``NodeError``, ``StoreRefused``, or ``StoreUnavailable`` where
        no answer came ``within`` seconds or the connection was lost: it may have been carried out, or may yet be.
        """
        ...
