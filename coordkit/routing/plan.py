"""What is sent where for one command, and what its replies mean: decided here once, for both flavours, without I/O.

A command is *routed* to the one shard of its keys, *split* where each key stands for itself, *broadcast* where an
answer of all shards is clearly what was asked for, or *refused* with CrossShardError. None goes silently to one shard.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from coordkit.errors import CrossShardError, PartialFailure
from coordkit.routing import command_table
from coordkit.routing.commands import ASK, entries_of, key_positions, sort_patterns, wire_arguments, word
from coordkit.routing.placement import Placement
from coordkit.routing.slots import tagged

Join = Callable[[Sequence[Any]], Any]

# Each key of these stands for itself, so that a shard may do its part alone; the number is how many arguments make one.
SPLIT = {"MGET": 1, "MSET": 2, "DEL": 1, "UNLINK": 1, "EXISTS": 1, "TOUCH": 1}

_TRANSACTION = {"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"}
_CHANNELS = {
    "PSUBSCRIBE", "PUBLISH", "PUNSUBSCRIBE", "SPUBLISH", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"
}  # fmt: skip


def _first(replies: Sequence[Any]) -> Any:
    return replies[0]


def _concatenated(replies: Sequence[Any]) -> list[Any]:
    return [item for reply in replies for item in reply]


def _everywhere(replies: Sequence[Any]) -> list[bool]:
    return [all(flags) for flags in zip(*replies, strict=True)]


BROADCAST: dict[str, Join] = {
    "PING": _first,
    "DBSIZE": sum,
    "KEYS": _concatenated,
    "SCRIPT|LOAD": _first,
    "SCRIPT|EXISTS": _everywhere,
    "SCRIPT|FLUSH": _first,
}


class Part(NamedTuple):
    """What one shard is sent. ``names`` are the keys (of a broadcast: the shard) that its reply is about."""

    shard: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    names: tuple[Any, ...]
    places: tuple[int, ...] = ()  # where these keys stood among all keys of the command


class Plan(NamedTuple):
    """What is sent, to which shards, and how their replies become one."""

    command: str
    action: Literal["route", "split", "broadcast", "reply"]
    parts: tuple[Part, ...]
    join: Join = _first

    def settle(self, replies: Sequence[Any]) -> Any:
        """Return the command's reply from those of its parts; an error among them stands in its place.

        Raise the error of a command that went to one shard, PartialFailure for one that went to several.
        """
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not errors:
            return self.join(replies)
        if len(self.parts) == 1:
            raise errors[0]
        ok: dict[Any, Any] = {}
        failed: dict[Any, tuple[str, Exception]] = {}
        for part, reply in zip(self.parts, replies, strict=True):
            for i, name in enumerate(part.names):
                if isinstance(reply, Exception):
                    failed[name] = (part.shard, reply)
                else:
                    ok[name] = reply[i] if self.command == "MGET" else reply
        raise PartialFailure(
            self.command,
            f"{len(failed)} of {len(ok) + len(failed)} {'shards' if self.action == 'broadcast' else 'keys'} failed "
            f"(first: {errors[0]}); nothing was sent again: look at .ok and .failed and repeat what may be repeated",
            ok=ok,
            failed=failed,
        ) from errors[0]


class Question(NamedTuple):
    """What a server has to say before this command can be routed; any shard may be asked, once."""

    ask: tuple[Any, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


class Explanation(NamedTuple):
    """What would be done with a command: see `Router.explain`."""

    command: str
    action: Literal["route", "split", "broadcast", "reply", "refuse", "ask"]
    shards: dict[Any, str]
    why: str


class Router:
    """Turn commands into plans, for one placement and one encoding of keys.

    ``encode`` gives the bytes of an argument that is neither bytes nor str as the client sends it.
    """

    def __init__(
        self,
        placement: Placement,
        encode: Callable[[Any], Any] | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        self.placement = placement
        self._table = placement.table
        self._encode, self._encoding, self._errors = encode or _buffer, encoding, errors
        self._rules = {name: rule for rule, names in command_table.RULES.items() for name in names.split()}
        self._containers = {name.partition("|")[0] for name in self._rules if "|" in name}
        self._of_first_key = {name for name, rule in self._rules.items() if rule == "1:0:1"}

    def bytes_of(self, key: Any) -> bytes:
        """Return the bytes of ``key`` on the wire."""
        if isinstance(key, str):
            return key.encode(self._encoding, self._errors)
        return key if type(key) is bytes else bytes(self._encode(key))

    def slot(self, key: Any) -> int:
        """Return the slot of ``key``."""
        return crc_hqx(tagged(self.bytes_of(key)), 0) & 0x3FFF

    def route(self, key: Any) -> str:
        """Return the shard of ``key``."""
        # The same as table[slot(key)], written out: every command passes here.
        if isinstance(key, str):
            key = key.encode(self._encoding, self._errors)
        elif type(key) is not bytes:
            key = self.bytes_of(key)
        return self._table[crc_hqx(tagged(key) if b"{" in key else key, 0) & 0x3FFF]

    def shard_of_first_key(self, args: Sequence[Any]) -> str | None:
        """Return the shard of a command whose only key is its first argument: most are; None for any other."""
        if len(args) > 1 and args[0] in self._of_first_key:
            return self.route(args[1])
        return None

    def plan(self, args: Sequence[Any], options: Mapping[str, Any]) -> Plan | Question:
        """Say what is done with a command; raise CrossShardError if it is refused, ValueError if it is malformed.

        A Question must be put to a server first, and its reply to `answer`.
        """
        wire = wire_arguments(args)
        name = word(wire[0])
        if name in self._containers and len(wire) > 1:
            name = f"{name}|{word(wire[1])}"
        rule = self._rules.get(name)
        if rule is None:
            return Question(("COMMAND", "INFO", name.lower()), tuple(args), dict(options))
        if rule == ASK and len(wire) > 1:
            return Question(("COMMAND", "GETKEYS", *wire), tuple(args), dict(options))
        if rule in {"", ASK} or name in _TRANSACTION or name in _CHANNELS:
            return self._without_key(name, args, options)
        if name in SPLIT:
            return self._split(name, wire, args, options)
        keys = [wire[i] for i in key_positions(rule, wire)]
        if rule == "sort":
            self._check_patterns(name, wire, keys)
        return self._routed(name, keys, args, options)

    def answer(self, question: Question, reply: Any) -> Plan | Question | None:
        """Take a server's reply to a question and say what is done with the command; None if the server knows it not.

        The reply of COMMAND GETKEYS is a list of keys, empty if there are none.
        """
        if question.ask[1] == "INFO":
            if not reply or reply[0] is None:
                return None
            learned = entries_of(reply[0])
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
        why = {
            "route": "all keys are on one shard",
            "split": "each key stands for itself; each shard is sent its keys, all before any reply is read",
            "broadcast": "the question is put to all shards, and their replies become one",
            "reply": "there is nothing to send",
        }[plan.action]
        return Explanation(plan.command, plan.action, shards, why)

    def _without_key(self, name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        join = BROADCAST.get(name)
        if join is not None:
            parts = [Part(shard, tuple(args), dict(options), (shard,)) for shard in self.placement.shards]
            return Plan(name, "broadcast", tuple(parts), join)
        if name in _TRANSACTION:
            why = "a transaction stays on one shard: use pipeline(transaction=True), or client_for(key).pipeline()"
        elif name in _CHANNELS:
            why = "a channel belongs to no shard: name one with on(shard), the same for publisher and subscriber"
        else:
            why = "without a key it belongs to no shard: name one with on(shard), or ask each with on_all(...)"
        raise CrossShardError(name.replace("|", " "), why, shards={})

    def _routed(self, name: str, keys: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        if not keys:
            if name == "MIGRATE" or len(args) < 2:
                raise ValueError(f"{name}: args={tuple(args)!r} have no key; at least one is allowed")
            return self._without_key(name, args, options)
        shards = [self.route(key) for key in keys]
        if len(set(shards)) > 1:
            raise self._crossing(name, keys, shards)
        return Plan(name, "route", (Part(shards[0], tuple(args), dict(options), _names(keys)),))

    def _split(self, name: str, wire: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]) -> Plan:
        width = SPLIT[name]
        keys = _names(wire[1::width])
        if not keys and "EMPTY_RESPONSE" in options:  # redis-py's mget([])
            return Plan(name, "reply", (), lambda _: options["EMPTY_RESPONSE"])
        if not keys or (len(wire) - 1) % width:
            raise ValueError(f"{name}: {len(wire) - 1} arguments; a positive multiple of {width} is allowed")
        places: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            places.setdefault(self.route(key), []).append(i)
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
            known = tagged(before) != before
            shards = {**{key: self.route(key) for key in keys}, pattern: self.route(pattern) if known else "any shard"}
            if len(set(shards.values())) > 1:
                raise CrossShardError(
                    name,
                    f"BY or GET {pattern!r} reads keys that may be on other shards; give the pattern the {{tag}} of "
                    f"the sorted key, before its '*'. Shards: {shards}",
                    shards=shards,
                )

    def _crossing(self, name: str, keys: Sequence[Any], shards: Sequence[str]) -> CrossShardError:
        where = dict(zip(_names(keys), shards, strict=True))
        named = ", ".join(f"{key!r} on {shard}" for key, shard in where.items())
        return CrossShardError(
            name.replace("|", " "),
            f"its keys are on {len(set(shards))} shards and it cannot be split: {named}. "
            "Give the keys one {tag}, or send a command for each shard",
            shards=where,
        )


def _buffer(key: Any) -> bytes:
    return memoryview(key).tobytes()  # and not bytes(), which takes 5 for five zeros


def _names(keys: Sequence[Any]) -> tuple[Any, ...]:
    # Names stand in dicts, where a memoryview of a bytearray may not.
    return tuple([key.tobytes() if isinstance(key, memoryview) else key for key in keys])


def _in_order(parts: Sequence[Part], replies: Sequence[Any], length: int) -> list[Any]:
    values: list[Any] = [None] * length
    for part, reply in zip(parts, replies, strict=True):
        for place, value in zip(part.places, reply, strict=True):
            values[place] = value
    return values
