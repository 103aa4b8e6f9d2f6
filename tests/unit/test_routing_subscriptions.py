"""What a PubSub over shards asks for, and what it makes of the replies: pure decisions, no server."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import Encoder  # type: ignore[attr-defined]  # redis-py does not say that it exports it
from redis.exceptions import PubSubError

from coordkit.routing import rendezvous
from coordkit.routing.commands.router import Router
from coordkit.routing.pubsub.subscriptions import Subscriptions

THREE, TWO = rendezvous(["a", "b", "c"]), rendezvous(["b", "c"])


def name_on(shard: str, nth: int = 0) -> str:
    return [name for name in (f"ch:{i}" for i in range(99)) if THREE.lookup(name) == shard][nth]


A, B = name_on("a"), name_on("b")


class Client:
    """Subscriptions with a connection to some shards, and the placement it has just now."""

    def __init__(self, *connected: str, decode: bool = True, ignore: bool = False) -> None:
        self.router = Router(THREE)
        self.wanted = Subscriptions(
            lambda: self.router, Encoder("utf-8", "strict", decode_responses=decode), ignore=ignore
        )
        for shard in connected:
            assert self.wanted.opened(shard) == []

    def hears(self, shard: str, kind: str, *rest: Any) -> Any:
        reply = [part.encode() if isinstance(part, str) else part for part in (kind, *rest)]
        message = self.wanted.heard(shard, reply)
        return None if message is None else tuple(message.values())


def test_each_channel_is_asked_for_on_its_shard_and_a_pattern_on_all() -> None:
    client = Client("a", "b", "c")
    assert client.wanted.subscribe("", [A, [B]], {}) == {
        "a": [("SUBSCRIBE", A.encode())],
        "b": [("SUBSCRIBE", B.encode())],
    }
    assert client.wanted.subscribe("p", ["x*"], {}) == {shard: [("PSUBSCRIBE", b"x*")] for shard in "abc"}
    assert client.wanted.subscribe("s", [A], {}) == {"a": [("SSUBSCRIBE", A.encode())]}
    assert client.wanted.shards() == {"a", "b", "c"}
    assert client.hears("a", "subscribe", A, 1) == ("subscribe", None, A, 1)
    assert client.hears("a", "psubscribe", "x*", 2) is None
    assert client.hears("a", "ssubscribe", A, 1) == ("ssubscribe", None, A, 1)
    assert client.hears("c", "psubscribe", "x*", 1) is None
    assert client.hears("b", "subscribe", B, 1) == ("subscribe", None, B, 2)
    assert client.hears("b", "psubscribe", "x*", 2) == ("psubscribe", None, "x*", 3)
    assert client.hears("a", "pmessage", "x*", "xy", "data") == ("pmessage", "x*", "xy", "data")
    assert client.hears("b", "message", B, b"data") == ("message", None, B, "data")
    assert client.hears("b", "pong", "coordkit") is None
    assert client.wanted.heard("b", b"PONG") is None


def test_a_shard_without_a_connection_is_asked_for_everything_once_it_has_one() -> None:
    client = Client("a")
    orders = client.wanted.subscribe("p", ["x*"], {})
    assert set(orders) == {"a", "b", "c"}
    client.wanted.subscribe("", [B], {})
    assert client.hears("a", "psubscribe", "x*", 1) is None  # not before all hear it
    assert client.wanted.opened("b") == [("PSUBSCRIBE", b"x*"), ("SUBSCRIBE", B.encode())]
    assert client.wanted.opened("c") == [("PSUBSCRIBE", b"x*")]
    assert client.hears("c", "psubscribe", "x*", 1) is None
    assert client.hears("b", "psubscribe", "x*", 1) == ("psubscribe", None, "x*", 1)
    assert client.hears("b", "subscribe", B, 2) == ("subscribe", None, B, 2)


def test_after_a_lost_connection_its_names_are_told_again() -> None:
    client = Client("a", "b", "c")
    client.wanted.subscribe("p", ["x*"], {})
    assert [client.hears(shard, "psubscribe", "x*", 1) for shard in "abc"][:2] == [None, None]
    assert list(client.wanted.closed("b")) == []
    assert client.wanted.opened("b") == [("PSUBSCRIBE", b"x*")]
    assert client.hears("b", "psubscribe", "x*", 1) == ("psubscribe", None, "x*", 1)


def test_what_is_not_wanted_any_more_is_told_once_all_say_so_or_at_once_if_nobody_can() -> None:
    client = Client("a", "b", "c")
    client.wanted.subscribe("p", ["x*"], {})
    client.wanted.subscribe("", [A], {})
    for shard in "abc":
        client.hears(shard, "psubscribe", "x*", 1)
    client.hears("a", "subscribe", A, 2)
    assert client.wanted.unsubscribe("", ["never"]) == ({}, [])
    orders, at_once = client.wanted.unsubscribe("p", [])
    assert (orders, at_once) == ({shard: [("PUNSUBSCRIBE", b"x*")] for shard in "abc"}, [])
    assert client.hears("a", "punsubscribe", "x*", 1) is None
    assert client.hears("c", "punsubscribe", "x*", 0) is None
    assert [tuple(told.values()) for told in client.wanted.closed("b")] == [("punsubscribe", None, "x*", 1)]
    assert client.wanted.is_idle("c")
    assert not client.wanted.is_idle("a")
    list(client.wanted.closed("a"))
    orders, at_once = client.wanted.unsubscribe("", [A])
    assert orders == {}
    assert [tuple(told.values()) for told in at_once] == [("unsubscribe", None, A, 0)]
    assert not client.wanted


def test_a_subscription_that_is_taken_back_before_its_answer_is_told_twice_in_order() -> None:
    client = Client("a", "b", "c")
    client.wanted.subscribe("p", ["x*"], {})
    client.wanted.unsubscribe("p", ["x*"])
    told = [client.hears(shard, kind, "x*", 0) for kind in ("psubscribe", "punsubscribe") for shard in "abc"]
    assert told == [None, None, ("psubscribe", None, "x*", 1), None, None, ("punsubscribe", None, "x*", 0)]
    assert not client.wanted


def test_a_name_that_one_shard_refuses_is_left_on_the_others() -> None:
    client = Client("a", "b", "c")
    client.wanted.subscribe("p", ["x*"], {})
    client.wanted.subscribe("", [B], {})
    assert client.wanted.refused("b") == {shard: [("PUNSUBSCRIBE", b"x*")] for shard in "ac"}
    assert client.wanted.handlers("p") == {}
    assert client.hears("b", "subscribe", B, 1) == ("subscribe", None, B, 1)  # the next answer is about the next name
    for kind in ("psubscribe", "punsubscribe"):
        assert [client.hears(shard, kind, "x*", 0) for shard in "ac"] == [None, None]
    assert client.wanted.is_idle("a")
    assert client.wanted.refused("b") == {}


def test_a_placement_that_is_swapped_moves_names() -> None:
    client = Client("a", "b", "c")
    client.wanted.subscribe("", [A], {})
    client.hears("a", "subscribe", A, 1)
    assert client.wanted.follow() == {}
    client.router = Router(TWO)
    to = TWO.lookup(A)
    assert client.wanted.follow() == {to: [("SUBSCRIBE", A.encode())], "a": [("UNSUBSCRIBE", A.encode())]}
    assert client.wanted.follow() == {}
    assert client.hears("a", "unsubscribe", A, 0) is None
    assert client.hears(to, "subscribe", A, 1) == ("subscribe", None, A, 1)
    assert client.wanted.is_idle("a")


def test_handlers_and_what_is_ignored() -> None:
    heard: list[Any] = []
    client = Client("a", decode=False, ignore=True)
    client.wanted.subscribe("", [], {A: heard.append})
    client.wanted.check_handlers()
    message = {"type": "message", "pattern": None, "channel": A.encode(), "data": b"x"}
    assert client.wanted.deliver(message, ignore=False) == (message, heard.append)
    told = {"type": "subscribe", "pattern": None, "channel": A.encode(), "data": 1}
    assert client.wanted.deliver(told, ignore=False) == (None, None)
    assert Client().wanted.deliver(told, ignore=True) == (None, None)
    assert Client().wanted.deliver(told, ignore=False) == (told, None)
    client.wanted.subscribe("p", ["x*"], {})
    with pytest.raises(PubSubError, match=r"Pattern: b'x\*' has no handler"):
        client.wanted.check_handlers()
    with pytest.raises(ValueError, match="ssubscribe: no names"):
        client.wanted.subscribe("s", [], {})
