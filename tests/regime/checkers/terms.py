"""What ended the terms of an election besides the leader's own will, so that only true overlaps are called so.

A leader that was killed believes nothing more. One that was deposed by hand, or whose session was ended at the servers,
is told, not asked: its successor may lead before it has heard. Those are the ends that are written in here; what it may
not be excused for is not to hear at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from regime.history import Op


def ended(ops: Iterable[Op]) -> list[Op]:
    """Return the operations, and an end of belief for each term that was ended from outside, when that began."""
    ops = list(ops)
    ends = [Op(term.actor, "release", cause.call, math.inf, {"name": term.name, "token": term.token})
            for cause, term in _ended_from_outside(ops)]  # fmt: skip  # it is one sentence
    return sorted([*ops, *ends], key=lambda op: op.call)


def _ended_from_outside(ops: list[Op]) -> Iterator[tuple[Op, Op]]:
    causes = [op for op in ops if op.actor == "faults" and op.what in ("killed", "expired", "deposed")]
    for cause in causes:
        for term in ops:
            if term.what != "acquire" or not term.token or term.call > cause.end:
                continue
            if (
                term.token == cause.token
                if cause.what == "deposed"
                else term.actor.startswith(f"{cause.worker}/") and (cause.what == "killed" or term.end < cause.end)
            ):
                yield cause, term


def unheard_ends(ops: Iterable[Op], *, bound: float) -> list[str]:
    """Return the terms that were ended from outside and went on for longer than ``bound`` seconds."""
    ops = list(ops)
    left = {op.token: op.call for op in ops if op.what == "release"}
    killed = {op.worker for op in ops if op.what == "killed"}
    return [
        f"unheard_ends: {term.actor} was {cause.what} at {cause.end:.2f}, and led with {term.token} until {until:.2f}"
        for cause, term in _ended_from_outside(ops)
        if term.actor.partition("/")[0] not in killed
        and (until := left.get(term.token, math.inf)) > cause.end + bound
        and cause.what != "killed"
    ]


def foreign_terms(ops: Iterable[Op]) -> list[str]:
    """Return the terms whose znode was not there, or of another session than the leader's client had.

    Not those that were ended from outside: their znodes were taken away, and the leader was about to hear it.
    """
    ops = list(ops)
    excused = {term.token for _, term in _ended_from_outside(ops)}
    proofs = (op for op in ops if op.what == "proof" and op.token not in excused)
    return [
        f"foreign_terms: {op.actor} led with {op.token} by a znode of session {op.owner:#x}, and had {op.session:#x}"
        for op in proofs
        if op.owner != op.session
    ]
