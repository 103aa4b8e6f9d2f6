"""Locks over a live topology: each script goes to the shard that serves its keys now, and to no other.

Its keys are brought there first, if their slots move: the token counter before anything can be granted there, so tokens
keep rising; the lock with its holder and what is left of its ttl, so it stays held; the queue, in which everybody keeps
the place. Connections are compared with the epoch, as for any command. Who was told by a shard of a newer one sends
the script again, to where that says: nothing was sent before.

A topology that was declared a cache may lose any of these with a shard that is dead: there they are refused.

Who waits listens at the shard that had the lock when it began. The fence drops that connection, and then it asks again,
as after any broken one, and listens at the new owner.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from coordkit._ports import Call, Confirm, Form, Runtime, Store
from coordkit.core.beside import side_by_side
from coordkit.core.shards import ShardedStore, Shards, check_one_shard, unanswered
from coordkit.errors import CoordError, CrossShardError, StoreRefused, StoreUnavailable
from coordkit.routing.fence.port import ScriptPort
from coordkit.routing.topology.live import Live
from coordkit.routing.ways.errors import Outdated

T = TypeVar("T")


class LiveShards(Shards, Protocol):
    """A sharded client over a live topology, as far as locks need one."""

    _live: Live[Any]


class LiveStore(ShardedStore):
    """What `ShardedStore` is, over connections that are compared with the epoch; inboxes are those of plain clients."""

    def __init__(self, runtime: Runtime, shards: LiveShards, store_of: Callable[[Any], Store]) -> None:
        super().__init__(runtime, shards, store_of)
        if (topology := shards._live.topology).cache:  # noqa: SLF001  its own client's
            raise ValueError(
                f"client={shards!r} follows topology {topology.name!r}, which was declared a cache: a shard of it may "
                "be given up with the locks, fences and token counters that it has; one that is no cache is allowed"
            )
        self._live = shards._live  # noqa: SLF001  its own client's

    def _kept_for(self, key: Any) -> str:
        """Return the shard, or for what moves the way that it goes: its mover may be dead, or its source down."""
        moment = self._live.now
        move = moment._move_of(key)  # noqa: SLF001  one library
        return f"{move.source} > {move.target}" if move else str(moment.shard_for(key))

    def at(self, key: Any) -> Store:
        """Return the store of the plain client that has ``key`` now: for inboxes, which only listen."""
        return self._store_of(self._live.now.client_for(key))

    async def run(self, name: str, call: Call) -> Any:
        return await self._at(name, call, lambda port: port.run(call))

    async def run_form(self, name: str, form: Form, first: str, *, yielding: bool = False) -> Any:  # noqa: ARG002  one connection for one script
        return await self.run(name, form.call(first))

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        return await self._at(name, call, lambda port: port.run_confirmed(name, call, confirm))

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        until = math.inf if within is None else self._runtime.now() + within
        moment = self._live.now
        places: dict[tuple[bool, str], list[int]] = {}
        replies = unanswered(calls, within)
        for i, (name, call) in enumerate(calls):
            try:
                check_one_shard(moment, name, call.keys)
            except CrossShardError as error:
                replies[i] = error
                continue
            moves = any(moment._move_of(key) for key in call.keys)  # noqa: SLF001  one library
            places.setdefault((moves, moment.shard_for(call.keys[0])), []).append(i)

        async def ask(moves: bool, shard: str, mine: list[int]) -> None:
            decided, answered = moment.epoch, list[Any]()
            try:
                if moves:
                    mine, decided = await self._brought(moment, calls, mine, until, replies)  # the others have failed
                if mine:
                    answered = await moment._port(shard, decided).run_many([calls[i][1] for i in mine])  # noqa: SLF001  one library
            except Outdated:  # and by the newer topology they may be on several shards
                answered = [await self._settled(*calls[i]) for i in mine]
            except Exception as error:  # noqa: BLE001  this shard's affair, also what its credential provider raises
                answered = [error] * len(mine)
            for i, reply in zip(mine, answered, strict=True):
                replies[i] = reply

        groups = [partial(ask, moves, shard, mine) for (moves, shard), mine in places.items()]
        if len(groups) == 1:
            await groups[0]()
        else:  # what stays waits for nothing that moves, and no shard for another
            await side_by_side(self._runtime, groups, within=within)
        return [
            _meant(calls[i][0], reply) if isinstance(reply, CoordError) else reply for i, reply in enumerate(replies)
        ]

    async def _brought(
        self, moment: Any, calls: Sequence[tuple[str, Call]], mine: Sequence[int], until: float, replies: list[Any]
    ) -> tuple[list[int], int]:
        """Bring the keys of some calls: all at once, or where that fails each on its own, as long as there is time.

        Return those whose keys were brought, and by what they are decided; what became of the others stands in their
        replies. All are of one shard.
        """
        try:
            by = await moment._bring([key for i in mine for key in calls[i][1].keys])  # noqa: SLF001  one library
        except CoordError as error:
            failed: CoordError = error
        else:
            return list(mine), _one(by, moment.epoch)
        brought: list[int] = []
        decided = moment.epoch
        for i in mine:
            replies[i] = failed
            if len(mine) == 1 or self._runtime.now() >= until:
                continue
            try:
                by = await moment._bring(calls[i][1].keys)  # noqa: SLF001  one library
            except CoordError as error:
                replies[i] = error
            else:
                brought.append(i)
                decided = decided if brought[1:] else _one(by, decided)  # the first, which holds for the fewest
        return brought, decided

    async def _settled(self, name: str, call: Call) -> Any:
        try:
            return await self.run(name, call)
        except CoordError as error:
            return error

    async def _at(self, name: str, call: Call, ask: Callable[[ScriptPort], Awaitable[T]]) -> T:
        moment = self._live.now
        try:
            while True:
                check_one_shard(moment, name, call.keys)  # by this very moment: what was one shard may be two
                try:
                    decided = _one(await moment._bring(call.keys), moment.epoch)  # noqa: SLF001  one library
                    return await ask(moment._port(moment.shard_for(call.keys[0]), decided))  # noqa: SLF001  one library
                except Outdated as outdated:
                    moment = await self._live.newer(outdated)
        except (StoreUnavailable, StoreRefused) as error:
            raise _meant(name, error) from error.__cause__


def _one(decided: Mapping[str, int], epoch: int) -> int:
    """Return by what a script is decided whose keys are of one shard."""
    return min(decided.values(), default=epoch)


def _meant(name: str, error: CoordError) -> CoordError:
    """Return an error of a shard as one of a lock's."""
    kind = StoreRefused if isinstance(error, StoreRefused) else StoreUnavailable
    if not isinstance(error, (StoreRefused, StoreUnavailable)) or error.name == name:
        return error
    meant = kind(name, f"shard {error.name}: {error.why}")
    meant.__cause__ = error.__cause__
    return meant
