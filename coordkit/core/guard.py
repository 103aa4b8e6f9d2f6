"""Guarding a session: a companion process ends it when this process dies or hangs.

This side beats, from its own timer, and listens. A companion that does not answer guards nothing: that ends, loudly,
what is led over the session, and nothing is led over it again before another companion is there.

Not promised: that a hang of one thread is noticed. Beats come from the timer thread, and under asyncio from the loop.
"""

from __future__ import annotations

import logging

from coordkit._ports import Runtime, Timer
from coordkit._ports_zookeeper import Companion, Ensemble, Link
from coordkit.core.session import FORKED
from coordkit.errors import CoordError

_log = logging.getLogger("coordkit")

BEATS = 4
"""Beats in the time after which a process that was not heard of counts as hung."""

_PATIENCE = 10.0  # seconds that a companion may take to be there: a new interpreter on a busy machine
_PAUSE = 1.0  # seconds before another attempt to have one
_LOOK = 0.002  # seconds between two looks at whether it is there, or gone


class Guard:
    """One companion after another, for one client, from ``begin`` to ``end``."""

    def __init__(self, runtime: Runtime, ensemble: Ensemble, companion: Companion, hang: float) -> None:
        self._runtime = runtime
        self._ensemble = ensemble
        self._companion = companion
        self._hang = hang
        self._process = runtime.process
        self._alone = False  # there is no companion
        self._over = False
        self._timer: Timer | None = None
        self._replacer = runtime.worker(self._replace)

    async def begin(self) -> None:
        """Start a companion, and return when it guards; raises ``CoordError``."""
        if self._ensemble.link() is Link.FORKED:  # the session is the parent's, whatever becomes of this process
            raise CoordError(str(self._ensemble), FORKED)
        await self._start()
        self._beat()

    async def _start(self) -> None:
        companion, now = self._companion, self._runtime.now
        try:
            companion.start()
            until, beaten = now() + _PATIENCE, now()
            while not companion.ready():
                self._check(now() < until)
                if now() >= beaten + self._hang / BEATS:
                    companion.beat()
                    beaten = now()
                await self._runtime.sleep(_LOOK)
        except BaseException:
            companion.stop()
            raise

    def _check(self, in_time: bool) -> None:
        if (why := self._companion.trouble()) or not in_time:
            raise CoordError(str(self._ensemble), f"no guardian: its process {why or 'did not answer'}")

    def _beat(self) -> None:
        if self._over:
            return
        try:
            self._look()
            self._companion.beat()
        finally:  # whatever it was, a companion that hears nothing more ends the session
            self._timer = self._runtime.call_at(self._runtime.now() + self._hang / BEATS, self._beat)

    def _look(self) -> None:
        if not self._alone and (why := self._companion.trouble()):
            self._alone = True
            why = f"its guardian {why}"
            _log.error(
                "%s: %s; what is led over this session is lost, another guardian is started", self._ensemble, why
            )
            self._ensemble.suspend(why)
        if self._alone:
            self._replacer.poke()  # at each beat: it may have had no thread to run in

    async def _replace(self) -> None:
        """Have another companion, however long it takes."""
        while self._alone and not self._over:
            try:
                await self._start()
            except CoordError as error:
                _log.error("%s; tried again in %s s", error, _PAUSE)
                await self._runtime.sleep(_PAUSE)
            else:
                self._alone = False
                self._ensemble.suspend("")
        if self._over:  # while it was started
            self._companion.stop()

    async def end(self) -> None:
        """Guard no longer; the session goes on."""
        if self._over or self._runtime.process != self._process:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._companion.dismiss()
        until = self._runtime.now() + 1.0
        try:
            while not self._companion.gone() and self._runtime.now() < until:
                await self._runtime.sleep(_LOOK)
        finally:
            self._companion.stop()
            self._ensemble.suspend("")
