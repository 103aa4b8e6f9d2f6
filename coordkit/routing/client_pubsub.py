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

import contextlib
import selectors
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.client import PubSubWorkerThread

from coordkit._inbox import AGAIN
from coordkit._ports import Worker
from coordkit._threads.runtime import RUNTIME, now
from coordkit.routing.client_errors import NO_ANSWER, answered
from coordkit.routing.client_pubsub_line import Line, opened
from coordkit.routing.client_subscriptions import (
    Handler,
    Names,
    Orders,
    Subscriptions,
    greeting_of,
    heed,
    is_elsewhere,
    meant,
    pool_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from coordkit.routing.client import ShardedRedis

_LOOK = 0.25  # seconds after which whoever waits looks for connections that were made meanwhile


class ShardedPubSub(Names):
    """What `ShardedRedis.pubsub` returns. Threads may share one; each message goes to one of them. Close it."""

    def __init__(self, shards: ShardedRedis, *, ignore_subscribe_messages: bool = False) -> None:
        self._shards = shards
        self._wanted = Subscriptions(shards.router, shards.get_encoder(), ignore=ignore_subscribe_messages)
        self._lines: dict[str, Line] = {}
        self._came: deque[dict[str, Any] | Exception] = deque()
        self._down: dict[str, bool] = {}  # shards that are tried again; whether the user was told
        self._workers: dict[str, Worker] = {}
        self._guard = threading.RLock()
        self._opening: dict[str, threading.Lock] = {}
        self._reading = threading.Lock()
        self._subscribed = threading.Event()
        self._changed = threading.Event()  # wakes who waits while there is no connection

    @property
    def subscribed(self) -> bool:
        """Whether anything is wanted."""
        return self._subscribed.is_set()

    def subscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear channels, each on its shard; a keyword's value is called with each message of the channel it names.

        Raise ShardDown if a shard cannot be reached; its channels are wanted all the same, and it is tried again.
        """
        self._subscribe("", args, kwargs)

    def psubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear patterns, each on all shards; as `subscribe`."""
        self._subscribe("p", args, kwargs)

    def ssubscribe(self, *args: Any, **kwargs: Handler) -> None:
        """Hear sharded channels (SSUBSCRIBE, Redis 7), each on its shard; as `subscribe`."""
        self._subscribe("s", args, kwargs)

    def unsubscribe(self, *args: Any) -> None:
        """Hear these channels no more; none named: no channel."""
        self._unsubscribe("", args)

    def punsubscribe(self, *args: Any) -> None:
        """Hear these patterns no more; none named: no pattern."""
        self._unsubscribe("p", args)

    def sunsubscribe(self, *args: Any) -> None:
        """Hear these sharded channels no more; none named: none."""
        self._unsubscribe("s", args)

    def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None:
        """Return the next message of any shard; None if none came in ``timeout`` seconds (None: wait for ever).

        None, too, for a message that a handler was called with. Raise ShardDown once for each time that a shard is away
        and StoreRefused for what a server does not let be heard; what comes after is heard all the same.
        """
        deadline = None if timeout is None else now() + timeout
        if not self.subscribed and not self._came and not self._subscribed.wait(timeout):
            return None
        while True:
            left = _LOOK if deadline is None else deadline - now()
            if self._reading.acquire(timeout=min(max(left, 0.0), _LOOK)):
                try:
                    if not self._came:
                        self._read(min(max(left, 0.0), _LOOK))
                finally:
                    self._reading.release()
            try:
                came = self._came.popleft()
            except IndexError:
                if left <= 0:
                    return None
                continue
            if isinstance(came, Exception):
                raise came
            message, handler = self._wanted.deliver(came, ignore=ignore_subscribe_messages)
            if handler is None:
                return message
            handler(came)
            return None

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield messages for as long as anything is wanted; raise as `get_message`, and may be called anew then."""
        while self.subscribed or self._came:
            if (message := self.get_message(timeout=1.0)) is not None:
                yield message

    def run_in_thread(
        self, sleep_time: float = 0.0, daemon: bool = False, exception_handler: Any = None
    ) -> PubSubWorkerThread:
        """Call the handlers in a thread, which is returned; its ``stop()`` ends it and closes this. As redis-py's."""
        self._wanted.check_handlers()
        this: Any = self  # redis-py's annotation knows its own alone
        thread = PubSubWorkerThread(this, sleep_time, daemon=daemon, exception_handler=exception_handler)
        thread.start()
        return thread

    def close(self) -> None:
        """Forget everything and close the connections."""
        with self._guard:
            self._wanted = Subscriptions(self._shards.router, self._shards.get_encoder(), ignore=False)
            for shard in list(self._lines):
                self._hang_up(shard)
            self._down.clear()
            self._came.clear()
            self._subscribed.clear()

    reset = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is wanted

    def _subscribe(self, kind: str, args: tuple[Any, ...], handlers: dict[str, Handler]) -> None:
        with self._guard:
            orders = self._wanted.subscribe(kind, args, handlers)
            self._subscribed.set()
            missing = self._order(orders)
        failed: list[Exception] = []
        for shard in missing:
            try:
                self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                failed.append(meant(shard, error))
                self._try_later(shard, told=True)
        if failed:
            raise failed[0]

    def _unsubscribe(self, kind: str, args: tuple[Any, ...]) -> None:
        with self._guard:
            orders, at_once = self._wanted.unsubscribe(kind, args)
            self._came += at_once
            self._order(orders)
            self._settle()

    def _order(self, orders: Orders) -> list[str]:
        """Send orders where there is a connection; return the shards where there is none, which come to know later."""
        for shard in set(orders) & set(self._lines):
            self._send(shard, orders[shard])
        return [shard for shard in orders if shard not in self._lines]

    def _settle(self) -> None:
        """Close what nothing is wanted of any more; follow a shard to another server."""
        for shard, line in list(self._lines.items()):
            if self._wanted.is_idle(shard):
                self._hang_up(shard)
            elif is_elsewhere(self._shards, shard, line.pool):
                self._broken(shard)
        if not self._wanted:
            self._down.clear()
            self._subscribed.clear()

    # -- connections

    def _open(self, shard: str) -> None:
        with self._opening.setdefault(shard, threading.Lock()):
            if shard in self._lines:
                return
            line = opened(shard, pool_of(self._shards, shard))
            with self._guard:
                self._down.pop(shard, None)
                self._lines[shard] = line
                greeting = greeting_of(self._shards)
                line.owed = len(greeting)
                self._send(shard, [*greeting, *self._wanted.opened(shard)])
                self._settle()  # perhaps it is not wanted any more
            self._changed.set()

    def _send(self, shard: str, commands: list[tuple[Any, ...]]) -> None:
        try:
            self._lines[shard].order(commands)
        except NO_ANSWER:
            self._broken(shard)

    def _hang_up(self, shard: str) -> None:
        line = self._lines.pop(shard)
        self._came += self._wanted.closed(shard)
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()

    def _broken(self, shard: str) -> None:
        """Make a lost connection anew, in the background: whoever waits hears the other shards meanwhile."""
        with self._guard:
            if shard in self._lines:
                self._hang_up(shard)
                if shard in self._wanted.shards():
                    self._down[shard] = False
                    self._worker(shard).poke()

    def _try_later(self, shard: str, *, told: bool) -> None:
        self._down[shard] = told
        RUNTIME.call_at(now() + AGAIN, self._worker(shard).poke)

    def _worker(self, shard: str) -> Worker:
        async def work() -> None:
            with self._guard:
                if shard not in self._down or shard not in self._wanted.shards():
                    self._down.pop(shard, None)
                    return
            try:
                self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                with self._guard:
                    if not self._down.get(shard, True):
                        self._came.append(meant(shard, error))
                        self._changed.set()
                    if shard in self._down:
                        self._try_later(shard, told=True)

        return self._workers.get(shard) or self._workers.setdefault(shard, RUNTIME.worker(work))

    # -- reading

    def _read(self, seconds: float) -> None:
        """Take what comes within some seconds, from whichever shard."""
        with self._guard:
            for shard in self._order(self._wanted.follow()):
                self._down.setdefault(shard, False)
                self._worker(shard).poke()
            self._settle()
            lines = dict(self._lines)
        with selectors.DefaultSelector() as selector:
            for shard, line in lines.items():
                if self._took(shard, line):  # what TLS has read already makes no socket readable
                    seconds = 0
                with contextlib.suppress(ValueError):  # it was closed meanwhile
                    selector.register(line.sock, selectors.EVENT_READ, (shard, line))
            if not lines:
                self._changed.clear()
                self._changed.wait(seconds)
            elif seconds > 0:
                for key, _ in selector.select(seconds):
                    self._took(*key.data)

    def _took(self, shard: str, line: Line) -> bool:
        try:
            replies = line.came()
        except NO_ANSWER:
            if self._lines.get(shard) is line:
                self._broken(shard)
            return True
        with self._guard:
            for reply in replies:
                if line.owed:
                    line.owed -= 1
                    heed(self._shards, reply)
                elif isinstance(reply, exceptions.ResponseError):
                    self._order(self._wanted.refused(shard))
                    self._came.append(answered(shard, reply))
                elif (message := self._wanted.heard(shard, reply)) is not None:
                    self._came.append(message)
            if replies:
                self._settle()
        return bool(replies)
