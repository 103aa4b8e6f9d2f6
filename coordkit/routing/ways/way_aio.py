"""The way to one shard, asyncio: commands over connections of our own, kept while there is work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from coordkit._asyncio.wire import Wire
from coordkit._reader import PLAIN
from coordkit.routing.ways.batch import Batch
from coordkit.routing.ways.connections_aio import Connections
from coordkit.routing.ways.errors import NO_ANSWER, Outdated, answered, unanswered
from coordkit.routing.ways.replies import QUICK, callback_of, parsed
from coordkit.routing.ways.sending_aio import Sending
from coordkit.routing.ways.waits import WAITING


class Way(Connections):
    """What goes to the server of one shard, over its connections under each event loop."""

    async def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:
        """Send one command and return its reply as the client would; ``decided`` is the epoch it was routed by.

        Raise ShardDown, StoreUnavailable or StoreRefused with the shard's name, redis-py's ResponseError, or Outdated.
        """
        data = (self._packer or self._first_packer()).one(args)
        undecoded, quick = "NEVER_DECODE" in options, args[0] in QUICK
        try:
            wire = None
            if quick and not undecoded:
                wire = self.shared_now(decided) or await self.shared(decided)
            if wire is not None:
                asking = self.end(wire, self.begin(wire, data, 1))
            else:
                own = await self.take(decided)
                if args[0] in WAITING:
                    asking = self._waited_for(own, data, decided, undecoded=undecoded)
                else:
                    asking = self.ask_alone(own, data, 1, undecoded=undecoded, quick=quick)
        except ResponseError as error:  # in the handshake
            raise answered(self.name, error) from error
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=False) from error
        try:
            [reply] = await asking
        except NO_ANSWER as error:
            raise unanswered(self.name, error, sent=True) from error
        callbacks = self._client.response_callbacks
        if type(reply) in PLAIN and callback_of(callbacks, args[0]) is None:
            return reply
        try:
            value = parsed(callbacks, args, options, reply)
            return await value if inspect.isawaitable(value) else value
        except ResponseError as error:
            await self.heed(error)
            meant = answered(self.name, error)
            if meant is error:
                raise
            raise meant from error

    async def _waited_for(self, own: Wire, data: bytes, decided: int, *, undecoded: bool) -> list[Any]:
        try:
            self.waits.begin(own, decided)
        except Outdated:
            self.give_back(own)
            raise
        try:
            return await self.ask_alone(own, data, 1, undecoded=undecoded)
        finally:
            self.waits.over(own)

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending:
        """Return what sends a batch over one connection and reads the replies."""
        return Sending(self, batch, transaction=transaction, decided=decided)

    @property
    def response_callbacks(self) -> Any:
        """What the client makes of replies."""
        return self._client.response_callbacks
