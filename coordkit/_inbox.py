"""What both inboxes share: who expects messages, and what a subscription's replies mean.

A connection that is subscribed gives lists: ``[message | smessage, channel, data]`` and confirmations. The first word
of the data is the holder for whom it is.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Container
from typing import Any, Generic, Protocol, TypeVar

from coordkit import _redis
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
        self._boxes: dict[str, BoxT] = {}
        self._gone: OrderedDict[str, Callable[[], None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._boxes)

    def __getitem__(self, holder: str) -> BoxT:
        return self._boxes[holder]

    def add(self, holder: str, box: BoxT) -> None:
        self._gone.pop(holder, None)
        self._boxes[holder] = box

    def remove(self, holder: str, stray: Callable[[], None] | None) -> None:
        self._boxes.pop(holder, None)
        if stray is not None:
            self._gone[holder] = stray
            while len(self._gone) > _GONE:
                self._gone.popitem(last=False)

    def addresses(self) -> set[str]:
        """Return where somebody waits."""
        return {box.address for box in list(self._boxes.values())}

    def other_than(self, one: BoxT, addresses: Container[str]) -> BoxT | None:
        """Return some other box at one of these addresses, if there is one."""
        return next((box for box in list(self._boxes.values()) if box is not one and box.address in addresses), None)

    def deliver(self, data: bytes) -> None:
        """Put a message where it belongs; a grant for somebody who left is given back."""
        holder, _, message = data.decode().partition(" ")
        box = self._boxes.get(holder)
        if box is not None:
            box.messages.append(message)
            box.ring()
        elif message.startswith("grant") and (stray := self._gone.pop(holder, None)) is not None:
            stray()

    def broken(self, address: str) -> None:
        """Tell everybody at an address that messages may have been lost."""
        for box in list(self._boxes.values()):
            if box.address == address:
                box.messages.append(BROKEN)
                box.ring()


def understood(reply: Any) -> tuple[str, str, bytes]:
    """Return the kind of a reply (message, subscribed, unsubscribed, other), its channel, and its data."""
    if not isinstance(reply, list) or len(reply) < 3:
        return "other", "", b""
    kind, channel, data = reply[:3]
    if kind in (b"message", b"smessage"):
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

    def say(self, where: str, error: BaseException) -> None:
        if not self._said and _redis.is_no(error):  # what is a mere outage, or a slot that was moved, passes
            self._said = True
            _log.warning(
                "%s: cannot subscribe to be told of locks, so contenders ask again and again instead, in no order: %s",
                *(where, error),
            )
