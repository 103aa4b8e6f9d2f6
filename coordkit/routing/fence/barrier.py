"""The weaker barrier, which takes the place of the fence where CLIENT KILL is forbidden: waiting.

It waits until every client that is registered has adopted the epoch, and then ``lease`` seconds in which that stays so.
A client that was away and comes back within that time, with what it had adopted before, is waited for as well. Before
it is over nothing is brought, so nobody loses what is written at the old owner.

**What it assumes** of each client, and no server enforces: from its decision where a command goes to its execution no
more than ``lease`` seconds pass, and it hears of a change within the same time. So these may write to an old owner, and
that write is lost:

- A client that is stopped for longer. One that is registered is waited for until its ZooKeeper session ends, and then
  ``lease`` seconds.
- A client that is cut off from ZooKeeper for longer, and serves on with connections that it has. A new connection tells
  it: the epoch on the shards is raised all the same, and compared.
- A former rebalancer that was stopped for longer.

What the fence would drop, each client drops itself, once it has adopted the change: who waits at the old owner, in a
BLPOP, is told to ask anew (`ways.waits`); who listens to a channel listens at the new one; and a transaction that has
watched a key there is not sent, as nothing there would say that the key has come to be elsewhere.

While it waits, commands on keys of the slots that are to move wait too (`Carrier`, up to ten seconds), and then fail
unsent: ``StoreUnavailable``. Others go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence

from coordkit._ports import Runtime
from coordkit.errors import StoreUnavailable

_log = logging.getLogger("coordkit")

_PAUSE, _LOOK = 0.1, 1.0  # seconds between two looks: at who is behind, and whether somebody has come back


class Barrier:
    """Waits for clients. ``behind`` tells who has not adopted an epoch, ``step`` is told that it goes on."""

    def __init__(
        self,
        runtime: Runtime,
        behind: Callable[[int], Awaitable[list[str]]],
        *,
        lease: float,
        patience: float,
        step: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._behind = behind
        self.lease = lease
        self._patience = patience
        self._step = step
        self._told: set[str] = set()

    async def wait(self, epoch: int, shards: Sequence[str]) -> None:
        """Return once nobody is known to act by an earlier epoch; StoreUnavailable if somebody is behind for too long.

        ``shards`` are those that forbid CLIENT KILL: for each that is said once, as a warning.
        """
        if fresh := [shard for shard in shards if shard not in self._told]:
            self._told.update(fresh)
            _log.warning(
                "CLIENT KILL is forbidden on %s, so a weaker barrier takes the place of the fence: for each batch it "
                "waits until every client that is registered has adopted it, and %s s longer; commands on its keys "
                "wait meanwhile, and fail unsent after 10 s. A client that is stopped, or cut off from ZooKeeper, for "
                "longer than that may write to an old owner, and that write is lost. Grant this user CLIENT KILL to "
                "rule it out.",
                " and ".join(fresh),
                f"{self.lease:g}",
            )
        await self.adopted(epoch, "CLIENT KILL is forbidden: end them, or grant it")

    async def adopted(self, epoch: int, otherwise: str) -> None:
        """Wait in the same way; ``otherwise`` is said of those who do not adopt it: why they must, and what helps."""
        now = self._runtime.now
        until, since = now() + self._patience, math.inf  # since when nobody is behind
        while True:
            self._step("barrier")
            behind = await self._behind(epoch)
            since = math.inf if behind else min(since, now())
            if (left := since + self.lease - now()) <= 0:
                return
            if behind and now() >= until:
                raise StoreUnavailable(
                    "clients",
                    f"{', '.join(behind[:5])} ({len(behind)} in all) have not adopted epoch {epoch} within "
                    f"{self._patience:g} s, and {otherwise}",
                )
            await self._runtime.sleep(_PAUSE if behind else min(left, _LOOK))
