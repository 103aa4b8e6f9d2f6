"""The Redis port of the asyncio flavour."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.runtime import RUNTIME, loop_end
from coordkit._ports import Call
from coordkit._threads.runtime import now
from coordkit.core.keeper import Keeper

_AT_ONCE = 32
"""Connections of one store under one loop: a thousand tasks take turns on them."""


class Home:
    """What a store keeps under one event loop: connections belong to the loop that made them."""

    def __init__(self) -> None:
        self.idle: list[tuple[Any, float]] = []  # connection, when it was made; the one used last is last
        self.turns = asyncio.Semaphore(_AT_ONCE)
        self.used = 0.0
        self.sweep: asyncio.TimerHandle | None = None
        loop_end().actions.append(self.drop_idle)

    async def drop_idle(self) -> None:
        idle, self.idle = self.idle, []
        for connection, _ in idle:
            await connection.disconnect(nowait=True)


class RedisStore:
    """One client's Redis, spoken to over connections that are kept while there is work."""

    def __init__(self, client: Any) -> None:
        self.keeper = Keeper(RUNTIME, self)
        self._client = client
        self._keeps = _redis.keeps_connections(client)
        self._where = _redis.where(client)
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, Home] = WeakKeyDictionary()

    def __str__(self) -> str:
        return self._where

    async def run(self, name: str, call: Call) -> Any:
        reply = (await self.run_many([(name, call)]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[tuple[str, Call]]) -> list[Any]:
        asked = [call for _, call in calls]
        try:
            replies = await (self._speak(asked) if self._keeps else self._ask(asked))
        except Exception as error:
            meant = _redis.translated(error, calls[0][0], self._where)
            if meant is None:
                raise
            raise meant from error
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                replies[i] = _redis.named(reply, calls[i][0], self._where)
        return replies

    # -- over a connection of our own

    async def _speak(self, calls: list[Call]) -> list[Any]:
        home = self._home()
        async with home.turns:
            connection, made = await self._borrow(home)
            try:
                await connection.send_packed_command([_redis.packed(call) for call in calls])
                replies = await _replies(connection, len(calls))
                if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
                    evals = connection.pack_commands(_redis.evals([calls[i] for i in unknown]))
                    await connection.send_packed_command(evals)
                    for i, reply in zip(unknown, await _replies(connection, len(unknown)), strict=True):
                        replies[i] = reply
            except BaseException as error:
                await connection.disconnect(nowait=True)  # a reply may still be on its way
                if isinstance(error, exceptions.ConnectionError):
                    await home.drop_idle()  # the server went away: what is idle is dead as well
                raise
            self._keep(home, connection, made)
        return replies

    def _home(self) -> Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            home = self._homes[loop] = Home()
        return home

    async def _borrow(self, home: Home) -> tuple[Any, float]:
        while home.idle:
            connection, made = home.idle.pop()
            if now() - made < _redis.MAX_AGE:
                return connection, made
            await connection.disconnect(nowait=True)
        pool = self._client.connection_pool
        kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        connection = pool.connection_class(**kwargs)
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection, now()

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
        loop_end().spawn(home.drop_idle())

    # -- through the client, where it must be

    async def _ask(self, calls: list[Call]) -> list[Any]:
        async def ask(call: Call) -> Any:
            try:
                return await self._client.execute_command(*_redis.evalsha(call))
            except exceptions.NoScriptError:
                return await self._client.execute_command(*_redis.evals([call])[0])

        replies = list(await asyncio.gather(*(ask(call) for call in calls), return_exceptions=True))
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, exceptions.ResponseError):
                raise reply
        return replies


async def _replies(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(await connection.read_response())
        except exceptions.ResponseError as error:
            replies.append(error)
    return replies


def store_for(client: Any) -> RedisStore:
    """Return the store of an asyncio client: one for all locks on it, so that they share connections and a keeper."""
    _redis.check_client(client, flavour="asyncio")
    known: RedisStore | None = vars(client).get(_ATTRIBUTE)
    store: RedisStore = known or vars(client).setdefault(_ATTRIBUTE, RedisStore(client))  # lives and dies with it
    return store


_ATTRIBUTE = "_coordkit_store"
