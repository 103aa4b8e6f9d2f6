"""The ZooKeeper port of the blocking flavour.

Watches and changes of the link are told in kazoo's own threads: what they call only sets events and pokes workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coordkit import _kazoo
from coordkit._ports_zookeeper import GetChildren, GetData, GetStat, Request, WatchTree
from coordkit._threads.runtime import RUNTIME, now
from coordkit.core.session import Session


class KazooEnsemble:
    """One KazooClient's ZooKeeper; safe for many threads."""

    def __init__(self, client: Any) -> None:
        self._wire = _kazoo.wire_of(client)
        self._sweeping = False
        RUNTIME.call_at(now(), _nothing)  # the timer thread is there before there may be too many to start it
        self.listen = self._wire.listen
        self.may_wait = self._wire.may_wait
        self.link = self._wire.link
        self.cause = self._wire.cause
        self.why = self._wire.why
        self.suspend = self._wire.suspend
        self.end = self._wire.end
        self.session = self._wire.session
        self.session_timeout = self._wire.session_timeout

    def __str__(self) -> str:
        return str(self._wire)

    def unwatch(self, request: GetData | GetStat | GetChildren | WatchTree) -> None:
        if self._wire.unwatch(request, _at_once) and not self._sweeping:
            self._sweeping = True
            RUNTIME.call_at(now() + _kazoo.SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        self._wire.sweep()

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        until = now() + within
        results = [self._wire.submit(request, _at_once) for request in requests]
        self._wire.send()
        for result in reversed(results):  # they come in order, so whoever waits for the last is woken once
            result.wait(max(0.0, until - now()))
        return [
            self._wire.answer(name, request, result, within) for request, result in zip(requests, results, strict=True)
        ]


def _nothing() -> None: ...


def _at_once(action: Callable[[], None]) -> None:
    action()


def session_of(client: Any) -> Session:
    """Return the session of a client: one for all elections and groups on it."""
    return _kazoo.once_per_client(client, "_coordkit_session", lambda: Session(RUNTIME, KazooEnsemble(client)))
