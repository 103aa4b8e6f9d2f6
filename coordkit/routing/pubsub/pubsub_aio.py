"""Publish and subscribe over many shards, asyncio: as `coordkit.routing.pubsub.pubsub`, which says what is promised.

Each connection is read by a task of its own; ``run()`` stands where the blocking flavour has ``run_in_thread()``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from coordkit.routing.directory.shards import Directory
from coordkit.routing.pubsub.lines_aio import PubSubLines
from coordkit.routing.pubsub.subscriptions import Handler, Names

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class ShardedPubSub(Names[PubSubLines]):
    """What `ShardedRedis.pubsub` returns. Tasks of one event loop may share one; each message goes to one. Close it."""

    def __init__(self, shards: Directory[Any], *, ignore_subscribe_messages: bool = False) -> None:
        super().__init__(PubSubLines(shards, ignore=ignore_subscribe_messages))

    @property
    def subscribed(self) -> bool:
        """Whether anything is wanted."""
        return bool(self._lines.wanted)

    async def subscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear channels, each on its shard; a keyword's value is called with each message of the channel it names.

        Raise ShardDown if a shard cannot be reached; its channels are wanted all the same, and it is tried again.
        """
        await self._lines.subscribe("", args, kwargs)

    async def psubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear patterns, each on all shards; as `subscribe`."""
        await self._lines.subscribe("p", args, kwargs)

    async def ssubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear sharded channels (SSUBSCRIBE, Redis 7), each on its shard; as `subscribe`."""
        await self._lines.subscribe("s", args, kwargs)

    async def unsubscribe(self, *args: Any) -> None:
        """Hear these channels no more; none named: no channel."""
        await self._lines.unsubscribe("", args)

    async def punsubscribe(self, *args: Any) -> None:
        """Hear these patterns no more; none named: no pattern."""
        await self._lines.unsubscribe("p", args)

    async def sunsubscribe(self, *args: Any) -> None:
        """Hear these sharded channels no more; none named: none."""
        await self._lines.unsubscribe("s", args)

    async def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None:
        """Return the next message of any shard; None if none came in ``timeout`` seconds (None: wait for ever).

        None, too, for a message that a handler was called with. Raise ShardDown once for each time that a shard is away
        and StoreRefused for what a server does not let be heard; what comes after is heard all the same.
        """
        came = await self._lines.next(timeout)
        if came is None:
            return None
        if isinstance(came, Exception):
            raise came
        message, handler = self._lines.wanted.deliver(came, ignore=ignore_subscribe_messages)
        if handler is None:
            return message
        answer = handler(came)
        if inspect.isawaitable(answer):
            await answer
        return None

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages for as long as anything is wanted; raise as `get_message`, and may be called anew then."""
        while self.subscribed or self._lines.came:
            if (message := await self.get_message(timeout=1.0)) is not None:
                yield message

    async def run(self, *, exception_handler: Any = None, poll_timeout: float = 1.0) -> None:
        """Call the handlers until this is cancelled. As redis-py's."""
        self._lines.wanted.check_handlers()
        while True:
            try:
                await self.get_message(ignore_subscribe_messages=True, timeout=poll_timeout)
            except Exception as error:
                if exception_handler is None:
                    raise
                answer = exception_handler(error, self)
                if inspect.isawaitable(answer):
                    await answer
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Forget everything and close the connections."""
        await self._lines.close()

    close = reset = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
