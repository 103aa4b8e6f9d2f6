"""What the core may await: time, events, workers, and the two stores.

Three runtimes implement these protocols: ``_threads`` (ports that block), ``_asyncio`` (ports that suspend), and the
simulator of the test suite (virtual time, seeded order, lossy servers). The core knows nothing else of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
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

    @property
    def process(self) -> int:
        """What changes in a forked child: a lease belongs to the process that acquired it."""
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
        # A store's own: what it sends in front of the first, by the length of that, and behind it.
        self.packed: tuple[Mapping[int, bytes], bytes] | None = None

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

    def expect(self, holder: str, address: str) -> object:
        """Keep what comes for ``holder``, until it is forgotten, or nobody keeps what this returns."""
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
