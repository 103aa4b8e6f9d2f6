"""The way to one shard, asyncio: over connections of our own, kept while there is work; as `coordkit.routing.way`.

Tasks share one connection for commands that are answered at once. What may block, walks a whole value, or is a large
batch has a connection to itself, so that nobody waits behind it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MaxConnectionsError, ReadOnlyError, ResponseError

from coordkit import _redis
from coordkit._asyncio.lines import Home, Lines, connect, lost
from coordkit._asyncio.wire import FastWire, Wire, wire_on
from coordkit._threads.runtime import now
from coordkit.errors import CoordError
from coordkit.routing.client_batch import Batch, Delivery
from coordkit.routing.client_errors import NO_ANSWER, Outdated, answered, unanswered
from coordkit.routing.replies import QUICK, packer_of, parsed, speaks_plainly

Ask = Callable[..., Awaitable[Any]]
Greet = Callable[[Ask], Awaitable[int]]

_FEW = 128  # commands of a batch, and
_LITTLE = 65536  # bytes of it, that others on a shared connection can wait for


class Way(Lines):
    """Connections to the server of the shard ``name``, by the recipe of its client's pool, under each event loop.

    ``greet`` is awaited on each connection before anybody uses it, with what asks on that connection
    (``await ask("GET", "key")`` returns the reply as the client decodes it, or raises redis-py's error); it returns the
    epoch of the topology that the connection has seen. Who routed by an older one gets Outdated, and nothing is sent.
    """

    def __init__(self, name: str, client: Any, *, greet: Greet | None = None) -> None:
        super().__init__(client)
        kwargs = client.connection_pool.connection_kwargs
        self.name = name
        self._greet = greet
        self._patience = kwargs.get("socket_timeout") or math.inf
        self._hurry = max(kwargs.get("socket_connect_timeout") or _redis.PATIENCE, _redis.patience(client))
        self._most: float = getattr(client.connection_pool, "max_connections", None) or math.inf
        self._sentinel = hasattr(client.connection_pool, "sentinel_manager")
        self._packer: Callable[[Sequence[Any]], bytes] | None = None

    async def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:
        """Send one command and return its reply as the client would; ``decided`` is the epoch it was routed by.

        Raise ShardDown, StoreUnavailable or StoreRefused with the shard's name, redis-py's ResponseError, or Outdated.
        """
        data = (self._packer or self._first_packer())(args)
        undecoded = "NEVER_DECODE" in options
        try:
            wire = await self.shared(decided) if args[0] in QUICK and not undecoded else None
            if wire is not None:
                asking = self.ask_shared(wire, data, 1)
            else:
                asking = self.ask_alone(await self.take(decided), data, 1, undecoded=undecoded)
        except ResponseError as error:  # in the handshake
            raise answered(self.name, error) from error
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=False) from error
        try:
            [reply] = await asking
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=True) from error
        try:
            value = parsed(self._client.response_callbacks, args, options, reply)
            return await value if inspect.isawaitable(value) else value
        except ResponseError as error:
            await self.heed(error)
            meant = answered(self.name, error)
            if meant is error:
                raise
            raise meant from error

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending:
        """Return what sends a batch over one connection and reads the replies."""
        return Sending(self, batch, transaction=transaction, decided=decided)

    async def close(self) -> None:
        """Close what is idle or shared, under this event loop; the way can still be used."""
        await self._home().close()

    def packed(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        """Return commands as they go on the wire; redis-py's DataError for what it does not take."""
        return b"".join(map(self._packer or self._first_packer(), commands))

    # -- one connection for many

    async def shared(self, decided: int) -> FastWire | None:
        """Return the connection that all share; None where each request needs its own. Raise redis-py's errors."""
        home = self._home()
        home.used = present = now()
        wire = home.shared
        if wire is None or not wire.usable or present - wire.made >= _redis.MAX_AGE:
            wire = await self._share(home)
        if wire is not None and wire.epoch > decided:
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    async def ask_shared(self, wire: FastWire, data: bytes, count: int, came: list[Any] | None = None) -> list[Any]:
        """Send commands on it and return the replies; ``came`` gets those that came before an error."""
        home = self._home()
        until = now() + self._patience
        if wire.until == math.inf and until < math.inf:
            home.watch.begin(wire, until)
        request = wire.send(data, count, until)
        try:
            return await request
        except Exception as error:
            if came is not None:
                came += wire.came(request)
            if home.shared is wire:
                home.shared = None
            await lost(home, wire, error)
            raise

    # -- a connection to oneself

    async def take(self, decided: int) -> Wire:
        """Return a connection that nobody else uses, for `ask_alone`. Raise redis-py's errors."""
        home = self._home()
        if home.busy >= self._most:
            raise MaxConnectionsError("Too many connections")
        home.busy += 1
        try:
            wire = self._usable(home) or await self._connected(home, self._hurry)
        except BaseException:
            home.busy -= 1
            raise
        if wire.epoch > decided:
            self.give_back(wire)
            raise Outdated(self.name, wire.epoch, decided)
        return wire

    async def ask_alone(
        self, wire: Wire, data: bytes, count: int, came: list[Any] | None = None, *, undecoded: bool = False
    ) -> list[Any]:
        """Send commands on a connection that was taken, and give it back; the rest is as for `ask_shared`."""
        replies = await self.ask_held(wire, data, count, came, undecoded=undecoded)
        self.give_back(wire)
        return replies

    async def ask_held(
        self, wire: Wire, data: bytes, count: int, came: list[Any] | None = None, *, undecoded: bool = False
    ) -> list[Any]:
        """Send commands on a connection that was taken and still is after it, unless there is an error."""
        home = self._home()
        until = now() + self._patience
        if until < math.inf:
            home.watch.begin(wire, until)
        try:
            replies = await (wire.undecoded(data, count) if undecoded else wire.ask(data, count))
        except BaseException as error:
            home.busy -= 1
            if came is not None:
                came += wire.came()
            await lost(home, wire, error)
            raise
        home.watch.end(wire)
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

    # -- connections

    async def _connect_shared(self, home: Home) -> None:
        wire = self._usable(home)
        if isinstance(wire, FastWire):
            self._have_shared(home, wire)
            return
        if wire is not None:
            home.keep(wire)
        await super()._connect_shared(home)

    async def _connected(self, home: Home, patience: float) -> Wire:  # noqa: ARG002  the client's bounds alone count
        connection = await connect(self._client.connection_pool, self._hurry)
        home.used = now()
        wire = (wire_on if speaks_plainly(connection) else Wire)(connection, home.used)
        if self._greet is not None:
            home.watch.begin(wire, home.used + _redis.patience(self._client))
            try:
                wire.epoch = await self._greet(_Asking(self, wire))
            except BaseException as error:
                await lost(home, wire, error)
                raise
            home.watch.end(wire)
        return wire

    def _first_packer(self) -> Callable[[Sequence[Any]], bytes]:
        pool = self._client.connection_pool
        recipe = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        self._packer = packer_of(pool.connection_class(**recipe))
        return self._packer


class _Asking:
    """Asks on a fresh connection, before it is anybody's."""

    def __init__(self, way: Way, wire: Wire) -> None:
        self._way, self._wire = way, wire

    async def __call__(self, *command: Any) -> Any:
        [reply] = await self._wire.ask(self._way.packed([command]), 1)
        if isinstance(reply, Exception):
            raise reply
        return reply


class Sending(Delivery):
    """One batch over one connection: the shared one, if all of it is answered at once."""

    def __init__(self, way: Way, batch: Batch, *, transaction: bool, decided: int) -> None:
        super().__init__(way.name, way._client, batch, transaction=transaction)  # noqa: SLF001  they are one
        self._way = way
        self._decided = decided
        self._shared: FastWire | None = None
        self._own: Wire | None = None

    async def take(self) -> None:
        """Pack the batch, so that nothing is sent anywhere if an argument cannot be; then take a connection."""
        way, batch = self._way, self._batch
        self._packed = way.packed(self._words())
        little = len(batch) <= _FEW and len(self._packed) <= _LITTLE and not self._is_undecoded()
        try:
            if little and all(args[0] in QUICK for args, _ in batch):
                self._shared = await way.shared(self._decided)
            if self._shared is None:
                self._own = await way.take(self._decided)
        except CoordError as error:
            self._stands(error)
        except (ResponseError, *NO_ANSWER) as error:
            self._fail(error)

    async def speak(self) -> None:
        shared, own, self._own = self._shared, self._own, None  # asking gives it back
        if self._answers:
            return
        self._sent = True
        undecoded = self._is_undecoded()
        came: list[Any] = []
        try:
            if shared is not None:
                replies = await self._way.ask_shared(shared, self._packed, self._owed, came)
            elif own is not None:
                replies = await self._way.ask_alone(own, self._packed, self._owed, came, undecoded=undecoded)
            else:
                return
        except NO_ANSWER as error:
            self._parse(self._decoded(came) if undecoded else came)
            self._fail(error)
            return
        self._parse(self._decoded(replies) if undecoded else replies)

    async def awaited_replies(self) -> list[Any]:
        return [await reply if inspect.isawaitable(reply) else reply for reply in self.replies()]

    async def give_back(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            self._way.give_back(own)
