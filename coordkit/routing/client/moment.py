"""One moment of a live topology, in a client: what it takes from the one before, and which keys it brings first.

A client without a topology is one moment for ever, in which nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from coordkit import _redis
from coordkit._ports import Runtime
from coordkit.routing.commands.reads import READ
from coordkit.routing.directory.shards import Directory
from coordkit.routing.moving.first_touch import FirstTouch
from coordkit.routing.replicas.fence import ReplicaFence
from coordkit.routing.replicas.servers import without_fence
from coordkit.routing.topology.parts import Move
from coordkit.routing.topology.router import TopologyRouter
from coordkit.routing.topology.topology import Topology
from coordkit.routing.ways.batch import Gathering
from coordkit.routing.ways.replies import is_kept

C = TypeVar("C")


class Moment(Directory[C]):
    """A client for as long as a topology stays what it is."""

    _way_type: ClassVar[type[Any]]  # of the flavour, over connections of our own
    _port_type: ClassVar[type[Any]]  # of the flavour, over such a way
    _runtime: ClassVar[Runtime]
    _touch: FirstTouch | None = None  # what brings the keys of slots that move

    def _made_for(
        self,
        topology: Topology,
        before: Moment[C] | None,
        greet: Callable[[str], Any] | None,
        fence_of: Callable[[str], ReplicaFence] | None,
    ) -> None:
        """Take a topology, and the connections of the client of the one before, where its shards are the same.

        ``greet`` gives, by shard, what its new connections are greeted with. ``fence_of`` gives what its replicas are
        asked; it is there if the shards know the epoch, and then keys of slots that move are brought before they are
        used.
        """
        self._topology, self._epoch = topology, topology.epoch
        ways = self._servers.primaries
        if greet is not None:
            ways = {name: self._greeted(name, client, greet(name)) for name, client in self._shards.items()}
        if before is not None:
            ways = {**ways, **self._ways_of_same(before)}
        servers = None if before is None else before._servers  # noqa: SLF001  it is one of us
        self._servers.take_over(ways, servers, fence_of or without_fence)
        self._router = TopologyRouter.of(topology, self._encoder)
        if before is not None and before.topology is not None:
            _end_waits(before.topology, topology, before._servers.primaries)  # noqa: SLF001  it is one of us
        self._ways = self._at_primaries = self._servers.ways(self._options, self._router.kind_of)
        if fence_of is not None and topology.moves:
            self._bring_keys()

    def _bring_keys(self) -> None:
        ports = {name: self._port(name) for name in self._shards}  # and not ourselves, which have what this is for
        self._touch = FirstTouch(self._runtime, lambda name, _: ports[name])

    def _port(self, shard: str, decided: int | None = None) -> Any:
        """Return the way to a shard for scripts and for keys that are brought, as this client's topology decides."""
        epoch = self._epoch if decided is None else decided
        return self._port_type(self._servers.primaries[shard], epoch, _redis.patience(self._shards[shard]))

    async def _bring(self, keys: Sequence[Any]) -> Mapping[str, int]:
        """Bring those of ``keys`` that are of slots that move; awaits ports only.

        Return what a command on them is decided by, where that is not the epoch alone.
        """
        if self._touch is None or self._topology is None:
            return {}
        return await self._touch.ensure(self._topology, map(self._router.bytes_of, keys))

    async def _bring_for(self, gathering: Gathering) -> None:
        """Bring the keys of what is gathered; what needs keys that cannot be brought is not sent, and has the error."""
        if self._touch is None or self._topology is None:
            return
        bytes_of = self._router.bytes_of
        brought, failed = await self._touch.failing(self._topology, map(bytes_of, gathering.keys()))
        gathering.decided.update(brought)
        if failed:
            gathering.leave_out(lambda name: failed.get(bytes_of(name)))

    def _move_of(self, key: Any) -> Move | None:
        """Return the move that ``key`` is brought by, None if it stays where it is."""
        if self._touch is None or self._topology is None:
            return None
        return self._topology.moving.get(self.slot(key))

    def _ways_for(self, gathering: Gathering) -> Mapping[str, Any]:
        """Return the ways by which a batch goes to each shard; see `coordkit.routing.replicas.fence`."""
        if self._at_primaries is self._ways:
            return self._ways
        kind_of = self._router.kind_of
        if any(kind_of(args) is not READ for batch in gathering.batches.values() for args, _ in batch):
            return self._at_primaries
        return self._ways_where(gathering.keys())

    def _ways_where(self, keys: Sequence[Any]) -> Mapping[str, Any]:
        """Return the ways to the shards for a command on these keys: to the primary alone where one of them moves."""
        if self._touch is None or self._at_primaries is self._ways:
            return self._ways
        moves = [move for key in keys if (move := self._move_of(key)) is not None]
        return {**self._ways, **{move.target: self._at_primaries[move.target] for move in moves}}

    def _ways_of_same(self, before: Moment[C]) -> dict[str, Any]:
        mine, theirs = self._terms(), before._terms()
        if mine != theirs:
            raise ValueError(
                f"connect made clients with (encoding, encoding_errors, decode_responses, protocol)={mine!r}, and "
                f"earlier with {theirs!r}; the same for all shards is allowed"
            )
        ways = before._servers.primaries
        return {name: way for name, way in ways.items() if self._shards.get(name) is before.on(name)}

    def _greeted(self, name: str, client: C, greet: Any) -> Any:
        if not is_kept(client):
            raise TypeError(
                f"connect({name!r}, ...) returned {client!r}, which keeps coordkit from making connections itself (a "
                "customised pool, a cache, a tracer); a plain client is allowed: only so the epoch is compared"
            )
        return self._way_type(name, client, greet=greet, breaker=self._servers.primaries[name].breaker)


def _end_waits(before: Topology, after: Topology, ways: Mapping[str, Any]) -> None:
    """Have nobody wait where what is waited for will not come: at shards from which slots have moved."""
    were, are = before.serving.table, after.serving.table
    for shard in {old for old, new in zip(were, are, strict=True) if old != new}:
        if (waits := getattr(ways.get(shard), "waits", None)) is not None:  # only a way of our own has them
            waits.end(after.epoch)
