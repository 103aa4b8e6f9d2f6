"""One connection to one shard, held from WATCH to EXEC, blocking.

WATCH holds for one connection only, so everything between the two goes over the same one; once it is lost, so is the
WATCH, and nothing more is sent over another in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import WatchError

from coordkit._run import run
from coordkit.errors import StoreUnavailable
from coordkit.routing.client.queue import Queue
from coordkit.routing.commands.plan import Plan
from coordkit.routing.replicas.way import ReplicatedWay
from coordkit.routing.ways.batch import TAKE, Batch, Delivery, Gathering
from coordkit.routing.ways.errors import Outdated
from coordkit.routing.ways.pool import PoolSending, PoolWay
from coordkit.routing.ways.sending import Sending
from coordkit.routing.ways.way import Way


class WatchingQueue(Queue[Plan]):
    """A pipeline that may watch keys of one shard, and then sends at once until `multi`; as redis-py's."""

    _held: Held | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command; return the pipeline, so that calls can be chained. While it watches, send it."""
        if self._held is None or self.explicit_transaction:
            return super().execute_command(*args, **options)
        return self._immediately(self._held, args, options)

    def watch(self, *names: Any) -> Any:
        """Watch keys of one shard, on which all commands have to be until `execute`; CrossShardError names keys."""
        shard = self._to_watch(names)
        decided = (self._bring(names)).get(shard, self._shards.epoch)
        if self._held is None:
            self._held = Held(self._shards._ways[shard], decided)  # noqa: SLF001  its own client's
        self._held.watching = True
        return _only(self._held, ("WATCH", *names), {})

    def unwatch(self) -> Any:
        """Watch nothing any more, and queue commands from here on."""
        held = self._held
        if held is None:
            return True
        reply = _only(held, ("UNWATCH",), {})
        held.watching, self._watched = False, {}
        self._let_go()
        return reply

    def reset(self) -> None:
        """Forget the queued commands and what is watched. (As redis-py's own, it hides the command RESET.)"""
        self._forget()
        self._let_go()

    def close(self) -> None:
        """Do what `reset` does; it may be used on."""
        self.reset()

    def _immediately(self, held: Held, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        self._check_still_there()
        with outdated_is_lost(held):
            plan = self._plan(args, options)
            self._check_watched(plan)
            self._bring(plan.keys())
            return plan.settle([_only(held, part.args, part.options) for part in plan.parts])

    def _bring(self, keys: Sequence[Any]) -> Mapping[str, int]:
        """Bring those of ``keys`` that are of slots that move, before anything is sent about them.

        What is held was made before they were looked for, so that it finds them there for as long as it lasts.
        """
        with outdated_is_lost(self._held):
            return run(self._shards._bring(keys))  # noqa: SLF001  its own client's

    def _execute_watched(self, held: Held, gathering: Gathering) -> list[Any]:
        self._check_still_there()
        delivery = held.run(gathering.batches.get(held.shard, []), transaction=True)
        if delivery.discarded:
            held.watching = False
            raise WatchError("Watched variable changed.")
        held.watching = not delivery.carried_out
        return list(gathering.settle({held.shard: delivery.replies()}))

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def __del__(self) -> None:
        self._let_go()


def _only(held: Held, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    [reply] = held.run([(args, dict(options))]).replies()
    if isinstance(reply, Exception):
        raise reply
    return reply


class Held:
    """A connection of a way that is one's own until `release`; it is taken with the first batch."""

    def __init__(self, given: Way | PoolWay | ReplicatedWay, decided: int = 0) -> None:
        way = given.primary if isinstance(given, ReplicatedWay) else given
        self.shard = way.name
        self._replicated = given if isinstance(given, ReplicatedWay) else None
        self.watching = False  # the server watches keys for us
        self._decided = decided
        self._kept: _OfWay | _OfPool = _OfWay(way) if isinstance(way, Way) else _OfPool(way)

    def run(self, batch: Batch, *, transaction: bool = False) -> Delivery:
        """Send a batch and read its replies; what is not answered is an error in its place."""
        if self._kept.broken:
            raise lost(self.shard)
        kept: Any = self._kept  # as a way, as far as a sending needs one
        sending: Sending | PoolSending
        if isinstance(self._kept, _OfWay):
            sending = Sending(kept, batch, transaction=transaction, decided=self._decided)
        else:
            sending = PoolSending(kept, kept, batch, transaction=transaction)
        if self._replicated is not None:
            self._replicated.confirm(sending, batch)
        try:
            sending.take()
            sending.send()
            sending.read()
        finally:
            sending.give_back()
        return sending

    def release(self) -> None:
        """Give it back; close it if the server still watches keys for it, which the next user would pay for."""
        watching, self.watching = self.watching, False
        self._kept.let_go(keep=not watching)


@contextmanager
def outdated_is_lost(held: Any) -> Iterator[None]:
    """Have an Outdated end the WATCH of what is held, for the command belongs to its epoch; hand it on if none is."""
    try:
        yield
    except Outdated as outdated:
        if held is None:
            raise
        raise lost(held.shard) from outdated


def lost(shard: str) -> StoreUnavailable:
    """Return the error for what comes after the connection was lost."""
    return StoreUnavailable(shard, "the connection that watched was lost, and its WATCH with it: reset(), watch anew")


class _OfWay:
    """What a `Sending` takes for its way: always the same connection."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._wire: Any = None
        self._client = way._client  # noqa: SLF001  they are one
        self.name, self.waits = way.name, way.waits
        self.broken = False

    def packed(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        return self._way.packed(commands)

    def take(self, decided: int) -> Any:
        if self._wire is None:
            self._wire = self._way.take(decided)
        return self._wire

    def give_back(self, wire: Any, *, bounded: bool = False) -> None:
        """Keep it."""
        if bounded:
            wire.bound(wire.patience)

    def abandon(self, wire: Any) -> None:
        self._wire, self.broken = None, True
        self._way.abandon(wire)

    def lost(self, wire: Any, error: BaseException, *, quick: bool) -> BaseException:
        self._wire, self.broken = None, True
        return self._way.lost(wire, error, quick=quick)

    def heard(self) -> None:
        self._way.heard()

    def let_go(self, *, keep: bool) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            (self._way.give_back if keep else self._way.abandon)(wire)


class _OfPool:
    """What a `PoolSending` takes for its client: always the same connection of the pool."""

    def __init__(self, way: PoolWay) -> None:
        client = way._client  # noqa: SLF001  they are one
        self.name = way.name
        self.check, self.heard, self.missed = way.check, way.heard, way.missed
        self._pool = client.connection_pool
        self._connection: Any = None
        self._inner: Any = None  # the same; that which is wrapped, where a client-side cache wraps it
        self._socket: Any = None
        self.connection_pool = self
        self.parse_response = client.parse_response
        self.response_callbacks = client.response_callbacks
        self.get_encoder = client.get_encoder

    @property
    def broken(self) -> bool:
        return self._inner is not None and self._inner._sock is not self._socket  # noqa: SLF001  redis-py has no other name for it

    def get_connection(self, *_: str) -> Any:
        if self._connection is None:
            self._connection = self._pool.get_connection(*TAKE)
            self._inner = getattr(self._connection, "_conn", self._connection)
            self._socket = self._inner._sock  # noqa: SLF001  see above
            # A check of its health would connect anew, without a word and without the WATCH.
            self._interval = getattr(self._inner, "health_check_interval", 0)
            self._inner.health_check_interval = 0
        return self._connection

    def release(self, _connection: Any) -> None:
        """Keep it."""

    def let_go(self, *, keep: bool) -> None:
        connection, self._connection = self._connection, None
        inner, self._inner = self._inner, None
        if connection is not None:
            inner.health_check_interval = self._interval
            if not keep:
                connection.disconnect()
            self._pool.release(connection)
