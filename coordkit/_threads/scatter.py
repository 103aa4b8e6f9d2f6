"""Ask several Redis servers at once, in the blocking flavour: send to all, then wait for whoever answers.

One thread asks all of them, over a *row*: one connection to each. A server that does not answer delays nobody. What it
still owes when the asking ends is remembered with its connection, and thrown away when it comes; a connection that
owes for too long is given up. Connecting may block, so a short-lived thread does it, and meanwhile the others are read.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit import _redis
from coordkit._ports import Call, Enough
from coordkit._threads.runtime import RUNTIME, now
from coordkit.errors import CoordError, StoreUnavailable

OWED = 1 << 16
"""Bytes sent without an answer after which a connection gets no more: they fit its buffers, so sending never blocks."""


def pause_after(took: float) -> float:
    """Return the seconds for which a server counts as down that could not be reached, after so many of trying."""
    return min(0.25, max(0.02, took))


class Instance:
    """One server of a panel, and what was wrong with it last."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.where = _redis.where(client)
        self.trouble: Exception | None = None
        self.again = 0.0
        self.probing = False

    def failed(self, error: Exception, took: float) -> None:
        self.trouble, self.again, self.probing = error, now() + pause_after(took), False

    def connect(self) -> Any:
        pool = self.client.connection_pool
        connection = pool.connection_class(**_redis.recipe(pool, Retry(NoBackoff(), 0), redis.Connection))
        connection.connect()
        return connection


def taught(connection: Any, calls: Sequence[Call], known: set[str]) -> bytes:
    """Return the bytes of calls whose scripts the server may not know; ``known`` are those that it does, from now on.

    A server whose answer is never waited for would else never learn: "no such script" comes too late to be mended.
    """
    parts: list[bytes] = []
    for call in calls:
        if call.script.sha in known:
            parts.append(_redis.packed(call))
        else:
            known.add(call.script.sha)
            parts += connection.pack_commands(_redis.evals([call]))
    return b"".join(parts)


class Slot:
    """A row's connection to one instance, and what it owes."""

    __slots__ = (
        "arrived",
        "asked",
        "bytes",
        "calls",
        "connecting",
        "connection",
        "fd",
        "known",
        "made",
        "owed",
        "places",
        "since",
    )

    def __init__(self) -> None:
        self.connection: Any = None
        self.arrived: Any = None  # put here by the thread that connected: a connection, or what went wrong
        self.connecting = False
        self.made = 0.0
        self.fd = -1
        self.known: set[str] = set()  # the scripts that this connection has taught
        self.forget()

    def forget(self) -> None:
        self.owed = 0  # replies that are on their way
        self.bytes = 0  # sent since the last reply
        self.since = 0.0  # when that came, or the first of those was sent
        self.calls: Sequence[Call] = ()  # of the present asking
        self.asked: list[Any] = []  # their replies
        self.places: list[int] = []  # which of them are on their way: the last ones that are owed


