"""The runtime of the blocking flavour: ports that block.

One timer thread per process announces what is due and does no I/O; one worker thread per kind of background work
lives only while there is something to do. All are daemons and none is created before it is needed. After a fork the
child starts with no timers and no workers: what its parent held is not the child's.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
import weakref
from _thread import RLock  # what threading.RLock calls
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from coordkit._agenda import LOOK, Agenda, Entry
from coordkit._ports import Event, Runtime, Timer, Worker
from coordkit._run import run
from coordkit._threads.event import ThreadEvent
from coordkit._threads.solo import Solo

_log = logging.getLogger("coordkit")

# CLOCK_MONOTONIC stands still while the machine is suspended, and a server's ttl does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_HOST = (
    quote(socket.gethostname(), safe="-._~") or "unknown"
)  # part of a holder id, which is split at colons and spaces

_IDLE = 1.0  # seconds a worker thread waits for more work before it ends

_NO_THREAD = 0.1  # seconds before a worker thread that could not be started is tried again


now: Callable[[], float] = partial(time.clock_gettime, _CLOCK)
"""Return the time."""


class _Self:
    """Who this process is, and random bits in stock: a system call for each id would cost as much as a lease."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.pid = os.getpid()
        self.prefix = f"{_HOST}:{self.pid}:"
        self._stock: list[str] = []

    def new_holder(self) -> str:
        try:
            return self.prefix + self._stock.pop()  # 128 random bits in hex, that nobody else gets
        except IndexError:
            fresh = os.urandom(16 * 256).hex()
            self._stock += [fresh[i : i + 32] for i in range(32, len(fresh), 32)]
            return self.prefix + fresh[:32]


_self = _Self()


# A bound method, because a function of ours in between would double what it costs.
new_holder: Callable[[], str] = _self.new_holder


class Place:
    """Stands for a thread and ends with it; a thread's id may be another's next."""


_here = threading.local()


def here() -> object:
    """Return what stands for the present thread."""
    place: Place | None = getattr(_here, "place", None)
    if place is None:
        place = _here.place = Place()
    return place


class Clock:
    """The one timer thread of a process.

    A timer may be set wherever the collector runs a finalizer (a stream's, a sharded client's): in the middle of any
    call, in the timer thread too. So nobody waits for a lock here: the thread alone touches the heap, and is rung for.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: a forked child inherits the agenda but not the thread."""
        self._agenda = Agenda()
        # Locked until it is rung, which may interrupt itself. Not a SimpleQueue, for which that is true as well: up to
        # CPython 3.12 it waits for ever where a timeout runs out before it gets to wait.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._beginning = threading.RLock()
        self._thread: threading.Thread | None = None
        self._looks = math.inf  # when the thread looks at the agenda by itself; what is due later may wait unsorted

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        agenda, entry = self._agenda, Entry()
        entry.agenda, entry.when, entry.action = agenda, when, action
        agenda.unsorted[entry] = entry
        if when < self._looks:
            self._wake()
        return entry

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it has yet to hear of another's, and looks after that
            self._bell.release()
        if self._thread is None:
            with self._beginning:
                if self._thread is None:
                    # A finalizer or handler that comes here meanwhile finds it begun; its first look sees all there is.
                    self._thread = thread = threading.Thread(target=self._tick, name="coordkit-timer", daemon=True)
                    try:
                        thread.start()  # may raise, where there are too many threads, or a handler does
                    except BaseException:
                        if not thread.is_alive():
                            self._thread = None  # the next call tries again
                        raise

    def _tick(self) -> None:
        told = True  # somebody has use for timers: stay awake for a moment, even if all are cancelled by now
        while True:
            while (action := self._agenda.take(now())) is None:
                self._looks = math.inf  # from here on whoever puts something down rings, or we see it
                self._agenda.sort()
                present, due = now(), self._agenda.next_due()
                self._looks = min(due, present + LOOK) if told or due < math.inf else math.inf
                told = self._rung(None if self._looks == math.inf else max(0.0, self._looks - present))
            try:
                action()
            except Exception:  # noqa: BLE001  whatever it is, other leases' deadlines must be announced
                _log.exception("a timer's action failed; the others go on")

    def _rung(self, timeout: float | None) -> bool:
        """Wait for the bell; return whether it rang."""
        return self._bell.acquire(timeout=-1 if timeout is None else timeout)


def weakly(action: Callable[[], None]) -> Callable[[], None]:
    """Return what runs a method as long as its object is there: a timer must not keep a client's connections open."""
    known = weakref.WeakMethod(action)

    def run_it() -> None:
        method = known()
        if method is not None:
            method()

    return run_it


class ThreadWorker:
    """A daemon thread that exists only while it is poked at least once a second."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self.reset()
        not_in_a_forked_child(self)

    def reset(self) -> None:
        self._thread = Solo(self._serve, "coordkit-worker")
        self._pending = False
        self._lacking = False  # a thread, and this was said
        self._poked_again = False  # by a timer that is set

    def poke(self) -> None:
        self._pending = True
        try:
            self._thread.wake()
        except RuntimeError as error:  # too many threads; whoever poked may be a watch, which does not come again
            if not self._lacking:
                self._lacking = True
                _log.warning("background work waits until a thread can be started: %s", error)
            self._poke_later()

    def _poke_later(self) -> None:
        if self._poked_again:  # one timer for all who poke: there may be thousands of leases to renew
            return
        self._poked_again = True
        try:
            RUNTIME.call_at(now() + _NO_THREAD, self._poke_again)
        except BaseException:  # nor can the timer's thread be started: the next who pokes tries again
            self._poked_again = False
            raise

    def _poke_again(self) -> None:
        self._poked_again = False  # before the look: who finds it set has left us something to see
        if self._pending:
            self.poke()

    def _serve(self) -> None:
        thread, self._lacking = self._thread, False
        while True:
            if not self._pending:
                thread.wait(_IDLE)
            if not self._pending:
                if thread.over(lambda: self._pending):
                    return
                continue
            self._pending = False
            try:
                run(self._work())
            except Exception:  # noqa: BLE001  whatever it is, the leases that come next must be renewed
                _log.exception("background work failed; it goes on with what comes next")


class ThreadRuntime:
    """Ports that block; the small ones are what they stand for, with no method in between."""

    def __init__(self) -> None:
        self._clock = Clock()
        self.now = now
        self.process = os.getpid()  # a call would cost as much as all else that a lease looks at
        self.new_holder = new_holder
        self.call_at: Callable[[float, Callable[[], None]], Timer] = self._clock.call_at
        self.event: Callable[[], Event] = ThreadEvent
        self.mutex: Callable[[], AbstractContextManager[Any]] = RLock  # a signal handler may end a lease, too
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        _self.reset()
        self.process = _self.pid
        self._clock.reset()
        for one in list(_forgetful):
            one.reset()

    async def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Worker:
        return ThreadWorker(work)

    async def finish(self, work: Coroutine[Any, Any, None], *, within: float) -> None:  # noqa: ARG002  blocking work cannot be left before its own socket timeouts
        run(work)


class Forgetful(Protocol):
    """What a forked child has to begin anew with."""

    def reset(self) -> None: ...


_forgetful: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def not_in_a_forked_child(one: Forgetful) -> None:
    """Have ``one`` reset in every forked child, before anything else runs there; it may be freed all the same."""
    _forgetful.add(one)


RUNTIME: Runtime = ThreadRuntime()
