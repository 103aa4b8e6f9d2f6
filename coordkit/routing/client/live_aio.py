"""`ShardedRedis` over a live topology, asyncio: each operation is one moment's, from its first line to its last.

What a shard refuses because it knows a newer epoch was not sent: the client adopts that epoch, and the operation is
planned anew. Nothing that may have been sent is sent again.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis

from coordkit._asyncio.runtime import RUNTIME
from coordkit._threads.runtime import not_in_a_forked_child
from coordkit.core.adoption import Adoption
from coordkit.routing.client.client_aio import ShardedRedis
from coordkit.routing.client.live_parts import (
    LiveDirectory,
    check_still_there,
    checked_source,
    connected,
    greeting,
    replica_fence,
)
from coordkit.routing.client.live_scan_aio import Scanning
from coordkit.routing.client.pipeline_aio import ShardedPipeline
from coordkit.routing.replicas.replica_set import ReplicaSet
from coordkit.routing.replicas.terms import Terms
from coordkit.routing.topology.live import Live
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.errors import Outdated
from coordkit.routing.ways.greeting_aio import Greet
from coordkit.routing.ways.port_aio import greeted

if TYPE_CHECKING:
    from coordkit._async.topology import TopologyStore

Connect = Callable[[str, str], "redis.Redis | ReplicaSet[redis.Redis]"]
GreetOf = Callable[[str], Greet]
"""Gives what the new connections to a shard are greeted with."""


class LiveShardedRedis(Scanning, LiveDirectory["redis.Redis"], ShardedRedis):  # type: ignore[misc]  # its mixins disagree
    """Route over the shards of a live topology; what `ShardedRedis.from_topology` returns, which says what it is given.

    An operation belongs to one epoch: placement, shards and connections are those of the topology that was adopted when
    it began, also while the next one is adopted. If its shard knows a newer epoch nothing was sent: it is planned anew
    by that one. ``topology`` and ``epoch`` say what is adopted, ``adopt`` adopts a newer one from elsewhere.

    Not compared with the epoch, and so for looking only: what goes through the plain clients of ``on``, ``client_for``
    and ``shards``. Get them anew for each use: a client whose shard is gone is closed.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        poll: float,
        patience: float,
        greet: GreetOf | None = None,
        fenced: bool = False,
        terms: Terms | None = None,
        **reading: Any,
    ) -> None:
        checked_source(connect, poll, patience)
        self._options = terms = terms or Terms()

        def build(topology: Topology, before: ShardedRedis | None) -> ShardedRedis:
            shards = connected(topology, before, connect)
            moment = ShardedRedis(shards, placement=topology.serving, **reading)
            asked = (lambda name: greeted(greeting(live, topology.name, name))) if fenced else greet
            fence_of = partial(replica_fence, live, topology.name) if fenced else None
            moment._made_for(topology, before, asked, fence_of)  # noqa: SLF001  they are one
            if before is None:
                moment._servers.check(terms)  # noqa: SLF001  see above
            return moment

        self._live = live = Live(RUNTIME, build, _pieces, _close, patience=patience)
        not_in_a_forked_child(live)
        self._following: Adoption | None = None
        self._poll = poll

    async def follow(self, source: TopologyStore | Topology) -> None:
        """Adopt a topology, or if ``source`` is a store, what is there and whatever is newer from then on."""
        from coordkit._async import topology as facade  # the facade has us in its list, so it cannot come first

        if isinstance(source, Topology):
            self._live.adopt(source)
            return
        if not isinstance(source, facade.TopologyStore):
            raise TypeError(f"source={source!r}; a TopologyStore of this flavour, or a Topology, is allowed")
        self._following = self._live.source = following = source._following(self._live.adopt, self._poll)  # noqa: SLF001  one library
        await following.open()
        # Nobody need close a sharded client: what follows the topology must not keep it, nor outlive it.
        weakref.finalize(self, following.let_go).atexit = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the shard or shards of its keys; return its reply, as `ShardedRedis` does."""
        moment = self._live.now
        while True:
            try:
                return await self._on_terms(moment).execute_command(*args, **options)
            except Outdated as outdated:
                moment = await self._live.newer(outdated)

    async def on_all(self, *command: Any, **options: Any) -> dict[str, Any]:
        """Send a command to every shard of the present topology, as `ShardedRedis.on_all` does."""
        moment = self._live.now
        while True:
            try:
                replies: dict[str, Any] = await self._on_terms(moment).on_all(*command, **options)
            except Outdated as outdated:
                moment = await self._live.newer(outdated)
            else:
                return replies

    def pipeline(self, transaction: bool = False, shard_hint: None = None) -> ShardedPipeline:
        """Return a pipeline that is routed when it is executed."""
        self._live.now.pipeline(transaction=transaction, shard_hint=shard_hint)  # refuses what it refuses
        return LivePipeline(self, self._live, transaction=transaction)

    async def aclose(self) -> None:
        """Close all clients that were made, and follow the topology no more."""
        if self._following is not None:
            self._following.close()
        for piece in self._live.left_over():
            await self._live.closed(piece)
        await self._live.now.aclose()


class LivePipeline(ShardedPipeline):
    """A pipeline over a live topology: routed as a whole when it is executed, by one epoch.

    While it watches keys it belongs to the moment at which it began to: if the keys' owner changes meanwhile, the
    connection is lost, and the WATCH with it.
    """

    def __init__(self, client: LiveShardedRedis, live: Live[ShardedRedis], *, transaction: bool) -> None:
        moment = live.now
        super().__init__(moment, moment._router, moment._plan, transaction=transaction)  # noqa: SLF001  they are one
        self._on_terms = client._on_terms  # noqa: SLF001  see above
        self._moment: ShardedRedis | None = None  # kept while its keys are watched
        self._client = client
        self._live = live
        self._is_of(client)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what is queued, once, as `ShardedPipeline.execute` does."""
        if self._held is not None:
            return await super().execute(raise_on_error)
        moment = self._live.now
        commands, explicit = self.command_stack, self.explicit_transaction
        try:
            while True:
                pipeline = self._on_terms(moment).pipeline(transaction=self.transaction or explicit)
                pipeline.command_stack = list(commands)
                try:
                    replies: list[Any] = await pipeline.execute(raise_on_error)
                except Outdated as outdated:
                    moment = await self._live.newer(outdated)
                else:
                    return replies
        finally:
            await self.reset()

    async def watch(self, *names: Any) -> Any:  # type: ignore[override]  # as its base's
        """Watch keys of one shard, as `ShardedPipeline.watch` does."""
        if self._held is not None:
            return await super().watch(*names)
        moment = self._live.now
        while True:
            self._is_of(self._on_terms(moment))
            self._moment = moment
            try:
                return await super().watch(*names)
            except Outdated as outdated:
                await self.reset()
                moment = await self._live.newer(outdated)

    async def unwatch(self) -> Any:  # type: ignore[override]  # as its base's
        """Watch nothing any more, and queue commands from here on."""
        reply = await super().unwatch()
        self._is_of(self._client)
        return reply

    async def reset(self) -> None:  # type: ignore[override]  # as redis-py's own pipeline's, it is no command
        """Forget the queued commands and what is watched."""
        await super().reset()
        self._is_of(self._client)

    def _check_still_there(self) -> None:
        check_still_there(self._live, self._moment, self._watched)

    def _is_of(self, shards: ShardedRedis) -> None:
        self._moment = None
        self._shards, self._router, self._plan = shards, shards._router, shards._plan  # noqa: SLF001  they are one


def _pieces(moment: ShardedRedis) -> list[Any]:
    pieces: list[Any] = moment._pieces()  # noqa: SLF001  they are one
    return pieces


async def _close(piece: Any) -> None:
    # redis-py 5.0.0 has only the latter; a way's is no coroutine
    closing = (getattr(piece, "aclose", None) or piece.close)()
    if inspect.isawaitable(closing):
        await closing
