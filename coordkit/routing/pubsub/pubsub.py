"""Publish and subscribe over many shards, blocking: one connection to each shard that something is heard on.

It is used as `redis.client.PubSub` is. What is different:

- A channel is heard on the shard that owns its name, a pattern on all; `publish` goes to the channel's shard.
- A lost connection is made anew in the background, by the recipe of the shard's client, and told by ``subscribe``
  messages, since what was published meanwhile is lost. If that fails, `get_message` raises ShardDown once, and the
  other shards are heard on; the shard is tried again each second.
- What a server refuses (NOPERM) is raised by `get_message`, when the answer comes, and not wanted any more.
- A placement that is swapped is followed: names are heard where they lie now. Over a live topology what is published
  between the move of a channel's slot and the ``subscribe`` message from its new owner is lost, as with a lost
  connection: some milliseconds where the topology's store is reachable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redis.client import PubSubWorkerThread

from coordkit._threads.runtime import now
from coordkit.routing.directory.shards import Directory
from coordkit.routing.pubsub.lines import LOOK, PubSubLines
from coordkit.routing.pubsub.subscriptions import Handler, Names

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class ShardedPubSub(Names[PubSubLines]):
    """What `ShardedRedis.pubsub` returns. Threads may share one; each message goes to one of them. Close it."""

    def __init__(self, shards: Directory[Any], *, ignore_subscribe_messages: bool = False) -> None:
        super().__init__(PubSubLines(shards, ignore=ignore_subscribe_messages))
        self._reading = threading.Lock()

    @property
    def subscribed(self) -> bool:
        """Whether anything is wanted."""
        return self._lines.subscribed.is_set()

    def subscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear channels, each on its shard; a keyword's value is called with each message of the channel it names.

        Raise ShardDown if a shard cannot be reached; its channels are wanted all the same, and it is tried again.
        """
        self._lines.subscribe("", args, kwargs)

    def psubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear patterns, each on all shards; as `subscribe`."""
        self._lines.subscribe("p", args, kwargs)

    def ssubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear sharded channels (SSUBSCRIBE, Redis 7), each on its shard; as `subscribe`."""
        self._lines.subscribe("s", args, kwargs)

    def unsubscribe(self, *args: Any) -> None:
        """Hear these channels no more; none named: no channel."""
        self._lines.unsubscribe("", args)

    def punsubscribe(self, *args: Any) -> None:
        """Hear these patterns no more; none named: no pattern."""
        self._lines.unsubscribe("p", args)

    def sunsubscribe(self, *args: Any) -> None:
        """Hear these sharded channels no more; none named: none."""
        self._lines.unsubscribe("s", args)

    def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None:
        """Return the next message of any shard; None if none came in ``timeout`` seconds (None: wait for ever).

        None, too, for a message that a handler was called with. Raise ShardDown once for each time that a shard is away
        and StoreRefused for what a server does not let be heard; what comes after is heard all the same.
        """
        deadline = None if timeout is None else now() + timeout
        lines = self._lines
        if not self.subscribed and not lines.came and not lines.subscribed.wait(timeout):
            return None
        while True:
            left = LOOK if deadline is None else deadline - now()
            if self._reading.acquire(timeout=min(max(left, 0.0), LOOK)):
                try:
                    if not lines.came:
                        lines.read(min(max(left, 0.0), LOOK))
                finally:
                    self._reading.release()
            try:
                came = lines.came.popleft()
            except IndexError:
                if left <= 0:
                    return None
                continue
            if isinstance(came, Exception):
                raise came
            message, handler = self._lines.wanted.deliver(came, ignore=ignore_subscribe_messages)
            if handler is None:
                return message
            handler(came)
            return None

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield messages for as long as anything is wanted; raise as `get_message`, and may be called anew then."""
        while self.subscribed or self._lines.came:
            if (message := self.get_message(timeout=1.0)) is not None:
                yield message

    def run_in_thread(
        self, sleep_time: float = 0.0, daemon: bool = False, exception_handler: Any = None
    ) -> PubSubWorkerThread:
        """Call the handlers in a thread, which is returned; its ``stop()`` ends it and closes this. As redis-py's."""
        self._lines.wanted.check_handlers()
        this: Any = self  # redis-py's annotation knows its own alone
        thread = PubSubWorkerThread(this, sleep_time, daemon=daemon, exception_handler=exception_handler)
        thread.start()
        return thread

    def close(self) -> None:
        """Forget everything and close the connections."""
        self._lines.close()

    reset = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
