"""Who has a lease: it is renewed while somebody does, and is given back when nobody does any more.

Python may raise an exception between any two instructions of the main thread, because a signal handler raised it
(Ctrl-C, a job's time limit), and no code can be written that this does not hit at a bad moment. So a lease does not
live until somebody ends it, but as long as somebody has it. Timers only know it weakly. Who has it is, while it is
acquired, the frame that acquires; then the block, for ``with``; and for who called ``acquire``, the process itself, to
the end or until it is given back, whether or not the ``Lease`` is kept: of that kind is a lock that lets one process
run. To become so is the last thing that ``acquire`` does, by a mere assignment, which nothing can interrupt halfway.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

if TYPE_CHECKING:
    from coordkit.core.lease import Lease, Terms

_log = logging.getLogger("coordkit")


class Had(Protocol):
    """Where what is held is put that the process itself has: ``core.pulse.kept = core``."""

    kept: object


class Kept:
    """Keeps what is put into it, as long as a ``Pulse`` keeps this."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: object = None


class Pulse(ref[Any]):
    """What the timers of one lease know of it: the lease, as long as somebody has it, and how to give it back."""

    __slots__ = ("ended", "holder", "kept", "terms")  # set by the lease, sooner than by an __init__

    ended: bool
    holder: str
    kept: object
    terms: Terms

    def due(self) -> None:
        """Renew it, if somebody has it."""
        lease: Lease | None = self()
        if lease is None:
            self._give_back()
        else:
            lease.due()

    def over(self) -> None:
        """Announce its end, unless it was renewed meanwhile."""
        lease: Lease | None = self()
        if lease is None:
            self._give_back()
        else:
            lease.over()

    def _give_back(self) -> None:
        if self.ended:
            return  # just now, when this was due already
        grantor = self.terms.grantor
        _log.warning("%s: given back, for nobody has it any more: what held it was interrupted", grantor.name)
        grantor.keeper.give_back(grantor, self.holder, until=self.terms.runtime.now() + self.terms.ttl)
