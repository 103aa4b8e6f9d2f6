"""What one ``PubSub`` over shards wants to hear, and what the shards' replies mean: both flavours' part, without I/O.

A channel is heard on the shard that owns its name, where `publish` sends to as well; a pattern on every shard. Each
name is asked for by a command of its own, so that each reply is about one name: the one asked for first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from redis.exceptions import ConnectionError, PubSubError, ResponseError  # noqa: A004  redis-py's own

from coordkit.routing.commands.router import Router
from coordkit.routing.fence.fence import local_key
from coordkit.routing.ways.errors import answered, unanswered

Handler = Callable[[dict[str, Any]], Any]
Orders = dict[str, list[tuple[Any, ...]]]
"""Commands to send, by shard."""

Name = tuple[str, bytes]  # the kind ("" a channel, "p" a pattern, "s" a sharded channel), and what it is on the wire

KEEPALIVE = "coordkit"
"""What a quiet shard is pinged with."""


class _Asked(NamedTuple):
    name: Name
    on: bool
    told: bool  # the user hears of the reply


class Subscriptions:
    """The names that are wanted, where, and with which handlers. ``router`` gives the placement, each time anew."""

    def __init__(self, router: Callable[[], Router], encoder: Any, *, ignore: bool) -> None:
        self._router = router
        self._encoder = encoder
        self._ignore = ignore
        self._of: dict[str, dict[Any, Handler | None]] = {"": {}, "p": {}, "s": {}}
        self._at: dict[Name, tuple[str, ...]] = {}
        self._placement = router().placement
        self._asked: dict[str, deque[_Asked]] = {}  # by shard, in the order of the replies
        self._silent: dict[tuple[Name, bool], set[str]] = {}  # the shards that have yet to confirm a name, or its end
        self._on: set[Name] = set()  # confirmed

    def handlers(self, kind: str) -> dict[Any, Handler | None]:
        """Return what is wanted of a kind, and who is called with it; under the names that messages have."""
        return self._of[kind]

    def shards(self) -> set[str]:
        """Return the shards that have to be listened to."""
        return {shard for shards in self._at.values() for shard in shards}

    def __bool__(self) -> bool:
        return bool(self._at)

    def subscribe(self, kind: str, args: Iterable[Any], handlers: Mapping[str, Handler]) -> Orders:
        """Want names; return what to send."""
        wanted: dict[Any, Handler | None] = {}
        for arg in args:
            wanted.update(dict.fromkeys(arg if isinstance(arg, (list, tuple, set)) else [arg]))
        wanted.update(handlers)
        if not wanted:
            raise ValueError(f"{kind}subscribe: no names; at least one is allowed")
        orders: Orders = {}
        for given, handler in wanted.items():
            wire = self._router().bytes_of(given)
            self._of[kind][self._shown(wire)] = handler
            name = (kind, wire)
            self._at[name] = self._homes(name)
            self._ask(orders, name, self._at[name], on=True)
        return orders

    def unsubscribe(self, kind: str, args: Iterable[Any]) -> tuple[Orders, list[dict[str, Any]]]:
        """Want names no more, all of the kind if none is given; return what to send, and what to tell at once."""
        given = [name for arg in args for name in (arg if isinstance(arg, (list, tuple, set)) else [arg])]
        wires = [self._router().bytes_of(name) for name in given or list(self._of[kind])]
        orders: Orders = {}
        at_once = []
        for name in [(kind, wire) for wire in wires]:
            if name not in self._at:
                continue
            shards = [shard for shard in self._at[name] if shard in self._asked]
            self._silent.get((name, True), set()).intersection_update(shards)
            if shards:
                self._ask(orders, name, shards, on=False)
            else:  # nobody is there who would confirm it
                at_once.append(self._forgotten(name))
        return orders, at_once

    def follow(self) -> Orders:
        """Return what to send so that each name is heard where the placement has it now: nothing, nearly always."""
        if self._router().placement is self._placement:
            return {}
        self._placement = self._router().placement
        orders: Orders = {}
        for name, before in list(self._at.items()):
            after = self._at[name] = self._homes(name)
            gone = [shard for shard in before if shard not in after and shard in self._asked]
            self._ask(orders, name, [shard for shard in after if shard not in before], on=True)
            self._ask(orders, name, gone, on=False, told=False)
        return orders

    def opened(self, shard: str) -> list[tuple[Any, ...]]:
        """Begin anew with a shard; return what to send over the fresh connection."""
        self._asked[shard] = deque()
        orders: Orders = {}
        for name, shards in self._at.items():
            if shard in shards:
                self._ask(orders, name, [shard], on=True)
        return orders.get(shard, [])

    def closed(self, shard: str) -> Iterator[dict[str, Any]]:
        """Forget what a shard was asked; yield what is over by that."""
        for name, on, told in self._asked.pop(shard, ()):
            if not on and told and self._heard_by(name, shard, on=False) and name in self._at:
                yield self._forgotten(name)

    def heard(self, shard: str, reply: Any) -> dict[str, Any] | None:
        """Return the message that a reply is, for `deliver`; None if nobody needs to know."""
        if not isinstance(reply, list):
            return None
        what, *rest = [bytes(part) if isinstance(part, (bytes, bytearray)) else part for part in reply]
        kind = what.decode()
        if kind.endswith("message"):
            *pattern, channel, data = rest
            return _message(kind, self._shown(channel), self._decoded(data), self._shown(*pattern) if pattern else None)
        if not kind.endswith("subscribe") or not self._asked.get(shard):
            return None  # an answer to PING
        name, on, told = self._asked[shard].popleft()
        if not self._heard_by(name, shard, on=on) or not told or name not in self._at:
            return None
        if not on:
            return self._forgotten(name)
        self._on.add(name)
        return self._said(f"{name[0]}subscribe", name)

    def is_idle(self, shard: str) -> bool:
        """Return whether nothing is wanted of a shard any more, nor awaited."""
        return not self._asked.get(shard) and shard not in self.shards()

    def refused(self, shard: str) -> Orders:
        """Take note that a shard answered with an error, so that a name is wanted no more; return what to send."""
        orders: Orders = {}
        if self._asked.get(shard):
            name, on, _ = self._asked[shard].popleft()
            self._heard_by(name, shard, on=on)
            if on and name in self._at:
                others = [other for other in self._at[name] if other != shard and other in self._asked]
                self._ask(orders, name, others, on=False, told=False)
                self._forgotten(name)
        return orders

    def deliver(self, message: dict[str, Any], *, ignore: bool) -> tuple[dict[str, Any] | None, Handler | None]:
        """Return a message and who is called with it: the user, if nobody; no message if it is to be ignored."""
        kind = message["type"]
        if kind.endswith("message"):
            by = message["channel"] if message["pattern"] is None else message["pattern"]
            return message, self._of[kind.removesuffix("message")].get(by)
        return (None if ignore or self._ignore else message), None

    def check_handlers(self) -> None:
        """Raise PubSubError unless each name has a handler: nobody else would get its messages."""
        for what, kind in (("Channel", ""), ("Pattern", "p"), ("Shard Channel", "s")):
            for name, handler in self._of[kind].items():
                if handler is None:
                    raise PubSubError(f"{what}: {name!r} has no handler registered")

    # -- inside

    def _homes(self, name: Name) -> tuple[str, ...]:
        router = self._router()
        return tuple(router.placement.shards) if name[0] == "p" else (router.route(name[1]),)

    def _ask(self, orders: Orders, name: Name, shards: Iterable[str], *, on: bool, told: bool = True) -> None:
        kind, wire = name
        for shard in shards:
            orders.setdefault(shard, []).append((f"{kind}{'' if on else 'un'}subscribe".upper(), wire))
            if told:
                self._silent.setdefault((name, on), set()).add(shard)
            if shard in self._asked:  # else it is asked for everything once there is a connection
                self._asked[shard].append(_Asked(name, on, told))

    def _heard_by(self, name: Name, shard: str, *, on: bool) -> bool:
        """Take note of a shard's reply; return whether it was the last one."""
        silent = self._silent.get((name, on), set())
        silent.discard(shard)
        if not silent:
            self._silent.pop((name, on), None)
        return not silent

    def _forgotten(self, name: Name) -> dict[str, Any]:
        kind, wire = name
        self._at.pop(name, None)
        self._on.discard(name)
        self._of[kind].pop(self._shown(wire), None)
        return self._said(f"{kind}unsubscribe", name)

    def _said(self, what: str, name: Name) -> dict[str, Any]:
        count = sum((kind == "s") == (name[0] == "s") for kind, _ in self._on)
        return _message(what, self._shown(name[1]), count, None)

    def _shown(self, wire: bytes) -> Any:
        return self._encoder.decode(wire)

    def _decoded(self, data: Any) -> Any:
        return self._encoder.decode(data) if isinstance(data, bytes) else data


