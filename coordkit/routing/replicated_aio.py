"""The way to a shard with replicas, asyncio; the same as `coordkit.routing.replicated`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from coordkit import _redis
from coordkit._asyncio.runtime import RUNTIME, life
from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable
from coordkit.routing.client_batch import Batch, Delivery
from coordkit.routing.client_errors import NO_ANSWER
from coordkit.routing.probes import WITHIN, Probes
from coordkit.routing.readers import Node, Readers, ReadFrom
from coordkit.routing.reads import READ, WRITE
from coordkit.routing.replica_fence import ReplicaFence
from coordkit.routing.replication import Terms, first_unfit, is_its_fault, is_unfit, nobody_answered, unbroken
from coordkit.routing.sentinels import Followed
from coordkit.routing.way_aio import Way
from coordkit.routing.way_between_aio import asked_between
from coordkit.routing.way_pool_aio import PoolSending, PoolWay, way_of
from coordkit.routing.way_sending_aio import Sending

KindOf = Callable[[Sequence[Any]], str]


class ReplicatedWay:
    """What `Way` is, to a primary and its replicas, on ``terms``; ``kind_of`` tells reads from writes.

    ``fence`` is what replicas are asked around reads under a live topology.
    """

    def __init__(
        self, readers: Readers, probes: Probes, kind_of: KindOf, terms: Terms, fence: ReplicaFence | None
    ) -> None:
        self.name = readers.shard
        self.primary: Way | PoolWay = readers.primary.way
        self.breaker = self.primary.breaker
        self.readers = readers
        self.terms = terms
        self.fence = fence
        self._probes = probes
        self._kind_of = kind_of

    def on(self, terms: Terms, kind_of: KindOf) -> ReplicatedWay:
        """Return the same way on other terms, for what another router plans."""
        return ReplicatedWay(self.readers, self._probes, kind_of, terms, self.fence)

    async def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:
        """Send one command; raise what `Way.execute` does, and TooFewReplicas."""
        kind, terms = self._kind_of(args), self.terms
        if kind is READ and terms.read_from != "primary":
            return await self._read(args, options, decided)
        if kind is WRITE and terms.min_replicas:
            [reply] = await _exchanged(self.delivery([(args, dict(options))], transaction=False, decided=decided))
            if isinstance(reply, Exception):
                raise reply
            return reply
        return await self.primary.execute(args, options, decided)

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending | PoolSending | Reading:
        """Return what sends a batch to one server of the shard and reads the replies."""
        kinds = [self._kind_of(args) for args, _ in batch]
        if self.terms.read_from != "primary" and not transaction and all(kind is READ for kind in kinds):
            return Reading(self, batch, decided)
        delivery = self.primary.delivery(batch, transaction=transaction, decided=decided)
        self.confirm(delivery, batch)
        return delivery

    def confirm(self, delivery: Delivery, batch: Batch) -> None:
        """Have a batch that goes over a connection of its own wait for its copies as well, if it writes."""
        if copying := self.terms.copying([self._kind_of(args) for args, _ in batch]):
            delivery.wait_for(copying)

    @property
    def has_begun(self) -> bool:
        """Whether the replicas are looked at."""
        return self._probes.begun

    async def begin(self) -> None:
        """Have the replicas looked at from the first read on."""
        if not self._probes.begun:
            await self._probes.begin()

    async def close(self) -> None:
        """Look at the replicas no more, and close what is idle; the way can still be used."""
        await self._probes.close()
        for node in (self.readers.primary, *self.readers.replicas):
            await node.way.close()

    async def _read(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int) -> Any:
        await self.begin()
        readers, errors = self.readers, list[tuple[Node, Any]]()
        while True:
            try:
                node, picker = readers.pick(self.terms.read_from, [node for node, _ in errors])
            except NoNodes:
                raise nobody_answered(self.name, errors) if errors else readers.down(self.terms.read_from) from None
            way, before, began = node.way, node.way.connected, readers.clock()
            try:
                if self.fence is None or node.is_primary:
                    reply = await way.execute(args, options, decided)
                else:
                    reply = await self._fenced(self.fence, way, args, options, decided)
            except (ResponseError, StoreRefused, StoreUnavailable) as error:
                if not is_unfit(error):
                    readers.worked(node, picker)
                    raise
                readers.ended(node, picker, error if is_its_fault(error) else None)
                errors.append((node, error))
            except BaseException:
                readers.ended(node, picker, None)
                raise
            else:
                # To connect takes many times as long as to ask, and says nothing of the next command.
                readers.worked(node, picker, readers.clock() - began if way.connected == before else None)
                return reply

    @staticmethod
    async def _fenced(
        fence: ReplicaFence, way: Any, args: tuple[Any, ...], options: Mapping[str, Any], decided: int
    ) -> Any:
        if isinstance(way, Way) and "NEVER_DECODE" not in options:
            first, last = fence.packed(way.packed)
            replies: Sequence[Any] = await asked_between(way, first, args, options, last)
        else:
            replies = await _exchanged(way.delivery(fence.around([(args, dict(options))]), transaction=False))
        [reply] = fence.within(replies, decided)
        if isinstance(reply, Exception):
            raise reply
        return reply


class Reading:
    """A batch of reads to one server, and to another if that one does not answer."""

    def __init__(self, way: ReplicatedWay, batch: Batch, decided: int) -> None:
        self.shard = way.name
        self._way = way
        self._readers = way.readers
        self._from: ReadFrom = way.terms.read_from
        self._batch = batch
        self._decided = decided
        self._errors: list[tuple[Node, Any]] = []
        self._picked: tuple[Node, Any] | None = None
        self._inner: Any = None
        self._begun = False
        self._error: Exception | None = None
        self._fence = way.fence
        self._fenced_by: ReplicaFence | None = None  # if whoever is asked is a replica under a live topology

    def take_now(self) -> bool:
        """Return whether `take` is done."""
        if not self._way.has_begun or not self._next():
            return False
        return bool(self._inner.take_now()) and first_unfit(self._inner.replies()) is None

    async def take(self) -> None:
        await self._way.begin()
        if self._inner is not None:  # picked already
            if not self._inner.replies():
                await self._inner.take()
            if not await self._was_unfit():
                return
        await self._take()

    def begin(self) -> bool:
        """Send the batch, and return whether `speak` need only finish."""
        if self._inner is None:
            return True
        self._begun = True
        return bool(self._inner.begin())

    async def _take(self) -> None:
        while self._next():
            if not self._inner.take_now():
                await self._inner.take()
            if not await self._was_unfit():
                return

    async def speak(self) -> None:
        while self._inner is not None and self._picked is not None:
            if not self._begun:
                self._inner.begin()
            self._begun = False
            await self._inner.speak()
            if not await self._was_unfit():
                self._readers.worked(*self._picked)
                self._picked = None
                return
            await self._take()

    async def give_back(self) -> None:
        if self._inner is not None:
            await self._inner.give_back()
        if self._picked is not None:
            self._readers.ended(*self._picked, None)
            self._picked = None

    async def awaited_replies(self) -> list[Any]:
        """Return the reply to each command, or an error in its place."""
        if self._inner is None:
            return [self._error] * len(self._batch)
        replies: list[Any] = await self._inner.awaited_replies()
        return replies if self._fenced_by is None else replies[1:-1]

    def _next(self) -> bool:
        """Pick who is asked; False if there is nobody else, which then stands in the place of each reply."""
        self._inner = None
        try:
            self._picked = self._readers.pick(self._from, [node for node, _ in self._errors])
        except NoNodes:
            errors = self._errors
            self._error = nobody_answered(self.shard, errors) if errors else self._readers.down(self._from)
            return False
        node = self._picked[0]
        self._fenced_by = None if node.is_primary else self._fence
        batch = self._batch if self._fenced_by is None else self._fenced_by.around(self._batch)
        # A replica was not greeted: what it has seen comes with its replies.
        decided = self._decided if node.is_primary else 0
        self._inner = node.way.delivery(batch, transaction=False, decided=decided)
        return True

    def _trouble(self) -> Any:
        """Return the error for which another server is asked; None if there is none. Raise Outdated."""
        replies = self._inner.replies()
        error = first_unfit(replies)
        if error is None and replies and self._fenced_by is not None:
            try:
                self._fenced_by.within(replies, self._decided)
            except (ResponseError, StoreRefused, StoreUnavailable) as told:
                return told
        return error

    async def _was_unfit(self) -> bool:
        if self._picked is None or (error := self._trouble()) is None:
            return False
        node, picker = self._picked
        await self._inner.give_back()
        self._inner, self._picked = None, None
        self._readers.ended(node, picker, error if is_its_fault(error) else None)
        self._errors.append((node, error))
        return True


async def _exchanged(delivery: Any) -> list[Any]:
    try:
        if not delivery.take_now():
            await delivery.take()
        delivery.begin()
        await delivery.speak()
    finally:
        await delivery.give_back()
    replies: list[Any] = await delivery.awaited_replies()
    return replies


class Questions:
    """What is asked of the servers of a shard in the background, over connections that are bounded in time."""

    def __init__(self, shard: str, followed: Followed | None) -> None:
        self._shard = shard
        self._followed = followed
        self._clients: dict[Any, redis.Redis] = {}
        self._nodes: dict[tuple[str, int], Node] = {}

    async def infos(self, nodes: Collection[Node]) -> dict[Node, Any]:
        """Return what each answered to INFO replication, or its error; the primary is asked first."""
        first = [node for node in nodes if node.is_primary]
        said = {node: await self._info(node) for node in first}
        others = [node for node in nodes if not node.is_primary]
        said.update(zip(others, await asyncio.gather(*map(self._info, others)), strict=True))
        return said

    async def _info(self, node: Node) -> Any:
        try:
            return await asyncio.wait_for(self._said(self._bounded(node.client)), WITHIN)
        except (ResponseError, asyncio.TimeoutError, *NO_ANSWER) as error:
            return error

    @staticmethod
    async def _said(client: redis.Redis) -> Any:
        await client.ping()
        return await client.info("replication")

    async def replicas(self) -> list[Node] | None:
        """Return the replicas that the first Sentinel to answer knows; None if there is no such."""
        followed = self._followed
        if followed is None:
            return None
        for sentinel in followed.sentinels():
            try:
                known = await asyncio.wait_for(self._bounded(sentinel).sentinel_slaves(followed.service_name), WITHIN)
            except (ResponseError, asyncio.TimeoutError, *NO_ANSWER):
                continue
            return await self._as_nodes(followed, followed.filtered(known))
        return None

    async def _as_nodes(self, followed: Followed, addresses: Sequence[tuple[str, int]]) -> list[Node]:
        gone = self._nodes.keys() - set(addresses)
        for address in set(addresses) - self._nodes.keys():
            client = followed.client_at(address, redis)
            name = f"{address[0]}:{address[1]}"
            self._nodes[address] = Node(name, client, way_of(f"{self._shard} at {name}", client, unbroken()))
        for address in gone:
            node = self._nodes.pop(address)
            await node.way.close()
            await closed(node.client)
        return [self._nodes[address] for address in addresses]

    def _bounded(self, client: Any) -> redis.Redis:
        if client not in self._clients:
            life().closing.add(self)
            pool = client.connection_pool
            kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection, WITHIN)
            made = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
            self._clients[client] = redis.Redis(connection_pool=made)
        return self._clients[client]

    async def close(self) -> None:
        """Close the connections of the probes, and the clients that were made for Sentinel's replicas."""
        for client in list(self._clients.values()):
            await client.connection_pool.disconnect()
        for node in list(self._nodes.values()):
            await node.way.close()
            await closed(node.client)


async def closed(client: Any) -> None:
    """Close a client; redis-py 5.0.0 has no aclose."""
    await (getattr(client, "aclose", None) or client.close)()


def replicated(
    readers: Readers, followed: Followed | None, kind_of: KindOf, fence: ReplicaFence | None
) -> ReplicatedWay:
    """Return the way to a shard with these readers."""
    probes = Probes(readers, Questions(readers.shard, followed), RUNTIME, follows_sentinel=followed is not None)
    return ReplicatedWay(readers, probes, kind_of, Terms(), fence)
