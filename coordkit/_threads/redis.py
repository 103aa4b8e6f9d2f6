"""The Redis port of the blocking flavour."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit import _redis
from coordkit._ports import Call
from coordkit._threads.inbox import Inbox
from coordkit._threads.runtime import RUNTIME, now
from coordkit.core.keeper import Keeper


class RedisStore:
    """One client's Redis, spoken to over connections that are kept while there is work; safe for many threads."""

    def __init__(self, client: Any) -> None:
        self.keeper = Keeper(RUNTIME, self)
        self._client = client
        self._keeps = _redis.keeps_connections(client)
        self._where = _redis.where(client)
        self._inbox = Inbox(self, client, keeps=self._keeps)
        self._reset()

    def inbox(self) -> Inbox:
        return self._inbox

    def _reset(self) -> None:
        self._process = os.getpid()
        self._idle: deque[tuple[Any, float]] = deque()  # connection, when it was made; the one used last is last
        self._used = 0.0
        self._sweeping = False

    def __str__(self) -> str:
        return self._where

    async def run(self, name: str, call: Call) -> Any:
        reply = (await self.run_many([(name, call)]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        asked = [call for _, call in calls]
        try:
            replies = self._speak(asked, within) if self._keeps else self._ask(asked)
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

    def _speak(self, calls: list[Call], within: float | None) -> list[Any]:
        connection, made = self._borrow(within)
        try:
            connection.send_packed_command([_redis.packed(call) for call in calls])
            replies = _replies(connection, len(calls))
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
                connection.send_packed_command(connection.pack_commands(_redis.evals([calls[i] for i in unknown])))
                for i, reply in zip(unknown, _replies(connection, len(unknown)), strict=True):
                    replies[i] = reply
        except BaseException as error:
            connection.disconnect()  # a reply may still be on its way
            if isinstance(error, exceptions.ConnectionError):
                self._drop_idle()  # the server went away: what is idle is dead as well
            raise
        if within is not None:
            _bound(connection, connection.socket_timeout)
        self._idle.append((connection, made))
        self._used = now()
        if not self._sweeping:
            self._sweeping = True
            RUNTIME.call_at(self._used + _redis.IDLE, self._sweep)
        return replies

    def _borrow(self, within: float | None) -> tuple[Any, float]:
        if os.getpid() != self._process:
            self._reset()  # forked: the sockets are the parent's
        while True:
            try:
                connection, made = self._idle.pop()
            except IndexError:
                break
            if now() - made < _redis.MAX_AGE:
                if within is not None:
                    _bound(connection, min(within, connection.socket_timeout))
                return connection, made
            connection.disconnect()
        pool = self._client.connection_pool
        kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection, within)
        connection = pool.connection_class(**kwargs)
        connection.connect()
        return connection, now()

    def _sweep(self) -> None:
        rest = self._used + _redis.IDLE - now()
        if rest > 0:
            RUNTIME.call_at(now() + rest, self._sweep)
            return
        self._sweeping = False
        self._drop_idle()

    def _drop_idle(self) -> None:
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            connection.disconnect()

    # -- through the client, where it must be

    def _ask(self, calls: list[Call]) -> list[Any]:
        def ask(call: Call) -> Any:
            try:
                return self._client.execute_command(*_redis.evalsha(call))
            except exceptions.NoScriptError:
                return self._client.execute_command(*_redis.evals([call])[0])

        replies: list[Any] = []
        for call in calls:
            try:
                replies.append(ask(call))
            except Exception as error:  # noqa: BLE001  each call may go to another server: its error is its own
                replies.append(error)
        return replies


def _bound(connection: Any, seconds: float) -> None:
    """Bound the answers that are waited for on a connection; redis-py sets its own bound when it connects only."""
    connection._sock.settimeout(seconds)  # noqa: SLF001  the parsers of redis-py 5 to 8 read this very socket


def _replies(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(connection.read_response())
        except exceptions.ResponseError as error:
            replies.append(error)
    return replies


def store_for(client: Any) -> RedisStore:
    """Return the store of a blocking client: one for all locks on it, so that they share connections and a keeper."""
    _redis.check_client(client, flavour="blocking")
    known: RedisStore | None = vars(client).get(_ATTRIBUTE)
    store: RedisStore = known or vars(client).setdefault(_ATTRIBUTE, RedisStore(client))  # lives and dies with it
    return store


_ATTRIBUTE = "_coordkit_store"
