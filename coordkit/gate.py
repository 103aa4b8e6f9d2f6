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
from contextlib import suppress
from threading import Lock
from types import TracebackType
from urllib.parse import quote, unquote
from weakref import ref

from coordkit.core.fence import stale
from coordkit.core.token import Token, check_token

_LOOK = 1.0  # seconds after which who waits looks by himself


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
            if known is not None and known.first() is not None:
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
        self._action: _Action | None = None
        self._resource: _Resource | None = None

    def __enter__(self) -> Token:
        try:
            action = self._arrive(bell := _ThreadBell())
            while self._first() is not action:
                bell.wait()
            return self._admitted()
        except BaseException:  # refused, or a signal's handler raised
            self._leave()
            raise

    async def __aenter__(self) -> Token:
        try:
            action = self._arrive(bell := _TaskBell())
            while self._first() is not action:
                await bell.wait()
            return self._admitted()
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _arrive(self, bell: _Bell) -> _Action:
        """Stand in line."""
        self._action = action = _Action(bell)
        with self._gate._mutex:  # noqa: SLF001  the two are one
            self._resource = self._gate._resource(self._name)  # noqa: SLF001  see above
            self._resource.see(self._name, self._token)
            self._resource.line.append(ref(action))
        return action

    def _first(self) -> _Action | None:
        with self._gate._mutex:  # noqa: SLF001  as in `_arrive`
            return None if self._resource is None else self._resource.first()

    def _admitted(self) -> Token:
        with self._gate._mutex:  # noqa: SLF001  as in `_arrive`
            self._gate._resource(self._name).see(self._name, self._token)  # noqa: SLF001  a later one may be here
        return self._token

    def _leave(self) -> None:
        if self._action is not None:
            self._action.over = True  # first: who is next would find it by himself
        # Outside of the mutex: it wakes a thread, or pokes an event loop.
        while (first := self._first()) is not None and not first.bell.ring():
            first.over = True


class _Action:
    """What waits or is inside. Its entry alone has it: it is over once nobody has that any more.

    An exception of a signal's handler may come at any moment, also in front of the first line of ``__exit__``.
    """

    __slots__ = ("__weakref__", "bell", "over")

    def __init__(self, bell: _Bell) -> None:
        self.bell = bell
        self.over = False


class _ThreadBell:
    """Wakes a thread; it also wakes by itself, because who should ring may have been interrupted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def ring(self) -> bool:
        """Ring; False if nobody can hear it any more."""
        with suppress(RuntimeError):  # it rings already
            self._lock.release()
        return True

    def wait(self) -> None:
        self._lock.acquire(timeout=_LOOK)


class _TaskBell:
    """Wakes a task of any event loop, as above."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:  # the loop was closed
            return False
        return True

    async def wait(self) -> None:
        timer = self._loop.call_later(_LOOK, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            timer.cancel()
        self._rung.clear()


_Bell = _ThreadBell | _TaskBell


class _Resource:
    """The highest token of one resource, and the line in front of it: the first is inside."""

    __slots__ = ("by", "line", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.by = ""
        self.line: deque[ref[_Action]] = deque()

    def first(self) -> _Action | None:
        """Return who is inside."""
        while self.line:
            action = self.line[0]()
            if action is not None and not action.over:
                return action
            self.line.popleft()
        return None

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
