"""The three questions that a lease puts to its servers, whatever is held: grant, renew, revoke."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from coordkit._ports import Call, Confirm, Inbox

if TYPE_CHECKING:
    from coordkit.core.keeper import Keeper


class Granted(NamedTuple):
    """It is yours; of a semaphore, this slot of it. A ``Token`` says whom it is claimed by, else the holder does."""

    token: int
    slot: int | None = None


class Queued(NamedTuple):
    """You wait for it at the server, which will tell you."""

    at: int  # the server's time, in microseconds
    place: str  # the server's time when you came
    ahead: int  # how many came before you
    heard: bool  # whether anybody listens where you said that you do


class Refused(NamedTuple):
    """It is another's, for ``left`` seconds more unless renewed or given back; infinity if it never expires."""

    holder: str
    left: float
    queued: Queued | None = None


class Returned(Enum):
    """What a server says to a lease that is given back."""

    GIVEN_BACK = 1
    GONE = 0
    ANOTHERS = -1


RETURNED = {one.value: one for one in Returned}
"""The same by what the scripts say; to ask the Enum takes ten times as long."""


@dataclass
class Spot:
    """Where a contender stands in a queue: its entry there, and its place, once it has one."""

    entry: str
    place: str = ""


class Grantor(Protocol):
    """The questions a lease puts to its servers; each stands being asked twice."""

    name: str
    key: str  # where the server keeps it
    keeper: Keeper
    confirm: Confirm | None  # the copies that each grant must have

    def inbox(self) -> Inbox | None:
        """Return where its contenders are told what they wait for; None if they have to ask again."""
        ...

    def entry(self, holder: str, ttl: float, address: str) -> str:
        """Return the entry of a contender in the queue; ``address`` is its inbox's."""
        ...

    async def grant(self, holder: str, ttl: float, spot: Spot | None = None) -> Granted | Refused: ...
    def renewal(self, holder: str, ttl: float) -> Call: ...
    async def renew(self, holder: str, ttl: float) -> bool: ...
    async def revoke(self, holder: str, entry: str = "") -> Returned:
        """Give back what ``holder`` has, and leave the queue."""
        ...
