"""P1: at the server a name has one owner at a time, whose tokens rise; it is free again when it was given back, when
the server was made to forget it, or when its ttl has passed, by a clock that errs by at most the declared drift.

A lease model is the owner-aware mutex with a clock. The clock moves as little as each operation demands, which is the
most lenient choice, so what is found is found for certain.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from regime.checkers.around import around
from regime.checkers.linearizable import Event, why_not
from regime.history import Op


class Standing(NamedTuple):
    """What the server keeps: the owner's token (0: free), when it may end at the earliest, the time, the last token;
    and whose lease it was made to forget last.
    """

    owner: int = 0
    ends: float = 0.0
    time: float = 0.0
    last: int = 0
    forgotten: int = 0


def lease_model(ops: Iterable[Op], *, ttl: float, drift: float, budget: int | None = None) -> list[str]:
    """Return what is wrong with the history of one name.

    ``acquire`` and ``renew`` say until when their lease believes (``until``), and so does a ``look``: the server has
    promised that much, whoever asked for it. A refusal needs an owner. That may be somebody who does not know of it:
    who waits, and was handed the lock just now, or has waited in vain and does not stand in the queue for much longer,
    or whose acquisition has an unknown outcome. While there is such a one, a refusal is not looked at.

    Whom the server was made to forget may be told that he gave back: where his first request got no answer, the
    library takes what the second one finds for the work of the first.
    """
    ops = list(ops)
    unseen = _Unseen(ops, ttl)
    events = [event for op in ops for event in _events(op, ttl, unseen)]
    free = _perhaps_given_back(ops, ttl * (1 - drift))

    def step(now: Standing, event: Event) -> Standing | None:
        if event.what == "grant" and now.owner in free:
            now = now._replace(ends=min(now.ends, free[now.owner]))
        return _step(now, event, ttl * (1 - drift), drift)

    wrong = why_not(events, Standing(), step, budget=budget)
    return [] if wrong is None else ["\n".join([f"lease_model: {wrong}", *around(ops, wrong.at, ttl)])]


def _perhaps_given_back(ops: list[Op], ttl: float) -> dict[int, float]:
    """Return since when those leases may have been given back of which no release says so for certain.

    A release of unknown outcome was done at any time since its call, or never. And whoever believes no more gives back
    by himself, unseen, before he calls for anything or is killed. The server would have kept it longer: it counts from
    when it granted, a lease from when it was asked for.
    """
    since: dict[int, float] = {}
    for op in ops:
        if op.token and op.known and (op.what == "acquire" or op.until):
            since[op.token] = max(since.get(op.token, 0.0), op.until or op.call + ttl)
    for op in ops:
        if op.what == "release" and op.token in since:
            since[op.token] = -math.inf if op.released else min(since[op.token], op.call)
    return {token: at for token, at in since.items() if at > -math.inf}


class _Unseen:
    """From when to when which acquisitions may have owned the lock without knowing."""

    def __init__(self, ops: list[Op], ttl: float) -> None:
        self._spans: list[tuple[float, float, Op]] = []
        for op in ops:
            if op.what == "acquire" and not op.token and (op.timeout or not op.refused):
                self._spans.append((op.call, (op.end if op.known else op.call) + 3 * ttl + 1, op))
            elif op.what == "acquire" and op.timeout:
                self._spans.append((op.call, op.end, op))
        self._spans.sort(key=lambda span: span[0])
        self._longest = max((end - call for call, end, _ in self._spans), default=0.0)

    def beside(self, op: Op) -> bool:
        """Return whether another than ``op`` may have owned the lock meanwhile."""
        first = bisect_left(self._spans, op.call - self._longest, key=lambda span: span[0])
        for call, end, other in self._spans[first:]:
            if call >= op.end:
                break
            if end > op.call and other is not op:
                return True
        return False


def _events(op: Op, ttl: float, unseen: _Unseen) -> list[Event]:
    events: list[Event] = []
    if op.what == "acquire" and op.token:
        events.append(Event("grant", op.call, op.end, op.token))
    elif op.what == "acquire" and op.refused and not unseen.beside(op):
        events.append(Event("refusal", op.call, op.end))
    elif op.what == "release" and op.released:
        events.append(Event("release", op.call, op.end, op.token))
    elif op.what == "forget":
        events.append(Event("forget", op.call, op.end))
    if op.until and op.known:
        # Some request that was sent no earlier than this was answered by now.
        events.append(Event("held", op.until - ttl, op.end, op.token, op.until))
    return events


def _step(now: Standing, event: Event, ttl: float, drift: float) -> Standing | None:
    time = max(now.time, event.call)
    if event.what == "grant" and now.owner:
        time = max(time, now.ends)  # not before the other's ttl has passed
    if time > event.end:
        return None
    after: Standing | None = None
    if event.what == "grant" and event.token > now.last:
        after = Standing(event.token, time + ttl, time, event.token, now.forgotten)
    elif event.what == "forget":
        after = Standing(0, 0.0, time, now.last, now.owner or now.forgotten)
    elif event.what == "release" and now.owner == event.token:
        after = Standing(0, 0.0, time, now.last, now.forgotten)
    elif (event.what == "release" and now.forgotten == event.token) or (event.what == "refusal" and now.owner):
        after = now._replace(time=time)
    elif event.what == "held" and now.owner == event.token:
        ends = event.until - (event.until - event.call) * drift
        after = now._replace(time=time, ends=max(now.ends, ends))
    return after
