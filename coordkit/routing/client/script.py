"""`ShardedRedis.register_script`, blocking; and what a script is in both flavours: its words, and its SHA-1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from coordkit.routing.client.queue import Queue

if TYPE_CHECKING:
    from coordkit.routing.client.client import ShardedRedis
    from coordkit.routing.client.pipeline import ShardedPipeline


class Script:
    """A Lua script and the words of a call of it; its SHA-1 is worked out here, so nothing is loaded in advance."""

    def __init__(self, registered_client: Any, script: str | bytes) -> None:
        self.registered_client = registered_client
        self.script: Any = script  # redis-py's eval() is annotated for str alone, and takes bytes
        encoded: bytes = registered_client.get_encoder().encode(script)
        self.sha = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()

    def _words(self, keys: Sequence[Any] | None, args: Iterable[Any] | None) -> tuple[Any, ...]:
        return (len(keys or ()), *(keys or ()), *(args or ()))

    @staticmethod
    def _is_queued_in(target: Any) -> bool:
        return isinstance(target, Queue)


class ShardedScript(Script):
    """A Lua script that runs on the shard of its keys, as redis-py's Script does on its one server."""

    def __call__(
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
            return target.evalsha(self.sha, *words)
        except NoScriptError:
            return target.eval(self.script, *words)  # loads it as well, on this shard alone
