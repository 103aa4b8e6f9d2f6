"""Ask several Redis servers at once, in the asyncio flavour: write to all, then await whoever answers.

One connection to each server carries what all tasks of a loop ask, in order. Answers are counted as they come, and the
task that asked is woken once, when they suffice; what comes when nobody waits any more is thrown away. So a server that
does not answer delays nobody. A connection that owes for too long is given up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, finalize

from redis import exceptions

from coordkit import _redis, _redis_answers, _redis_packing
from coordkit._asyncio.lines import connect
from coordkit._asyncio.runtime import end_all, forget_closed, life
from coordkit._asyncio.watch import Watch
from coordkit._asyncio.wire import PipedWire, piped_on
from coordkit._panel import pause_after, taught, unanswered
from coordkit._ports import Call, Enough
from coordkit._threads.runtime import now
from coordkit.errors import CoordError

OWED = 1 << 18
"""Bytes that a connection keeps for a server that does not read, before it takes no more."""


class Asking:
    """One round of questions, and its answers so far."""

    __slots__ = ("_enough", "_watch", "answers", "done", "expected", "name", "until")

    def __init__(self, name: str, expected: int, enough: Enough, watch: Watch, done: asyncio.Future[None]) -> None:
        self.name = name
        self.expected = expected
        self.answers: dict[int, list[Any] | CoordError] = {}
        self.done = done
        self.until = math.inf
        self._enough = enough
        self._watch = watch

    def answered(self, instance: int, answer: list[Any] | CoordError) -> None:
        if self.done.done():
            return
        self.answers[instance] = answer
        wait = self._enough(self.answers)
        if wait <= 0 or len(self.answers) == self.expected:
            self.done.set_result(None)
        elif wait < math.inf and (until := now() + wait) < self.until:
            self._watch.begin(self, until)

    def give_up(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Batch:
    """What one asking wants of one server; the waiter for its replies."""

    __slots__ = ("_asking", "_calls", "_line", "_places", "_replies")

    def __init__(self, line: Line, asking: Asking, calls: Sequence[Call]) -> None:
        self._line = line
        self._asking = asking
        self._calls = calls
        self._replies: list[Any] = []
        self._places: list[int] = []  # where to put what was asked for again

    def send(self, wire: PipedWire, data: bytes | None, until: float) -> None:
        """Send the calls; ``data`` are their bytes, for a server that knows the scripts."""
        known = self._line.known
        for call in self._calls:
            if data is None or call.script.sha not in known:
                data = taught(wire.connection, self._calls, known)
                break
        wire.put(self, data or b"", len(self._calls), until)

    def done(self) -> bool:
        return False  # also what nobody waits for may say that scripts were forgotten

    def set_result(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                break
        else:
            if not self._places:
                self._asking.answered(self._line.instance, replies)
                return
        self._seen_to(replies)

    def _seen_to(self, replies: list[Any]) -> None:
        """Name the errors among the replies; or, where a script was not known, ask again with its text."""
        for place, reply in zip(self._places, replies, strict=False):
            self._replies[place] = reply
        if not self._places:
            self._replies = replies
        line, asking = self._line, self._asking
        unknown = [i for i, one in enumerate(self._replies) if isinstance(one, exceptions.NoScriptError)]
        if unknown:
            line.known.clear()  # SCRIPT FLUSH
            if line.wire is not None and not asking.done.done():
                self._places = unknown
                commands = line.wire.connection.pack_commands(_redis_packing.evals([self._calls[i] for i in unknown]))
                line.wire.put(self, b"".join(commands), len(unknown), now() + line.patience)
                return
        asking.answered(
            line.instance,
            [
                _redis_answers.named(one, asking.name, line.where) if isinstance(one, Exception) else one
                for one in self._replies
            ],
        )

    def set_exception(self, error: Exception) -> None:
        self._asking.answered(self._line.instance, unanswered(error, self._asking.name, self._line.where))


class Line:
    """The connection to one server, under one loop."""

    def __init__(self, instance: int, client: Any, patience: float) -> None:
        self.instance = instance
        self.where = _redis.where(client)
        self.patience = patience
        self.wire: PipedWire | None = None
        self.known: set[str] = set()  # the scripts that this connection has taught
        self._client = client
        self._unsent: deque[Batch] = deque()  # waits for the connection
        self._connecting: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None
        self._again = 0.0

    def send(self, asking: Asking, calls: Sequence[Call], data: bytes, present: float) -> None:
        wire, batch = self.wire, Batch(self, asking, calls)
        if wire is not None and wire.due < present:
            self._down(exceptions.TimeoutError(f"it owes answers for {self.patience} s"), self.patience)
            self.drop()
        elif wire is not None and not (wire.usable and (present - wire.made <= _redis.MAX_AGE or wire.waited_for)):
            self.drop()  # and connect anew, with present credentials
        wire = self.wire
        if wire is not None:
            if wire.unread > OWED:
                batch.set_exception(exceptions.TimeoutError("it does not read what it is sent"))
            else:
                batch.send(wire, data, present + self.patience)
            return
        if self._trouble is not None and (present < self._again or self._connecting is not None):
            batch.set_exception(self._trouble)  # known to be down, or being tried for somebody before us
            return
        self._unsent.append(batch)
        if self._connecting is None:
            self._connecting = life().spawn(self._connect())

    def _down(self, error: Exception, took: float) -> None:
        self._trouble, self._again = error, now() + pause_after(took)

    @property
    def owed(self) -> bool:
        """Whether an answer is waited for, and may come in time."""
        return self.wire is not None and self.wire.waited_for and self.wire.due > now()

    def drop(self) -> None:
        """Close the connection; the next who asks has it made anew."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.give_up()
            life().spawn(wire.close())

    async def _connect(self) -> None:
        me, began = self._connecting, now()
        try:
            connection = await connect(self._client.connection_pool, self.patience)
            wire = self.wire = piped_on(connection, now())
            self._trouble, self.known = None, set()
            unsent, self._unsent = self._unsent, deque()
            for batch in unsent:
                batch.send(wire, None, wire.made + self.patience)
        except Exception as error:  # noqa: BLE001  also what a user's credential provider raises: whoever asks is told
            self._down(error, now() - began)
            self._tell_unsent(error)
        finally:
            if self._connecting is me:
                self._connecting = None

    def _tell_unsent(self, error: Exception) -> None:
        unsent, self._unsent = self._unsent, deque()
        for batch in unsent:
            batch.set_exception(error)

    async def close(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        self._tell_unsent(exceptions.ConnectionError("the connection was closed"))
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.give_up()
            await wire.close()


class Lines:
    """The connections of one panel under one loop."""

    def __init__(self, clients: Sequence[Any], patience: float) -> None:
        self.lines = [Line(i, client, patience) for i, client in enumerate(clients)]
        self.watch = Watch()
        self._used = 0.0
        self._sweep: asyncio.TimerHandle | None = None
        life().closing.add(self)

    async def close(self) -> None:
        self.watch.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for line in self.lines:
            await line.close()

    def close_idle(self) -> None:
        """Close the connections on which no answer is on its way."""
        for line in self.lines:
            if line.wire is not None and not line.wire.waited_for:
                line.drop()

    def used(self, present: float) -> None:
        """Have the connections closed when they were idle for a while."""
        self._used = present
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_redis.IDLE, self._look)

    def _look(self) -> None:
        self._sweep = None
        if self._used + _redis.IDLE > now() or any(line.owed for line in self.lines):
            self.used(self._used)
            return
        for line in self.lines:
            line.drop()


