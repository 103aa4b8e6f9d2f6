"""What a majority of a set says, call by call: the answers by which leases of a quorum are renewed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coordkit._ports import Answers, Call, Enough, Panel, Runtime
from coordkit.errors import CoordError, NoQuorum

GRACE = 0.05
"""Seconds, at least, that the last ones are waited for once a majority has answered and nothing is decided."""

_AT_ONCE = 64  # questions in one pipeline: so few fit the buffers of a connection, also if nobody reads them


def patient(runtime: Runtime, panel: Panel, decided: Enough) -> Enough:
    """Return ``decided``, made to wait for a minority no longer than twice what the majority took."""
    began = runtime.now()
    majority = len(panel) // 2 + 1

    def enough(answers: Answers) -> float:
        wait = decided(answers)
        if wait and sum(not isinstance(answer, CoordError) for answer in answers.values()) >= majority:
            return min(wait, max(GRACE, 2 * (runtime.now() - began)))
        return wait

    return enough


def errors(panel: Panel, answers: Answers) -> dict[str, Exception]:
    """Return why each server that did not answer, or answered with an error, is of no use."""
    found: dict[str, Exception] = {}
    for instance in range(len(panel)):
        where = panel.where(instance)
        answer = answers.get(instance)
        if answer is None:
            found[where] = TimeoutError(f"no answer from {where} yet")
        elif isinstance(answer, CoordError):
            found[where] = answer
        elif error := next((reply for reply in answer if isinstance(reply, Exception)), None):
            found[where] = error
    return found


def no_quorum(name: str, panel: Panel, why: str, found: Mapping[str, Exception]) -> NoQuorum:
    """Return the error that says so, with the first of its causes."""
    said = "; ".join(f"{where}: {getattr(error, 'why', error)}" for where, error in found.items())
    error = NoQuorum(name, f"{why} of {len(panel)} servers{': ' if said else ''}{said}", errors=found)
    error.__cause__ = next(iter(found.values()), None)
    return error


class Majority:
    """A set that is asked yes or no: 1 where a majority says 1, 0 where none can any more, else ``NoQuorum``."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._majority = len(panel) // 2 + 1

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        """Put many questions to all instances in one pipeline each; an answer that is an error stands in its place."""
        verdicts: list[Any] = []
        for start in range(0, len(calls), _AT_ONCE):
            verdicts += await self._run(calls[start : start + _AT_ONCE], within)
        return verdicts

    async def _run(self, calls: Sequence[tuple[str, Call]], within: float | None) -> list[Any]:
        panel = self._panel
        asked = [call for _, call in calls]
        patience = panel.patience() if within is None else min(within, panel.patience())
        answers = await panel.ask(
            calls[0][0], dict.fromkeys(range(len(panel)), asked), within=patience, enough=self._all_decided(len(asked))
        )
        verdicts = self._verdicts(answers, len(asked))
        if None not in verdicts:
            return list(verdicts)
        found = errors(panel, answers)
        return [
            no_quorum(name, panel, "no answer from a majority", found) if verdict is None else verdict
            for (name, _), verdict in zip(calls, verdicts, strict=True)
        ]

    def _all_decided(self, count: int) -> Enough:
        def enough(answers: Answers) -> float:
            return math.inf if None in self._verdicts(answers, count) else 0.0

        return enough

    def _verdicts(self, answers: Answers, count: int) -> list[int | None]:
        yes, no = [0] * count, [0] * count
        for answer in answers.values():
            if isinstance(answer, CoordError):
                continue
            for i, reply in enumerate(answer):
                if reply == 1:
                    yes[i] += 1
                elif not isinstance(reply, Exception):
                    no[i] += 1
        most = len(self._panel) - self._majority
        return [1 if y >= self._majority else 0 if n > most else None for y, n in zip(yes, no, strict=True)]
