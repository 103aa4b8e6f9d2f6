"""The watches of one KazooClient, which it cannot take back (K9 of the notes: 200 polls left 200 watchers)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.states import EventType

from coordkit._kazoo_answers import Answer
from coordkit._kazoo_sending import Sending
from coordkit._kazoo_unwatching import CHILDREN, DATA, RemoveWatches
from coordkit._ports_zookeeper import GetChildren, GetData, GetStat, Watch

_log = logging.getLogger("coordkit")

Deliver = Callable[[Callable[[], None]], object]
"""Runs an action where watches are to run: at once in kazoo's thread, or soon in an event loop."""


class Bells:
    """The watches of one client: at most one per znode at kazoo, however many wait for it, and in whatever loops.

    ZooKeeper keeps one watch per znode and connection, and kazoo one entry per callable. So the callable of a znode is
    always equal to the last one; and a watch that nobody waits for any more is removed from the server, a little later,
    because most are hung up again at once or ring when their znode is deleted.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # re-entered when a garbage collection inside it closes a stream
        self._waiting: dict[tuple[bool, str], set[tuple[Deliver, Watch]]] = {}
        self._idle: set[tuple[bool, str]] = set()  # watched at the server, for nobody

    def hang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> Bell | None:
        """Add the watch of ``request``; return what kazoo is to call."""
        if request.watch is None:
            return None
        key = _key(request)
        with self._mutex:
            self._waiting.setdefault(key, set()).add((deliver, request.watch))
        return Bell(self, key)

    def unhang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> bool:
        """Forget the watch of ``request``; return whether there is something to ``sweep`` now."""
        key = _key(request)
        with self._mutex:
            waiting = self._waiting.get(key, set())
            waiting.discard((deliver, request.watch or _nobody))
            if not waiting and self._waiting.pop(key, None) is not None:
                self._idle.add(key)
            return bool(self._idle)

    def forget(self, deliver: Deliver) -> None:
        """Forget all watches that are carried by ``deliver``."""
        with self._mutex:
            for key, waiting in list(self._waiting.items()):
                left = {each for each in waiting if each[0] != deliver}
                if left:
                    self._waiting[key] = left
                else:
                    del self._waiting[key]
                    self._idle.add(key)

    def sweep(self, sending: Sending) -> None:
        """Remove from the server the watches that nobody waits for; not waited for, it never blocks."""
        client = sending.client
        with self._mutex:  # requests are sent in order: whoever hangs one up after this, does so at the server too
            idle, self._idle = self._idle - self._waiting.keys(), set()
            for children, path in idle if client.connected else ():  # else they are gone with the connection
                unwatching = RemoveWatches(_prefix_root(client.chroot, path), CHILDREN if children else DATA, Bell)
                sending.put(unwatching, Answer(sending.send))
            sending.send()

    def rung(self, key: tuple[bool, str], gone: bool, *, wait: bool = True) -> bool:
        """Tell who waits for ``key``; return False if that is left to somebody who may ``wait`` for a mutex."""
        if not self._mutex.acquire(blocking=wait):
            return False
        try:
            waiting = self._waiting.pop(key, set())
            self._idle.discard(key)
        finally:
            self._mutex.release()
        for deliver, watch in waiting:
            deliver(partial(watch, gone))
        return True


def _nobody(_gone: bool) -> None:
    """Stand for the watch of a request that has none."""


def _key(request: GetData | GetStat | GetChildren) -> tuple[bool, str]:
    return isinstance(request, GetChildren), request.path


class Bell:
    """What kazoo calls when a znode changes, in one of its threads; two bells of one znode are equal."""

    __slots__ = ("_bells", "_key")

    def __init__(self, bells: Bells, key: tuple[bool, str]) -> None:
        self._bells = bells
        self._key = key

    def __call__(self, event: Any) -> None:
        self._bells.rung(self._key, event.type == EventType.DELETED)

    def at_once(self, event: Any) -> bool:
        """Ring in the thread that heard of it, which must not be kept; return False if that cannot be."""
        return self._bells.rung(self._key, event.type == EventType.DELETED, wait=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bell) and self._bells is other._bells and self._key == other._key

    def __hash__(self) -> int:
        return hash((id(self._bells), self._key))


def hook(handler: Any) -> None:
    """Have bells rung in the thread that hears of the change: what they call is short and does not block.

    kazoo has a thread for all watches of a client, so that they may take their time: one more on the way to whoever
    waits for the leader to go, and it stands behind the program's own watches.
    """
    if "dispatch_callback" in vars(handler):
        return  # another client of this handler has seen to it
    dispatch = handler.dispatch_callback

    def dispatching(callback: Any) -> None:
        bell = callback.func
        try:
            if isinstance(bell, Bell) and bell.at_once(*callback.args):
                return
        except Exception:  # noqa: BLE001  kazoo's connection would end with it
            _log.exception("a watch failed; the others go on")
            return
        dispatch(callback)

    handler.dispatch_callback = dispatching
