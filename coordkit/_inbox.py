"""What both inboxes share: where to listen, who expects messages, and what a subscription's replies mean.

A connection that is subscribed gives lists: ``[message | smessage, channel, data]`` and confirmations. The first word
of the data is the holder for whom it is.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

import redis
import redis.asyncio
from redis import exceptions

from coordkit import _redis_answers
from coordkit._ports import BROKEN

_log = logging.getLogger("coordkit")

QUIET = 15.0
"""Seconds without a message after which a subscribed connection is asked whether it is alive."""

AGAIN = 1.0
"""Seconds after which a subscription that could not be had is tried again."""

MANY = 1000
"""Channels of one connection (on a Cluster each lock has its own) from which on those are left where nobody waits."""

_GONE = 1000  # of those that wait no more, so many are remembered, in case a grant comes for them


class Box(Protocol):
    """Where the messages for one holder are put."""

    address: str
    messages: deque[str]
    refusal: Exception | None

    def ring(self) -> None:
        """Wake whoever waits for a message."""
        ...


BoxT = TypeVar("BoxT", bound=Box)


class Boxes(Generic[BoxT]):
    """The boxes of one inbox by holder."""

    def __init__(self) -> None:
        # Whoever waits has its box: should that be interrupted, nobody is rung in its place, or waited for.
        self.by_holder: WeakValueDictionary[str, BoxT] = WeakValueDictionary()
        self._strange = False
        self._gone: OrderedDict[str, Callable[[], None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.by_holder)

    def _all(self) -> list[BoxT]:
        return [box for known in self.by_holder.valuerefs() if (box := known()) is not None]

    def __getitem__(self, holder: str) -> BoxT:
        return self.by_holder[holder]

    def add(self, holder: str, box: BoxT) -> None:
        self._gone.pop(holder, None)
        self.by_holder[holder] = box

    def remove(self, holder: str, stray: Callable[[], None] | None) -> None:
        self.by_holder.pop(holder, None)
        if stray is not None:
            self._gone[holder] = stray
            while len(self._gone) > _GONE:
                self._gone.popitem(last=False)

    def addresses(self) -> set[str]:
        """Return where somebody waits."""
        return {box.address for box in self._all()}

    def other_than(self, one: BoxT, addresses: Container[str]) -> BoxT | None:
        """Return some other box at one of these addresses, if there is one."""
        for box in self._all():
            if box is not one and box.address in addresses:
                return box
        return None

    def deliver(self, data: bytes) -> None:
        """Put a message where it belongs; a grant for somebody who left is given back."""
        if _MESSAGE.fullmatch(data) is None:
            self._ignore(data)
            return
        holder, _, message = data.decode(errors="backslashreplace").partition(" ")
        box = self.by_holder.get(holder)
        if box is not None:
            box.messages.append(message)
            box.ring()
        elif message.startswith("grant") and (stray := self._gone.pop(holder, None)) is not None:
            stray()

    def _ignore(self, data: bytes) -> None:
        if data and not self._strange:  # scripts/inbox_check.lua says nothing, and looks whether that is heard
            self._strange = True
            _log.warning("a message that is none of coordkit's was published to its waiters, and ignored: %.200r", data)

    def broken(self, address: str) -> None:
        """Tell everybody at an address that messages may have been lost."""
        for box in self._all():
            if box.address == address:
                box.messages.append(BROKEN)
                box.ring()


MESSAGES = (b"message", b"smessage")

_MESSAGE = re.compile(rb"\S+ (?:grant \d{1,16} \d{1,16} (?:-|\d{1,9})(?: \S+)?|next \d{1,15})")
"""What scripts/queue.lua tells."""


def understood(reply: Any) -> tuple[str, str, bytes]:
    """Return the kind of a reply (message, subscribed, unsubscribed, other), its channel, and its data."""
    if not isinstance(reply, list) or len(reply) < 3:
        return "other", "", b""
    kind, channel, data = reply[:3]
    if kind in MESSAGES:
        return "message", channel.decode(), data
    if kind in (b"subscribe", b"ssubscribe"):
        return "subscribed", channel.decode(), b""
    if kind in (b"unsubscribe", b"sunsubscribe"):
        return "unsubscribed", channel.decode() if channel else "", b""
    return "other", "", b""


def refuse(asked: dict[str, BoxT], error: Exception) -> None:
    """Tell whoever subscribes that the server said no. That breaks no connection: others are told over it."""
    while asked:
        _, box = asked.popitem()
        box.refusal = error
        box.messages.append("refused")
        box.ring()


def leaving(address: str) -> tuple[str, str]:
    """Return the command by which an address is left."""
    verb, channel = address.split(" ", 1)
    return {"SPUBLISH": "SUNSUBSCRIBE", "PUBLISH": "UNSUBSCRIBE"}[verb], channel


class Told:
    """Something that is logged once, however often it happens."""

    def __init__(self) -> None:
        self._said = False

    def asks_again(self, where: str) -> None:
        """Say that the client allows no subscription of ours."""
        if not self._said:
            self._said = True
            _log.warning(
                "%s: its client is less or more than one plain pool (a bounded pool, a single connection, a cache, a "
                "subclass with its own execute_command), so contenders ask again and again, in no order",
                where,
            )

    def say(self, where: str, error: BaseException) -> None:
        if not self._said and _redis_answers.is_no(error):  # what is a mere outage, or a slot that was moved, passes
            self._said = True
            _log.warning(
                "%s: cannot subscribe to be told of locks, so contenders ask again and again instead, in no order: %s",
                *(where, error),
            )


_VERBS = (("SPUBLISH", "SSUBSCRIBE"), ("PUBLISH", "SUBSCRIBE"))


class Ear(NamedTuple):
    """Where to subscribe so that a script hears us: by the recipe of ``pool``, to ``channel``."""

    node: str
    pool: Any  # a connection pool, or what has connection_class and connection_kwargs as one does
    channel: str
    verbs: tuple[tuple[str, str], ...]  # to publish and to subscribe, the best first


def asks_again(client: Any, *, keeps: bool) -> bool:
    """Whether this client allows no connection of our own."""
    plain = (redis.RedisCluster.execute_command, redis.asyncio.RedisCluster.execute_command)
    return not keeps and getattr(type(client), "execute_command", None) not in plain


def ear_of(client: Any, identity: str, name: str, *, keeps: bool) -> Ear | None:
    """Return where contenders for the lock ``name`` listen; None if this client allows no connection of our own."""
    if keeps:
        return Ear("", client.connection_pool, f"coordkit:1:inbox:{identity}", _VERBS[1:])
    if asks_again(client, keeps=keeps):
        return None
    # A message reaches the node that serves the lock's slot, and is counted there: the channel shares the lock's tag.
    channel = f"coordkit:1:{{{name}}}:inbox:{identity}"
    try:
        node = client.get_node_from_key(channel)
    except exceptions.RedisClusterException:
        node = None  # nobody serves the slot, as far as the client knows
    if node is None:
        return None  # asked again, by the generic path, which looks for the node
    pool = client.get_redis_connection(node).connection_pool if isinstance(client, redis.RedisCluster) else node
    return Ear(str(node.name), pool, channel, _VERBS)
