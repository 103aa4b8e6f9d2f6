"""The connections to one server of a shard, asyncio; as `coordkit.routing.ways.connections`.

Tasks share one for commands that are answered at once. What may block, walks a whole value, or is a large batch has a
connection to itself, so that nobody waits behind it.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MaxConnectionsError, ReadOnlyError, ResponseError

from coordkit import _redis, _redis_packing
from coordkit._asyncio.home import Home
from coordkit._asyncio.lines import Lines, connect
from coordkit._asyncio.runtime import life
from coordkit._asyncio.wire import FastWire, Wire, wire_on
from coordkit._threads.runtime import now
from coordkit.errors import CoordError
from coordkit.routing.fence.decision import is_too_new
from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.errors import Outdated, is_unreached, tripped
from coordkit.routing.ways.greeting_aio import Asking, Greet
from coordkit.routing.ways.replies import Packer, speaks_plainly
from coordkit.routing.ways.waits import Waits, ended
from coordkit.routing.ways.waits_aio import end_half_of


class Connections(Lines):
    """Connections to the server of the shard ``name``, by the recipe of its client's pool, under each event loop.

    ``greet`` is awaited on each connection before anybody uses it, with what asks on that connection
    (``await ask("GET", "key")`` returns the reply as the client decodes it, or raises redis-py's error); it returns the
    epoch of the topology that the connection has seen. Who routed by an older one gets Outdated, and nothing is sent.
    So does who brought keys first, where the connection was made after that (`coordkit.routing.fence.decision`).
    """

    def __init__(self, name: str, client: Any, *, greet: Greet | None = None, breaker: Breaker | None = None) -> None:
        super().__init__(client)
        kwargs = client.connection_pool.connection_kwargs
        self.name = name
        self.breaker = breaker or Breaker()
        self.connected = 0  # connections that were made so far
        self._greet = greet
        self._patience = _redis.bound(client.connection_pool)
        self._hurry = max(kwargs.get("socket_connect_timeout") or _redis.PATIENCE, _redis.patience(client))
        self._most: float = getattr(client.connection_pool, "max_connections", None) or math.inf
        self._sentinel = hasattr(client.connection_pool, "sentinel_manager")
        self._packer: Packer | None = None
        self.waits = Waits(name, end_half_of)
        self._recent: tuple[weakref.ref[asyncio.AbstractEventLoop], Home] | None = None

    async def close(self) -> None:
        """Close what is idle or shared, under this event loop; the way can still be used."""
        await self._home().close()

    def packed(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        """Return commands as they go on the wire; redis-py's DataError for what it does not take."""
        return (self._packer or self._first_packer()).many(commands)

    # -- one connection for many

    def shared_now(self, decided: int) -> FastWire | None:
        """Return the connection that all share, if it is there; else `shared` makes it.

        Raise Outdated, and ShardDown while the breaker is open.
        """
        if self.breaker.is_open:
            raise self._tripped()
        home = self._home()
        home.used = present = now()
        wire = home.shared
        if wire is None or not wire.usable or present - wire.made >= _redis.MAX_AGE:
            return None
        if wire.epoch > decided if type(decided) is int else is_too_new(wire, decided):
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    async def shared(self, decided: int) -> FastWire | None:
        """Return the connection that all share, made now; None where each request needs its own.

        Raise redis-py's errors and Outdated.
        """
        wire = await self._share(self._home())
        if wire is not None and is_too_new(wire, decided):
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    def begin(self, wire: FastWire, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send commands on the shared connection; hand what is returned to `end`, or cancel it."""
        until = now() + self._patience
        if wire.until == math.inf and until < math.inf:
            self._home().watch.begin(wire, until)
        return wire.send(data, count, until)

    async def end(self, wire: FastWire, request: asyncio.Future[list[Any]], came: list[Any] | None = None) -> list[Any]:
        """Return the replies to what was begun; ``came`` gets those that came before an error."""
        try:
            replies = await request
        except Exception as error:
            home = self._home()
            if came is not None:
                came += wire.came(request)
            if home.shared is wire:
                home.shared = None
                self._count(error, sent=True)  # once for all who waited
            await _lost(home, wire, error)
            raise
        if self.breaker.failures:
            self.breaker.worked()
        return replies

    # -- a connection to oneself

    async def take(self, decided: int) -> Wire:
        """Return a connection that nobody else uses, for `ask_alone`; raise what `shared` does."""
        if self.breaker.is_open:
            raise self._tripped()
        home = self._home()
        if home.busy >= self._most:
            raise MaxConnectionsError("Too many connections")
        home.busy += 1
        try:
            wire = self._usable(home) or await self._connected(home, self._hurry)
        except BaseException:
            home.busy -= 1
            raise
        if is_too_new(wire, decided):
            self.give_back(wire)
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    async def ask_alone(
        self,
        wire: Wire,
        data: bytes,
        count: int,
        came: list[Any] | None = None,
        *,
        undecoded: bool = False,
        quick: bool = False,
        longer: float = 0.0,
    ) -> list[Any]:
        """Send commands on a connection that was taken, return the replies, and give it back; ``came`` as for `end`.

        ``quick`` says that the reply should be there at once: a late one then counts for the breaker.
        """
        replies = await self.ask_held(wire, data, count, came, undecoded=undecoded, quick=quick, longer=longer)
        self.give_back(wire)
        return replies

    async def ask_held(
        self,
        wire: Wire,
        data: bytes,
        count: int,
        came: list[Any] | None = None,
        *,
        undecoded: bool = False,
        quick: bool = False,
        longer: float = 0.0,
    ) -> list[Any]:
        """Send commands on a connection that was taken and still is after it, unless there is an error."""
        home = self._home()
        until = now() + self._patience + longer
        if until < math.inf:
            home.watch.begin(wire, until)
        try:
            replies = await (wire.undecoded(data, count) if undecoded else wire.ask(data, count))
        except BaseException as error:
            home.busy -= 1
            if came is not None:
                came += wire.came()
            try:
                await _lost(home, wire, error)
            except exceptions.TimeoutError as late:
                self._count(late, sent=True, quick=quick)
                raise
            if (meant := ended(self.name, wire, error)) is not error:
                raise meant from error
            raise
        home.watch.end(wire)
        if self.breaker.failures:
            self.breaker.worked()
        return replies

    def give_back(self, wire: Wire) -> None:
        """Keep a connection on which no reply is on its way."""
        home = self._home()
        home.busy -= 1
        home.watch.end(wire)
        home.keep(wire)

    async def abandon(self, wire: Wire) -> None:
        """Close a connection that was taken."""
        home = self._home()
        home.busy -= 1
        home.watch.end(wire)
        await wire.close()

    async def heed(self, error: ResponseError) -> None:
        """Ask Sentinel anew for the master where it turns out to be a replica now."""
        if self._sentinel and isinstance(error, ReadOnlyError):
            await self.close()

    # -- the breaker

    def _count(self, error: Exception, *, sent: bool, quick: bool = True) -> None:
        if is_unreached(error, sent=sent, quick=quick):
            self.breaker.failed(str(error))

    def _tripped(self) -> CoordError:
        if self.breaker.begin_probe():
            life().spawn(self._probe())
        return tripped(self.name, self.breaker.why)

    async def _probe(self) -> None:
        breaker, home, wire = self.breaker, self._home(), None
        try:
            wire = await self._connected(home, self._hurry)
            home.watch.begin(wire, now() + _redis.patience(self._client))
            await wire.ask(_redis_packing.PING, 1)  # an error is an answer as well
        except BaseException as error:
            breaker.probe_failed(str(error))
            if wire is not None:
                home.watch.end(wire)
                await wire.close()
            if not isinstance(error, Exception):
                raise
            return
        breaker.worked()
        home.watch.end(wire)
        home.keep(wire)

    # -- connections

    def _home(self) -> Home:
        loop, recent = asyncio.get_running_loop(), self._recent  # which another thread's loop may replace
        if recent is None or recent[0]() is not loop:
            recent = self._recent = (weakref.ref(loop), super()._home())
        return recent[1]

    async def _connect_shared(self, home: Home) -> None:
        wire = self._usable(home)
        if isinstance(wire, FastWire):
            self._have_shared(home, wire)
            return
        if wire is not None:
            home.keep(wire)
        await super()._connect_shared(home)

    async def _connected(self, home: Home, patience: float) -> Wire:  # noqa: ARG002  the client's bounds alone count
        try:
            connection = await connect(self._client.connection_pool, self._hurry)
        except Exception as error:
            self._count(error, sent=False)
            raise
        home.used = now()
        wire = (wire_on if speaks_plainly(connection) else Wire)(connection, home.used)
        if self._greet is not None:
            home.watch.begin(wire, home.used + _redis.patience(self._client))
            try:
                wire.epoch = await self._greet(Asking(self.packed, wire))
            except BaseException as error:
                if isinstance(error, Exception):
                    self._count(error, sent=False)
                await _lost(home, wire, error)
                raise
            home.watch.end(wire)
        self.connected += 1  # now that it is certainly made
        wire.number = self.connected
        return wire

    def _first_packer(self) -> Packer:
        pool = self._client.connection_pool
        recipe = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        self._packer = Packer(pool.connection_class(**recipe))
        return self._packer


async def _lost(home: Home, wire: Wire, error: BaseException) -> None:
    """Close a connection on which a reply may still be on its way, and no other: those see for themselves."""
    home.watch.end(wire)
    await wire.close()
    if wire.late and isinstance(error, Exception):
        raise exceptions.TimeoutError("no answer in time") from error
