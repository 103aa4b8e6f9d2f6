"""The connections to one server of a shard, blocking: greeted, compared with the epoch, behind a breaker.

They are our own, made by the recipe of its client's pool, and kept while there is work. One that the server closed
while it was idle is replaced before anything is sent.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.exceptions import MaxConnectionsError, ReadOnlyError, ResponseError

from coordkit import _redis, _redis_packing
from coordkit._threads.connection import connection_of
from coordkit._threads.lines import Lines
from coordkit._threads.runtime import now
from coordkit._threads.wire import Wire, wire_on
from coordkit.errors import CoordError
from coordkit.routing.fence.decision import is_too_new
from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.errors import NO_ANSWER, Outdated, is_unreached, tripped, unanswered
from coordkit.routing.ways.greeting import Asking, Greet
from coordkit.routing.ways.replies import Packer, speaks_plainly
from coordkit.routing.ways.waits import Waits, ended


class Connections(Lines):
    """Connections to the server of the shard ``name``, by the recipe of its client's pool; safe for many threads.

    ``greet`` is called on each connection before anybody uses it, with what asks on that connection
    (``ask("GET", "key")`` returns the reply as the client decodes it, or raises redis-py's error); it returns the epoch
    of the topology that the connection has seen. Who routed by an older one gets Outdated, and nothing is sent. So does
    who brought keys first, where the connection was made after that (`coordkit.routing.fence.decision`).
    """

    def __init__(self, name: str, client: Any, *, greet: Greet | None = None, breaker: Breaker | None = None) -> None:
        pool = client.connection_pool
        self.name = name
        self.breaker = breaker or Breaker()
        self.connected = 0  # connections that were made so far
        self._greet = greet
        self._patience = _redis.bound(pool)
        self._most: float = getattr(pool, "max_connections", None) or math.inf
        self._sentinel = hasattr(pool, "sentinel_manager")
        self._packer: Packer | None = None
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        self._made = 0  # connections that are open
        self._counting = threading.Lock()
        self.waits = Waits(self.name, _end_half_of)  # those of a parent are its own affair
        self.breaker.reset()

    def packed(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        """Return commands as they go on the wire; redis-py's DataError for what it does not take."""
        return (self._packer or self._first_packer()).many(commands)

    def take(self, decided: int) -> Wire:
        """Return a connection that nobody else uses; give it back, or say that it is lost.

        Raise redis-py's errors, Outdated, and ShardDown while the breaker is open.
        """
        if self.breaker.is_open:
            raise self._tripped()
        self._used = present = now()
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if present - wire.made < _redis.MAX_AGE and not wire.is_stale():
                return self._checked(wire, decided)
            self._close(wire)
        return self._checked(self._connected(present, None), decided)

    def give_back(self, wire: Wire, *, bounded: bool = False) -> None:
        """Keep a connection on which no reply is on its way; ``bounded`` says that it waits another time than usual."""
        self._keep(wire, bounded=bounded)

    def lost(self, wire: Wire, error: BaseException, *, quick: bool) -> BaseException:
        """Close a connection on which a reply may still be on its way; return what the error means.

        ``quick`` says that the reply should have been there: a late one then counts for the breaker.
        """
        try:
            self._broken(wire, error)
        except redis.TimeoutError as late:
            error = late
        error = ended(self.name, wire, error)
        if is_unreached(error, sent=True, quick=quick):
            self.breaker.failed(str(error))
        return unanswered(self.name, error, sent=True) if isinstance(error, NO_ANSWER) else error

    def heard(self) -> None:
        """Take note that the shard answered."""
        if self.breaker.failures:
            self.breaker.worked()

    def abandon(self, wire: Wire) -> None:
        """Close a connection whose replies nobody reads."""
        self._close(wire)

    def heed(self, error: ResponseError) -> None:
        """Ask Sentinel anew for the master where it turns out to be a replica now."""
        if self._sentinel and isinstance(error, ReadOnlyError):
            self.close()

    # -- the breaker

    def _tripped(self) -> CoordError:
        if self.breaker.begin_probe():
            begin_probe(self.breaker, self._probe)
        return tripped(self.name, self.breaker.why)

    def _probe(self) -> None:
        breaker, wire = self.breaker, None
        try:
            wire = self._connected(now(), None)
            wire.bound(_redis.patience(self._client))  # also where the client waits for ever
            wire.ask(_redis_packing.PING)  # an error is an answer as well
        except Exception as error:  # noqa: BLE001  whatever it is, the shard was not reached
            if wire is not None:
                self._close(wire)
            breaker.probe_failed(str(error))
            return
        breaker.worked()
        self.give_back(wire, bounded=True)

    # -- connections

    def _checked(self, wire: Wire, decided: int) -> Wire:
        if is_too_new(wire, decided):
            self.give_back(wire)
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    def _connected(self, began: float, within: float | None) -> Wire:  # noqa: ARG002  the client's bounds alone count
        with self._counting:
            if self._made >= self._most:
                raise MaxConnectionsError("Too many connections")
            self._made += 1
        connection = None
        try:
            connection = self._connection()
            connection.connect()
            wire = (wire_on if speaks_plainly(connection) else Wire)(connection, began, self._patience)
            if self._greet is not None:
                wire.bound(_redis.patience(self._client))
                wire.epoch = self._greet(Asking(self.packed, wire))
            wire.bound(self._patience)
            with self._counting:  # now that it is certainly made
                self.connected += 1
                wire.number = self.connected
        except BaseException as error:
            self._count_closed()
            if connection is not None:
                connection.disconnect()
            if is_unreached(error, sent=False, quick=True):
                self.breaker.failed(str(error))
            raise
        return wire

    def _connection(self) -> Any:
        return connection_of(self._client.connection_pool)

    def _close(self, wire: Wire) -> None:
        self._count_closed()
        super()._close(wire)

    def _count_closed(self) -> None:
        with self._counting:
            self._made -= 1

    def _first_packer(self) -> Packer:
        self._packer = Packer(self._connection())
        return self._packer


def _end_half_of(wire: Wire) -> None:
    sock = wire.connection._sock  # noqa: SLF001  redis-py has no other name for it
    if sock is not None:  # else it was lost, and closed, meanwhile
        # Of TLS, too: not its own shutdown, which would keep what is being read from being read.
        socket.socket.shutdown(sock, socket.SHUT_WR)


def begin_probe(breaker: Breaker, probe: Callable[[], None]) -> None:
    """Run a probe in a thread of its own, so that nobody waits for it."""
    try:
        threading.Thread(target=probe, name="coordkit-probe", daemon=True).start()
    except RuntimeError as error:  # too many threads
        breaker.probe_failed(str(error))
