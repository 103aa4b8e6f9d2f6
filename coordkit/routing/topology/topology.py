"""A live topology: which shards there are, who owns each slot, and which slots are on their way. Pure, no I/O.

A `Topology` is one moment of it, immutable, with a rising ``epoch``. Each transition returns the next one, whose epoch
is one more; who writes it where all see it (`coordkit.TopologyStore` for ZooKeeper) does so by compare-and-set, so that
there is one line of epochs. A slot is `Stable` or `Moving`; between two stable owners there is always a `Moving`::

    with_shard, reweighted, draining ...    nothing moves yet
    plan() -> begin_move(*step)             STABLE(a) -> MOVING(a -> b)
    finish_move(number)                     MOVING(a -> b) -> STABLE(b)
    roll_back_move(number)                  MOVING(a -> b) -> MOVING(b -> a), finished in the same way
    forget_shard                            once it owns nothing
    abandoning -> abandoned                 a shard that is gone for good: see `loss`

Promised: every slot has one owner in each of them, what moves is what `SlotMap.rebalance` finds and no more. Not
promised: that clients have heard of it; that is what the epoch is compared for where commands are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from coordkit.core.checks import check_name
from coordkit.errors import BadTopology, NoNodes
from coordkit.routing.placement.quotas import quotas
from coordkit.routing.placement.slot_map import SlotMap, slot_map
from coordkit.routing.placement.slots import SLOTS
from coordkit.routing.topology import form, loss, steps, succession
from coordkit.routing.topology.parts import (
    Move,
    Moving,
    Shard,
    Stable,
    Step,
)


@dataclass(frozen=True)
class Topology:
    """Say which shards there are, who owns each of the 16384 slots, and which slots move. See the module's docstring.

    ``name`` tells it from others, ``epoch`` (1 or more) from its predecessors. ``owners`` has the owner of each slot;
    for a slot that moves that is the source. Made by `Topology.first`, `Topology.from_bytes` and the transitions.
    ``cache`` says that what it has may be given up at any time: no locks are kept there, and a dead shard may be taken
    out (`abandoning`). Raise ValueError or TypeError, naming the argument, for what does not fit together.
    """

    name: str
    epoch: int
    shards: Mapping[str, Shard]
    owners: SlotMap
    moves: tuple[Move, ...] = field(default=())
    cache: bool = False

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int):
            raise TypeError(f"epoch={self.epoch!r}; an int from 1 on is allowed")
        if not 1 <= self.epoch < 1 << 53:  # which every JSON reader and Lua take exactly
            raise ValueError(f"epoch={self.epoch!r}; 1 to {(1 << 53) - 1} is allowed")
        if not isinstance(self.cache, bool):
            raise TypeError(f"cache={self.cache!r}; True or False is allowed")
        object.__setattr__(self, "shards", MappingProxyType(dict(sorted(self.shards.items()))))
        if set(self.owners.shards) != set(self.shards):
            raise ValueError(f"owners has the shards {list(self.owners.shards)!r}; {list(self.shards)!r} are allowed")
        if all(shard.state != "up" for shard in self.shards.values()):
            raise ValueError("no shard is up; at least one must not be draining")
        steps.check_moves(self)

    @classmethod
    def first(
        cls, name: str, shards: Mapping[str, Shard | str], *, placement: SlotMap | None = None, cache: bool = False
    ) -> Topology:
        """Return the first topology, of epoch 1: each shard owns one run of slots, by weight.

        ``shards`` maps names to `Shard` or to the address of a shard's primary. ``placement`` says who owns each slot
        instead: that of a static `ShardedRedis` whose data is there, as ``rendezvous(names, weights)``, its default.
        ``cache`` declares that what it has may be given up with a shard that is dead; that stays so for good.
        """
        if not isinstance(shards, Mapping):
            raise TypeError(f"shards={shards!r}; a mapping of names to Shard or addresses is allowed")
        listed = {each: _shard(shard) for each, shard in shards.items()}
        _check_addresses(listed)
        up = {each: shard.weight for each, shard in listed.items() if shard.state == "up"}
        if placement is None:
            return cls(name, 1, listed, SlotMap(tuple(sorted(listed)), slot_map(up, up).table), cache=cache)
        if not isinstance(placement, SlotMap):
            raise TypeError(f"placement={placement!r}; a SlotMap, as rendezvous() and slot_map() make, is allowed")
        return cls(name, 1, listed, placement, cache=cache)

    # -- what it says

    @cached_property
    def serving(self) -> SlotMap:
        """Where the commands on each slot's keys run: its owner, or for a slot that moves the target."""
        if not self.moves:
            return self.owners
        table = list(self.owners.table)
        for slot, move in self.moving.items():
            table[slot] = move.target
        return SlotMap(self.owners.shards, tuple(table))

    @cached_property
    def moving(self) -> Mapping[int, Move]:
        """The move of each slot that is on its way; other slots are not in it."""
        return MappingProxyType({slot: move for move in self.moves for slot in move.slots})

    def state_of(self, slot: int) -> Stable | Moving:
        """Return ``Stable(owner)`` or ``Moving(source, target)``; ValueError unless ``slot`` is from 0 to 16383."""
        owner = self.owners.owner(slot)
        move = self.moving.get(slot)
        return Stable(owner) if move is None else Moving(move.source, move.target)

    def move(self, number: int) -> Move:
        """Return the move with this number; ValueError if there is none."""
        for each in self.moves:
            if each.number == number:
                return each
        raise ValueError(f"number={number!r}; one of {[each.number for each in self.moves]} is allowed")

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the shards that are up."""
        return {name: shard.weight for name, shard in self.shards.items() if shard.state == "up"}

    def goal(self) -> SlotMap:
        """Return who shall own each slot in the end: `SlotMap.rebalance` of what will be, once the moves have ended."""
        balanced = self.serving.rebalance(self.weights, self.weights)
        return SlotMap(self.owners.shards, balanced.table)

    def plan(self, batch: int = 256) -> list[Step]:
        """Return the moves that lead to the `goal`, each of at most ``batch`` slots of one source and one target.

        None is needless. A step whose slots are moving now can begin once that move has ended.
        """
        if not 1 <= batch <= SLOTS:
            raise ValueError(f"batch={batch!r}; an int from 1 to {SLOTS} is allowed")
        return [
            Step(tuple(slots[at : at + batch]), source, target)
            for (source, target), slots in self.serving.moves(self.goal()).items()
            for at in range(0, len(slots), batch)
        ]

    # -- transitions

    def with_shard(self, name: str, shard: Shard | str) -> Topology:
        """Return the next topology with one more shard, which owns nothing yet; a str is its primary's address."""
        if name in self.shards:
            raise ValueError(f"name={name!r} is a shard already; a new one is allowed")
        shards = {**self.shards, name: _shard(shard)}
        _check_addresses(shards)
        return self._next(shards)

    def with_addresses(self, name: str, primary: str, replicas: Iterable[str] = ()) -> Topology:
        """Return the next topology with a shard that is elsewhere now, as after a failover; its slots stay its own."""
        shard = replace(steps.check_shard(self, "name", name), primary=primary, replicas=tuple(replicas))
        shards = {**self.shards, name: shard}
        _check_addresses(shards)
        return self._next(shards)

    def reweighted(self, name: str, weight: float) -> Topology:
        """Return the next topology with another weight for a shard; a plan moves what that makes too much."""
        return self._next({**self.shards, name: replace(steps.check_shard(self, "name", name), weight=weight)})

    def draining(self, name: str) -> Topology:
        """Return the next topology with a shard that shall own nothing; a plan shares out its slots."""
        return self._next({**self.shards, name: replace(steps.check_shard(self, "name", name), state="draining")})

    def undrained(self, name: str) -> Topology:
        """Return the next topology with a shard that is up again; ValueError for one that is given up."""
        if name in self.leaving:
            raise ValueError(f"name={name!r} is given up, which is final; another shard is allowed")
        return self._next({**self.shards, name: replace(steps.check_shard(self, "name", name), state="up")})

    def forget_shard(self, name: str) -> Topology:
        """Return the next topology without a shard; ValueError unless it owns nothing and nothing moves to it."""
        steps.check_shard(self, "name", name)
        owned = self.owners.counts()[name]
        if owned or any(name == move.target for move in self.moves):
            coming = sum(len(move.slots) for move in self.moves if name == move.target)
            raise ValueError(
                f"name={name!r} owns {owned} slots, and {coming} are on their way to it; one without any is "
                "allowed: drain it, carry out the plan, then forget it"
            )
        return self._next({each: shard for each, shard in self.shards.items() if each != name})

    @property
    def leaving(self) -> dict[str, int]:
        """The shards that are being given up, and how many slots of each."""
        return loss.leaving(self)

    def abandoning(self, name: str) -> Topology:
        """Return the topology in which a dead shard's slots are on their way to the others, with nothing to fetch.

        What goes where is what `plan` would move if it were drained. Each move has an epoch of its own, so it is later
        by several. ValueError if no shard would be up, it is given up already, or others move: finish that first.
        """
        steps.check_shard(self, "name", name)
        return loss.abandoning(self, name)

    def abandoned(self, name: str) -> Topology:
        """Return the topology without a shard that was `abandoning`; what it had belongs to the others, and is gone."""
        steps.check_shard(self, "name", name)
        return loss.abandoned(self, name)

    def begin_move(self, slots: Iterable[int], source: str, target: str) -> Topology:
        """Return the next topology with these slots on their way; the move's number is its epoch."""
        return steps.begin_move(self, slots, source, target)

    def finish_move(self, number: int) -> Topology:
        """Return the next topology with the slots of this move owned by its target."""
        return steps.finish_move(self, number)

    def roll_back_move(self, number: int) -> Topology:
        """Return the next topology with this move going the other way: what has come to the target is fetched back.

        It is a move with the new epoch as its number, and is finished as any other. One that goes back already is not
        turned round once more, ValueError: finish it, and begin a new one.
        """
        return steps.roll_back_move(self, number)

    def _next(self, shards: Mapping[str, Shard]) -> Topology:
        following = replace(
            self, epoch=self.epoch + 1, shards=shards, owners=SlotMap(tuple(sorted(shards)), self.owners.table)
        )
        quotas(sorted(following.weights), following.weights, SLOTS)  # a weight too small for a slot is refused now
        return following

    def raised_to(self, epoch: int) -> Topology:
        """Return the same with a greater epoch: for a store that was set back, whose clients have seen later ones."""
        if epoch <= self.epoch:
            raise ValueError(f"epoch={epoch!r}; one greater than {self.epoch} is allowed")
        return replace(self, epoch=epoch)

    # -- what may come after what

    def check_follows(self, before: Topology) -> None:
        """Raise ValueError if this may not be published in the place of ``before``.

        Several transitions may be taken at once, except that a slot goes from one owner to another by a move that was
        published: a client that has not heard of it would look for the slot's keys where they are no longer.
        """
        succession.check_follows(self, before)

    def check_newer(self, than: Topology, where: str) -> bool:
        """Return whether a client that has adopted ``than`` is to adopt this: False if it has it already.

        Raise BadTopology, naming ``where`` it was found, if it must not be adopted.
        """
        return succession.check_newer(self, than, where)

    # -- its bytes

    def to_bytes(self) -> bytes:
        """Return the document: compact JSON, compressed if large. Raise ValueError beyond 1,000,000 bytes."""
        return form.pack(form.document_of(self))

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "topology") -> Topology:
        """Return the topology of a document; BadTopology, naming ``where`` it is from, if it is damaged or unknown."""
        document = form.unpack(data, where)
        try:
            return cls(*form.parts_of(document))
        except (KeyError, TypeError, ValueError, AttributeError, NoNodes) as error:
            raise BadTopology(where, f"it contradicts itself, although its checksum is right: {error!r}") from error

    def checksum(self) -> str:
        """Return 16 hex digits that two topologies share when they say the same, epoch and addresses included."""
        return form.checksum(form.document_of(self))

    def __hash__(self) -> int:
        return hash((self.name, self.epoch))

    def __reduce__(self) -> tuple[Any, ...]:
        return Topology.from_bytes, (self.to_bytes(),)  # its views cannot be pickled

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {slots}" for name, slots in self.owners.counts().items())
        shown = counts if len(counts) < 200 else counts[:200] + ", ..."
        moving = f"; {len(self.moving)} move" if self.moves else ""
        return f"<Topology {self.name}{' (a cache)' if self.cache else ''} epoch={self.epoch} {shown}{moving}>"


def _shard(value: Any) -> Shard:
    if isinstance(value, str):
        return Shard(value)
    if not isinstance(value, Shard):
        raise TypeError(f"shard={value!r}; a Shard or the address of its primary is allowed")
    return value


def _check_addresses(shards: Mapping[str, Shard]) -> None:
    """Raise ValueError if two shards have one primary: what moves from one to the other would be lost."""
    known: dict[str, str] = {}
    for name, shard in shards.items():
        if (other := known.setdefault(shard.primary, name)) != name:
            raise ValueError(f"primary={shard.primary!r} of {name!r} is that of {other!r}; another server is allowed")
