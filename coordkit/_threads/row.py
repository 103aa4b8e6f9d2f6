"""A row of connections, one to each of several Redis servers, that one thread speaks over and waits for."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions

from coordkit import _redis
from coordkit._panel import pause_after
from coordkit._ports import Call
from coordkit._threads.connection import connection_of
from coordkit._threads.runtime import now
from coordkit._threads.wire import Wire, wire_on

OWED = 1 << 16
"""Bytes sent without an answer after which a connection gets no more: they fit its buffers, so sending never blocks."""


class Instance:
    """One server of a panel, and what was wrong with it last."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.where = _redis.where(client)
        self.patience = _redis.patience(client)
        self.trouble: Exception | None = None
        self.again = 0.0
        self.probing = False

    def failed(self, error: Exception, took: float) -> None:
        self.trouble, self.again, self.probing = error, now() + pause_after(took), False

    def connect(self) -> Wire:
        connection = connection_of(self.client.connection_pool)
        connection.connect()
        return wire_on(connection, now(), self.patience)


class Slot:
    """A row's connection to one instance, and what it owes."""

    __slots__ = (
        "arrived",
        "asked",
        "bytes",
        "calls",
        "connecting",
        "fd",
        "known",
        "owed",
        "places",
        "since",
        "wire",
    )

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.arrived: Wire | Exception | None = None  # put here by the thread that connected
        self.connecting = False
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
        """Have a connection made; raise redis-py's ConnectionError where no thread can be started for it."""
        thread = threading.Thread(target=self._connect, args=(i,), name="coordkit-connect", daemon=True)
        self.slots[i].connecting = True
        try:
            thread.start()
        except BaseException as error:  # else nobody would try again: that is for the thread to say
            self.slots[i].connecting = self.instances[i].probing = False
            if isinstance(error, RuntimeError):
                raise exceptions.ConnectionError(f"not connected to: {error}") from error
            raise

    def _connect(self, i: int) -> None:
        arrived: Wire | Exception
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
        if isinstance(arrived, Wire):
            arrived.close()

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
        slot.wire, slot.fd = arrived, arrived.connection._sock.fileno()  # noqa: SLF001  redis-py has no other name for it
        self._poll.register(slot.fd, select.POLLIN)
        self._by_fd[slot.fd] = i
        slot.known = set()
        return None

    def drop(self, i: int) -> None:
        slot = self.slots[i]
        if slot.wire is not None:
            self._poll.unregister(slot.fd)
            del self._by_fd[slot.fd]
            slot.wire.close()
            slot.wire = None
        slot.forget()

    def close(self) -> None:
        with self._guard:
            self.closed = True
        for i, slot in enumerate(self.slots):
            self.drop(i)
            if isinstance(slot.arrived, Wire):
                slot.arrived.close()
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

    def send(self, slot: Slot, wire: Wire, data: bytes, count: int, present: float) -> None:
        if not slot.owed:
            slot.since, slot.bytes = present, 0
        slot.owed += count
        slot.bytes += len(data)
        wire.send(data)

    def read(self, slot: Slot) -> bool:
        """Read what came; return whether the present asking has all its replies."""
        if not slot.owed or slot.wire is None:
            raise exceptions.ConnectionError("the server closed the connection")
        for reply in slot.wire.received(slot.owed):
            if not slot.owed:
                raise exceptions.InvalidResponse("a reply came that nobody asked for")
            if isinstance(reply, exceptions.NoScriptError):  # SCRIPT FLUSH
                slot.known.clear()
            if slot.owed <= len(slot.places):
                slot.asked[slot.places[-slot.owed]] = reply
            slot.owed -= 1
        if slot.owed:
            slot.since, slot.bytes = now(), 0  # slow, but alive
            return False
        return bool(slot.places)
