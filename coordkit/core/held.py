"""What the facades ask of everything that can be held, whether it is one lease or several that stand for one."""

from __future__ import annotations

from typing import Literal, Protocol

from coordkit._ports import Event
from coordkit.core.pulse import Had
from coordkit.core.token import Token
from coordkit.errors import LeaseLost


class Held(Protocol):
    """What one holds: a ``Lease``, a level of a reentrant one, or the leases of several names."""

    @property
    def name(self) -> str: ...
    @property
    def token(self) -> Token: ...
    @property
    def holder(self) -> str: ...
    @property
    def ttl(self) -> float: ...
    @property
    def lost(self) -> Event: ...
    @property
    def pulse(self) -> Had:
        """Say who has it: ``pulse.kept = self`` for the process itself."""
        ...

    @property
    def given_back(self) -> bool:
        """Whether it ended by our own will."""
        ...

    def remaining(self) -> float: ...
    def ensure(self) -> Literal[True]: ...
    def loss(self) -> LeaseLost: ...
    async def renew(self) -> None: ...
    async def release(self) -> bool: ...


class Asks(Protocol):
    """What acquires: a ``Contender``, or something in front of one."""

    async def try_acquire(self) -> Held | None: ...
    async def acquire(self, timeout: float | None) -> Held: ...
