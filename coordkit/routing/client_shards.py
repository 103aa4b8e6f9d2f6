"""The shards of one sharded client: names, plain clients, and what both flavours say and check about them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import redis.exceptions
from redis.connection import ConnectionPool

from coordkit.errors import CrossShardError, StoreRefused, StoreUnavailable
from coordkit.routing.placement import Placement, rendezvous
from coordkit.routing.plan import Explanation, Part, Plan, Question, Router

C = TypeVar("C")

# No answer, as redis-py tells it. Each becomes StoreUnavailable for the shard's own keys.
NO_ANSWER = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)

# Before redis-py 5.3 a pool demands the command's name; from 5.3 on it warns of it.
TAKE: tuple[str, ...] = (
    ("_",)
    if inspect.signature(ConnectionPool.get_connection).parameters["command_name"].default is inspect.Parameter.empty
    else ()
)

# How redis-py is told not to decode a reply (redis.client.NEVER_DECODE). The two spaces keep its callbacks for COMMAND,
# which drop the key specifications and decode keys, from finding the name; the wire has one word after the other.
RAW: dict[str, Any] = {"NEVER_DECODE": True}


class Directory(Generic[C]):
    """What a sharded client knows without asking: which shard, which slot, which plain client."""

    _client_type: ClassVar[type[Any]]
    _other_types: ClassVar[tuple[type[Any], ...]]

    def __init__(self, shards: Mapping[str, C], *, weights: Mapping[str, float] | None = None) -> None:
        if not isinstance(shards, Mapping):
            raise TypeError(f"shards={shards!r}; a mapping of names to {_named(self._client_type)} is allowed")
        placement = rendezvous(shards, weights)
        _check_clients(shards, self._client_type, self._other_types)
        self._shards: Mapping[str, C] = MappingProxyType({name: shards[name] for name in placement.shards})
        anyone: Any = next(iter(self._shards.values()))
        self._encoder = anyone.get_encoder()
        self._router = Router(placement, self._encoder.encode, self._encoder.encoding, self._encoder.encoding_errors)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__}({', '.join(self._shards)})>"

    @property
    def placement(self) -> Placement:
        """Return the table of slots and shards."""
        return self._router.placement

    def shards(self) -> Mapping[str, C]:
        """Return the plain client of each shard by name, read-only, in the order of the names."""
        return self._shards

    def slot(self, key: Any) -> int:
        """Return the slot (0 to 16383) of ``key``, hashed as it goes on the wire."""
        return self._router.slot(key)

    def shard_for(self, key: Any) -> str:
        """Return the name of the shard that owns ``key``."""
        return self._router.route(key)

    def owners(self, key: Any, n: int = 1) -> list[str]:
        """Return ``n`` distinct shards in order of preference, the owner of ``key`` first; ValueError for another n."""
        return self._router.placement.owners(self._router.bytes_of(key), n)

    def client_for(self, key: Any) -> C:
        """Return the plain client of the shard that owns ``key``; what is sent through it is not routed."""
        return self._shards[self._router.route(key)]

    def on(self, shard: str) -> C:
        """Return the plain client of the shard with this name; ValueError if there is none."""
        try:
            return self._shards[shard]
        except KeyError:
            raise ValueError(f"shard={shard!r}; one of {list(self._shards)!r} is allowed") from None

    def explain(self, *command: Any) -> Explanation:
        """Say where a command would go and why, as ``explain("MGET", "a", "b")``; nothing is sent."""
        return self._router.explain(command)

    def get_encoder(self) -> Any:
        """Return the encoder of the clients, as redis.Redis does."""
        return self._encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return what the clients have in common of their connections' options, for redis-py's own methods."""
        return {name: getattr(self._encoder, name) for name in ("encoding", "encoding_errors", "decode_responses")}

    def pubsub(self, **_: Any) -> NoReturn:
        """Refuse: a subscription lives on one shard, ``on(shard).pubsub()``."""
        raise _one_shard("pubsub", "a channel belongs to no shard: use on(shard).pubsub(), and publish on the same one")

    def monitor(self) -> NoReturn:
        """Refuse: one server is watched at a time, ``on(shard).monitor()``."""
        raise _one_shard("monitor", "it watches one server: use on(shard).monitor()")

    def lock(self, name: Any, *_: Any, **__: Any) -> NoReturn:
        """Refuse: redis-py's lock has no fencing token; use coordkit's, on ``client_for(name)``."""
        raise _one_shard("lock", f"use coordkit.Lock(client_for({name!r}), {name!r}), whose token fences late writers")

    def transaction(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the callable could touch keys of other shards; use ``client_for(key).transaction(...)``."""
        raise _one_shard("transaction", "it stays on one shard: use client_for(key).transaction(...)")

    def watch(self, *_: Any) -> NoReturn:
        """Refuse: WATCH belongs to one connection, ``client_for(key).pipeline()``."""
        raise _one_shard("WATCH", "it belongs to one connection: use client_for(key).pipeline()")

    def unwatch(self) -> NoReturn:
        """Refuse, as `watch` does."""
        raise _one_shard("UNWATCH", "it belongs to one connection: use client_for(key).pipeline()")

    def _everywhere(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Plan:
        parts = tuple(Part(shard, args, dict(options), (shard,)) for shard in self._shards)
        names = tuple(self._shards)
        return Plan(str(args[0]), "broadcast", parts, lambda replies: dict(zip(names, replies, strict=True)))


class Gathering:
    """The commands of one pipeline or split: what each shard is sent, and whose its replies are."""

    def __init__(self) -> None:
        self.batches: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._asked: list[Plan | str] = []  # a command that goes to one shard as it is stands as that shard's name

    def add_simple(self, shard: str, command: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        """Add a command that goes to one shard as it is."""
        self._asked.append(shard)
        if shard in self.batches:
            self.batches[shard].append(command)
        else:
            self.batches[shard] = [command]

    def add(self, plan: Plan) -> None:
        """Add a command as planned."""
        self._asked.append(plan)
        for part in plan.parts:
            self.batches.setdefault(part.shard, []).append((part.args, part.options))

    def only_shard(self) -> str:
        """Return the one shard that all commands go to; raise CrossShardError, naming each key, if there are more."""
        if len(self.batches) == 1:
            return next(iter(self.batches))
        where: dict[Any, str] = {}
        sent = {shard: iter(batch) for shard, batch in self.batches.items()}
        for asked in self._asked:
            if isinstance(asked, str):
                args, _ = next(sent[asked])
                where[args[1]] = asked
                continue
            for part in asked.parts:
                next(sent[part.shard])
                where.update(dict.fromkeys(part.names, part.shard))
        named = ", ".join(f"{name!r} on {shard}" for name, shard in where.items())
        why = f"its keys are on {len(self.batches)} shards: {named}. Give them one {{tag}}, or use transaction=False"
        raise CrossShardError("transaction", why, shards=where)

    def settle(self, replies: Mapping[str, list[Any]]) -> Iterator[Any]:
        """Yield the reply of each command in the order of the calls; an error stands in its place.

        ``replies`` are those to ``batches``, in the same order.
        """
        coming = {shard: iter(batch) for shard, batch in replies.items()}
        for asked in self._asked:
            if isinstance(asked, str):
                yield next(coming[asked])
                continue
            try:
                yield asked.settle([next(coming[part.shard]) for part in asked.parts])
            except Exception as error:  # noqa: BLE001 - handed over in its place, whatever it is
                yield error


def sha_of(encoder: Any, script: str | bytes) -> str:
    """Return the SHA-1 by which a server knows ``script``, encoded as the clients do."""
    return hashlib.sha1(encoder.encode(script), usedforsecurity=False).hexdigest()


def unanswered(shard: str, error: Exception, *, sent: bool = True) -> StoreUnavailable | StoreRefused:
    """Return the coordkit error for redis-py's ``error`` on this shard, which is its cause."""
    if isinstance(error, (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError)):
        refused = StoreRefused(shard, f"the shard refused the connection ({error}); check its user and password")
        refused.__cause__ = error
        return refused
    outcome = "whether the command was carried out is unknown" if sent else "the command was not sent"
    lost = StoreUnavailable(shard, f"no answer from this shard ({error}); {outcome}; other shards are not affected")
    lost.__cause__ = error
    return lost


def no_such_command(question: Question) -> redis.exceptions.ResponseError:
    """Return what a server says to a command that it does not know."""
    return redis.exceptions.ResponseError(f"unknown command {' '.join(map(str, question.args[:2]))!r}")


def has_no_keys(error: redis.exceptions.ResponseError) -> bool:
    """Return whether COMMAND GETKEYS said that the command has no key, which it tells as an error."""
    return "no key arguments" in str(error)


def without_errors(commands: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], replies: list[Any]) -> list[Any]:
    """Return a pipeline's replies, or raise the first error among them; as in redis-py it says of which command."""
    for number, ((args, _), reply) in enumerate(zip(commands, replies, strict=True), 1):
        if isinstance(reply, redis.exceptions.ResponseError):
            words = " ".join(part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in args)
            reply.args = (f"Command # {number} ({words[:100]}) of pipeline caused error: {reply}", *reply.args[1:])
        if isinstance(reply, Exception):
            raise reply
    return replies