class RedisPanel:
    """Several independent Redis servers."""

    def __init__(self, clients: Sequence[Any]) -> None:
        for client in clients:
            _redis.check_client(client, flavour="asyncio")
        self._clients = list(clients)
        self._where = [_redis.where(client) for client in clients]
        self._patience = min(_redis.patience(client) for client in clients)
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, Lines] = WeakKeyDictionary()
        finalize(self, end_all, self._homes).atexit = False  # nothing in them refers to us

    def __len__(self) -> int:
        return len(self._clients)

    def where(self, instance: int) -> str:
        return self._where[instance]

    def patience(self) -> float:
        return self._patience

    def wall_clock(self) -> float:
        return time.time()

    async def close(self) -> None:
        """Close the connections that nobody uses now, under this event loop; the panel can still be asked."""
        home = self._homes.get(asyncio.get_running_loop())
        if home is not None:
            home.close_idle()

    async def ask(
        self, name: str, calls: Mapping[int, Sequence[Call]], *, within: float, enough: Enough
    ) -> dict[int, list[Any] | CoordError]:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            forget_closed(self._homes)
            home = self._homes[loop] = Lines(self._clients, self._patience)
        present = now()
        home.used(present)
        asking = Asking(name, len(calls), enough, home.watch, loop.create_future())
        packed: dict[int, bytes] = {}  # all are mostly asked the same
        for instance, wanted in calls.items():
            data = packed.get(id(wanted))
            if data is None:
                data = packed[id(wanted)] = b"".join(map(_redis_packing.packed, wanted))
            home.lines[instance].send(asking, wanted, data, present)
        if not asking.done.done() and present + within < asking.until:
            home.watch.begin(asking, present + within)
        try:
            await asking.done
        finally:
            home.watch.end(asking)
        return asking.answers
