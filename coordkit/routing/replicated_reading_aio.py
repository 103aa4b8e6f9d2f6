"""A batch of reads to a shard with replicas, asyncio; as `coordkit.routing.replicated_reading`."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from coordkit.errors import NoNodes, StoreRefused, StoreUnavailable
from coordkit.routing.client_batch import Batch
from coordkit.routing.probes import Probes
from coordkit.routing.readers import Node, Readers, ReadFrom
from coordkit.routing.replica_fence import ReplicaFence
from coordkit.routing.replication import first_unfit, is_its_fault, nobody_answered


class Reading:
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
        self._begun = False
        self._error: Exception | None = None
        self._fence = fence
        self._fenced_by: ReplicaFence | None = None  # if whoever is asked is a replica under a live topology

    def take_now(self) -> bool:
        """Return whether `take` is done."""
        if not self._probes.begun or not self._next():
            return False
        return bool(self._inner.take_now()) and first_unfit(self._inner.replies()) is None

    async def take(self) -> None:
        if not self._probes.begun:
            await self._probes.begin()
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
