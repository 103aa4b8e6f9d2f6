"""The way to a shard with replicas, blocking: who is written to, who is read from, and what is looked at meanwhile.

`coordkit.routing.replicas.terms` says what goes where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME, not_in_a_forked_child
from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable
from coordkit.routing.commands.reads import READ, WRITE
from coordkit.routing.replicas.fence import ReplicaFence
from coordkit.routing.replicas.probes import Probes
from coordkit.routing.replicas.questions import Questions
from coordkit.routing.replicas.readers import Node, Readers
from coordkit.routing.replicas.reading import Reading
from coordkit.routing.replicas.sentinels import Followed
from coordkit.routing.replicas.terms import Terms, is_its_fault, is_unfit, nobody_answered
from coordkit.routing.ways.batch import Batch, Delivery
from coordkit.routing.ways.between import asked_between
from coordkit.routing.ways.pool import PoolSending, PoolWay
from coordkit.routing.ways.sending import Sending, exchanged
from coordkit.routing.ways.way import Way

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
            [reply] = exchanged(self.delivery([(args, dict(options))], transaction=False, decided=decided))
            if isinstance(reply, Exception):
                raise reply
            return reply
        return self.primary.execute(args, options, decided)

    def delivery(self, batch: Batch, *, transaction: bool, decided: int = 0) -> Sending | PoolSending | Reading:
        """Return what sends a batch to one server of the shard and reads the replies."""
        kinds = [self._kind_of(args) for args, _ in batch]
        if self.terms.read_from != "primary" and not transaction and all(kind is READ for kind in kinds):
            return Reading(
                batch,
                decided,
                readers=self.readers,
                probes=self._probes,
                read_from=self.terms.read_from,
                fence=self.fence,
            )
        delivery = self.primary.delivery(batch, transaction=transaction, decided=decided)
        self.confirm(delivery, batch)
        return delivery

    def confirm(self, delivery: Delivery, batch: Batch) -> None:
        """Have a batch that goes over a connection of its own wait for its copies as well, if it writes."""
        if copying := self.terms.copying([self._kind_of(args) for args, _ in batch]):
            delivery.wait_for(copying)

    def close(self) -> None:
        """Look at the replicas no more, and close what is idle; the way can still be used."""
        run(self._probes.close())
        for node in (self.readers.primary, *self.readers.replicas):
            node.way.close()

    def _read(self, args: tuple[Any, ...], options: Mapping[str, Any], decided: int) -> Any:
        if not self._probes.begun:  # the replicas are looked at from the first read on
            run(self._probes.begin())
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
            replies = exchanged(way.delivery(fence.around([(args, dict(options))]), transaction=False))
        [reply] = fence.within(replies, decided)
        if isinstance(reply, Exception):
            raise reply
        return reply


def replicated(
    readers: Readers, followed: Followed | None, kind_of: KindOf, fence: ReplicaFence | None
) -> ReplicatedWay:
    """Return the way to a shard with these readers."""
    probes = Probes(readers, Questions(readers.shard, followed), RUNTIME, follows_sentinel=followed is not None)
    not_in_a_forked_child(probes)
    return ReplicatedWay(readers, probes, kind_of, Terms(), fence)
