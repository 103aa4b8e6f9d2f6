"""Share of work: each member of a group works on its part of a list of partitions, and each partition on one member.

Everybody computes from the list of members, and what each weighs, who is to work on what; who does is decided by a
claim on each partition (see ``claim``). A member whose part changed has the work on what it loses end, and then deletes
the claim; whoever gets it waits for that. So nobody begins while a former owner works, unless that one hangs or is cut
off for longer than its session lasts: by then its proof has ended, and its token is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from coordkit._ports import Runtime
from coordkit._ports_zookeeper import GetChildren, GetData, NodeError, NoNode
from coordkit.core import records, znodes
from coordkit.core.claim import Claim
from coordkit.core.group import Group
from coordkit.core.portions import read_all
from coordkit.core.shift import Begin, Shift
from coordkit.core.token import Token
from coordkit.core.weighing import Weigh
from coordkit.errors import CoordError

_FOR_EVER = 1e9


class Owner(NamedTuple):
    """Who works on a partition, and by which token."""

    identity: str
    token: Token


class Share:
    """One member's part in the work of a group."""

    def __init__(
        self,
        runtime: Runtime,
        group: Group,
        partitions: Sequence[str],
        identity: str,
        *,
        data: bytes,
        weigh: Weigh | None,
    ) -> None:
        self.path = group.path
        self.identity = identity
        self.partitions = partitions
        self._runtime = runtime
        self._group = group
        self._data = data
        self._weigh = weigh
        self._busy = False
        self._shift: Shift | None = None
        self._stopping = False

    async def run(self, begin: Begin) -> None:
        """Join, and work until ``stop()``, an error of the work, or the loss of the identity; see the facade."""
        if self._busy:
            raise CoordError(self.path, f"run() of {self.identity} is in progress: stop it first")
        self._busy, self._stopping = True, False
        try:
            member = await self._group.join(self.identity, self._data)
            shift = self._shift = Shift(self._group.session(), member, self.partitions, self._weigh, begin)
            try:
                if not self._stopping:
                    await shift.serve()
            finally:
                await self._runtime.finish(shift.end(), within=_FOR_EVER)
        finally:
            self._busy, self._shift = False, None
        if shift.error is not None:
            raise shift.error
        if member.lost.is_set():
            raise member.loss()

    def stop(self) -> None:
        """Have the ``run`` in progress end the work, give back what it has, leave, and return."""
        self._stopping = True
        if self._shift is not None:
            self._shift.stop()

    def held(self) -> list[Claim]:
        """Return what is worked on here, now."""
        shift = self._shift
        return [] if shift is None else [claim for claim in list(shift.held.values()) if not claim.ending.is_set()]

    async def owners(self) -> dict[str, Owner]:
        """Return who works on what, by partition; two round trips, and more for more than 500 partitions."""
        session, parent = self._group.session(), znodes.claims(self.path)
        names = (await session.read(self.path, [GetChildren(parent)]))[0]
        if isinstance(names, NoNode) or not names:
            return {}
        seen = await read_all(session, self.path, [GetData(f"{parent}/{name}") for name in names])
        return {
            znodes.identity_of(name): Owner(
                records.candidate_identity(answer[0]), Token(answer[1].created, records.claim_holder(answer[0]))
            )
            for name, answer in zip(names, seen, strict=True)
            if not isinstance(answer, NodeError)
        }
