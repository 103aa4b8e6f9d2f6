"""One connection to one shard, held from WATCH to EXEC, asyncio; as `coordkit.routing.client.held`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from redis.exceptions import WatchError

from coordkit.routing.client.held import lost, outdated_is_lost
from coordkit.routing.client.queue import Queue
from coordkit.routing.commands.plan import Plan
from coordkit.routing.replicas.way_aio import ReplicatedWay
from coordkit.routing.ways.batch import TAKE, Batch, Delivery, Gathering
from coordkit.routing.ways.pool_aio import PoolSending, PoolWay
from coordkit.routing.ways.sending_aio import Sending
from coordkit.routing.ways.way_aio import Way


class WatchingQueue(Queue[Awaitable[Plan]]):
    """A pipeline that may watch keys of one shard, and then sends at once until `multi`; as redis-py's."""

    _held: Held | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command; return the pipeline, so that calls can be chained. While it watches, send it."""
        if self._held is None or self.explicit_transaction:
            return super().execute_command(*args, **options)
        return self._immediately(self._held, args, options)

    async def watch(self, *names: Any) -> Any:
        """Watch keys of one shard, on which all commands have to be until `execute`; CrossShardError names keys."""
        shard = self._to_watch(names)
        decided = (await self._bring(names)).get(shard, self._shards.epoch)
        if self._held is None:
            self._held = Held(self._shards._ways[shard], decided)  # noqa: SLF001  its own client's
        self._held.watching = True
        return await _only(self._held, ("WATCH", *names), {})

    async def unwatch(self) -> Any:
        """Watch nothing any more, and queue commands from here on."""
        held = self._held
        if held is None:
            return True
        reply = await _only(held, ("UNWATCH",), {})
        held.watching, self._watched = False, {}
        await self._let_go()
        return reply

    async def reset(self) -> None:
        """Forget the queued commands and what is watched. (As redis-py's own, it hides the command RESET.)"""
        self._forget()
        await self._let_go()

    async def aclose(self) -> None:
        """Do what `reset` does; it may be used on."""
        await self.reset()

    async def close(self) -> None:
        """Do what `aclose` does, which was its name until redis-py 5.0.1."""
        await self.reset()

    async def _immediately(self, held: Held, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        self._check_still_there()
        with outdated_is_lost(held):
            plan = await self._plan(args, options)
            self._check_watched(plan)
            await self._bring(plan.keys())
            return plan.settle([await _only(held, part.args, part.options) for part in plan.parts])

    async def _bring(self, keys: Sequence[Any]) -> Mapping[str, int]:
        """Bring those of ``keys`` that are of slots that move, before anything is sent about them.

        What is held was made before they were looked for, so that it finds them there for as long as it lasts.
        """
        with outdated_is_lost(self._held):
            return await self._shards._bring(keys)  # noqa: SLF001  its own client's

    async def _execute_watched(self, held: Held, gathering: Gathering) -> list[Any]:
        self._check_still_there()
        delivery, replies = await held.run(gathering.batches.get(held.shard, []), transaction=True)
        if delivery.discarded:
            held.watching = False
            raise WatchError("Watched variable changed.")
        held.watching = not delivery.carried_out
        return list(gathering.settle({held.shard: replies}))

    async def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.release()


async def _only(held: Held, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    _, [reply] = await held.run([(args, dict(options))])
    if isinstance(reply, Exception):
        raise reply
    return reply


class Held:
    """A connection of a way that is one's own until `release`; it is taken with the first batch."""

    def __init__(self, given: Way | PoolWay | ReplicatedWay, decided: int = 0) -> None:
        way = given.primary if isinstance(given, ReplicatedWay) else given
        self.shard = way.name
        self._replicated = given if isinstance(given, ReplicatedWay) else None
        self.watching = False  # the server watches keys for us
        self._decided = decided
        self._kept: _OfWay | _OfPool = _OfWay(way) if isinstance(way, Way) else _OfPool(way)

    async def run(self, batch: Batch, *, transaction: bool = False) -> tuple[Delivery, list[Any]]:
        """Send a batch; return it and its replies, in which an error stands for what was not answered."""
        if self._kept.broken:
            raise lost(self.shard)
        kept: Any = self._kept  # as a way, as far as a sending needs one
        sending: Sending | PoolSending
        if isinstance(self._kept, _OfWay):
            sending = Sending(kept, batch, transaction=transaction, decided=self._decided)
        else:
            sending = PoolSending(kept, kept, batch, transaction=transaction)
        if self._replicated is not None:
            self._replicated.confirm(sending, batch)
        try:
            if not sending.take_now():
                await sending.take()
            await sending.speak()
        finally:
            await sending.give_back()
        return sending, await sending.awaited_replies()

    async def release(self) -> None:
        """Give it back; close it if the server still watches keys for it, which the next user would pay for."""
        watching, self.watching = self.watching, False
        await self._kept.let_go(keep=not watching)


class _OfWay:
    """What a `Sending` takes for its way: always the same connection."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._wire: Any = None
        self._client = way._client  # noqa: SLF001  they are one
        self.name, self.waits = way.name, way.waits
        self.broken = False

    def packed(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        return self._way.packed(commands)

    def shared_now(self, _decided: int) -> None:
        """Share nothing."""

    async def shared(self, _decided: int) -> None:
        """Share nothing."""

    async def take(self, decided: int) -> Any:
        if self._wire is None:
            self._wire = await self._way.take(decided)
        return self._wire

    async def ask_alone(
        self, wire: Any, data: bytes, count: int, came: list[Any] | None = None, **how: Any
    ) -> list[Any]:
        try:
            return await self._way.ask_held(wire, data, count, came, **how)
        except BaseException:
            self._wire, self.broken = None, True
            raise

    def give_back(self, wire: Any) -> None:
        """Keep it."""

    async def let_go(self, *, keep: bool) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and keep:
            self._way.give_back(wire)
        elif wire is not None:
            await self._way.abandon(wire)


class _OfPool:
    """What a `PoolSending` takes for its client: always the same connection of the pool."""

    def __init__(self, way: PoolWay) -> None:
        client = way._client  # noqa: SLF001  they are one
        self.name = way.name
        self.check, self.heard, self.missed = way.check, way.heard, way.missed
        self._pool = client.connection_pool
        self._connection: Any = None
        self._stream: Any = None
        self.connection_pool = self
        self.parse_response = client.parse_response
        self.response_callbacks = client.response_callbacks
        self.get_encoder = client.get_encoder

    @property
    def broken(self) -> bool:
        return self._connection is not None and self._connection._writer is not self._stream  # noqa: SLF001  redis-py has no other name for it

    async def get_connection(self, *_: str) -> Any:
        if self._connection is None:
            self._connection = await self._pool.get_connection(*TAKE)
            self._stream = self._connection._writer  # noqa: SLF001  see above
            # A check of its health would connect anew, without a word and without the WATCH.
            self._interval = getattr(self._connection, "health_check_interval", 0)
            self._connection.health_check_interval = 0
        return self._connection

    async def release(self, _connection: Any) -> None:
        """Keep it."""

    async def let_go(self, *, keep: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.health_check_interval = self._interval
            if not keep:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)