class Wanting(Protocol):
    """What `Names` has to know of lines."""

    @property
    def wanted(self) -> Subscriptions:
        """What is wanted now."""
        ...


L = TypeVar("L", bound=Wanting)


class Names(Generic[L]):
    """What a ``PubSub`` shows of what it wants."""

    def __init__(self, lines: L) -> None:
        self._lines = lines

    @property
    def channels(self) -> dict[Any, Handler | None]:
        """The channels that are wanted, and their handlers."""
        return self._lines.wanted.handlers("")

    @property
    def patterns(self) -> dict[Any, Handler | None]:
        """The patterns that are wanted, and their handlers."""
        return self._lines.wanted.handlers("p")

    @property
    def shard_channels(self) -> dict[Any, Handler | None]:
        """The sharded channels that are wanted, and their handlers."""
        return self._lines.wanted.handlers("s")


def pool_of(shards: Any, shard: str) -> Any:
    """Return the pool of a shard's client; redis-py's ConnectionError if the shard is gone."""
    client = shards.shards().get(shard)
    if client is None:
        raise ConnectionError("there is no such shard any more")
    return client.connection_pool


def is_elsewhere(shards: Any, shard: str, pool: Any) -> bool:
    """Return whether a shard has another client by now than the one of ``pool``, or none."""
    client = shards.shards().get(shard)
    return client is None or client.connection_pool is not pool


def greeting_of(shards: Any) -> list[tuple[Any, ...]]:
    """Return what a fresh connection is asked first: over a live topology, which epoch the shard knows."""
    live = vars(shards).get("_live")
    return [] if live is None else [("GET", local_key(live.topology.name, "epoch"))]


def heed(shards: Any, reply: Any) -> None:
    """Have the topology looked for at once if the shard answered with a newer epoch: what is wanted may be elsewhere.

    The fence drops who listens at the source of a move, so whoever has not heard of the move comes here.
    """
    if isinstance(reply, bytes) and reply.isdigit() and int(reply) > shards.epoch:
        source = shards._live.source  # noqa: SLF001  one library
        if source is not None:
            source.look_soon()


def _message(kind: str, channel: Any, data: Any, pattern: Any) -> dict[str, Any]:
    return {"type": kind, "pattern": pattern, "channel": channel, "data": data}


def meant(shard: str, error: Exception) -> Exception:
    """Return what an error means that came before anything could be subscribed to."""
    if isinstance(error, ResponseError):
        return answered(shard, error)
    return unanswered(shard, error, sent=False)
