"""The queue of a pipeline and the words of a script: what both flavours' have in common, without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from coordkit.routing.client_batch import Command
from coordkit.routing.client_shards import Directory
from coordkit.routing.router import Router

P = TypeVar("P")


class Queue(Generic[P]):
    """The commands that a pipeline will send. ``plan`` says what is done with one, and returns a Plan or awaits it."""

    _event_dispatcher: Any = None  # redis-py 7's mixins declare it, its own clients alone use it

    def __init__(
        self, shards: Directory[Any], router: Router, plan: Callable[..., P], *, transaction: bool = False
    ) -> None:
        self._shards = shards
        self._router = router
        self._plan = plan
        self.transaction = transaction
        self.command_stack: list[Command] = []

    def __len__(self) -> int:
        return len(self.command_stack)

    def __bool__(self) -> bool:
        return True  # as redis-py's, and not the truth of its length

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command; return the pipeline, so that calls can be chained."""
        self.command_stack.append((args, options))
        return self

    def reset(self) -> None:
        """Forget the queued commands. (As redis-py's own Pipeline does, it hides the command RESET.)"""
        self.command_stack = []

    def watch(self, *names: Any) -> Any:
        """Refuse: WATCH belongs to one connection, ``client_for(key).pipeline()``."""
        self._shards.watch(*names)

    def unwatch(self) -> Any:
        """Refuse, as `watch` does."""
        self._shards.unwatch()

    def get_encoder(self) -> Any:
        """Return the encoder of the clients, as redis.Redis does."""
        return self._shards.get_encoder()

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return what `ShardedRedis.get_connection_kwargs` does."""
        return self._shards.get_connection_kwargs()


class Script:
    """A Lua script and the words of a call of it; its SHA-1 is worked out here, so nothing is loaded in advance."""

    def __init__(self, registered_client: Any, script: str | bytes) -> None:
        self.registered_client = registered_client
        self.script: Any = script  # redis-py's eval() is annotated for str alone, and takes bytes
        encoded: bytes = registered_client.get_encoder().encode(script)
        self.sha = hashlib.sha1(encoded, usedforsecurity=False).hexdigest()

    def _words(self, keys: Sequence[Any] | None, args: Iterable[Any] | None) -> tuple[Any, ...]:
        return (len(keys or ()), *(keys or ()), *(args or ()))
