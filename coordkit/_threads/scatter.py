"""Ask several Redis servers at once, in the blocking flavour: send to all, then wait for whoever answers.

One thread asks all of them, over a *row*: one connection to each. A server that does not answer delays nobody. What it
still owes when the asking ends is remembered with its connection, and thrown away when it comes; a connection that
owes for too long is given up. Connecting may block, so a short-lived thread does it, and meanwhile the others are read.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redis import exceptions

from coordkit import _redis, _redis_answers, _redis_packing
from coordkit._panel import taught, unanswered
from coordkit._ports import Call, Enough
from coordkit._threads.row import OWED, Instance, Row, Slot
from coordkit._threads.runtime import RUNTIME, now, weakly
from coordkit._threads.wire import Wire
from coordkit.errors import CoordError


class RedisPanel:
    """Several independent Redis servers; safe for many threads."""

    def __init__(self, clients: Sequence[Any]) -> None:
        for client in clients:
            _redis.check_client(client, flavour="blocking")
        self._instances = [Instance(client) for client in clients]
        self._patience = min(_redis.patience(client) for client in clients)
        self._end: weakref.finalize[[deque[Row]], RedisPanel] | None = None
        self._reset()

    def _reset(self) -> None:
        if self._end is not None:
            self._end.detach()
        self._process = os.getpid()
        self._rows: deque[Row] = deque()  # the one used last is last
        self._end = weakref.finalize(self, _close_later, self._rows)
        self._end.atexit = False
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
        asking = Asking(row, name, calls, self._patience)
        try:
            answers = asking.run(within, enough)
            asking.tell_unsent()
        except BaseException:
            row.close()  # interrupted between a request and what is remembered of it
            raise
        row.used = now()
        self._rows.append(row)
        if not self._sweeping:
            self._sweeping = True
            RUNTIME.call_at(row.used + _redis.IDLE, weakly(self._sweep))
        return answers

    def close(self) -> None:
        """Close the connections that nobody uses now; the panel can still be asked."""
        if os.getpid() == self._process:
            _close_all(self._rows)

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
                RUNTIME.call_at(row.used + _redis.IDLE, weakly(self._sweep))
                return
            row.close()


def _close_later(rows: deque[Row]) -> None:
    """Close what nobody has any more; not here, in the middle of whatever the collector interrupted."""
    if rows:
        RUNTIME.call_at(now(), partial(_close_all, rows))


def _close_all(rows: deque[Row]) -> None:
    while True:
        try:
            row = rows.pop()
        except IndexError:
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
        present = now()
        for i in self._calls:
            self._begin(i, present)
        end = until = present + within
        known = -1
        while True:
            if len(answers) != known:
                known = len(answers)
                wait = enough(answers)
                if wait <= 0 or known == len(self._calls):
                    return answers
                until = end if wait == math.inf else min(end, now() + wait)
            left = until - now()
            if left <= 0:
                return answers
            for i in row.ready(left):
                self._read(i)
            for i in self._unsent[:]:
                self._begin(i, now())

    def _begin(self, i: int, present: float) -> None:
        """Send, if there is a connection; have one made, if the server is worth it."""
        row, calls = self._row, self._calls[i]
        slot = row.slots[i]
        wire = slot.wire
        if wire is None or slot.owed or slot.arrived is not None or present - wire.made > _redis.MAX_AGE:
            wire = self._wire(i, slot, present)
            if wire is None:
                return
        slot.calls, slot.asked, slot.places = calls, [None] * len(calls), list(range(len(calls)))
        try:
            row.send(slot, wire, self._bytes(slot, wire), len(calls), present)
        except (exceptions.RedisError, OSError) as error:
            self._failed(i, error)

    def _wire(self, i: int, slot: Slot, present: float) -> Wire | None:
        """Return a connection that may be sent to; None where there is none yet, or will be none."""
        row = self._row
        problem = row.welcome(i)
        if slot.owed and (present - slot.since > self._patience or slot.bytes > OWED):
            problem = exceptions.TimeoutError(
                f"it owes {slot.owed} answers, the first for {present - slot.since:.1f} s"
            )
            row.drop(i)
            row.instances[i].failed(problem, self._patience)
        if problem is None and slot.wire is None:
            problem = self._connecting(i, present)
            if problem is None:
                if i not in self._unsent:
                    self._unsent.append(i)
                return None
        if i in self._unsent:
            self._unsent.remove(i)
        if problem is not None:
            self._failed(i, problem)
        elif slot.wire is not None and present - slot.wire.made > _redis.MAX_AGE and not slot.connecting:
            with suppress(exceptions.ConnectionError):  # this one is good for longer
                row.connect(i)  # with present credentials; it takes this one's place when it is there
        return slot.wire

    def _connecting(self, i: int, present: float) -> Exception | None:
        """See to it that a connection is being made; return why there will be none."""
        slot, instance = self._row.slots[i], self._row.instances[i]
        if slot.connecting:
            return None
        if instance.probing or (instance.trouble and present < instance.again):
            return instance.trouble or exceptions.ConnectionError("being connected to")
        instance.probing = instance.trouble is not None
        try:
            self._row.connect(i)
        except exceptions.ConnectionError as error:  # ours: the server may be well, and the next who asks tries again
            return error
        return None

    def _bytes(self, slot: Slot, wire: Wire) -> bytes:
        calls, known = slot.calls, slot.known
        for call in calls:
            if call.script.sha not in known:
                return taught(wire.connection, calls, known)
        data = self._packed.get(id(calls))  # all are mostly asked the same
        if data is None:
            data = self._packed[id(calls)] = b"".join(map(_redis_packing.packed, calls))
        return data

    def _read(self, i: int) -> None:
        row, slot = self._row, self._row.slots[i]
        try:
            if not row.read(slot):
                return
            slot.places = [place for place, reply in enumerate(slot.asked) if isinstance(reply, Exception)]
            if slot.places and self._asked_again(i):
                return
        except (exceptions.RedisError, OSError) as error:
            self._failed(i, error)
            return
        self._answers[i] = slot.asked

    def _asked_again(self, i: int) -> bool:
        """Name the errors among the replies; or, where a script was not known, ask again with its text."""
        row, slot = self._row, self._row.slots[i]
        unknown = [place for place in slot.places if isinstance(slot.asked[place], exceptions.NoScriptError)]
        if unknown and slot.wire is not None:
            slot.places = unknown
            commands = _redis_packing.evals([slot.calls[place] for place in unknown])
            row.send(slot, slot.wire, b"".join(slot.wire.connection.pack_commands(commands)), len(unknown), now())
            return True
        failed, slot.places = slot.places, []
        for place in failed:
            slot.asked[place] = _redis_answers.named(slot.asked[place], self._name, row.instances[i].where)
        return False

    def tell_unsent(self) -> None:
        """Say of whom there was no connection yet that they were not asked, and will not be."""
        for i in self._unsent:
            error = exceptions.ConnectionError("it was still being connected to")
            self._answers[i] = unanswered(error, self._name, self._row.instances[i].where)

    def _failed(self, i: int, error: Exception) -> None:
        self._row.drop(i)
        if i in self._calls and i not in self._answers:
            self._answers[i] = unanswered(error, self._name, self._row.instances[i].where)
