"""A sharded client whose topology changes while it is in use: what it is now, and how it becomes something else.

Each moment of it is a whole static client, made for one epoch: placement, shards and epoch change together because one
reference is swapped. An operation reads it once and belongs to that epoch, also while the next one is adopted. What
was one moment's and is not the next one's is closed when no operation of an earlier moment goes on.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, NoReturn, Protocol, TypeVar, cast

from coordkit._ports import Event, Runtime
from coordkit.errors import StoreUnavailable, TopologyOutdated
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.errors import Outdated

_log = logging.getLogger("coordkit")

_AGAIN = 0.25  # seconds after which a newer topology is asked for once more
_SOON = 0.2  # seconds before it is looked again whether what is left over is still in use


class Moment(Protocol):
    """A static client, made for one epoch."""

    @property
    def epoch(self) -> int: ...


M = TypeVar("M", bound=Moment)
Piece = object
"""What belongs to one shard, and is closed when the shard is no more: its client and the way to it."""


class Source(Protocol):
    """Where newer topologies come from."""

    def look_soon(self) -> None: ...


class _OfParent:
    """Stands for the moment of a client that was made before a fork and followed a store."""

    def __init__(self, topology: str) -> None:
        self._name = topology

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StoreUnavailable(
            self._name,
            "this client was made before a fork and does not follow the topology in this process; nothing was sent. "
            "Make one of its own here, with a KazooClient of its own",
        )

    def close(self) -> None:
        """Do nothing: all of it is the parent's."""

    async def aclose(self) -> None:
        """Do nothing, as `close`."""


class Live(Generic[M]):
    """The present moment of one sharded client.

    ``build`` makes the moment of a topology from the one before; ``pieces`` says what a moment is made of, and
    ``close`` closes one of them.
    """

    def __init__(
        self,
        runtime: Runtime,
        build: Callable[[Topology, M | None], M],
        pieces: Callable[[M], Iterable[Piece]],
        close: Callable[[Piece], Awaitable[None]],
        *,
        patience: float,
    ) -> None:
        self.source: Source | None = None
        self._runtime = runtime
        self._build = build
        self._pieces = pieces
        self._close = close
        self._patience = patience
        self._mutex = runtime.mutex()
        self._now: M | None = None
        self._on_each: dict[str, Callable[[M], None]] = {}
        self._topology: Topology | None = None
        self._waiting: set[Event] = set()
        self._past: list[weakref.ref[M]] = []
        self._left: dict[int, Piece] = {}
        self._closer = runtime.worker(self._close_what_is_left)

    def reset(self) -> None:
        """In a forked child: serve on what was told by hand, and refuse what followed a store, which nobody does here.

        Its KazooClient is the parent's. Connections are made anew in any case.
        """
        self._mutex = self._runtime.mutex()
        self._waiting = set()
        if self.source is not None and self._topology is not None:
            self._now = cast("M", _OfParent(self._topology.name))
            self._left = {}

    @property
    def now(self) -> M:
        """The present moment."""
        assert self._now is not None  # noqa: S101 - for the type checker: nobody has it before the first is adopted
        return self._now

    @property
    def topology(self) -> Topology:
        """What was adopted last."""
        assert self._topology is not None  # noqa: S101 - as above
        return self._topology

    def adopt(self, topology: Topology, where: str = "topology") -> bool:
        """Swap the moment for that of a newer topology; return False if it is the same.

        Raise BadTopology, naming ``where`` it was found, if it must not be adopted, and what ``build`` raises.
        """
        with self._mutex:
            before = self._now
            if before is not None and not topology.check_newer(self.topology, where):
                return False
            following = self._build(topology, before)
            for do in self._on_each.values():
                do(following)
            self._now, self._topology = following, topology
            if before is not None:
                self._past = [*(ref for ref in self._past if ref() is not None), weakref.ref(before)]
                kept = {id(piece) for piece in self._pieces(following)}
                left = [piece for piece in self._pieces(before) if id(piece) not in kept]
                self._left.update({id(piece): piece for piece in left})
        for event in list(self._waiting):
            event.set()
        self._close_soon()
        return True

    def on_each(self, what: str, do: Callable[[M], None]) -> None:
        """Do something to the present moment, and to each that is adopted later; the last of one name counts.

        It must not hold on to the client that has us.
        """
        with self._mutex:
            self._on_each[what] = do
            if self._now is not None:
                do(self._now)

    async def newer(self, outdated: Outdated) -> M:
        """Return a moment of the epoch that a shard has told, or a later one; wait for it, but not for ever."""
        now, until = self._runtime.now, self._runtime.now() + self._patience
        while (moment := self.now).epoch < outdated.seen:
            left = until - now()
            if left <= 0:
                raise self._outdated(outdated)
            event = self._runtime.event()
            self._waiting.add(event)
            try:
                if self.now is moment:
                    if self.source is not None:
                        self.source.look_soon()
                    await event.wait(min(left, _AGAIN))
            finally:
                self._waiting.discard(event)
        return moment

    def _outdated(self, outdated: Outdated) -> TopologyOutdated:
        seen, epoch = outdated.seen, self.topology.epoch
        whence = "is ZooKeeper reachable, and its topology the right one?" if self.source else "adopt() the newer one"
        return TopologyOutdated(
            outdated.shard,
            f"this shard knows epoch {seen} of topology {self.topology.name!r}, and no newer one than {epoch} came "
            f"within {self._patience} s: {whence} The command was not sent",
            shard=outdated.shard,
            seen=seen,
            epoch=epoch,
        )

    # -- what is left over

    def _close_soon(self) -> None:
        if self._left:
            self._runtime.call_at(self._runtime.now() + _SOON, self._closer.poke)

    async def _close_what_is_left(self) -> None:
        for piece in self._unused():
            await self.closed(piece)
        self._close_soon()

    def _unused(self) -> list[Piece]:
        with self._mutex:
            alive = [moment for ref in self._past if (moment := ref()) is not None]
            self._past = [weakref.ref(moment) for moment in alive]
            used = {id(piece) for moment in alive for piece in self._pieces(moment)}
            unused = [piece for number, piece in self._left.items() if number not in used]
            for piece in unused:
                del self._left[id(piece)]
        return unused

    async def closed(self, piece: Piece) -> None:
        """Close a piece; what that raises is logged, for there is nobody to tell."""
        try:
            await self._close(piece)
        except Exception:  # noqa: BLE001  whatever a client raises, the others are to be closed
            _log.exception("%r, whose shard is no longer there, was not closed", piece)

    def left_over(self) -> list[Piece]:
        """Return what is still to be closed, and have nobody else close it."""
        with self._mutex:
            left, self._left = list(self._left.values()), {}
        return left
