"""The ZooKeeper port of the asyncio flavour: a threading KazooClient, bridged.

kazoo has no asyncio handler and cannot have one, so its results, watches and states are carried from its threads to
the loop by ``call_soon_threadsafe``; no thread waits for anything, and a cancelled call is left at once. State belongs
to the loop alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from coordkit import _kazoo
from coordkit._asyncio.runtime import RUNTIME
from coordkit._ports import GetChildren, GetData, GetStat, Link, Request
from coordkit.core.session import Session


class KazooEnsemble:
    """One KazooClient's ZooKeeper, as seen from one loop."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wire = _kazoo.wire_of(client)
        self._loop = loop
        self._bells = _kazoo.Bells(self._soon)
        self.link = self._wire.link
        self.cause = self._wire.cause
        self.session = self._wire.session
        self.session_timeout = self._wire.session_timeout

    def __str__(self) -> str:
        return str(self._wire)

    def _soon(self, action: Callable[[], object]) -> bool:
        """Have ``action`` run in the loop; return whether there is one to run it."""
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop is closed, and whoever waited is gone with it
            return False
        return True

    def listen(self, listener: Callable[[Link], None]) -> None:
        def told(state: str) -> bool:
            link = self._wire.heard(state)
            return not self._soon(lambda: listener(link))  # True: kazoo forgets this listener

        self._wire.client.add_listener(told)

    def unwatch(self, request: GetData | GetStat | GetChildren) -> None:
        self._bells.unhang(request)

    async def ask(self, name: str, requests: Sequence[Request], *, within: float) -> list[Any]:
        answered: asyncio.Future[None] = self._loop.create_future()
        results = [self._wire.submit(request, self._bells) for request in requests]
        left = set(range(len(results)))

        def settle() -> None:
            if not answered.done():
                answered.set_result(None)

        def one(index: int) -> None:
            left.discard(index)  # kazoo may tell twice
            if not left:
                settle()

        def link(index: int) -> None:
            results[index].rawlink(lambda _: self._soon(lambda: one(index)))

        for index in range(len(results)):
            link(index)
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
    """The sessions of one client, by loop: a program may run one loop after another."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._by_loop: dict[asyncio.AbstractEventLoop, Session] = {}

    def here(self) -> Session:
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            for other in [each for each in self._by_loop if each.is_closed()]:
                self._by_loop.pop(other, None)
            self._by_loop[loop] = Session(RUNTIME, KazooEnsemble(self._client, loop))
        return self._by_loop[loop]
