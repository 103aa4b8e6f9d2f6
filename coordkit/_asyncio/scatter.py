"""Ask several Redis servers at once, in the asyncio flavour: write to all, then await whoever answers.

One connection to each server carries what all tasks of a loop ask, in order; one task per connection reads its answers
and hands each to whoever asked, or drops it if nobody waits any more. So a server that does not answer delays nobody,
and what it owes is read when it comes. A connection that owes for too long is given up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from coordkit import _redis
from coordkit._asyncio.runtime import life
from coordkit._ports import Call, Enough
from coordkit._threads.row import pause_after, taught
from coordkit._threads.runtime import now
from coordkit._threads.scatter import unanswered
from coordkit.errors import CoordError

OWED = 1 << 18
"""Bytes that a connection keeps for a server that does not read, before it takes no more."""


class Asking:
    """One round of questions, and its answers so far."""

    __slots__ = ("_enough", "_timer", "answers", "done", "expected", "name")

    def __init__(self, name: str, expected: int, enough: Enough) -> None:
        self.name = name
        self.expected = expected
        self.answers: dict[int, list[Any] | CoordError] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enough = enough
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, instance: int, answer: list[Any] | CoordError) -> None:
        if self.done.done():
            return
        self.answers[instance] = answer
        wait = self._enough(self.answers)
        if wait <= 0 or len(self.answers) == self.expected:
            self.over()
        elif wait < math.inf:
            self.within(wait)

    def within(self, seconds: float) -> None:
        """Be over in so many seconds, unless it will be before."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(max(0.0, seconds), self.over)

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.done.done():
            self.done.set_result(None)


class Batch(NamedTuple):
    """What one asking wants of one server."""

    asking: Asking
    calls: Sequence[Call]
    places: list[int]  # which replies are on their way
    replies: list[Any]
    since: float


class Line:
    """The connection to one server, under one loop."""

    def __init__(self, instance: int, client: Any, patience: float) -> None:
        self._instance = instance
        self._client = client
        self._where = _redis.where(client)
        self._patience = patience
        self._connection: Any = None
        self._writer: Any = None
        self._owed: deque[Batch] = deque()
        self._unsent: deque[Batch] = deque()
        self._task: asyncio.Task[None] | None = None
        self._made = 0.0
        self._known: set[str] = set()  # the scripts that this connection has taught
        self.used = 0.0
        self._trouble: Exception | None = None
        self._again = 0.0

    def send(self, asking: Asking, calls: Sequence[Call], data: bytes) -> None:
        self.used = at = now()
        if self._owed and at - self._owed[0].since > self._patience:
            self._give_up(exceptions.TimeoutError(f"it owes {len(self._owed)} answers for {self._patience} s"))
        if self._connection is not None and not self._owed and at - self._made > _redis.MAX_AGE:
            self._give_up(None)  # and connect anew, with present credentials
        batch = Batch(asking, calls, list(range(len(calls))), [None] * len(calls), at)
        if self._writer is not None:
            if self._writer.transport.get_write_buffer_size() > OWED:
                self._tell(batch, exceptions.TimeoutError("it does not read what it is sent"))
                return
            self._owed.append(batch)
            known = all(call.script.sha in self._known for call in calls)
            self._writer.write(data if known else taught(self._connection, calls, self._known))
            return
        if self._trouble is not None and (at < self._again or self._task is not None):
            self._tell(batch, self._trouble)  # known to be down, or being tried for somebody before us
            return
        self._unsent.append(batch)
        if self._task is None:
            self._task = life().spawn(self._serve())

    def _tell(self, batch: Batch, error: Exception) -> None:
        batch.asking.answered(self._instance, unanswered(error, batch.asking.name, self._where))

    def _give_up(self, error: Exception | None) -> None:
        """Close the connection; its reader ends by itself."""
        if error is not None:
            self._down(error, self._patience)
        if self._writer is not None:
            self._writer.transport.abort()
        self._connection = self._writer = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._end(error)

    def _down(self, error: Exception, took: float) -> None:
        self._trouble, self._again = error, now() + pause_after(took)

    def _end(self, error: Exception | None) -> None:
        """Tell everybody who waits that no answer comes."""
        waiting = [*self._owed, *self._unsent]
        self._owed.clear()
        self._unsent.clear()
        for batch in waiting:
            self._tell(batch, error or exceptions.ConnectionError("the connection was closed"))

    async def _serve(self) -> None:
        me, began = asyncio.current_task(), now()
        pool = self._client.connection_pool
        kwargs = _redis.recipe(pool, Retry(NoBackoff(), 0), redis.asyncio.Connection)
        # Reading is bounded by what is owed; redis-py's own bound costs a timer for each reply.
        connection = pool.connection_class(**{**kwargs, "socket_timeout": None})
        try:
            await _bounded(connection.connect(), self._patience)
            self._connection, self._writer, self._made = connection, connection._writer, now()  # noqa: SLF001  see Line.send
            self._trouble, self._known = None, set()
            while self._unsent:
                batch = self._unsent.popleft()
                self._owed.append(batch)
                self._writer.write(taught(connection, batch.calls, self._known))
            await self._read(connection)
        except Exception as error:  # noqa: BLE001  also what a user's credential provider raises: whoever asks is told
            if self._task is me:
                if self._connection is None:  # an established one that ends may be made anew at once
                    self._down(error, now() - began)
                self._connection = self._writer = self._task = None
                self._end(error)
        finally:
            if self._task is me:
                self._connection = self._writer = self._task = None
            await connection.disconnect(nowait=True)

    async def _read(self, connection: Any) -> None:
        while True:
            try:
                reply = await connection.read_response()
            except exceptions.ResponseError as error:
                reply = error
                if isinstance(error, exceptions.NoScriptError):  # SCRIPT FLUSH
                    self._known.clear()
            batch = self._owed[0]
            batch.replies[batch.places.pop(0)] = reply
            if batch.places:
                continue
            self._owed.popleft()
            unknown = [i for i, one in enumerate(batch.replies) if isinstance(one, exceptions.NoScriptError)]
            if unknown and not batch.asking.done.done():
                batch.places.extend(unknown)
                self._owed.append(batch)
                commands = connection.pack_commands(_redis.evals([batch.calls[i] for i in unknown]))
                self._writer.write(b"".join(commands))
                continue
            for i, one in enumerate(batch.replies):
                if isinstance(one, Exception):
                    batch.replies[i] = _redis.named(one, batch.asking.name, self._where)
            batch.asking.answered(self._instance, batch.replies)

    def close(self) -> None:
        self._give_up(None)


