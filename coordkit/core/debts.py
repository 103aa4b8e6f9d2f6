"""Votes to be given back at servers that could not be reached: tried again until they can, or the ttl has ended it.

A server that was paused carries out what stands in its buffers when it goes on, although its connection was given up
meanwhile; a vote without its release would keep everybody else from it for a whole ttl.
"""

from __future__ import annotations

import math

from coordkit._ports import Answers, Call, Panel, Runtime
from coordkit.errors import CoordError

_PAUSE = 0.25  # seconds between two rounds
_ROUND = 64  # calls to one server in one round: they fit the buffers of a connection
_NOTHING = CoordError("", "no answer yet")
_MOST = 1024  # debts at one server; beyond that the ttl ends the oldest


class Debts:
    """What is to be given back at each instance of a panel."""

    def __init__(self, runtime: Runtime, panel: Panel) -> None:
        self._runtime = runtime
        self._panel = panel
        self._owed: list[dict[Call, float]] = [{} for _ in range(len(panel))]  # until when, by request
        self._worker = runtime.worker(self._pay)
        self._waiting = False

    def owe(self, answers: Answers, call: Call, until: float) -> None:
        """Repeat ``call`` where it could not be sent, or its connection broke, as long as it makes sense: ``until``.

        What is merely on its way is behind the vote that it gives back, on the same connection.
        """
        for instance, answer in answers.items():
            if isinstance(answer, CoordError):
                owed = self._owed[instance]
                owed[call] = until
                if len(owed) > _MOST:
                    del owed[next(iter(owed))]
                self._later()

    def _later(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._runtime.call_at(self._runtime.now() + _PAUSE, self._worker.poke)

    async def _pay(self) -> None:
        self._waiting = False
        now = self._runtime.now()
        calls: dict[int, list[Call]] = {}
        for instance, owed in enumerate(self._owed):
            for call in [call for call, until in list(owed.items()) if until < now]:
                owed.pop(call, None)
            if owed:
                calls[instance] = list(owed)[:_ROUND]
        if not calls:
            return
        try:
            answers = await self._panel.ask(
                "votes to give back",
                calls,
                within=self._panel.patience(),
                enough=lambda answers: 0.0 if len(answers) == len(calls) else math.inf,
            )
            for instance, asked in calls.items():
                if not isinstance(answers.get(instance, _NOTHING), CoordError):
                    for call in asked:
                        self._owed[instance].pop(call, None)
        finally:
            if any(self._owed):
                self._later()
