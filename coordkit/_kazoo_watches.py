"""The watches of one KazooClient, which cannot be counted or taken back there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kazoo.protocol.states import EventType

from coordkit._ports import GetChildren, GetData, GetStat, Watch

Deliver = Callable[[Callable[[], None]], object]
"""Runs an action where watches are to run: at once in kazoo's thread, or soon in an event loop."""


class Bells:
    """The watches of one client: at most one per znode at kazoo, however many wait for it, and in whatever loops.

    ZooKeeper keeps one watch per znode and connection, and kazoo one entry per callable; it cannot take either back. So
    the callable of a znode is always equal to the last one, and who gave up waiting leaves nothing that grows.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # re-entered when a garbage collection inside it closes a stream
        self._waiting: dict[tuple[bool, str], set[tuple[Deliver, Watch]]] = {}

    def hang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> Bell | None:
        """Add the watch of ``request``; return what kazoo is to call."""
        if request.watch is None:
            return None
        key = _key(request)
        with self._mutex:
            self._waiting.setdefault(key, set()).add((deliver, request.watch))
        return Bell(self, key)

    def unhang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> None:
        key = _key(request)
        with self._mutex:
            waiting = self._waiting.get(key)
            if waiting is not None and request.watch is not None:
                waiting.discard((deliver, request.watch))
                if not waiting:
                    del self._waiting[key]

    def forget(self, deliver: Deliver) -> None:
        """Forget all watches that are carried by ``deliver``."""
        with self._mutex:
            for key, waiting in list(self._waiting.items()):
                left = {each for each in waiting if each[0] != deliver}
                if left:
                    self._waiting[key] = left
                else:
                    del self._waiting[key]

    def rung(self, key: tuple[bool, str], gone: bool) -> None:
        with self._mutex:
            waiting = self._waiting.pop(key, set())
        for deliver, watch in waiting:
            deliver(partial(watch, gone))


def _key(request: GetData | GetStat | GetChildren) -> tuple[bool, str]:
    return isinstance(request, GetChildren), request.path


class Bell:
    """What kazoo calls when a znode changes, in its own thread; two bells of one znode are equal."""

    __slots__ = ("_bells", "_key")

    def __init__(self, bells: Bells, key: tuple[bool, str]) -> None:
        self._bells = bells
        self._key = key

    def __call__(self, event: Any) -> None:
        self._bells.rung(self._key, event.type == EventType.DELETED)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bell) and self._bells is other._bells and self._key == other._key

    def __hash__(self) -> int:
        return hash((id(self._bells), self._key))
