"""Routing by a topology: what is asked of all shards speaks of the keys that they serve, each on its way met once.

- What a shard keeps for itself (its epoch, its moves) is not shown, and survives FLUSHDB and FLUSHALL.
- A key that a shard has and does not own (left over there, or not removed yet) is not shown by SCAN and KEYS.
- SCAN and KEYS go through the shards in the order of `coordkit.routing.topology.sweep`, so that they miss no key that
  moves. A key may be returned twice by SCAN. One that was deleted while its slot moves may be shown from the source,
  until it is removed there.
- Nobody but coordkit writes it: a command that would write such a key by its name is refused, before anything is sent.
  It may be read.
- DBSIZE and RANDOMKEY look at whole shards: a key that was brought and not removed yet counts at both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any
from zlib import crc32

from coordkit.errors import CrossShardError
from coordkit.routing.commands import keyless
from coordkit.routing.commands.key_router import named
from coordkit.routing.commands.keys import ASK, key_positions, wire_arguments
from coordkit.routing.commands.plan import Part, Plan, first
from coordkit.routing.commands.reads import WRITE
from coordkit.routing.commands.router import SPLIT, Router
from coordkit.routing.commands.scanning import Place, scan_plan
from coordkit.routing.fence.fence import is_local, local_key
from coordkit.routing.topology.sweep import order
from coordkit.routing.topology.topology import Topology
from coordkit.scripts import load

_FLUSH = load("shard_flush")
_RANDOM = load("shard_random")

_KEPT = "epoch", "moves", "settled"
_FLUSHES = {"FLUSHDB", "FLUSHALL"}


class TopologyRouter(Router):
    """Routes by ``topology``."""

    topology: Topology
    moving: frozenset[int] = frozenset()
    _kept: bytes  # what all keys begin with that a shard has for itself
    _kept_text: str

    @classmethod
    def of(cls, topology: Topology, encoder: Any) -> TopologyRouter:
        """Return a router by where a topology has keys served, for the clients' encoder."""
        kind = MovingRouter if topology.moves else cls
        self = kind(topology.serving, encoder.encode, encoder.encoding, encoder.encoding_errors)
        self.topology, self.moving = topology, frozenset(topology.moving)
        self._kept = local_key(topology.name, "")
        self._kept_text = self._kept.decode()
        return self

    # -- what a shard keeps for itself

    def shard_of_first_key(self, args: Sequence[Any]) -> str | None:
        """Return the shard of a command that goes there as it is; None for any other."""
        shard = super().shard_of_first_key(args)
        if shard is None:
            return None
        key = args[1]
        kept = key.startswith(self._kept_text) if type(key) is str else self.bytes_of(key).startswith(self._kept)
        return None if kept else shard  # the former is planned, and looked at

    def shards_of_first_keys(self, commands: Sequence[tuple[tuple[Any, ...], Any]]) -> list[str] | None:
        """Return the shards of commands that all go there as they are; None if one does not."""
        shards = super().shards_of_first_keys(commands)
        return None if shards is not None and self._may_be_kept([args[1] for args, _ in commands]) else shards

    def _may_be_kept(self, keys: Sequence[Any]) -> bool:
        """Return whether one of these may be a key of that kind, as fast as can be said of a hundred."""
        try:
            return self._kept_text in "\0".join(keys)
        except TypeError:  # not all are text
            return any(self.bytes_of(key).startswith(self._kept) for key in keys)

    def _routed(self, name: str, keys: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        if name not in keyless.PUBLISHING:  # a channel is no key
            self._check_kept(name, keys, args)
        return super()._routed(name, keys, args, options)

    def _split(self, name: str, wire: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        self._check_kept(name, wire[1 :: SPLIT[name]], args)
        return super()._split(name, wire, args, options)

    def _check_kept(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> None:
        kept = [key for key in named(keys) if self.bytes_of(key).startswith(self._kept)]
        if kept and self.kind_of(args) == WRITE:
            raise CrossShardError(
                name.replace("|", " "),
                f"{kept[0]!r} is what each shard of topology {self.topology.name!r} keeps for itself, and coordkit "
                "alone writes it: without it no client could tell who owns what. Nothing was sent; choose another key",
                shards={},
            )

    def plan_everywhere(self, args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        """Say what is sent to put a command to each shard."""
        wire = wire_arguments(args)
        name = self._name(wire)
        _check_swap(name)
        if (rule := self._rules.get(name, "")) not in {"", ASK}:
            self._check_kept(name, [wire[i] for i in key_positions(rule, wire)], args)
        if name not in _FLUSHES:
            return super().plan_everywhere(args, options)
        return self._flush(name, wire, keyless.by_shard(self.placement.shards))

    def _without_key(self, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        wire = wire_arguments(args)
        _check_swap(name)
        if name == "SCAN":
            return scan_plan(self._places, self._mark, wire, options, self.is_shown)
        if name == "KEYS":
            parts = [Part(shard, tuple(args), dict(options), (shard,)) for shard, _ in self._places]
            return Plan(name, "merge", tuple(parts), self._all_of_mine, in_turn=bool(self.moving))
        if name in _FLUSHES:
            return self._flush(name, wire, first)
        if name in {"DBSIZE", "RANDOMKEY"}:
            return self._of_sizes(name, wire, options)
        return super()._without_key(name, args, options)

    # -- SCAN and KEYS

    @cached_property
    def _places(self) -> Sequence[Place]:
        return list(order(self.topology))

    @cached_property
    def _mark(self) -> int:
        moves = [move.number for move in self.topology.moves]
        return crc32(f"{self.topology.owners.checksum()} {moves}".encode())

    def is_shown(self, key: Any, slots: AbstractSet[int]) -> bool:
        """Return whether a key that was found is one of these slots, and not what a shard has for itself."""
        wire = self.bytes_of(key)
        return self.slot(wire) in slots and not is_local(self.topology.name, wire)

    def _all_of_mine(self, replies: Sequence[Any]) -> list[Any]:
        found: dict[Any, None] = {}
        for (_, slots), keys in zip(self._places, replies, strict=True):
            found.update((key, None) for key in keys if self.is_shown(key, slots))
        return list(found)

    # -- what counts

    def _of_sizes(self, name: str, wire: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        own = *_KEPT, *(f"moved:{number}" for move in self.topology.moves for number in _numbers(move))
        questions: list[tuple[Any, ...]] = [
            tuple(wire),
            ("EXISTS", *(local_key(self.topology.name, part) for part in own)),
        ]
        join: Callable[[Sequence[Any]], Any] = _size
        if name == "RANDOMKEY":
            questions = [("DBSIZE",), questions[1], ("EVAL", _RANDOM.source, 1, local_key(self.topology.name, ""))]
            join = _any_key
        shards = self.placement.shards
        parts = [Part(shard, words, dict(options), (shard,)) for shard in shards for words in questions]
        return Plan(name, "merge", tuple(parts), join)

    # -- what empties them

    def _flush(self, name: str, wire: Sequence[Any], join: Callable[[Sequence[Any]], Any]) -> Plan:
        topology = self.topology
        if topology.moves:
            [move, *_] = topology.moves
            raise CrossShardError(
                name,
                f"slots move from {move.source!r} to {move.target!r} by move {move.number} of topology "
                f"{topology.name!r}: what is on its way would come back; wait for its end, or roll it back",
                shards={},
            )
        keys = [local_key(topology.name, part) for part in _KEPT]
        words = ("EVAL", _FLUSH.source, len(keys), *keys, *wire)
        parts = [Part(shard, words, {}, (shard,)) for shard in self.placement.shards]
        return Plan(name, "broadcast", tuple(parts), lambda replies: join([True] * len(replies)))


class MovingRouter(TopologyRouter):
    """Routes by a topology in which slots move: a command on a key of theirs is planned, so that its keys are known."""

    def shard_of_first_key(self, args: Sequence[Any]) -> str | None:
        """Return the shard of a command that goes there as it is; None for any other."""
        shard = super().shard_of_first_key(args)
        return None if shard is not None and self.slot(args[1]) in self.moving else shard

    def shards_of_first_keys(self, commands: Sequence[tuple[tuple[Any, ...], Any]]) -> list[str] | None:
        """Return the shards of commands that all go there as they are; None if one does not."""
        shards = super().shards_of_first_keys(commands)
        moving = self.moving
        if shards is not None and any(self.slot(args[1]) in moving for args, _ in commands):
            return None
        return shards


def _check_swap(name: str) -> None:
    if name == "SWAPDB":
        raise CrossShardError(name, "it would take away what each shard knows of the topology", shards={})


def _numbers(move: Any) -> tuple[int, ...]:
    return (move.number, move.undoes) if move.undoes else (move.number,)


def _size(replies: Sequence[Any]) -> int:
    return int(sum(replies[::2]) - sum(replies[1::2]))


def _any_key(replies: Sequence[Any]) -> Any:
    sizes = [size - own for size, own in zip(replies[::3], replies[1::3], strict=True)]
    return keyless.any_key([each for pair in zip(sizes, replies[2::3], strict=True) for each in pair])
