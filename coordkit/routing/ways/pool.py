"""The way to one shard, blocking, through its client: where connections of our own would go round something.

A command for one shard goes through the client's own ``execute_command``, with its retries; a batch over a connection
of its pool, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit._threads.runtime import not_in_a_forked_child
from coordkit.errors import ShardDown
from coordkit.routing.ways.batch import TAKE, Batch, Delivery
from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.connections import begin_probe
from coordkit.routing.ways.errors import (
    NO_ANSWER,
    is_unreached,
    may_have_been_sent,
    refused,
    tripped,
    unanswered,
)
from coordkit.routing.ways.replies import QUICK, is_kept
from coordkit.routing.ways.way import Way


def way_of(name: str, client: Any, breaker: Breaker | None = None) -> Way | PoolWay:
    """Return the fastest way to a shard that its client allows."""
    return Way(name, client, breaker=breaker) if is_kept(client) else PoolWay(name, client, breaker=breaker)


class PoolWay:
    """What `Way` is, through the client and its pool; there is no epoch that its connections would have seen."""

    connected = 0

    def __init__(self, name: str, client: Any, *, breaker: Breaker | None = None) -> None:
        self.name = name
        self.breaker = breaker or Breaker()
        self._client = client
        not_in_a_forked_child(self.breaker)

    def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:  # noqa: ARG002  there is no epoch
        """Send one command as the client does; raise what `Way.execute` does."""
        self.check()
        try:
            reply = self._client.execute_command(*args, **options)
        except ResponseError as error:
            self.heard()
            if refusal := refused(self.name, error):
                raise refusal from error
            raise
        except NO_ANSWER as error:
            sent = may_have_been_sent(error)
            self.missed(error, sent=sent, quick=args[0] in QUICK)
            raise unanswered(self.name, error, sent=sent) from error
        self.heard()
        return reply

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> PoolSending:  # noqa: ARG002  there is no epoch
        """Return what sends a batch over one connection and reads the replies."""
        return PoolSending(self, self._client, batch, transaction=transaction)

    def check(self) -> None:
        """Raise ShardDown while the breaker is open."""
        if self.breaker.is_open:
            if self.breaker.begin_probe():
                begin_probe(self.breaker, self._probe)
            raise tripped(self.name, self.breaker.why)

    def heard(self) -> None:
        """Take note that the shard answered."""
        if self.breaker.failures:
            self.breaker.worked()

    def missed(self, error: Exception, *, sent: bool, quick: bool) -> None:
        """Take note that it did not."""
        if is_unreached(error, sent=sent, quick=quick):
            self.breaker.failed(str(error))

    def _probe(self) -> None:
        try:
            self._client.execute_command("PING")
        except ResponseError:  # an error is an answer as well
            pass
        except BaseException as error:
            self.breaker.probe_failed(str(error))
            if not isinstance(error, Exception):
                raise
            return
        self.breaker.worked()

    def close(self) -> None:
        """Do nothing: the connections are the client's."""


class PoolSending(Delivery):
    """One batch over one connection of the client's pool."""

    _connection: Any = None

    def __init__(self, way: PoolWay, client: Any, batch: Batch, *, transaction: bool) -> None:
        super().__init__(way.name, client, batch, transaction=transaction)
        self._way = way

    def take(self) -> None:
        """Take a connection and pack the batch, so that nothing is sent anywhere if an argument cannot be."""
        try:
            self._way.check()
            self._connection = self._client.connection_pool.get_connection(*TAKE)
        except ShardDown as error:
            self._stands(error)
            return
        except (ResponseError, *NO_ANSWER) as error:
            self._missed(error)
            return
        self._packed = self._connection.pack_commands(self._words())

    def send(self) -> None:
        if self._packed is None:
            return
        self._sent, self._in_step = True, False
        try:
            self._connection.send_packed_command(self._packed)
        except NO_ANSWER as error:
            self._missed(error)

    def read(self, began: float = 0.0) -> None:  # noqa: ARG002  each waits by its client's own bound
        if self._answers:  # it failed already
            return
        for name, options in self._awaited():
            try:
                self._answers.append(self._client.parse_response(self._connection, name, **options))
            except ResponseError as error:
                self._said(error)
            except NO_ANSWER as error:
                self._missed(error)
                return
        self._in_step = True
        self._way.heard()

    def _missed(self, error: Exception) -> None:
        self._way.missed(
            error, sent=self._sent, quick=not self._behind and all(args[0] in QUICK for args, _ in self._batch)
        )
        self._fail(error)

    def give_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        # Replies that nobody will read must not be taken for those of the next command.
        if not self._in_step or getattr(connection, "should_reconnect", bool)():
            connection.disconnect()
        self._client.connection_pool.release(connection)
