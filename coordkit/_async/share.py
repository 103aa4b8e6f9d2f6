"""Share of work for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from coordkit._async.lost import Lost
from coordkit.core import share
from coordkit.core.claim import Claim
from coordkit.core.share import Owner
from coordkit.core.token import Token


class Partition:
    """One partition that is this member's to work on, until ``ending``. Made by ``Share.run``, never by hand."""

    __slots__ = ("_core", "ending", "lost")

    def __init__(self, core: Claim) -> None:
        self._core = core
        self.ending = Lost(core.ending)
        self.lost = Lost(core.lost)

    @property
    def key(self) -> str:
        """Which of the partitions it is."""
        return self._core.partition

    @property
    def token(self) -> Token:
        """The fencing token: the zxid of claiming it, greater than that of every earlier owner of this partition."""
        return self._core.the_token()

    @property
    def epoch(self) -> int:
        """The zxid of the list of members by which it was given out; it rises with every list."""
        return self._core.epoch

    def remaining(self) -> float:
        """Return the seconds for which the last answered write proves that it is ours; 0.0 once it is lost."""
        return self._core.remaining()

    def ensure(self) -> Literal[True]:
        """Return True if it is ours, without asking the servers; raise ``LeaseLost`` if it may not be."""
        return self._core.ensure()

    def __repr__(self) -> str:
        return f"<Partition {self.key!r} token={self.token} remaining={self.remaining():.1f}s>"


class Share:
    """One member's part in the work on a list of partitions. Made by ``Group.share``."""

    def __init__(self, core: share.Share) -> None:
        self._core = core

    async def run(self, serve: Callable[[Partition], Awaitable[object]]) -> None:
        """Join the group, and call ``serve(partition)`` for each partition that is ours, each in a task of its own.

        When a partition is to be another's, or was lost, its ``ending`` is set and its task is cancelled, once; only
        when that has ended, or our session has, does another begin. A ``serve`` that returns by itself keeps its
        partition, idle, until that moves.

        Goes on through outages and new sessions until ``stop()`` or cancellation; then ends when all has ended and was
        given back. Raises what a ``serve`` raised, ``LeaseLost`` if a newer incarnation has the identity,
        ``StoreUnavailable`` if joining got no answer or the client was stopped, ``StoreRefused`` for a no; each after
        all work has ended.
        """
        if not (inspect.iscoroutinefunction(serve) or inspect.iscoroutinefunction(getattr(serve, "__call__", None))):  # noqa: B004  its kind is asked for
            raise TypeError(f"serve must be a coroutine function, got {serve!r}")

        async def work(claim: Claim) -> None:
            await serve(Partition(claim))

        def begin(claim: Claim) -> None:
            def ended(task: asyncio.Task[None]) -> None:
                tasks.discard(task)
                claim.end(None if task.cancelled() else task.exception())

            task = asyncio.get_running_loop().create_task(work(claim), name=f"coordkit-{claim.partition}")
            tasks.add(task)
            task.add_done_callback(ended)
            claim.ending.call_when_set(lambda: _cancel(task))

        tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
        await self._core.run(begin)

    def stop(self) -> None:
        """Have the ``run`` in progress end all work, give it back, leave the group, and return."""
        self._core.stop()

    def held(self) -> dict[str, Partition]:
        """Return what is worked on here, now, by key; nothing is asked."""
        return {claim.partition: Partition(claim) for claim in self._core.held()}

    async def owners(self) -> dict[str, Owner]:
        """Return who works on what, with the token, by key; two round trips. Raises ``StoreUnavailable``.

        Partitions that change hands are missing. Who crashed is shown until its session has ended.
        """
        return await self._core.owners()

    def __repr__(self) -> str:
        return f"<Share of {self._core.path} identity={self._core.identity!r}>"


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel("the partition is another's now, or the work on it is over")
