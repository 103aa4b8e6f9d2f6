"""A batch of reads to a shard with replicas, asyncio; as `coordkit.routing.replicas.reading`."""

from __future__ import annotations

from typing import Any

from coordkit.routing.replicas.attempts import Attempts
from coordkit.routing.replicas.terms import first_unfit


class Reading(Attempts):
    """A batch of reads to one server, and to another if that one does not answer."""

    _begun = False

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
                self._worked()
                return
            await self._take()

    async def give_back(self) -> None:
        if self._inner is not None:
            await self._inner.give_back()
        self._let_go()

    async def awaited_replies(self) -> list[Any]:
        """Return the reply to each command, or an error in its place."""
        if self._inner is None:
            return [self._error] * len(self._batch)
        replies: list[Any] = await self._inner.awaited_replies()
        return replies if self._fenced_by is None else replies[1:-1]

    async def _was_unfit(self) -> bool:
        if self._picked is None or (error := self._trouble()) is None:
            return False
        await self._inner.give_back()
        self._failed(error)
        return True
