"""Bugs in the moving of slots, put into clients and movers by name: the loss experiment, or W8, must find each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regime.history import now
from regime.scripts import edit

from coordkit.core import lock
from coordkit.routing.commands.router import Router
from coordkit.routing.fence import fence
from coordkit.routing.moving import mover
from coordkit.routing.moving import source as move_source
from coordkit.routing.moving import target as move_target
from coordkit.routing.ways import way, way_aio

EJECTED = 1.0  # seconds for which a shard that was not reached is asked for nothing, as other routers have it


def no_fence() -> None:
    """Three states and a barrier: the epoch is told to nobody, and nobody's connection is dropped."""

    def heard(self: fence.Greeting, reply: Any) -> int:
        del self, reply
        return 0

    async def drop(*_: Any, **__: Any) -> int:
        return 0

    fence.Greeting.heard = heard  # type: ignore[method-assign]  # a mutant
    mover.drop_connections = drop  # type: ignore[assignment]  # a mutant


def nobody_is_dropped() -> None:
    """The epoch is raised, and those who are connected stay so."""

    async def drop(*_: Any, **__: Any) -> int:
        return 0

    mover.drop_connections = drop  # type: ignore[assignment]  # a mutant


def epoch_is_not_compared() -> None:
    """Who comes back over a new connection does what was decided before."""

    def heard(self: fence.Greeting, reply: Any) -> int:
        del self, reply
        return 0

    fence.Greeting.heard = heard  # type: ignore[method-assign]  # a mutant


def opened_before_the_fence() -> None:
    """Keys are brought as soon as a move is announced, while others still write to the old owner."""
    was = move_target.Target.look

    async def look(self: move_target.Target, *args: Any) -> Any:
        await self.begin()
        return await was(self, *args)

    move_target.Target.look = look  # type: ignore[method-assign]  # a mutant


def a_rollback_brings_nothing() -> None:
    """What a move had brought is taken for never brought by the one that rolls it back, and is left where it is."""
    was = move_source.Source.kept

    async def kept(self: move_source.Source, keys: Any) -> set[bytes]:
        return set(keys) if self._move.undoes else await was(self, keys)

    move_source.Source.kept = kept  # type: ignore[method-assign]  # a mutant


def counters_stay_behind() -> None:
    """The owner is brought, the counter is not; and it counts by itself, without the server's clock."""
    edit(lock, "_ACQUIRE", "time[1] * 1000000 + time[2]", "0")
    _read_as(lambda each: each._replace(value=b"") if each.key.endswith(b":token") else each)


def ends_early() -> None:
    """What is brought ends when a tenth of its time is over."""
    for step in ("read", "timed"):  # on a busy machine the time is asked for once more
        _read_as(lambda each: each._replace(ends=each.ends // 10 if each.ends > 0 else each.ends), step)


def dead_shards_keys_go_elsewhere() -> None:
    """What a shard owns that was not reached is asked of the others, silently, for a while: each client by itself."""
    until: dict[str, float] = {}
    for kind in (way.Way, way_aio.Way):
        _noting_failures(kind, until)
    was = Router.route

    def route(self: Router, key: Any) -> str:
        shard, names = was(self, key), self.placement.shards
        alive = [name for name in names if until.get(name, 0.0) <= now()]
        return shard if shard in alive or not alive else alive[self.slot(key) % len(alive)]

    Router.route = route  # type: ignore[method-assign]  # a mutant
    Router.route_many = lambda self, keys: [self.route(key) for key in keys]  # type: ignore[method-assign]  # a mutant


def _noting_failures(kind: Any, until: dict[str, float]) -> None:
    was = kind.__init__

    def made(self: Any, name: str, *args: Any, **options: Any) -> None:
        was(self, name, *args, **options)
        failed = self.breaker.failed

        def noted(why: str) -> None:
            until[name] = now() + EJECTED
            failed(why)

        self.breaker.failed = noted

    kind.__init__ = made


def _read_as(change: Callable[[Any], Any], step: str = "read") -> None:
    was = getattr(move_source.Source, step)

    async def read(self: move_source.Source, *args: Any) -> Any:
        return [change(each) for each in await was(self, *args)]

    setattr(move_source.Source, step, read)


OF_LOSS = (no_fence, nobody_is_dropped, epoch_is_not_compared, opened_before_the_fence, a_rollback_brings_nothing)
OF_LOCKS = (epoch_is_not_compared, counters_stay_behind, ends_early, dead_shards_keys_go_elsewhere)
MUTANTS: dict[str, Callable[[], None]] = {mutant.__name__: mutant for mutant in (*OF_LOSS, *OF_LOCKS)}


def put_in(mutant: str) -> None:
    """Put a mutant into this process; "" is none."""
    if mutant:
        MUTANTS[mutant]()
