"""The way to one shard, asyncio, through its client; `coordkit.routing.way_pool` says when and how."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit.routing.client_batch import TAKE, Batch, Delivery
from coordkit.routing.client_errors import NO_ANSWER, may_have_been_sent, refused, unanswered
from coordkit.routing.replies import is_kept
from coordkit.routing.way_aio import Way


def way_of(name: str, client: Any) -> Way | PoolWay:
    """Return the fastest way to a shard that its client allows."""
    return Way(name, client) if is_kept(client) else PoolWay(name, client)


class PoolWay:
    """What `Way` is, through the client and its pool; there is no epoch that its connections would have seen."""

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._client = client

    async def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:  # noqa: ARG002  there is no epoch
        """Send one command as the client does; raise what `Way.execute` does."""
        try:
            return await self._client.execute_command(*args, **options)
        except ResponseError as error:
            if refusal := refused(self.name, error):
                raise refusal from error
            raise
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=may_have_been_sent(error)) from error

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> PoolSending:  # noqa: ARG002  there is no epoch
        """Return what sends a batch over one connection and reads the replies."""
        return PoolSending(self.name, self._client, batch, transaction=transaction)

    async def close(self) -> None:
        """Do nothing: the connections are the client's."""


class PoolSending(Delivery):
    """One batch over one connection of the client's pool."""

    _connection: Any = None

    async def take(self) -> None:
        """Take a connection and pack the batch, so that nothing is sent anywhere if an argument cannot be."""
        try:
            self._connection = await self._client.connection_pool.get_connection(*TAKE)
        except (ResponseError, *NO_ANSWER) as error:
            self._fail(error)
            return
        self._packed = self._connection.pack_commands(self._words())

    async def speak(self) -> None:
        if self._packed is None:
            return
        self._sent, self._in_step = True, False
        try:
            await self._connection.send_packed_command(self._packed)
            for name, options in self._awaited():
                try:
                    self._answers.append(await self._client.parse_response(self._connection, name, **options))
                except ResponseError as error:
                    self._said(error)
        except NO_ANSWER as error:
            self._fail(error)
            return
        self._in_step = True

    async def awaited_replies(self) -> list[Any]:
        replies = self.replies()
        if not self._transaction:  # redis-py's parse_response has awaited them
            return replies
        return [await reply if inspect.isawaitable(reply) else reply for reply in replies]

    async def give_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        # Replies that nobody will read must not be taken for those of the next command.
        if not self._in_step or getattr(connection, "should_reconnect", bool)():
            await connection.disconnect(nowait=True)
        await self._client.connection_pool.release(connection)