async def _bounded(connecting: Any, seconds: float) -> None:
    """Wait for a connection; before Python 3.12 asyncio.wait_for may swallow a cancellation."""
    task = asyncio.ensure_future(connecting)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except BaseException:
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
        raise
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
        raise exceptions.TimeoutError(f"no connection within {seconds} s")
    task.result()


class Lines:
    """The connections of one panel under one loop."""

    def __init__(self, clients: Sequence[Any], patience: float) -> None:
        self.lines = [Line(i, client, patience) for i, client in enumerate(clients)]
        self._sweep: asyncio.TimerHandle | None = None
        life().closing.add(self)

    async def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for line in self.lines:
            line.close()

    def used(self) -> None:
        """Have the connections closed when they were idle for a while."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_redis.IDLE, self._look)

    def _look(self) -> None:
        self._sweep = None
        if max(line.used for line in self.lines) + _redis.IDLE > now():
            self.used()
            return
        for line in self.lines:
            line.close()


class RedisPanel:
    """Several independent Redis servers."""

    def __init__(self, clients: Sequence[Any]) -> None:
        for client in clients:
            _redis.check_client(client, flavour="asyncio")
        self._clients = list(clients)
        self._where = [_redis.where(client) for client in clients]
        self._patience = min(_redis.patience(client) for client in clients)
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, Lines] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._clients)

    def where(self, instance: int) -> str:
        return self._where[instance]

    def patience(self) -> float:
        return self._patience

    def wall_clock(self) -> float:
        return time.time()

    async def ask(
        self, name: str, calls: Mapping[int, Sequence[Call]], *, within: float, enough: Enough
    ) -> dict[int, list[Any] | CoordError]:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            home = self._homes[loop] = Lines(self._clients, self._patience)
        home.used()
        asking = Asking(name, len(calls), enough)
        packed: dict[int, bytes] = {}  # all are mostly asked the same
        for instance, wanted in calls.items():
            data = packed.get(id(wanted))
            if data is None:
                data = packed[id(wanted)] = b"".join(map(_redis.packed, wanted))
            home.lines[instance].send(asking, wanted, data)
        if not asking.done.done():
            asking.within(within)
        try:
            await asking.done
        finally:
            asking.over()
        return asking.answers