class Row:
    """One connection to each instance; used by one thread at a time."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = instances
        self.slots = [Slot() for _ in instances]
        self.used = now()
        self.closed = False
        self._poll = select.poll()
        self._guard = threading.Lock()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._poll.register(self._woken, select.POLLIN)
        self._by_fd: dict[int, int] = {}

    # -- connecting

    def connect(self, i: int) -> None:
        self.slots[i].connecting = True
        threading.Thread(target=self._connect, args=(i,), name="coordkit-connect", daemon=True).start()

    def _connect(self, i: int) -> None:
        arrived: Any
        instance, began = self.instances[i], now()
        try:
            arrived = instance.connect()
            instance.trouble, instance.probing = None, False
        except Exception as error:  # noqa: BLE001  also what a user's credential provider raises: whoever asks is told
            arrived = error
            instance.failed(error, now() - began)
        with self._guard:
            if not self.closed:
                self.slots[i].arrived = arrived
                with suppress(BlockingIOError):  # then it is awake
                    self._wake.send(b".")
                return
        if not isinstance(arrived, Exception):
            arrived.disconnect()

    def welcome(self, i: int) -> Exception | None:
        """Take the connection that was made, or return what went wrong; do nothing while it is being made."""
        slot = self.slots[i]
        arrived, slot.arrived = slot.arrived, None
        if arrived is None:
            return None
        slot.connecting = False
        if isinstance(arrived, Exception):
            return arrived
        self.drop(i)
        slot.connection, slot.made, slot.fd = arrived, now(), arrived._sock.fileno()  # noqa: SLF001  what is waited for
        self._poll.register(slot.fd, select.POLLIN)
        self._by_fd[slot.fd] = i
        slot.known = set()
        return None

    def drop(self, i: int) -> None:
        slot = self.slots[i]
        if slot.connection is not None:
            self._poll.unregister(slot.fd)
            del self._by_fd[slot.fd]
            slot.connection.disconnect()
            slot.connection = None
        slot.forget()

    def close(self) -> None:
        with self._guard:
            self.closed = True
        for i, slot in enumerate(self.slots):
            self.drop(i)
            if slot.arrived is not None and not isinstance(slot.arrived, Exception):
                slot.arrived.disconnect()
        self._woken.close()
        self._wake.close()

    # -- speaking

    def ready(self, seconds: float) -> list[int]:
        """Wait for answers at most so long; return which instances have something to be read."""
        found = []
        for fd, _ in self._poll.poll(math.ceil(max(0.0, seconds) * 1000)):
            if fd in self._by_fd:
                found.append(self._by_fd[fd])
            else:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
        return found

    def send(self, i: int, data: bytes, count: int) -> None:
        slot = self.slots[i]
        if not slot.owed:
            slot.since, slot.bytes = now(), 0
        slot.owed += count
        slot.bytes += len(data)
        slot.connection._sock.sendall(data)  # noqa: SLF001  what redis-py's own send does, without a copy of the buffer

    def read(self, i: int) -> bool:
        """Read what came; return whether the present asking has all its replies."""
        slot = self.slots[i]
        if not slot.owed:
            raise exceptions.ConnectionError("the server closed the connection")
        while slot.owed:
            try:
                reply = slot.connection.read_response()
            except exceptions.ResponseError as error:
                reply = error
                if isinstance(error, exceptions.NoScriptError):  # SCRIPT FLUSH
                    slot.known.clear()
            if slot.owed <= len(slot.places):
                slot.asked[slot.places[-slot.owed]] = reply
            slot.owed -= 1
            slot.since, slot.bytes = now(), 0  # slow, but alive
            if slot.owed and not slot.connection.can_read(0):
                return False
        return bool(slot.places)


class RedisPanel:
    """Several independent Redis servers; safe for many threads."""

    def __init__(self, clients: Sequence[Any]) -> None:
        for client in clients:
            _redis.check_client(client, flavour="blocking")
        self._instances = [Instance(client) for client in clients]
        self._patience = min(_redis.patience(client) for client in clients)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._rows: deque[Row] = deque()  # the one used last is last
        self._sweeping = False
        for instance in self._instances:
            instance.probing = False

    def __len__(self) -> int:
        return len(self._instances)

    def where(self, instance: int) -> str:
        return self._instances[instance].where

    def patience(self) -> float:
        return self._patience

    def wall_clock(self) -> float:
        return time.time()

    async def ask(
        self, name: str, calls: Mapping[int, Sequence[Call]], *, within: float, enough: Enough
    ) -> dict[int, list[Any] | CoordError]:
        row = self._borrow()
        try:
            answers = Asking(row, name, calls, self._patience).run(within, enough)
        except BaseException:
            row.close()  # interrupted between a request and what is remembered of it
            raise
        row.used = now()
        self._rows.append(row)
        if not self._sweeping:
            self._sweeping = True
            RUNTIME.call_at(row.used + _redis.IDLE, self._sweep)
        return answers

    def _borrow(self) -> Row:
        if os.getpid() != self._process:
            self._reset()  # forked: the sockets are the parent's
        try:
            return self._rows.pop()
        except IndexError:
            return Row(self._instances)

    def _sweep(self) -> None:
        self._sweeping = False
        while self._rows:
            try:
                row = self._rows.popleft()  # the one that was not used for the longest time
            except IndexError:
                return
            if row.used + _redis.IDLE > now():
                self._rows.appendleft(row)
                self._sweeping = True
                RUNTIME.call_at(row.used + _redis.IDLE, self._sweep)
                return
            row.close()


class Asking:
    """One round of questions over one row."""

    def __init__(self, row: Row, name: str, calls: Mapping[int, Sequence[Call]], patience: float) -> None:
        self._row = row
        self._name = name
        self._calls = calls
        self._patience = patience
        self._packed: dict[int, bytes] = {}
        self._unsent: list[int] = []  # waits for its connection
        self._answers: dict[int, list[Any] | CoordError] = {}

    def run(self, within: float, enough: Enough) -> dict[int, list[Any] | CoordError]:
        row, answers = self._row, self._answers
        for slot in row.slots:
            slot.calls, slot.places = (), []
        for i in row.ready(0.0):  # what was owed has come; or the connection died while it was idle
            self._read(i)
        answers.clear()
        for i in self._calls:
            self._begin(i)
        end = now() + within
        until, known = end, -1
        while True:
            if len(answers) != known:
                known = len(answers)
                until = min(end, now() + enough(answers))
            left = until - now()
            if known == len(self._calls) or left <= 0:
                return answers
            for i in row.ready(left):
                self._read(i)
            for i in self._unsent[:]:
                self._begin(i)

    def _begin(self, i: int) -> None:
        """Send, if there is a connection; have one made, if the server is worth it."""
        row, slot, instance = self._row, self._row.slots[i], self._row.instances[i]
        problem = row.welcome(i)
        if problem is None and slot.owed and (now() - slot.since > self._patience or slot.bytes > OWED):
            problem = exceptions.TimeoutError(f"it owes {slot.owed} answers, the first for {now() - slot.since:.1f} s")
            row.drop(i)
            instance.failed(problem, self._patience)
        if problem is None and slot.connection is None:
            if slot.connecting or not (instance.probing or (instance.trouble and now() < instance.again)):
                if not slot.connecting:
                    instance.probing = instance.trouble is not None
                    row.connect(i)
                if i not in self._unsent:
                    self._unsent.append(i)
                return
            problem = instance.trouble or exceptions.ConnectionError("being connected to")
        if i in self._unsent:
            self._unsent.remove(i)
        if problem is not None:
            self._failed(i, problem)
            return
        if now() - slot.made > _redis.MAX_AGE and not slot.connecting:
            row.connect(i)  # with present credentials; it takes this one's place when it is there
        slot.calls = self._calls[i]
        slot.asked, slot.places = [None] * len(slot.calls), list(range(len(slot.calls)))
        try:
            row.send(i, self._bytes(slot), len(slot.calls))
        except (exceptions.RedisError, OSError) as error:
            self._failed(i, error)

    def _bytes(self, slot: Slot) -> bytes:
        calls = slot.calls
        if not all(call.script.sha in slot.known for call in calls):
            return taught(slot.connection, calls, slot.known)
        data = self._packed.get(id(calls))  # all are mostly asked the same
        if data is None:
            data = self._packed[id(calls)] = b"".join(map(_redis.packed, calls))
        return data

    def _read(self, i: int) -> None:
        slot = self._row.slots[i]
        try:
            if not self._row.read(i):
                return
            unknown = [place for place in slot.places if isinstance(slot.asked[place], exceptions.NoScriptError)]
            slot.places = unknown
            if unknown:
                commands = _redis.evals([slot.calls[place] for place in unknown])
                self._row.send(i, b"".join(slot.connection.pack_commands(commands)), len(unknown))
                return
        except (exceptions.RedisError, OSError) as error:
            self._failed(i, error)
            return
        where = self._row.instances[i].where
        for place, reply in enumerate(slot.asked):
            if isinstance(reply, Exception):
                slot.asked[place] = _redis.named(reply, self._name, where)
        self._answers[i] = slot.asked

    def _failed(self, i: int, error: Exception) -> None:
        self._row.drop(i)
        if i in self._calls and i not in self._answers:
            self._answers[i] = unanswered(error, self._name, self._row.instances[i].where)


def unanswered(error: Exception, name: str, where: str) -> CoordError:
    """Return what an error means that came instead of answers."""
    meant = _redis.translated(error, name, where) or StoreUnavailable(name, f"no answer from {where}: {error!r}")
    meant.__cause__ = error
    return meant
