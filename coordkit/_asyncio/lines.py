"""The connections to one server that are kept while there is work, of the asyncio flavour."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, finalize

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis, _redis_packing
from coordkit._asyncio.home import Home
from coordkit._asyncio.runtime import end_all, forget_closed, life
from coordkit._asyncio.wire import FastWire, Wire, hang_up, wire_on
from coordkit._ports import Call, Confirm
from coordkit._threads.runtime import now

Work = Callable[[Wire], Awaitable[list[Any]]]


async def _abandon(connecting: asyncio.Task[None], connection: Any) -> None:
    """Undo a connection that was made, is being made, or failed."""
    connecting.cancel()
    try:
        await asyncio.wait([connecting], timeout=1.0)
    finally:
        await hang_up(connection)


def _looked_at(connecting: asyncio.Task[None]) -> None:
    """Take note of how it ended: whoever was cancelled meanwhile does not ask, and asyncio would complain."""
    if not connecting.cancelled():
        connecting.exception()


async def connect(pool: Any, patience: float, **changes: Any) -> Any:
    """Return a connection made by the recipe of a pool; redis-py's TimeoutError after ``patience`` seconds."""
    kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection, patience)
    # The bound is ours: redis-py's own is an asyncio.wait_for around each write, which before Python 3.12 may
    # swallow a cancellation, and costs a task.
    connection = pool.connection_class(**{**kwargs, "socket_timeout": None, **changes})
    connecting = asyncio.get_running_loop().create_task(connection.connect())
    connecting.add_done_callback(_looked_at)
    try:
        done, _ = await asyncio.wait([connecting], timeout=patience)
        if done:
            connecting.result()
            return connection
    except BaseException:
        await _abandon(connecting, connection)
        raise
    await _abandon(connecting, connection)
    raise exceptions.TimeoutError(f"no connection within {patience} s")


