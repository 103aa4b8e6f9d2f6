"""`ShardedRedis.register_script`, asyncio; as `coordkit.routing.client.script`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from coordkit.routing.client.script import Script

if TYPE_CHECKING:
    from coordkit.routing.client.client_aio import ShardedRedis
    from coordkit.routing.client.pipeline_aio import ShardedPipeline


class ShardedScript(Script):
    """A Lua script that runs on the shard of its keys, as redis-py's Script does on its one server."""

    async def __call__(
        self,
        keys: Sequence[Any] | None = None,
        args: Iterable[Any] | None = None,
        client: ShardedRedis | ShardedPipeline | None = None,
    ) -> Any:
        """Run it, or queue it in a pipeline given as ``client``; at least one key is needed, and all on one shard."""
        target: Any = self.registered_client if client is None else client
        words = self._words(keys, args)
        if self._is_queued_in(target):  # where "not loaded" would be known too late
            return target.eval(self.script, *words)
        try:
            return await target.evalsha(self.sha, *words)
        except NoScriptError:
            return await target.eval(self.script, *words)  # loads it as well, on this shard alone
