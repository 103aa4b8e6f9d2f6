"""The connections to one server that are kept while there is work, of the blocking flavour."""

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
from coordkit._ports import Call, Confirm
from coordkit._threads.runtime import RUNTIME, now


class Lines:
    """The way to one server, by the recipe of a client's pool; safe for many threads."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._idle: deque[tuple[Any, float]] = deque()  # connection, when it was made; the one used last is last
        self._used = 0.0
        self._sweeping = False

    def ask(
        self,
        calls: Sequence[Call],
        within: float | None = None,
        *,
        confirm: Confirm | None = None,
    ) -> list[Any]:
        """Run scripts in one pipeline, and wait for the copies in the same; a reply that is an error is in the list."""
        connection, made = self._borrow(within)
        bound = connection.socket_timeout
        try:
            if confirm is None:
                replies = _scripts(connection, calls)
            else:
                _bound(connection, bound + confirm.within)
                replies = _confirmed(connection, calls[0], confirm)
        except BaseException as error:
            connection.disconnect()  # a reply may still be on its way
            if isinstance(error, exceptions.ConnectionError):
                self._drop_idle()  # the server went away: what is idle is dead as well
            raise
        if within is not None or confirm is not None:
            _bound(connection, bound)
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


def _bound(connection: Any, seconds: float) -> None:
    """Bound the answers that are waited for on a connection; redis-py sets its own bound when it connects only."""
    connection._sock.settimeout(seconds)  # noqa: SLF001  the parsers of redis-py 5 to 8 read this very socket


def _scripts(connection: Any, calls: Sequence[Call]) -> list[Any]:
    connection.send_packed_command([_redis.packed(call) for call in calls])
    replies = _replies(connection, len(calls))
    if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
        connection.send_packed_command(connection.pack_commands(_redis.evals([calls[i] for i in unknown])))
        for i, reply in zip(unknown, _replies(connection, len(unknown)), strict=True):
            replies[i] = reply
    return replies


def _confirmed(connection: Any, call: Call, confirm: Confirm) -> list[Any]:
    replies: list[Any] = []
    for command in (_redis.evalsha(call), *_redis.evals([call])):
        connection.send_packed_command(connection.pack_commands(_redis.confirming(command, confirm)))
        replies = _replies(connection, 2)
        if not isinstance(replies[0], exceptions.NoScriptError):
            break
    return replies


def _replies(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(connection.read_response())
        except exceptions.ResponseError as error:
            replies.append(error)
    return replies
