"""`ShardedRedis.pipeline`, asyncio; as `coordkit.routing.client.pipeline`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from redis.commands import AsyncCoreCommands

from coordkit.routing.client.exchange_aio import exchange
from coordkit.routing.client.held import outdated_is_lost
from coordkit.routing.client.held_aio import WatchingQueue
from coordkit.routing.client.script_aio import ShardedScript
from coordkit.routing.ways.batch import Batch, Gathering
from coordkit.routing.ways.errors import without_errors

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class ShardedPipeline(WatchingQueue, AsyncCoreCommands):  # type: ignore[misc]  # as redis-py's, its reset() is no command
    """Commands that are sent together: to all their shards before any reply is read, results in the order of the calls.

    Nothing is sent if one of them cannot be routed. Without ``transaction`` each shard carries out its part on its own;
    with it, all keys must be on one shard, else CrossShardError.
    """

    _is_async_client: Literal[True] = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.reset()

    def register_script(self, script: str | bytes) -> ShardedScript:  # type: ignore[override]  # as in ShardedRedis
        """Return a script that queues itself in this pipeline when it is called."""
        return ShardedScript(self, script)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what is queued, once, and return the replies in the order of the calls.

        The first error is raised, after all replies were read: as in redis-py, with the command's number, if it is a
        ResponseError. If it is a shard's own (no answer, a refusal) and other commands fared otherwise, PartialFailure
        says so: ``.ok`` maps numbers of commands, from 1 on, to replies, ``.failed`` numbers to (shard, error).
        With ``raise_on_error=False`` every error stands in
        the list in its place: ResponseError, StoreRefused, StoreUnavailable for a shard that did not answer,
        PartialFailure. A transaction that the server discarded has its ExecAbortError in the place of each command
        that was not to blame. After `watch`: WatchError if a watched key changed, and nothing was carried out.
        """
        commands, transaction = self.command_stack, self.transaction or self.explicit_transaction
        if not commands and self._held is None:
            return []
        try:
            with outdated_is_lost(self._held):
                gathering = await self._gather(commands)
            if transaction or self._held is not None:
                gathering.check_one_shard(self._watched)
                gathering.decided.update(await self._bring(gathering.keys()))
            else:
                await self._shards._bring_for(gathering)  # noqa: SLF001  its own client's
            if self._held is not None:
                replies = await self._execute_watched(self._held, gathering)
            else:
                sent = await self._exchange(gathering, transaction=transaction)
                replies = list(gathering.settle(sent))
        finally:
            await self.reset()
        return without_errors(commands, replies, gathering.where()) if raise_on_error else replies

    async def _exchange(self, gathering: Gathering, *, transaction: bool) -> dict[str, list[Any]]:
        ways, epoch = self._shards._ways_for(gathering), self._shards._epoch  # noqa: SLF001  its own client's
        return await exchange(ways, gathering, transaction=transaction, decided=epoch)

    async def _gather(self, commands: Batch) -> Gathering:
        gathering, router = Gathering(), self._router
        shards = router.shards_of_first_keys(commands)
        if shards is not None:
            gathering.add_all_simple(shards, commands)
            return gathering
        for command in commands:
            args, options = command
            shard = router.shard_of_first_key(args)
            if shard is not None:
                gathering.add_simple(shard, command)
            else:
                gathering.add(await self._plan(args, options))
        return gathering
