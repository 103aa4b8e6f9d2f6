"""The connections to one server that are kept while there is work, of the asyncio flavour."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.runtime import life
from coordkit._ports import Call, Confirm
from coordkit._threads.runtime import now

_AT_ONCE = 32
"""Connections to one server under one loop: a thousand tasks take turns on them."""


class Home:
    """What is kept under one event loop: connections belong to the loop that made them."""

    def __init__(self) -> None:
        self.idle: list[tuple[Any, float]] = []  # connection, when it was made; the one used last is last
        self.used = 0.0
        self.sweep: asyncio.TimerHandle | None = None
        self._free = _AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()
        life().closing.add(self)

    async def close(self) -> None:
        idle, self.idle = self.idle, []
        for connection, _ in idle:
            await connection.disconnect(nowait=True)

    async def turn(self, patience: float) -> None:
        """Wait for one of the turns; those before us wait for a server no longer than ``patience``, nor do we."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(patience, _too_late, turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.done()  # it was ours when we were cancelled
            raise
        finally:
            timer.cancel()

    def done(self) -> None:
        """Hand the turn on."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


async def _abandon(connecting: asyncio.Task[None], connection: Any) -> None:
    """Undo a connection that was made, is being made, or failed."""
    connecting.cancel()
    try:
        await asyncio.wait([connecting], timeout=1.0)
    finally:
        await connection.disconnect(nowait=True)


def _looked_at(connecting: asyncio.Task[None]) -> None:
    """Take note of how it ended: whoever was cancelled meanwhile does not ask, and asyncio would complain."""
    if not connecting.cancelled():
        connecting.exception()


def _too_late(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(exceptions.TimeoutError(f"{_AT_ONCE} requests before this one have no answer yet"))


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

    async def ask(
        self,
        calls: Sequence[Call],
        within: float | None = None,
        *,
        confirm: Confirm | None = None,
    ) -> list[Any]:
        """Run scripts in one pipeline, and wait for the copies in the same; a reply that is an error is in the list."""
        home = self._home()
        if within is not None:  # the keeper's, which waits for nobody's turn
            return await self._speak(home, min(within, self._patience), calls)
        patience = self._patience if confirm is None else self._patience + confirm.within
        await home.turn(patience)
        try:
            return await self._speak(home, patience, calls, confirm)
        finally:
            home.done()

    async def _speak(
        self,
        home: Home,
        patience: float,
        calls: Sequence[Call],
        confirm: Confirm | None = None,
    ) -> list[Any]:
        connection, made = await self._borrow(home, patience)
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            connection._writer.transport.abort()  # noqa: SLF001  wakes whoever reads; see _borrow

        timer = asyncio.get_running_loop().call_later(patience, give_up)
        try:
            if confirm is None:
                replies = await _scripts(connection, calls)
            else:
                replies = await _confirmed(connection, calls[0], confirm)
        except BaseException as error:
            await connection.disconnect(nowait=True)  # a reply may still be on its way
            if late and isinstance(error, Exception):
                raise exceptions.TimeoutError(f"nothing within {patience} s") from error
            if isinstance(error, exceptions.ConnectionError):
                await home.close()  # the server went away: what is idle is dead as well
            raise
        finally:
            timer.cancel()
        self._keep(home, connection, made)
        return replies

    def _home(self) -> Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            home = self._homes[loop] = Home()
        return home

    async def _borrow(self, home: Home, patience: float) -> tuple[Any, float]:
        while home.idle:
            connection, made = home.idle.pop()
            if now() - made < _redis.MAX_AGE:
                return connection, made
            await connection.disconnect(nowait=True)
        # A Cluster's node has the recipe itself.
        return await connect(getattr(self._client, "connection_pool", self._client), patience), now()

    def _keep(self, home: Home, connection: Any, made: float) -> None:
        home.idle.append((connection, made))
        home.used = now()
        if home.sweep is None:
            home.sweep = asyncio.get_running_loop().call_later(_redis.IDLE, self._sweep, home)

    def _sweep(self, home: Home) -> None:
        rest = home.used + _redis.IDLE - now()
        loop = asyncio.get_running_loop()
        if rest > 0:
            home.sweep = loop.call_later(rest, self._sweep, home)
            return
        home.sweep = None
        life().spawn(home.close())


async def _scripts(connection: Any, calls: Sequence[Call]) -> list[Any]:
    await connection.send_packed_command([_redis.packed(call) for call in calls])
    replies = await _replies(connection, len(calls))
    if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
        await connection.send_packed_command(connection.pack_commands(_redis.evals([calls[i] for i in unknown])))
        for i, reply in zip(unknown, await _replies(connection, len(unknown)), strict=True):
            replies[i] = reply
    return replies


async def _confirmed(connection: Any, call: Call, confirm: Confirm) -> list[Any]:
    replies: list[Any] = []
    for command in (_redis.evalsha(call), *_redis.evals([call])):
        await connection.send_packed_command(connection.pack_commands(_redis.confirming(command, confirm)))
        replies = await _replies(connection, 2)
        if not isinstance(replies[0], exceptions.NoScriptError):
            break
    return replies


async def _replies(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except exceptions.ResponseError as error:
            replies.append(error)
    return replies
