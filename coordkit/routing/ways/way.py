"""The way to one shard, blocking: commands over connections of our own, kept while there is work.

A command is sent once, over a connection that was looked at just before: one that the server closed while it was idle
is replaced, and whatever fails after the first byte may have gone out is told and not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit import _redis
from coordkit._reader import PLAIN
from coordkit._threads.runtime import now
from coordkit._threads.wire import Wire
from coordkit.routing.fence.decision import is_too_new
from coordkit.routing.ways.batch import Batch
from coordkit.routing.ways.connections import Connections
from coordkit.routing.ways.errors import NO_ANSWER, answered, unanswered
from coordkit.routing.ways.replies import QUICK, callback_of, parsed
from coordkit.routing.ways.sending import Sending
from coordkit.routing.ways.waits import WAITING


class Way(Connections):
    """What goes to the server of one shard, over its connections; safe for many threads."""

    def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:
        """Send one command and return its reply as the client would; ``decided`` is the epoch it was routed by.

        Raise ShardDown, StoreUnavailable or StoreRefused with the shard's name, redis-py's ResponseError, or Outdated.
        """
        data = (self._packer or self._first_packer()).one(args)
        breaker = self.breaker
        if breaker.is_open:
            raise self._tripped()
        self._used = present = now()
        try:
            wire = self._idle.pop()
        except IndexError:
            wire = self._taken(decided)
        else:
            too_new = wire.epoch > decided if type(decided) is int else is_too_new(wire, decided)
            if too_new or present - wire.made >= _redis.MAX_AGE or wire.is_stale():
                wire = self._instead(wire, decided)
        try:
            plain = args[0] not in WAITING and "NEVER_DECODE" not in options
            reply = wire.ask(data) if plain else self._asked(wire, data, args, options, decided)
        except BaseException as error:
            meant = self.lost(wire, error, quick=args[0] in QUICK)
            if meant is error:
                raise
            raise meant from meant.__cause__
        if breaker.failures:
            breaker.worked()
        self._idle.append(wire)
        if not self._sweeping:
            self._sweep_later()
        callbacks = self._client.response_callbacks
        if type(reply) in PLAIN and callback_of(callbacks, args[0]) is None:
            return reply
        try:
            return parsed(callbacks, args, options, reply)
        except ResponseError as error:
            self.heed(error)
            meant = answered(self.name, error)
            if meant is error:
                raise
            raise meant from error

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending:
        """Return what sends a batch over one connection and reads the replies."""
        return Sending(self, batch, transaction=transaction, decided=decided)

    @property
    def response_callbacks(self) -> Any:
        """What the client makes of replies."""
        return self._client.response_callbacks

    def _taken(self, decided: int) -> Wire:
        try:
            return self.take(decided)
        except ResponseError as error:  # in the handshake
            raise answered(self.name, error) from error
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=False) from error

    def _instead(self, wire: Wire, decided: int) -> Wire:
        if is_too_new(wire, decided):
            self._checked(wire, decided)
        self._close(wire)
        return self._taken(decided)

    def _asked(self, wire: Wire, data: bytes, args: tuple[Any, ...], options: Mapping[str, Any], decided: int) -> Any:
        """Return the reply to a command that may wait for it, or wants it as bytes."""
        undecoded = "NEVER_DECODE" in options
        if args[0] not in WAITING:
            return self._undecoded(wire, data) if undecoded else wire.ask(data)
        self.waits.begin(wire, decided)
        try:
            return self._undecoded(wire, data) if undecoded else wire.ask(data)
        finally:
            self.waits.over(wire)

    def _undecoded(self, wire: Wire, data: bytes) -> Any:
        replies: list[Any] = []
        wire.send(data)
        wire.read_into(replies, 1, decoding=False)
        return replies[0]