def only(replies: Iterator[Any]) -> Any:
    """Return the one reply, or raise it if it is an error."""
    reply = next(replies)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _one_shard(name: str, why: str) -> CrossShardError:
    return CrossShardError(name, why, shards={})


def _named(kind: type[Any]) -> str:
    return "redis.asyncio.Redis" if ".asyncio" in kind.__module__ else "redis.Redis"


def _check_clients(shards: Mapping[str, Any], kind: type[Any], other: tuple[type[Any], ...]) -> None:
    seen: dict[int, str] = {}
    ways: dict[tuple[Any, ...], str] = {}
    for name, client in shards.items():
        if not isinstance(client, kind) or isinstance(client, other):
            raise TypeError(f"shards[{name!r}]={client!r}; a {_named(kind)} client is allowed")
        first = seen.setdefault(id(client.connection_pool), name)
        if first != name:
            raise ValueError(f"shards[{name!r}] and shards[{first!r}] are one client; each shard has its own")
        encoder = client.get_encoder()
        protocol = str(client.connection_pool.connection_kwargs.get("protocol"))
        ways.setdefault((encoder.encoding, encoder.encoding_errors, bool(encoder.decode_responses), protocol), name)
    if len(ways) > 1:
        (one, a), (two, b) = list(ways.items())[:2]
        raise ValueError(
            f"shards[{a!r}] has (encoding, encoding_errors, decode_responses, protocol)={one!r} and shards[{b!r}] has "
            f"{two!r}; the same for all shards is allowed"
        )
