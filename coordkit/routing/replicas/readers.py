"""Who of one shard is asked to read: its replicas, the primary, in which order, and who is left out.

Left out is who failed lately (`health.Aside`: probed in the background before it counts again) and who lags further
than it may (`lag`: looked at again and again). Who failed is only suspected, so where nobody else is left it is asked
all the same; who lags is known to, and is not. Pure: the I/O and the time of it are the caller's.
"""

from __future__ import annotations

import time  # noqa: TID251  pure code outside the core; a test gives its own clock
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from coordkit.errors import NoNodes, ShardDown
from coordkit.routing.balance.health import Aside, Picker
from coordkit.routing.balance.pickers import SmoothWeightedRoundRobin, Sticky
from coordkit.routing.replicas.lag import MaxLag, Progress

ReadFrom = Literal["primary", "replica", "replica_preferred", "nearest"]

READ_FROM: tuple[ReadFrom, ...] = ("primary", "replica", "replica_preferred", "nearest")

TRIES = 3
"""A read is sent to so many servers at most, one after the other."""

_PAUSE, _LONGEST = 0.5, 5.0  # seconds until one that failed is probed, and at most after failures in a row


class Node:
    """One server of a shard."""

    __slots__ = ("address", "client", "is_primary", "way", "weight")

    def __init__(self, address: str, client: Any, way: Any, *, weight: int = 1, is_primary: bool = False) -> None:
        self.address = address
        self.client = client
        self.way = way
        self.weight = weight
        self.is_primary = is_primary

    def __repr__(self) -> str:
        return self.address


class Readers:
    """The servers of one shard that may be read from, as far as they are known and well."""

    def __init__(
        self,
        shard: str,
        primary: Node,
        replicas: Sequence[Node],
        balance: Callable[[], Picker],
        *,
        max_lag: MaxLag | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shard = shard
        self.primary = primary
        self.replicas: tuple[Node, ...] = ()
        self.max_lag = max_lag
        self.clock = clock
        self.aside: Aside[Node] = Aside(_PAUSE, _LONGEST, clock)
        self.on_failure: Callable[[], None] = _nothing
        self._progress = Progress()
        self._why: dict[Node, str] = {}
        self._lagging: frozenset[Node] = frozenset()
        self._of_replicas, self._of_all = balance(), balance()
        self.update(replicas)

    def update(self, replicas: Iterable[Node]) -> None:
        """Replace the replicas, for the next pick on; what is known of those that stay stays known."""
        known, self.replicas = self.replicas, tuple(replicas)
        if self.max_lag is not None:  # it is for the first look to say that one is a replica, and how far behind
            fresh = {*self.replicas} - {*known}
            self._lagging |= fresh
            self._why.update(dict.fromkeys(fresh, "it was not looked at yet"))
        everyone = [*self.replicas, self.primary]
        for picker, nodes in ((self._of_replicas, self.replicas), (self._of_all, everyone)):
            if isinstance(picker, SmoothWeightedRoundRobin):
                picker.update({node: node.weight for node in nodes})
            else:
                picker.update(nodes)
        self.aside.update(everyone)
        self._lagging &= frozenset(everyone)

    def pick(self, read_from: ReadFrom, tried: Collection[Node] = ()) -> tuple[Node, Any]:
        """Return who is asked next, and the picker to be told of the end; raise NoNodes if there is nobody (else)."""
        if len(tried) >= TRIES:
            raise NoNodes(self.shard, f"{TRIES} servers were tried")
        picker = self._of_all if read_from == "nearest" else self._of_replicas
        prefers = read_from == "replica_preferred"
        if not prefers or len(tried) < TRIES - 1:
            out = {*tried, *self._lagging, *self.aside.out()} if tried or self._lagging or self.aside else ()
            try:
                return picker.pick(exclude=out), picker
            except NoNodes:
                pass
        if prefers and self.primary not in tried:
            return self.primary, None
        return picker.pick(exclude={*tried, *self._lagging}), picker

    def worked(self, node: Node, picker: Any, seconds: float | None = None) -> None:
        """Say that ``node`` answered; ``seconds`` is how long one command took, None where it tells nothing."""
        if seconds is not None and hasattr(picker, "took"):
            picker.took(node, seconds)
        if hasattr(picker, "done"):
            picker.done(node)
        if self.aside:
            self.aside.worked(node)

    def ended(self, node: Node, picker: Any, error: object) -> None:
        """Say that a pick is over, and how it failed: that sets ``node`` aside.

        None says that nothing was learnt of it, as by a call that was cancelled.
        """
        if hasattr(picker, "done"):
            picker.done(node)
        if error is not None:
            self._why[node] = f"it failed lately ({getattr(error, 'why', error)})"
            self.aside.failed(node)
            self.on_failure()

    def down(self, read_from: ReadFrom) -> ShardDown:
        """Return the error for a read that nobody could be asked."""
        told = self.told()
        said = "; ".join(f"{address}: {why}" for address, why in told.items() if why) or "no replica is known"
        way_out = "read from the primary meanwhile" if read_from == "replica" else "look at its servers"
        why = f"no replica of this shard may be read from ({said}); nothing was sent; {way_out}"
        return ShardDown(self.shard, why, shard=self.shard)

    def told(self) -> dict[str, str]:
        """Return each replica's address, with why it is not read from at present; empty where it is."""
        out = self.aside.out() | self._lagging
        return {node.address: self._why.get(node, "") if node in out else "" for node in self.replicas}

    # -- what probes found

    def to_probe(self) -> set[Node]:
        """Return who is to be looked at now."""
        due = self.aside.due()
        return due if self.max_lag is None else due | ({self.primary, *self.replicas} - self.aside.out())

    def found(self, said: Mapping[Node, Any], at: float) -> None:
        """Take what servers answered to INFO replication, or the errors of those that did not, at the time ``at``."""
        lagging = set(self._lagging)
        primary = said.get(self.primary)
        self._progress.primary_said(primary if isinstance(primary, Mapping) else None, at)
        for node, answer in said.items():
            if isinstance(answer, Exception):
                self._why[node] = f"it failed lately ({answer})"
                self.aside.failed(node)
                continue
            lagging.discard(node)
            looked_at = not node.is_primary and self.max_lag is not None
            if looked_at and (trouble := self._progress.trouble(answer, at, self.max_lag or MaxLag())):
                self._why[node] = trouble
                lagging.add(node)
        self._lagging = frozenset(lagging & {*self.replicas})
        for node, answer in said.items():  # after it is known to lag
            if not isinstance(answer, Exception):
                self.aside.worked(node)
        self._why = {node: why for node, why in self._why.items() if node in self.replicas}


def check_balance(balance: object) -> Callable[[], Picker]:
    """Return ``balance`` if it makes pickers for replicas."""
    if not callable(balance):
        raise TypeError(f"balance={balance!r}; a picker's class, such as PeakEwma, or what makes a picker is allowed")
    made: Any = balance()
    if isinstance(made, Sticky) or not (hasattr(made, "pick") and hasattr(made, "update")):
        raise ValueError(
            f"balance={balance!r} makes {made!r}; what makes a Random, RoundRobin, SmoothWeightedRoundRobin, "
            "LeastOutstanding or PeakEwma is allowed"
        )
    return cast("Callable[[], Picker]", balance)


def _nothing() -> None:
    """Nobody wants to know."""
