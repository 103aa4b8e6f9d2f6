"""Share of work for threads."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Literal

from coordkit._run import run
from coordkit._sync.lost import Lost
from coordkit.core import share
from coordkit.core.claim import Claim
from coordkit.core.share import Owner
from coordkit.core.token import Token


class Partition:
    """One partition that is this member's to work on, until ``ending``. Made by ``Share.run``, never by hand."""

    __slots__ = ("_core", "ending", "lost")

    def __init__(self, core: Claim) -> None:
        self._core = core
        self.ending = Lost(core.ending)
        self.lost = Lost(core.lost)

    @property
    def key(self) -> str:
        """Which of the partitions it is."""
        return self._core.partition

    @property
    def token(self) -> Token:
        """The fencing token: the zxid of claiming it, greater than that of every earlier owner of this partition."""
        return self._core.the_token()

    @property
    def epoch(self) -> int:
        """The zxid of the list of members by which it was given out; it rises with every list."""
        return self._core.epoch

    def remaining(self) -> float:
        """Return the seconds for which the last answered write proves that it is ours; 0.0 once it is lost."""
        return self._core.remaining()

    def ensure(self) -> Literal[True]:
        """Return True if it is ours, without asking the servers; raise ``LeaseLost`` if it may not be."""
        return self._core.ensure()

    def __repr__(self) -> str:
        return f"<Partition {self.key!r} token={self.token} remaining={self.remaining():.1f}s>"


class Share:
    """One member's part in the work on a list of partitions. Made by ``Group.share``."""

    def __init__(self, core: share.Share) -> None:
        self._core = core

    def run(self, serve: Callable[[Partition], object]) -> None:
        """Join the group, and call ``serve(partition)`` for each partition that is ours, each in a thread of its own.

        When a partition is to be another's, or was lost, its ``ending`` is set: ``serve`` must look at that (or wait
        for it) and return; nothing interrupts it. Only then, or when our session has ended, does another begin. A
        ``serve`` that returns by itself keeps its partition, idle, until that moves.

        Goes on through outages and new sessions until ``stop()``; then returns when all has ended and was given back.
        Raises what a ``serve`` raised, ``LeaseLost`` if a newer incarnation has the identity, ``StoreUnavailable`` if
        joining got no answer or the client was stopped, ``StoreRefused`` for a no; each after all work has ended.
        """
        if inspect.iscoroutinefunction(serve):
            raise TypeError(f"serve must be a plain function, got the coroutine function {serve!r}: see coordkit.aio")

        def begin(claim: Claim) -> None:
            def work() -> None:
                error: BaseException | None = None
                try:
                    serve(Partition(claim))
                except BaseException as raised:  # noqa: BLE001  raised again by run
                    error = raised
                claim.end(error)

            try:
                threading.Thread(target=work, name=f"coordkit-{claim.partition}", daemon=True).start()
            except RuntimeError as error:  # too many threads
                claim.end(error)

        run(self._core.run(begin))

    def stop(self) -> None:
        """Have the ``run`` in progress end all work, give it back, leave the group, and return."""
        self._core.stop()

    def held(self) -> dict[str, Partition]:
        """Return what is worked on here, now, by key; nothing is asked."""
        return {claim.partition: Partition(claim) for claim in self._core.held()}

    def owners(self) -> dict[str, Owner]:
        """Return who works on what, with the token, by key; two round trips. Raises ``StoreUnavailable``.

        Partitions that change hands are missing. Who crashed is shown until its session has ended.
        """
        return run(self._core.owners())

    def __repr__(self) -> str:
        return f"<Share of {self._core.path} identity={self._core.identity!r}>"
