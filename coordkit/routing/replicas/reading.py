"""A batch of reads to a shard with replicas, blocking: to one server, or else to another."""

from __future__ import annotations

import math
from typing import Any

from coordkit._run import run
from coordkit.routing.replicas.attempts import Attempts


class Reading(Attempts):
    """A batch of reads to one server, and to another if that one does not answer."""

    def take(self) -> None:
        if not self._probes.begun:
            run(self._probes.begin())
        self._take()

    def _take(self) -> None:
        while self._next():
            self._inner.take()
            if not self._was_unfit():
                return

    def send(self) -> None:
        if self._inner is not None:
            self._inner.send()

    def read(self, began: float = math.inf) -> None:
        while self._inner is not None:
            self._inner.read(began)
            if not self._was_unfit():
                self._worked()
                return
            began = math.inf  # the next has its own time
            self._take()
            self.send()

    def give_back(self) -> None:
        if self._inner is not None:
            self._inner.give_back()
        self._let_go()

    def replies(self) -> list[Any]:
        """Return the reply to each command, or an error in its place."""
        if self._inner is None:
            return [self._error] * len(self._batch)
        replies: list[Any] = self._inner.replies()
        return replies if self._fenced_by is None else replies[1:-1]

    def _was_unfit(self) -> bool:
        if self._picked is None or (error := self._trouble()) is None:
            return False
        self._inner.give_back()
        self._failed(error)
        return True
