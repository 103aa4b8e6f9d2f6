"""The subscribed connections of a `ShardedPubSub`, blocking: one to each shard that something is heard on.

Whoever waits for a message reads all of them; what is lost is made anew by a worker in the background.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
from collections import deque
from typing import Any

from redis import exceptions

from coordkit._inbox import AGAIN
from coordkit._ports import Worker
from coordkit._threads.runtime import RUNTIME, now
from coordkit.routing.directory.shards import Directory
from coordkit.routing.pubsub.line import Line, opened
from coordkit.routing.pubsub.subscriptions import (
    Handler,
    Orders,
    Subscriptions,
    greeting_of,
    heed,
    is_elsewhere,
    meant,
    pool_of,
)
from coordkit.routing.ways.errors import NO_ANSWER, answered

LOOK = 0.25
"""Seconds after which whoever waits looks for connections that were made meanwhile."""


class PubSubLines:
    """The lines of one ``PubSub``: what is ``wanted`` is asked for over them, and what ``came`` is kept."""

    def __init__(self, shards: Directory[Any], *, ignore: bool) -> None:
        self._shards = shards
        self._ignore = ignore
        self.wanted = self._nothing_wanted()
        self.came: deque[dict[str, Any] | Exception] = deque()
        self.subscribed = threading.Event()  # something is wanted
        self._lines: dict[str, Line] = {}
        self._down: dict[str, bool] = {}  # shards that are tried again; whether the user was told
        self._workers: dict[str, Worker] = {}
        self._guard = threading.RLock()
        self._opening: dict[str, threading.Lock] = {}
        self._changed = threading.Event()  # wakes who waits while there is no connection

    def _nothing_wanted(self) -> Subscriptions:
        return Subscriptions(self._shards.router, self._shards.get_encoder(), ignore=self._ignore)

    def close(self) -> None:
        """Forget everything and close the connections."""
        with self._guard:
            self.wanted = self._nothing_wanted()
            for shard in list(self._lines):
                self._hang_up(shard)
            self._down.clear()
            self.came.clear()
            self.subscribed.clear()

    # -- what is wanted

    def subscribe(self, kind: str, args: tuple[Any, ...], handlers: dict[str, Handler]) -> None:
        """Want names of a kind; raise ShardDown if a shard cannot be reached."""
        with self._guard:
            orders = self.wanted.subscribe(kind, args, handlers)
            self.subscribed.set()
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

    def unsubscribe(self, kind: str, args: tuple[Any, ...]) -> None:
        """Want names of a kind no more; none named: no name of the kind."""
        with self._guard:
            orders, at_once = self.wanted.unsubscribe(kind, args)
            self.came += at_once
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
            if self.wanted.is_idle(shard):
                self._hang_up(shard)
            elif is_elsewhere(self._shards, shard, line.pool):
                self._broken(shard)
        if not self.wanted:
            self._down.clear()
            self.subscribed.clear()

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
                self._send(shard, [*greeting, *self.wanted.opened(shard)])
                self._settle()  # perhaps it is not wanted any more
            self._changed.set()

    def _send(self, shard: str, commands: list[tuple[Any, ...]]) -> None:
        try:
            self._lines[shard].order(commands)
        except NO_ANSWER:
            self._broken(shard)

    def _hang_up(self, shard: str) -> None:
        line = self._lines.pop(shard)
        self.came += self.wanted.closed(shard)
        with contextlib.suppress(exceptions.RedisError, OSError):
            line.connection.disconnect()

    def _broken(self, shard: str) -> None:
        """Make a lost connection anew, in the background: whoever waits hears the other shards meanwhile."""
        with self._guard:
            if shard in self._lines:
                self._hang_up(shard)
                if shard in self.wanted.shards():
                    self._down[shard] = False
                    self._worker(shard).poke()

    def _try_later(self, shard: str, *, told: bool) -> None:
        self._down[shard] = told
        RUNTIME.call_at(now() + AGAIN, self._worker(shard).poke)

    def _worker(self, shard: str) -> Worker:
        async def work() -> None:
            with self._guard:
                if shard not in self._down or shard not in self.wanted.shards():
                    self._down.pop(shard, None)
                    return
            try:
                self._open(shard)
            except (exceptions.ResponseError, *NO_ANSWER) as error:
                with self._guard:
                    if not self._down.get(shard, True):
                        self.came.append(meant(shard, error))
                        self._changed.set()
                    if shard in self._down:
                        self._try_later(shard, told=True)

        return self._workers.get(shard) or self._workers.setdefault(shard, RUNTIME.worker(work))

    # -- reading

    def read(self, seconds: float) -> None:
        """Take what comes within some seconds, from whichever shard."""
        with self._guard:
            for shard in self._order(self.wanted.follow()):
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
                    self._order(self.wanted.refused(shard))
                    self.came.append(answered(shard, reply))
                elif (message := self.wanted.heard(shard, reply)) is not None:
                    self.came.append(message)
            if replies:
                self._settle()
        return bool(replies)
