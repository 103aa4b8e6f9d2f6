"""What a backup does beside standing: one piece of work at a time, for one primary at a time.

The work for one primary has ended before that for the next begins, and before we become the primary ourselves. A
primary that is gone is followed until there is another: what it did last may still come, and nothing else can. None is
followed after one that came later, ourselves included: a replica that went back to it would take over what it lacks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from coordkit._ports import Runtime
from coordkit.core.records import Leader
from coordkit.core.token import Token

_log = logging.getLogger("coordkit")


class Following:
    """The work of a backup for one primary; it is to end when ``ended`` is set."""

    def __init__(self, runtime: Runtime, leader: Leader) -> None:
        self.leader = leader
        self.ended = runtime.event()
        self.over = runtime.event()  # it has ended


class Follower:
    """Begins and ends the work of a backup."""

    def __init__(
        self,
        runtime: Runtime,
        identity: str,
        work: Callable[[Following], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._identity = identity
        self._work = work
        self._failed = failed
        self._runtime = runtime
        self._mutex = runtime.mutex()
        self._leader: Leader | None = None  # whom to follow
        self._served: Token | None = None  # the term whose work was begun last
        self._newest: Token | None = None  # the latest term that we know of
        self._halted = False
        self._present: Following | None = None
        self._worker = runtime.worker(self._serve)

    def begin(self) -> None:
        """Know nobody, as at first, and follow whoever is told from now on."""
        with self._mutex:
            self._leader = self._served = self._newest = None
            self._halted = False

    def led(self, token: Token) -> None:
        """Be told that we lead, or somebody under our name: nobody from before that is to be followed any more."""
        with self._mutex:
            if self._newest is None or self._newest < token:
                self._newest, self._leader = token, None

    def follow(self, leader: Leader) -> None:
        """Follow ``leader`` from now on; never ourselves, nor whoever led under our name before.

        Nor one that came before the latest that we know of: after a new session our server may be late.
        """
        if leader.identity == self._identity:
            self.led(leader.token)
            return
        with self._mutex:
            if self._newest is not None and leader.token < self._newest:
                return
            self._newest = leader.token
            present, self._leader = self._present, leader
        if present is not None and present.leader.token != leader.token:
            present.ended.set()
        self._worker.poke()

    async def halt(self) -> None:
        """End the work, wait until it has ended, and begin none."""
        with self._mutex:
            self._halted = True
            present = self._present
        if present is None:
            return
        present.ended.set()
        patience = 1.0
        while not await present.over.wait(patience):
            _log.warning(
                "%s: the work of a backup for %s has not ended for another %g s; it should look at `ended`",
                self._identity, present.leader.identity, patience,
            )  # fmt: skip
            patience = min(2 * patience, 60.0)

    def resume(self) -> None:
        """Follow again, whoever leads now."""
        with self._mutex:
            self._halted = False
        self._worker.poke()

    def _begin(self) -> Following | None:
        with self._mutex:
            leader = self._leader
            if self._halted or leader is None or leader.token == self._served:
                return None
            self._served = leader.token
            self._present = Following(self._runtime, leader)
            return self._present

    async def _serve(self) -> None:
        while (present := self._begin()) is not None:
            try:
                await self._work(present)
            except Exception as error:  # noqa: BLE001  it is told where the roles are run
                self._failed(error)
            finally:
                with self._mutex:
                    self._present = None
                present.over.set()
