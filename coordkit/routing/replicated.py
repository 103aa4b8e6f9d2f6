"""The way to a shard with replicas, blocking: who is written to, who is read from, and what is looked at meanwhile.

`coordkit.routing.replication` says what goes where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from coordkit import _redis
from coordkit._run import run
from coordkit._threads.runtime import RUNTIME, not_in_a_forked_child
from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable
from coordkit.routing.client_batch import Batch, Delivery
from coordkit.routing.client_errors import NO_ANSWER
from coordkit.routing.probes import WITHIN, Probes
from coordkit.routing.readers import Node, Readers, ReadFrom
from coordkit.routing.reads import READ, WRITE
from coordkit.routing.replica_fence import ReplicaFence
from coordkit.routing.replication import Terms, first_unfit, is_its_fault, is_unfit, nobody_answered, unbroken
from coordkit.routing.sentinels import Followed
from coordkit.routing.way import Way
from coordkit.routing.way_between import asked_between
from coordkit.routing.way_pool import PoolSending, PoolWay, way_of
from coordkit.routing.way_sending import Sending

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

    def execute(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int = 0) -> Any:
        """Send one command; raise what `Way.execute` does, and TooFewReplicas."""
        kind, terms = self._kind_of(args), self.terms
        if kind is READ and terms.read_from != "primary":
            return self._read(args, options, decided)
        if kind is WRITE and terms.min_replicas:
            [reply] = _exchanged(self.delivery([(args, dict(options))], transaction=False, decided=decided))
            if isinstance(reply, Exception):
                raise reply
            return reply
        return self.primary.execute(args, options, decided)

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending | PoolSending | Reading:
        """Return what sends a batch to one server of the shard and reads the replies."""
        kinds = [self._kind_of(args) for args, _ in batch]
        if self.terms.read_from != "primary" and not transaction and all(kind is READ for kind in kinds):
            self.begin()
            return Reading(self, batch, decided)
        delivery = self.primary.delivery(batch, transaction=transaction, decided=decided)
        self.confirm(delivery, batch)
        return delivery

    def confirm(self, delivery: Delivery, batch: Batch) -> None:
        """Have a batch that goes over a connection of its own wait for its copies as well, if it writes."""
        if copying := self.terms.copying([self._kind_of(args) for args, _ in batch]):
            delivery.wait_for(copying)

    def begin(self) -> None:
        """Have the replicas looked at from the first read on."""
        if not self._probes.begun:
            run(self._probes.begin())

    def close(self) -> None:
        """Look at the replicas no more, and close what is idle; the way can still be used."""
        run(self._probes.close())
        for node in (self.readers.primary, *self.readers.replicas):
            node.way.close()

    def _read(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int) -> Any:
        self.begin()
        readers, errors = self.readers, list[tuple[Node, Any]]()
        while True:
            try:
                node, picker = readers.pick(self.terms.read_from, [node for node, _ in errors])
            except NoNodes:
                raise nobody_answered(self.name, errors) if errors else readers.down(self.terms.read_from) from None
            way, before, began = node.way, node.way.connected, readers.clock()
            try:
                if self.fence is None or node.is_primary:
                    reply = way.execute(args, options, decided)
                else:
                    reply = self._fenced(self.fence, way, args, options, decided)
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
    def _fenced(fence: ReplicaFence, way: Any, args: tuple[Any, ...], options: Mapping[str, Any], decided: int) -> Any:
        if isinstance(way, Way) and "NEVER_DECODE" not in options:
            first, last = fence.packed(way.packed)
            replies: Sequence[Any] = asked_between(way, first, args, options, last)
        else:
            replies = _exchanged(way.delivery(fence.around([(args, dict(options))]), transaction=False))
        [reply] = fence.within(replies, decided)
        if isinstance(reply, Exception):
            raise reply
        return reply


class Reading:
    """A batch of reads to one server, and to another if that one does not answer."""

    def __init__(self, way: ReplicatedWay, batch: Batch, decided: int) -> None:
        self.shard = way.name
        self._readers = way.readers
        self._from: ReadFrom = way.terms.read_from
        self._batch = batch
        self._decided = decided
        self._errors: list[tuple[Node, Any]] = []
        self._picked: tuple[Node, Any] | None = None
        self._inner: Any = None
        self._error: Exception | None = None
        self._fence = way.fence
        self._fenced_by: ReplicaFence | None = None  # if whoever is asked is a replica under a live topology

    def take(self) -> None:
        while self._next():
            self._inner.take()
            if not self._was_unfit():
                return

    def send(self) -> None:
        if self._inner is not None:
            self._inner.send()

    def read(self, began: float = math.inf) -> None:
        while self._inner is not None:
            self._inner.read(began)
            if not self._was_unfit():
                node, picker = self._picked or (None, None)
                if node is not None:
                    self._readers.worked(node, picker)
                self._picked = None
                return
            began = math.inf  # the next has its own time
            self.take()
            self.send()

    def give_back(self) -> None:
        if self._inner is not None:
            self._inner.give_back()
        if self._picked is not None:
            self._readers.ended(*self._picked, None)
            self._picked = None

    def replies(self) -> list[Any]:
        """Return the reply to each command, or an error in its place."""
        if self._inner is None:
            return [self._error] * len(self._batch)
        replies: list[Any] = self._inner.replies()
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

    def _was_unfit(self) -> bool:
        if self._picked is None or (error := self._trouble()) is None:
            return False
        node, picker = self._picked
        self._inner.give_back()
        self._inner, self._picked = None, None
        self._readers.ended(node, picker, error if is_its_fault(error) else None)
        self._errors.append((node, error))
        return True


def _exchanged(delivery: Any) -> list[Any]:
    try:
        delivery.take()
        delivery.send()
        delivery.read()
    finally:
        delivery.give_back()
    replies: list[Any] = delivery.replies()
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
        said: dict[Node, Any] = {}
        for node in sorted(nodes, key=lambda node: not node.is_primary):
            client = self._bounded(node.client)
            try:
                client.ping()
                said[node] = client.info("replication")
            except (ResponseError, *NO_ANSWER) as error:
                said[node] = error
        return said

    async def replicas(self) -> list[Node] | None:
        """Return the replicas that the first Sentinel to answer knows; None if there is no such."""
        followed = self._followed
        if followed is None:
            return None
        for sentinel in followed.sentinels():
            try:
                known = self._bounded(sentinel).sentinel_slaves(followed.service_name)
            except (ResponseError, *NO_ANSWER):
                continue
            return self._as_nodes(followed, followed.filtered(known))
        return None

    def _as_nodes(self, followed: Followed, addresses: Sequence[tuple[str, int]]) -> list[Node]:
        gone = self._nodes.keys() - set(addresses)
        for address in set(addresses) - self._nodes.keys():
            client = followed.client_at(address, redis)
            name = f"{address[0]}:{address[1]}"
            self._nodes[address] = Node(name, client, way_of(f"{self._shard} at {name}", client, unbroken()))
        for address in gone:
            node = self._nodes.pop(address)
            node.way.close()
            node.client.close()
        return [self._nodes[address] for address in addresses]

    def _bounded(self, client: Any) -> redis.Redis:
        if client not in self._clients:
            pool = client.connection_pool
            kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection, WITHIN)
            made = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
            self._clients[client] = redis.Redis(connection_pool=made)
        return self._clients[client]

    async def close(self) -> None:
        """Close the connections of the probes, and the clients that were made for Sentinel's replicas."""
        for client in list(self._clients.values()):
            client.connection_pool.disconnect()
        for node in list(self._nodes.values()):
            node.way.close()
            node.client.close()


def replicated(
    readers: Readers, followed: Followed | None, kind_of: KindOf, fence: ReplicaFence | None
) -> ReplicatedWay:
    """Return the way to a shard with these readers."""
    probes = Probes(readers, Questions(readers.shard, followed), RUNTIME, follows_sentinel=followed is not None)
    not_in_a_forked_child(probes)
    return ReplicatedWay(readers, probes, kind_of, Terms(), fence)
