"""The ZooKeeper port of the asyncio flavour: a threading KazooClient, bridged.

kazoo has no asyncio handler and cannot have one, so its results, watches and states are carried from its threads to
the loop by ``call_soon_threadsafe``; no thread waits for anything, and a cancelled call is left at once. State belongs
to the loop alone. What must not stay in ZooKeeper when the loop ends is left to the blocking flavour, whose workers end
with the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from coordkit import _kazoo
from coordkit._asyncio.runtime import RUNTIME, life, running_loop
from coordkit._ports_zookeeper import GetChildren, GetData, GetStat, Link, Request, WatchTree
from coordkit._threads import zookeeper as threads
from coordkit._threads.runtime import now
from coordkit.core.session import Session


class KazooEnsemble:
    """One KazooClient's ZooKeeper, as seen from one loop."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wire = _kazoo.wire_of(client)
        self._loop = loop
        self._sweeping = False
        self._listener: Callable[[Link], None] | None = None
        self.link = self._wire.link
        self.cause = self._wire.cause
        self.why = self._wire.why
        self.suspend = self._wire.suspend
        self.end = self._wire.end
        self.session = self._wire.session
        self.session_timeout = self._wire.session_timeout

    def __str__(self) -> str:
        return str(self._wire)

    def _soon(self, action: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and whoever waited is gone with it
            self._loop.call_soon_threadsafe(action)

    def listen(self, listener: Callable[[Link], None]) -> None:
        self._listener = listener
        self._wire.listen(self._told)

    def _told(self, link: Link) -> None:
        listener = self._listener
        if listener is not None:
            self._soon(lambda: listener(link))

    def may_wait(self, name: str) -> None:
        """An answer can always come: kazoo's threads run no loop."""

    def close(self) -> None:
        """Leave no listener and no watch behind."""
        self._wire.unlisten(self._told)
        self._wire.forget(self._soon)

    def unwatch(self, request: GetData | GetStat | GetChildren | WatchTree) -> None:
        if self._wire.unwatch(request, self._soon) and not self._sweeping:
            self._sweeping = True
            self._soon(lambda: RUNTIME.call_at(now() + _kazoo.SWEEP, self._sweep))

    def _sweep(self) -> None:
        self._sweeping = False
        self._wire.sweep()

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        answered: asyncio.Future[None] = self._loop.create_future()
        results = [self._wire.submit(request, self._soon) for request in requests]
        self._wire.send()

        def settle() -> None:
            if not answered.done():
                answered.set_result(None)

        def next_one() -> None:  # kazoo may tell twice
            # They come in order, so who hears of the last is woken once; a failed one may be early.
            left = next((result for result in reversed(results) if not result.ready()), None)
            if left is None:
                settle()
            else:
                left.rawlink(lambda _: self._soon(next_one))

        next_one()
        timer = self._loop.call_later(within, settle)
        try:
            await answered
        finally:
            timer.cancel()
        return [
            self._wire.answer(name, request, result, within) for request, result in zip(requests, results, strict=True)
        ]


def session_of(client: Any) -> Session:
    """Return the session of a client under the running loop: one for all elections and groups on it."""
    sessions = _kazoo.once_per_client(client, "_coordkit_sessions", lambda: _Sessions(client))
    return sessions.here()


class _Sessions:
    """The sessions of one client, by loop: a program may run one loop after another, or several at once."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._mutex = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, _Here] = {}

    def here(self) -> Session:
        loop = asyncio.get_running_loop()
        with self._mutex:
            here = self._by_loop.get(loop)
            over = [each for other, each in self._by_loop.items() if other.is_closed()]
            if here is None:
                here = self._by_loop[loop] = _Here(self, loop)
                life().closing.add(here)
        for each in over:  # loops that did not say that they end
            each.end()
        return here.session

    def forget(self, loop: asyncio.AbstractEventLoop) -> bool:
        with self._mutex:
            return self._by_loop.pop(loop, None) is not None


class _Here:
    """The session of one client in one loop, until the loop ends."""

    def __init__(self, sessions: _Sessions, loop: asyncio.AbstractEventLoop) -> None:
        self._sessions = sessions
        self._loop = loop
        self._ensemble = KazooEnsemble(sessions.client, loop)
        self.session = Session(RUNTIME, self._ensemble)
        self.session.elsewhere = self._elsewhere

    def _elsewhere(self) -> Session | None:
        """Return who removes what is left if our loop does not run here: a coroutine was freed after its loop."""
        return None if running_loop() is self._loop else threads.session_of(self._sessions.client)

    async def close(self) -> None:
        """Be told that the loop ends."""
        self.end()

    def end(self) -> None:
        if self._sessions.forget(self._loop):
            self._ensemble.close()
            self.session.leave_to(lambda: threads.session_of(self._sessions.client))
