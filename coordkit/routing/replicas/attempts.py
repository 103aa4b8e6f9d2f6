"""Who is asked for a batch of reads of a shard with replicas, and who next: all of it but the I/O."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable
from coordkit.routing.replicas.fence import ReplicaFence
from coordkit.routing.replicas.probes import Probes
from coordkit.routing.replicas.readers import Node, Readers, ReadFrom
from coordkit.routing.replicas.terms import first_unfit, is_its_fault, nobody_answered
from coordkit.routing.ways.batch import Batch


class Attempts:
    """A batch of reads to one server, and to another if that one does not answer."""

    def __init__(
        self,
        batch: Batch,
        decided: int,
        *,
        readers: Readers,
        probes: Probes,
        read_from: ReadFrom,
        fence: ReplicaFence | None,
    ) -> None:
        self.shard = readers.shard
        self._readers = readers
        self._probes = probes
        self._from: ReadFrom = read_from
        self._batch = batch
        self._decided = decided
        self._errors: list[tuple[Node, Any]] = []
        self._picked: tuple[Node, Any] | None = None
        self._inner: Any = None
        self._error: Exception | None = None
        self._fence = fence
        self._fenced_by: ReplicaFence | None = None  # if whoever is asked is a replica under a live topology

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

    def _worked(self) -> None:
        """Take note that whoever was asked did well."""
        if self._picked is not None:
            self._readers.worked(*self._picked)
            self._picked = None

    def _failed(self, error: Any) -> None:
        """Take note that whoever was asked did not, so that another is asked."""
        if self._picked is not None:
            node, picker = self._picked
            self._readers.ended(node, picker, error if is_its_fault(error) else None)
            self._errors.append((node, error))
        self._inner = self._picked = None

    def _let_go(self) -> None:
        """Take note that nobody waits for whoever was asked any more."""
        if self._picked is not None:
            self._readers.ended(*self._picked, None)
            self._picked = None
