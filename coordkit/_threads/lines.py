"""The connections to one server that are kept while there is work, of the blocking flavour."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from coordkit import _redis, _redis_answers, _redis_packing
from coordkit._ports import Call, Confirm
from coordkit._threads.connection import connection_of
from coordkit._threads.runtime import RUNTIME, not_in_a_forked_child, now, weakly
from coordkit._threads.wire import Wire, wire_on


class Lines:
    """The way to one server, by the recipe of a client's pool; safe for many threads."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._end: weakref.finalize[[deque[Wire]], Lines] | None = None
        self.reset()
        not_in_a_forked_child(self)

    def reset(self) -> None:
        """Forget everything: the sockets are the parent's."""
        if self._end is not None:
            self._end.detach()
        self._idle: deque[Wire] = deque()  # the one used last is last
        # Before the collector comes to the sockets themselves, which would complain.
        self._end = weakref.finalize(self, _close_all, self._idle)
        self._end.atexit = False
        self._used = 0.0
        self._primary = _redis_answers.Primary()
        self._silent = (0.0, 0.0)  # since when a bounded wait went on that ended without an answer, and how long it was
        self._sweeping = False

    def ask(self, call: Call, *, yielding: bool = False) -> Any:
        """Run one script; a reply that is an error is returned."""
        data = _redis_packing.packed(call)
        reply = self.answer_last(data) if yielding else self.answer(data)
        return self.teach(call) if isinstance(reply, exceptions.NoScriptError) else reply

    def teach(self, call: Call) -> Any:
        """Run a script that the server does not know; a reply that is an error is returned."""
        began = now()
        wire = self._take()
        try:
            [reply] = _taught(wire, [call], b"")
            self._primary.check([reply], wire.made, began)
        except BaseException as error:
            self._broken(wire, error)
            raise
        self._keep(wire, bounded=False)
        return reply

    def answer(self, data: bytes) -> Any:
        """Return the reply to one command; one that is an error is returned, too."""
        self._used = present = now()
        try:
            wire = self._idle.pop()
        except IndexError:
            wire = self._connected(present, None)
        else:
            if present - wire.made >= _redis.MAX_AGE:
                self._close(wire)
                wire = self._take()
        try:
            reply = wire.ask(data)
            if isinstance(reply, Exception):
                self._primary.check([reply], wire.made, present)
        except BaseException as error:
            self._broken(wire, error)
            raise
        wire.used = present
        self._idle.append(wire)
        if not self._sweeping:
            self._sweep_later()
        return reply

    def answer_last(self, data: bytes) -> Any:
        """Return the same, after whoever is told something by the command has heard of it."""
        began = now()
        wire = self._take()
        try:
            wire.send(_redis_packing.PING + data)
            _, reply = wire.replies(2)
            if isinstance(reply, Exception):
                self._primary.check([reply], wire.made, began)
        except BaseException as error:
            self._broken(wire, error)
            raise
        self._keep(wire, bounded=False)
        return reply

    def ask_many(self, calls: Sequence[Call], within: float | None, ahead: bytes = b"") -> list[Any]:
        """Run scripts in one pipeline, each after the command ``ahead``; a reply that is an error is in the list."""
        data = [ahead + _redis_packing.packed(call) for call in calls]
        began = now()
        wire = self._take(within)
        try:
            replies = _answered(wire, data, ahead)
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
                taught = _taught(wire, [calls[i] for i in unknown], ahead)
                for i, reply in zip(unknown, taught, strict=True):
                    replies[i] = reply
            self._primary.check(replies, wire.made, began)
        except BaseException as error:
            if within is not None:
                self._silent = began, within
            self._broken(wire, error)
            raise
        self._keep(wire, bounded=within is not None)
        return replies

    def ask_confirmed(self, call: Call, confirm: Confirm, ahead: bytes = b"") -> list[Any]:
        """Run one script, and wait for the copies of what it wrote; return the reply and the answer to the wait."""
        began = now()
        wire = self._take()
        replies: list[Any] = []
        try:
            wire.bound(wire.patience + confirm.within)
            for command in (_redis_packing.evalsha(call), *_redis_packing.evals([call])):
                wire.send(ahead + _packed(wire, _redis_packing.confirming(command, confirm)))
                replies = wire.replies(2 + bool(ahead))[-2:]
                if not isinstance(replies[0], exceptions.NoScriptError):
                    break
            self._primary.check(replies, wire.made, began)
        except BaseException as error:
            self._broken(wire, error)
            raise
        self._keep(wire, bounded=True)
        return replies

    def close(self) -> None:
        """Close what is idle; the way can still be used."""
        _close_all(self._idle, self._close)

    def _take(self, within: float | None = None) -> Wire:
        self._used = began = now()
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                break
            if within is not None and _redis.doubtful(wire.used, within, self._silent):
                self._idle.append(wire)
                break
            if began - wire.made < _redis.MAX_AGE:
                if within is not None:
                    wire.bound(min(within, wire.patience))
                return wire
            self._close(wire)
        return self._connected(began, within)

    def _connected(self, began: float, within: float | None) -> Wire:
        connection = connection_of(self._client.connection_pool, within)
        connection.connect()
        wire = wire_on(connection, began, _redis.patience(self._client))
        if within is not None:
            wire.bound(min(within, wire.patience))
        return wire

    def _keep(self, wire: Wire, *, bounded: bool) -> None:
        if bounded:
            wire.bound(wire.patience)
        wire.used = self._used
        self._idle.append(wire)
        if not self._sweeping:
            self._sweep_later()

    def _broken(self, wire: Wire, error: BaseException) -> None:
        """Close a connection on which a reply may still be on its way."""
        self._close(wire)
        if isinstance(error, BlockingIOError):  # the kernel's word for it
            raise exceptions.TimeoutError("no answer in time") from error
        if isinstance(error, exceptions.ConnectionError | OSError) and not isinstance(error, TimeoutError):
            self.close()  # the server went away: what is idle is dead as well

    def _sweep_later(self) -> None:
        self._sweeping = True
        RUNTIME.call_at(now() + _redis.IDLE, weakly(self._sweep))

    def _sweep(self) -> None:
        rest = self._used + _redis.IDLE - now()
        if rest > 0:
            RUNTIME.call_at(now() + rest, weakly(self._sweep))
            return
        self._sweeping = False
        self.close()

    def _close(self, wire: Wire) -> None:
        wire.close()


def _close_all(idle: deque[Wire], close: Callable[[Wire], None] = Wire.close) -> None:
    while True:
        try:
            wire = idle.pop()
        except IndexError:
            return
        close(wire)


def _packed(wire: Wire, commands: Sequence[tuple[Any, ...]]) -> bytes:
    return b"".join(wire.connection.pack_commands(commands))


def _taught(wire: Wire, calls: Sequence[Call], ahead: bytes) -> list[Any]:
    return _answered(wire, [ahead + _packed(wire, [command]) for command in _redis_packing.evals(calls)], ahead)


def _answered(wire: Wire, requests: Sequence[bytes], ahead: bytes) -> list[Any]:
    wire.send(b"".join(requests))
    return wire.replies(len(requests) * 2)[1::2] if ahead else wire.replies(len(requests))
