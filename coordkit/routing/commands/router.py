"""Where each command goes: decided here once, for both flavours, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordkit.errors import CrossShardError, StoreUnavailable
from coordkit.routing.commands import table
from coordkit.routing.commands.key_router import KeyRouter, named
from coordkit.routing.commands.keyless import (
    NOT_THROUGH_A_POOL,
    PUBLISHING,
    TOGETHER,
    WAITS,
    by_shard,
    joined,
    refused,
)
from coordkit.routing.commands.keys import ASK, entries_of, flags_of, key_positions, sort_patterns, wire_arguments, word
from coordkit.routing.commands.plan import Explanation, Part, Plan, Question
from coordkit.routing.commands.reads import OTHER, Kinds
from coordkit.routing.commands.scanning import mark_of, scan_plan
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.slots import tagged

# Each key of these stands for itself, so that a shard may do its part alone; the number is how many arguments make one.
SPLIT = {"MGET": 1, "MSET": 2, "DEL": 1, "UNLINK": 1, "EXISTS": 1, "TOUCH": 1}


class Router(KeyRouter):
    """Turn commands into plans, for one placement and one encoding of keys."""

    moving: frozenset[int] = frozenset()
    """Slots that are on their way: keys of theirs that a command does not name cannot be brought before it is sent."""

    def __init__(
        self,
        placement: Placement,
        encode: Callable[[Any], Any] | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        super().__init__(placement, encode, encoding, errors)
        self._rules = {name: rule for rule, names in table.RULES.items() for name in names.split()}
        self._containers = {name.partition("|")[0] for name in self._rules if "|" in name}
        self._of_first_key = {name for name, rule in self._rules.items() if rule == "1:0:1"}
        self._kinds = Kinds()
        self._blocking = frozenset(table.BLOCKING.split())

    def shards_of_first_keys(self, commands: Sequence[tuple[tuple[Any, ...], Any]]) -> list[str] | None:
        """Return the shard of each command as `shard_of_first_key` does; None if one of them is not such a command."""
        names = [args[0] if len(args) > 1 else "" for args, _ in commands]
        if not self._of_first_key.issuperset(names):
            return None
        return self.route_many([args[1] for args, _ in commands])

    def shard_of_first_key(self, args: Sequence[Any]) -> str | None:
        """Return the shard of a command whose only key is its first argument: most are; None for any other."""
        if len(args) > 1 and args[0] in self._of_first_key:
            return self.route(args[1])
        return None

    def kind_of(self, args: Sequence[Any]) -> str:
        """Return whether a command is a READ, a WRITE or OTHER, as `reads` has them."""
        name = args[0]
        kind = self._kinds.of(name) if type(name) is str else None
        return kind or self._kinds.of(self._name(wire_arguments(args))) or OTHER

    def plan(self, args: Sequence[Any], options: Mapping[str, Any]) -> Plan | Question:
        """Say what is done with a command; raise CrossShardError if it is refused, ValueError if it is malformed.

        A Question must be put to a server first, and its reply to `answer`.
        """
        wire = wire_arguments(args)
        name = self._name(wire)
        if name in NOT_THROUGH_A_POOL:
            raise refused(name)
        rule = self._rules.get(name)
        if rule is None:
            return Question(("COMMAND", "INFO", name.lower()), tuple(args), dict(options))
        if rule == ASK and len(wire) > 1:
            return Question(("COMMAND", "GETKEYS", *wire), tuple(args), dict(options))
        if name in PUBLISHING:
            return self._routed(name, wire[1:2], args, options)
        if rule in {"", ASK}:
            return self._without_key(name, args, options)
        if name in SPLIT:
            return self._split(name, wire, args, options)
        keys = [wire[i] for i in key_positions(rule, wire)]
        if rule == "sort":
            self._check_patterns(name, wire, keys)
        return self._routed(name, keys, self._known_to_wait(name, wire, args), options)

    def plan_everywhere(self, args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        """Say what is sent to put a command to each shard as it is; CrossShardError if it is about a connection."""
        wire = wire_arguments(args)
        name = self._name(wire)
        if name in NOT_THROUGH_A_POOL or name in WAITS:
            raise refused(name)
        args, shards = self._known_to_wait(name, wire, args), self.placement.shards
        parts = [Part(shard, tuple(args), dict(options), (shard,)) for shard in shards]
        return Plan(name, "broadcast", tuple(parts), by_shard(shards))

    def answer(self, question: Question, reply: Any) -> Plan | Question | None:
        """Take a server's reply to a question and say what is done with the command; None if the server knows it not.

        The reply of COMMAND GETKEYS is a list of keys, empty if there are none.
        """
        if question.ask[1] == "INFO":
            if not reply or reply[0] is None:
                return None
            learned = entries_of(reply[0])
            self._kinds.learn(flags_of(reply[0]))
            self._containers.update(name.partition("|")[0] for name in learned if "|" in name)
            self._rules.update(learned)
            self._of_first_key.update(name for name, rule in learned.items() if rule == "1:0:1")
            planned = self.plan(question.args, question.options)
            # A container without the subcommand that was asked for: the server knows it not either.
            return None if isinstance(planned, Question) and planned.ask == question.ask else planned
        name = " ".join(word(part) for part in question.ask[2:3])
        if not reply:
            return self._without_key(name, question.args, question.options)
        return self._routed(name, reply, question.args, question.options)

    def explain(self, args: Sequence[Any]) -> Explanation:
        """Say what would be done with a command, without any I/O and without an error for what is refused."""
        try:
            plan = self.plan(args, {})
        except CrossShardError as error:
            return Explanation(error.name, "refuse", error.shards, error.why)
        if isinstance(plan, Question):
            why = f"the table does not have it; a server is asked {' '.join(map(str, plan.ask[:2]))}"
            return Explanation(word(wire_arguments(args)[0]), "ask", {}, why)
        shards = {name: part.shard for part in plan.parts for name in part.names}
        together = TOGETHER.get(plan.command)
        why = {
            "route": "all keys are on one shard",
            "split": "each key stands for itself; each shard is sent its keys, all before any reply is read",
            "broadcast": together.why if together else "",
            "merge": together.why if together else "one shard after the other; the cursor says which",
            "reply": "there is nothing to send",
        }[plan.action]
        return Explanation(plan.command, plan.action, shards, why)

    def _without_key(self, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        shards = self.placement.shards
        if name == "SCAN":
            return scan_plan([(shard, frozenset()) for shard in shards], mark_of(shards), wire_arguments(args), options)
        together = TOGETHER.get(name)
        if together is None:
            raise refused(name, container=name in self._containers)
        # A random key counts by how many its shard has.
        questions: list[tuple[Any, ...]] = [("DBSIZE",), tuple(args)] if name == "RANDOMKEY" else [tuple(args)]
        parts = [Part(shard, words, dict(options), (shard,)) for shard in shards for words in questions]
        return Plan(name, together.action, tuple(parts), joined(together, shards))

    def _known_to_wait(self, name: str, wire: Sequence[Any], args: Sequence[Any]) -> Sequence[Any]:
        """Return the words of a command; of one that may wait under the name by which that is known (`ways.waits`)."""
        if name not in self._blocking:
            return args
        return (name if isinstance(args[0], str) else name.encode(), *wire[1:])

    def _name(self, wire: Sequence[Any]) -> str:
        name = word(wire[0])
        return f"{name}|{word(wire[1])}" if name in self._containers and len(wire) > 1 else name

    def _routed(self, name: str, keys: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        if not keys:
            if name == "MIGRATE" or len(args) < 2:
                raise ValueError(f"{name}: args={tuple(args)!r} have no key; at least one is allowed")
            return self._without_key(name, args, options)
        return Plan(name, "route", (Part(self.one_shard(name, keys), tuple(args), dict(options), named(keys)),))

    def _split(self, name: str, wire: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        width = SPLIT[name]
        keys = named(wire[1::width])
        if not keys and "EMPTY_RESPONSE" in options:  # redis-py's mget([])
            return Plan(name, "reply", (), lambda _: options["EMPTY_RESPONSE"])
        if not keys or (len(wire) - 1) % width:
            raise ValueError(f"{name}: {len(wire) - 1} arguments; a positive multiple of {width} is allowed")
        places: dict[str, list[int]] = {}
        for i, shard in enumerate(self.route_many(keys)):
            if shard in places:
                places[shard].append(i)
            else:
                places[shard] = [i]
        if len(places) == 1:
            return Plan(name, "route", (Part(next(iter(places)), tuple(args), dict(options), keys),))
        parts = []
        for shard in sorted(places):
            mine = places[shard]
            names = tuple([keys[i] for i in mine])
            taken = names if width == 1 else [argument for i in mine for argument in wire[1 + i * 2 : 3 + i * 2]]
            narrowed = dict(options)
            if "keys" in narrowed:  # redis-py's hint for its client-side cache
                narrowed["keys"] = list(names)
            parts.append(Part(shard, (name, *taken), narrowed, names, tuple(mine)))
        if name == "MGET":
            return Plan(name, "split", tuple(parts), lambda replies: _in_order(parts, replies, len(keys)))
        return Plan(name, "split", tuple(parts), all if name == "MSET" else sum)

    def _check_patterns(self, name: str, wire: Sequence[Any], keys: Sequence[Any]) -> None:
        for pattern in sort_patterns(wire):
            before, _, _ = self.bytes_of(pattern).partition(b"*")
            # Only a tag that closes before the star says where the keys are that the pattern will name.
            known = self.placement.hash_tags and tagged(before) != before
            shards = {key: self.route(key) for key in named(keys)}
            shards[named([pattern])[0]] = self.route(pattern) if known else "any shard"
            if len(set(shards.values())) > 1:
                raise CrossShardError(
                    name,
                    f"BY or GET {pattern!r} reads keys that may be on other shards; give the pattern the {{tag}} of "
                    f"the sorted key, before its '*'. Shards: {shards}",
                    shards=shards,
                )
            if self.moving and (slot := self.slot(pattern)) in self.moving:
                raise StoreUnavailable(
                    name,
                    f"BY or GET {pattern!r} reads keys that it does not name, and their slot ({slot}) moves to "
                    f"{self.route(pattern)!r} just now, so that not all of them are there; nothing was sent: try again "
                    "when the move is over (`coordkit reshard status`), or name the keys to MGET, and sort here",
                )


def _in_order(parts: Sequence[Part], replies: Sequence[Any], length: int) -> list[Any]:
    values: list[Any] = [None] * length
    for part, reply in zip(parts, replies, strict=True):
        for place, value in zip(part.places, reply, strict=True):
            values[place] = value
    return values
