"""Refuse the past inside one process: a gate before the handlers of an HTTP or gRPC service.

**One process, one life.** The highest token is remembered in memory. With several workers each has a gate of its own
and lets in what another has refused; a restart forgets. Then keep the token where the data is: ``Fence``,
``coordkit.sql``.

A gate is entered, not asked: were the token only compared, a later holder could come and go between the comparison and
the action. So one action at a time is inside for each resource, and a later token that arrives refuses all earlier ones
which still wait. The same gate serves threads and tasks of any event loops, side by side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from threading import Lock
from types import TracebackType
from urllib.parse import quote, unquote

from coordkit.core.fence import stale
from coordkit.core.token import Token, check_token


class TokenGate:
    """Remember the highest token seen for each resource, and refuse every lower one; for a service of ONE process.

    Several workers, or a restart, and it lets in what it should refuse: use ``Fence`` or ``coordkit.sql`` there. It
    forgets nothing by itself (about half a kilobyte for each resource), because a gate that forgets lets the past in.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._resources: dict[str, _Resource] = {}

    def enter(self, resource: str, token: int | str | None) -> Entry:
        """Return what lets one action in: ``with gate.enter(...):``, or ``async with``.

        Entering waits until the action that is inside has ended, first come, first served, and raises ``StaleToken`` if
        a later token has arrived by then. It is not reentrant. ``token`` is ``lease.token``, or the text of a header as
        ``header`` makes it; ValueError where it is missing or is none: answer that with 400, and StaleToken with 409.
        """
        return Entry(self, resource, _token(token))

    def check(self, resource: str, token: int | str | None) -> None:
        """Raise the gate to ``token``, or raise ``StaleToken``; waits for nobody and keeps nobody out.

        A later holder may come between this and what you do next: ``enter`` closes that gap.
        """
        with self._mutex:
            self._resource(resource).see(resource, _token(token))

    def forget(self, resource: str) -> bool:
        """Forget a resource, once no holder of an earlier token can be alive; False, and not done, if one is inside."""
        with self._mutex:
            known = self._resources.get(resource)
            if known is not None and known.inside:
                return False
            self._resources.pop(resource, None)
            return True

    @staticmethod
    def header(token: int) -> str:
        """Return a token as text for a header (X-Fencing-Token), with its holder; ``enter`` and ``check`` take it."""
        number, holder = check_token(token)
        return f"{number} {quote(holder, safe=':.@/-')}".rstrip()

    def _resource(self, resource: str) -> _Resource:
        if not isinstance(resource, str):
            raise TypeError(f"resource must be a str, got {resource!r}")
        return self._resources.setdefault(resource, _Resource())

    def __repr__(self) -> str:
        return f"<TokenGate of {len(self._resources)} resources>"


class Entry:
    """One action's way through a gate; made by ``TokenGate.enter``, used once."""

    def __init__(self, gate: TokenGate, resource: str, token: Token) -> None:
        self._gate = gate
        self._name = resource
        self._token = token

    def __enter__(self) -> Token:
        turn = self._arrive()
        try:
            turn.result()
        except BaseException:  # a signal's handler raised while we waited
            self._give_up(turn)
            raise
        return self._admitted()

    async def __aenter__(self) -> Token:
        turn = self._arrive()
        try:
            if not turn.done():
                await asyncio.wrap_future(turn)
        except BaseException:
            self._give_up(turn)
            raise
        return self._admitted()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _arrive(self) -> Future[None]:
        """Return our turn, which is done once we are inside."""
        turn: Future[None] = Future()
        with self._gate._mutex:  # noqa: SLF001  the two are one
            resource = self._resource = self._gate._resource(self._name)  # noqa: SLF001  see above
            resource.see(self._name, self._token)
            if resource.inside:
                resource.waiting.append(turn)
            else:
                resource.inside = True
                turn.set_result(None)
        return turn

    def _give_up(self, turn: Future[None]) -> None:
        if not turn.cancel():  # it was our turn already
            self._leave()

    def _admitted(self) -> Token:
        try:
            with self._gate._mutex:  # noqa: SLF001  as in `_arrive`
                self._resource.see(self._name, self._token)  # a later one may have arrived while we waited
        except BaseException:
            self._leave()
            raise
        return self._token

    def _leave(self) -> None:
        with self._gate._mutex:  # noqa: SLF001  as in `_arrive`
            while self._resource.waiting:
                turn = self._resource.waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    break
            else:
                self._resource.inside = False
                return
        turn.set_result(None)  # outside of the mutex: it wakes a thread, or pokes an event loop


class _Resource:
    """The highest token of one resource, who is inside, and who waits."""

    __slots__ = ("by", "inside", "seen", "waiting")

    def __init__(self) -> None:
        self.seen = 0
        self.by = ""
        self.inside = False
        self.waiting: deque[Future[None]] = deque()

    def see(self, name: str, token: Token) -> None:
        if token < self.seen or (token == self.seen and "" not in (self.by, token.holder) and self.by != token.holder):
            raise stale(name, token, self.seen, self.by)
        self.by = token.holder or (self.by if token == self.seen else "")
        self.seen = int(token)


def _token(token: object) -> Token:
    if token is None:
        raise ValueError("token is missing: send it with the request, as TokenGate.header makes it")
    if not isinstance(token, str):
        return Token(*check_token(token))
    digits, _, holder = token.strip().partition(" ")
    # Not int() alone: it takes "1_0", " 7" and digits of other scripts.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and 0 < int(digits) < 1 << 63):
        raise ValueError(
            f"token must be digits of a number from 1 to 2**63 - 1, then perhaps its holder, got {token[:60]!r}"
        )
    return Token(int(digits), unquote(holder.strip()))