class Lines:
    """The way to one server, by the recipe of a client's pool (or of a node of a Cluster)."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._patience = _redis.patience(client)
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, Home] = WeakKeyDictionary()
        finalize(self, end_all, self._homes).atexit = False  # with the client: nothing in a home refers to us

    async def ask(self, data: bytes, call: Callable[[], Call], *, yielding: bool = False) -> Any:
        """Run one script, packed in ``data``; a reply that is an error is returned.

        All that are under way at once share one connection, where redis-py's parts allow it: they reach the server in
        the order in which they were asked, and one that is cancelled costs nobody a connection.
        """
        home = self._home()
        home.used = present = now()
        wire = home.shared
        if wire is None or not wire.usable or present - wire.made >= _redis.MAX_AGE:
            wire = await self._share(home)
            if wire is None:
                return (await self.ask_many([call()], None))[0]
        until = present + self._patience
        try:
            if wire.until == math.inf:
                home.watch.begin(wire, until)
            if yielding:
                _, reply = await wire.send(_redis_packing.PING + data, 2, until)
            else:
                [reply] = await wire.send(data, 1, until)
            if isinstance(reply, exceptions.NoScriptError):
                home.watch.begin(wire, min(until, wire.until))
                [reply] = await wire.send(_packed(wire, _redis_packing.evals([call()])), 1, until)
            if isinstance(reply, Exception):
                home.primary.check([reply], wire.made, present)
        except Exception as error:
            if home.shared is wire:
                home.shared = None
            await _broken(home, wire, error)
            raise
        return reply

    async def ask_many(self, calls: Sequence[Call], within: float | None, ahead: bytes = b"") -> list[Any]:
        """Run scripts in one pipeline, each after the command ``ahead``; a reply that is an error is in the list."""

        async def answered(wire: Wire, requests: list[bytes]) -> list[Any]:
            data = b"".join([ahead + each for each in requests])
            return (await wire.ask(data, len(requests) * 2))[1::2] if ahead else await wire.ask(data, len(requests))

        async def work(wire: Wire) -> list[Any]:
            replies = await answered(wire, [_redis_packing.packed(call) for call in calls])
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
                commands = [_packed(wire, [command]) for command in _redis_packing.evals([calls[i] for i in unknown])]
                for i, reply in zip(unknown, await answered(wire, commands), strict=True):
                    replies[i] = reply
            return replies

        if within is not None:  # the keeper's, which waits for nobody's turn
            return await self._do(self._home(), work, min(within, self._patience))
        return await self._in_turn(work, self._patience)

    async def ask_confirmed(self, call: Call, confirm: Confirm, ahead: bytes = b"") -> list[Any]:
        """Run one script, and wait for the copies of what it wrote; return the reply and the answer to the wait."""

        async def work(wire: Wire) -> list[Any]:
            replies: list[Any] = []
            for command in (_redis_packing.evalsha(call), *_redis_packing.evals([call])):
                data = ahead + _packed(wire, _redis_packing.confirming(command, confirm))
                replies = (await wire.ask(data, 2 + bool(ahead)))[-2:]
                if not isinstance(replies[0], exceptions.NoScriptError):
                    break
            return replies

        return await self._in_turn(work, self._patience + confirm.within)

    async def close(self) -> None:
        """Close what nobody uses now, under this event loop; the way can still be used."""
        home = self._homes.get(asyncio.get_running_loop())
        if home is not None:
            await home.close_idle()

    async def _share(self, home: Home) -> FastWire | None:
        """Return the connection that all share, made now; None where each request needs one to itself."""
        if home.alone:
            return None
        if home.connecting is None or home.connecting.done():
            home.connecting = life().spawn(self._connect_shared(home))
            home.connecting.add_done_callback(_looked_at)
        connecting = home.connecting
        home.wanting += 1
        try:
            await asyncio.wait([connecting])  # ends within our patience; whoever is cancelled leaves it to the others
        finally:
            home.wanting -= 1
        if not connecting.cancelled():
            connecting.result()
        if home.shared is None and not home.alone:
            raise exceptions.ConnectionError("the connection was closed before it was used")
        return home.shared

    async def _connect_shared(self, home: Home) -> None:
        wire = await self._connected(home, self._patience)
        if isinstance(wire, FastWire):
            self._have_shared(home, wire)
        else:
            home.alone = True
            home.keep(wire)

    def _have_shared(self, home: Home, wire: FastWire) -> None:
        former = home.shared
        wire.shared = True
        home.shared = wire
        home.sweep_later()
        if former is not None:
            home.retire(former)

    async def _in_turn(self, work: Work, patience: float) -> list[Any]:
        home = self._home()
        await home.turn(patience)
        try:
            return await self._do(home, work, patience)
        finally:
            home.done()

    async def _do(self, home: Home, work: Work, patience: float) -> list[Any]:
        began = now()
        wire = self._usable(home, patience) or await self._connected(home, patience)
        home.watch.begin(wire, now() + patience)
        try:
            replies = await work(wire)
            home.primary.check(replies, wire.made, began)
        except BaseException as error:
            if wire.late:
                home.silent = began, patience
            await _broken(home, wire, error)
            raise
        home.watch.end(wire)
        wire.used = began
        home.keep(wire)
        return replies

    def _home(self) -> Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            forget_closed(self._homes)
            home = self._homes[loop] = Home()
        return home

    def _usable(self, home: Home, patience: float = math.inf) -> Wire | None:
        """Return a connection that is kept, if one is young enough and open, and not dead for all we know."""
        home.used = present = now()
        while home.idle:
            wire = home.idle.pop()
            if _redis.doubtful(wire.used, patience, home.silent):
                home.idle.append(wire)
                break
            if present - wire.made < _redis.MAX_AGE and wire.usable:
                return wire
            life().spawn(wire.close())
        return None

    async def _connected(self, home: Home, patience: float) -> Wire:
        # A Cluster's node has the recipe itself.
        connection = await connect(getattr(self._client, "connection_pool", self._client), patience)
        home.used = now()
        return wire_on(connection, home.used)


async def _broken(home: Home, wire: Wire, error: BaseException) -> None:
    """Close a connection on which a reply may still be on its way."""
    home.watch.end(wire)
    await wire.close()
    if wire.late and isinstance(error, Exception):
        raise exceptions.TimeoutError("no answer in time") from error
    if isinstance(error, exceptions.ConnectionError | OSError) and not isinstance(error, TimeoutError):
        await home.close_dead()  # the server went away: what is idle is dead as well


def _packed(wire: Wire, commands: Sequence[tuple[Any, ...]]) -> bytes:
    return b"".join(wire.connection.pack_commands(commands))
