"""What the core may await: time, events, workers, and the two stores.

Three runtimes implement these protocols: ``_threads`` (ports that block), ``_asyncio`` (ports that suspend), and the
simulator of the test suite (virtual time, seeded order, lossy servers). The core knows nothing else of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, NamedTuple, Protocol

from coordkit.errors import CoordError


class Event(Protocol):
    """Something that happens once, and can be waited for."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    def call_when_set(self, action: Callable[[], None]) -> None:
        """Run ``action`` once it happens, at once if it has; whoever sets the event runs it, so it must be short."""
        ...

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds (None: for ever); return whether it happened."""
        ...


class Timer(Protocol):
    """An action that will run later, unless it is cancelled."""

    def cancel(self) -> None: ...


class Worker(Protocol):
    """Background work of one kind: at most one run at a time, and none while there is nothing to do."""

    def poke(self) -> None:
        """Make sure that a whole run of the work begins after this call; never blocks."""
        ...


class Runtime(Protocol):
    """Time, events and background work, in one flavour."""

    def now(self) -> float:
        """Return seconds on a clock that never steps and runs on while the machine is suspended, where there is one."""
        ...

    def process(self) -> int:
        """Return what changes in a forked child: a lease belongs to the process that acquired it."""
        ...

    def new_holder(self) -> str:
        """Return a fresh holder id: who asks (host and process, for a person to read), and 128 random bits."""
        ...

    def event(self) -> Event: ...

    def mutex(self) -> AbstractContextManager[Any]:
        """Return a guard for a few lines that never await; the guard may be entered many times, one at a time."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def call_at(self, when: float, action: Callable[[], None], /) -> Timer:
        """Run ``action`` once ``now()`` has reached ``when``. It must be short and must not block or raise."""
        ...

    def worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Worker:
        """Return a worker whose runs are ``work()``."""
        ...

    async def finish(self, work: Coroutine[Any, Any, None], *, within: float) -> None:
        """Run ``work`` to its end even if the caller is cancelled; stop waiting for it after ``within`` seconds."""
        ...


class Script(NamedTuple):
    """A Lua script: its name for messages, its text, and the SHA-1 by which Redis knows it."""

    name: str
    source: str
    sha: str


class Call(NamedTuple):
    """One run of a script."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[bytes | str | int]
    form: Form | None = None  # it was made of, by which it is packed sooner


class Form:
    """A script and all its arguments but the first, which each run fills in: the holder."""

    __slots__ = ("args", "keys", "packed", "script")

    def __init__(self, script: Script, keys: Sequence[bytes], *args: bytes | str | int) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.packed: Callable[[tuple[int, bytes]], bytes] | None = None  # a store's own: what it sends, by the first

    def call(self, first: str) -> Call:
        return Call(self.script, self.keys, (first, *self.args), self)


BROKEN = ""
"""What an inbox hears instead of a message when some may have been lost: ask again."""


class Inbox(Protocol):
    """Where the contenders of one client hear that what they wait for is theirs, without asking.

    One subscription serves them all (on a Cluster one for each node). A message may be lost with its connection, never
    silently: then everybody who waits hears ``BROKEN``.
    """

    def address(self, name: str) -> str:
        """Return where messages for the resource ``name`` reach us, ``"PUBLISH <channel>"``; "" if we do not listen."""
        ...

    async def open(self, name: str, until: float) -> str:
        """Listen, if we do not yet, and return the address; "" where that cannot be had, or not until ``now()`` has
        reached ``until``: ask again instead.
        """
        ...

    def expect(self, holder: str, address: str) -> None:
        """Keep what comes for ``holder``, until it is forgotten."""
        ...

    def forget(self, holder: str, stray: Callable[[], None] | None) -> None:
        """Expect nothing more; ``stray`` is called should a grant come all the same."""
        ...

    async def receive(self, holder: str, until: float) -> str | None:
        """Return the next message for ``holder``, or ``BROKEN``; None once ``now()`` has reached ``until``."""
        ...


class Confirm(NamedTuple):
    """Copies to wait for after a write: so many replicas, and the local disk if ``fsync``, for ``within`` seconds."""

    replicas: int
    fsync: bool
    within: float


class Store(Protocol):
    """One Redis (or Cluster, or Sentinel's master), spoken to in scripts that stand being asked twice.

    No answer is ``StoreUnavailable``, a no is ``StoreRefused``; both name ``where`` and keep their cause. A request is
    sent once: whoever asks decides whether to ask again.
    """

    def __str__(self) -> str:
        """Say which server this is, for messages."""
        ...

    async def run(self, name: str, call: Call) -> Any:
        """Run one script for the resource ``name``; return the reply as the client decodes it."""
        ...

    async def run_form(self, name: str, form: Form, first: str, *, yielding: bool = False) -> Any:
        """Run the script of a form, as ``run`` does, but sooner: most of what is sent was packed before.

        ``yielding``: let whoever is told something by the script hear of it before we have the reply, if that can be.
        """
        ...

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        """Run many in one pipeline; a reply that is an error stands in the list in its place.

        ``within`` (seconds) bounds the wait for the answers more closely than the client's own timeouts do.
        """
        ...

    def inbox(self) -> Inbox:
        """Return where this client's contenders listen (under asyncio: in the running loop)."""
        ...

    def cannot_confirm(self) -> str | None:
        """Say why ``run_confirmed`` is impossible with this client, for a ``ValueError``; None if it is possible."""
        ...

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        """Run one script, then WAIT (WAITAOF if ``fsync``) on the same connection, in one pipeline.

        Returns the reply, how many local disks (0 or 1) and how many replicas have all of it; fewer than asked is no
        error. Raises what ``run`` raises. ``StoreRefused`` may also be the answer to the wait (no WAITAOF before Redis
        7.2, no right to call it): then the script *was* carried out, so what it gave must be given back.
        """
        ...


Answers = Mapping[int, "list[Any] | CoordError"]
"""By instance: its replies, one per call (an error reply stands in its place); or why there are none."""

Enough = Callable[[Answers], float]
"""Says, each time answers came, how many seconds to wait for more: 0 for no longer, infinity for as long as allowed."""


class Panel(Protocol):
    """Several independent Redis servers that are asked at once; an instance is known by its place among them.

    Each request is sent once. An instance that does not answer delays no other: what it still owes is read, and thrown
    away, when it comes.
    """

    def __len__(self) -> int: ...

    def where(self, instance: int) -> str:
        """Say which server this is, for messages."""
        ...

    def patience(self) -> float:
        """Return how long an answer is waited for at most, in seconds: the least of what the clients say."""
        ...

    def wall_clock(self) -> float:
        """Return seconds since 1970, by a clock that may be wrong."""
        ...

    async def ask(
        self, name: str, calls: Mapping[int, Sequence[Call]], *, within: float, enough: Enough
    ) -> dict[int, list[Any] | CoordError]:
        """Send each instance its calls; return the answers that came until ``enough`` said 0, or ``within`` seconds.

        An instance from which nothing came within the time is missing; one that is known to be down has its error.
        """
        ...


# -- ZooKeeper


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
    ``listed`` is the zxid by which the list of its children changed last.
    """

    created: int
    modified: int
    version: int
    owner: int
    born: float = 0.0
    listed: int = 0


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
