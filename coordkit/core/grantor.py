"""The three questions that a lease puts to its servers, whatever is held: grant, renew, revoke."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from coordkit._ports import Call

if TYPE_CHECKING:
    from coordkit.core.keeper import Keeper


class Granted(NamedTuple):
    """It is yours."""

    token: int


class Refused(NamedTuple):
    """It is another's, for ``left`` seconds more unless renewed or given back; infinity if it never expires."""

    holder: str
    left: float


class Returned(Enum):
    """What a server says to a lease that is given back."""

    GIVEN_BACK = 1
    GONE = 0
    ANOTHERS = -1


class Grantor(Protocol):
    """The questions a lease puts to its servers; each stands being asked twice."""

    name: str
    keeper: Keeper

    async def grant(self, holder: str, ttl: float) -> Granted | Refused: ...
    def renewal(self, holder: str, ttl: float) -> Call: ...
    async def renew(self, holder: str, ttl: float) -> bool: ...
    async def revoke(self, holder: str) -> Returned: ...
