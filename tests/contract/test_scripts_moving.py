"""What the heads of a move's scripts promise, each asked directly at the target: both flavours send the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from coordkit._ports import Script
from coordkit.scripts import load

_BEGIN, _LOOK, _TAKE, _CLOSE, _CLEAR = (load(f"move_{what}") for what in ("begin", "look", "take", "close", "clear"))


class Target:
    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client = client
        self.name = f"{{{name}}}"
        self.epoch, self.moves = self.key("epoch"), self.key("moves")

    def key(self, part: str) -> str:
        return f"{self.name}:{part}"

    def marks(self, number: int) -> str:
        return self.key(f"marks:{number}")

    def run(self, script: Script, number: int, *args: Any, keys: tuple[str, ...] = ()) -> Any:
        return self.client.eval(script.source, 2 + len(keys), self.moves, self.marks(number), *keys, number, *args)

    def take(self, number: int, *keys: tuple[str, bytes, int, str]) -> Any:
        args = [part for _, *parts in keys for part in parts]
        return self.run(_TAKE, number, *args, keys=tuple(self.key(name) for name, *_ in keys))

    def clear(self, epoch: int, *names: str, number: int = 7) -> Any:
        keys = [self.epoch, self.moves, *map(self.key, names)]
        return self.client.eval(_CLEAR.source, len(keys), *keys, epoch, number)

    def known(self) -> dict[bytes, bytes]:
        return dict(self.client.hgetall(self.moves))

    def dump(self, value: str) -> bytes:
        self.client.set(self.key("elsewhere"), value)
        dumped = self.client.dump(self.key("elsewhere"))
        assert isinstance(dumped, bytes)
        return dumped


@pytest.fixture
def target(coordkit_redis_server: Any, coordkit_namespace: str) -> Iterator[Target]:
    with redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10) as client:
        yield Target(client, f"{coordkit_namespace}:move")


def test_a_move_is_opened_once_and_closed_for_good(target: Target) -> None:
    assert target.run(_LOOK, 7)[0] == b""
    assert target.run(_BEGIN, 7) == target.run(_BEGIN, 7) == b"open"
    assert target.take(7, ("n", target.dump("1"), 0, "take"), ("none", b"", 0, "take")) == [b"open", 1, 1]
    assert target.run(_BEGIN, 7) == b"open"
    assert target.run(_LOOK, 7, target.key("n"), target.key("other"))[::2] == [b"open", 1]
    assert target.run(_CLOSE, 7, "1") == 2
    assert not target.client.exists(target.marks(7))
    assert target.run(_CLOSE, 7, "1") == 0
    assert target.run(_BEGIN, 7) == b"over"
    assert not target.client.exists(target.marks(7))
    assert target.run(_LOOK, 7, target.key("n"))[::2] == [b"over", 0]
    assert target.known() == {b"7": b"over"}


def test_a_new_move_forgets_those_that_are_over_and_no_other(target: Target) -> None:
    for number in (3, 4, 5):
        target.run(_BEGIN, number)
    target.run(_CLOSE, 3, "1")
    target.run(_CLOSE, 4, "1")
    assert target.run(_BEGIN, 7) == b"open"
    assert target.known() == {b"5": b"open", b"7": b"open"}
    target.run(_CLOSE, 5, "1")
    assert target.run(_BEGIN, 7) == b"open"  # one that goes on forgets nothing
    assert target.known() == {b"5": b"over", b"7": b"open"}


def test_a_move_that_the_target_does_not_know_any_more_is_not_closed(target: Target) -> None:
    """What it had brought was lost with it."""
    with pytest.raises(redis.ResponseError, match="does not know move 7 any more: it lost its data"):
        target.run(_CLOSE, 7, "1")
    assert target.known() == {}
    assert target.run(_CLOSE, 7, "") == 0  # unless it need not have begun
    assert target.known() == {b"7": b"over"}


def test_each_key_is_taken_once_while_the_move_is_open(target: Target) -> None:
    value, later = target.dump("came"), target.dump("later")
    assert target.take(7, ("a", value, 0, "take")) == [b""]
    target.client.set(target.key("a"), "left over")
    target.client.set(target.key("gone"), "left over")
    target.client.set(target.key("kept"), "newer")
    target.run(_BEGIN, 7)
    taken = [("a", value, 0, "take"), ("gone", b"", 0, "take"), ("kept", value, 0, "keep"), ("none", b"", 0, "keep")]
    assert target.take(7, *taken) == [b"open", 1, 1, 1, 1]
    values = target.client.mget([target.key(name) for name, *_ in taken])
    assert values == [b"came", None, b"newer", None]
    target.client.delete(target.key("a"))
    target.client.set(target.key("gone"), "new")
    assert target.take(7, ("a", later, 0, "take"), ("gone", b"", 0, "take")) == [b"open", 0, 0]
    assert target.client.mget(target.key("a"), target.key("gone")) == [None, b"new"]
    target.run(_CLOSE, 7, "1")
    assert target.take(7, ("b", value, 0, "take")) == [b"over"]
    assert not target.client.exists(target.key("b"), target.marks(7))


def test_a_time_to_live_ends_when_it_would_have(target: Target) -> None:
    seconds, more = target.client.time()
    ends = int(seconds) * 1000 + int(more) // 1000 + 60_000
    target.run(_BEGIN, 7)
    target.take(7, ("a", target.dump("1"), ends, "take"), ("over", target.dump("1"), 1, "take"))
    assert target.client.pexpiretime(target.key("a")) == ends
    assert not target.client.exists(target.key("over"))


def test_what_cannot_be_taken_can_be_tried_again(target: Target) -> None:
    target.run(_BEGIN, 7)
    with pytest.raises(redis.ResponseError, match="payload"):
        target.take(7, ("a", b"no dump", 0, "take"))
    assert target.run(_LOOK, 7, target.key("a"))[2] == 0
    assert target.take(7, ("a", target.dump("1"), 0, "take")) == [b"open", 1]


def test_marks_that_are_gone_are_missed(target: Target) -> None:
    target.run(_BEGIN, 7)
    assert target.run(_LOOK, 7, target.key("a"))[2] == 0
    target.client.delete(target.marks(7))
    for ask in (lambda: target.run(_LOOK, 7), lambda: target.take(7, ("a", target.dump("1"), 0, "take"))):
        with pytest.raises(redis.ResponseError, match="marks of move 7 are gone"):
            ask()
    assert not target.client.exists(target.key("a"))


def test_leftovers_are_dropped_before_the_move_begins_and_never_after(target: Target) -> None:
    target.client.mset({target.key("a"): 1, target.key("b"): 2})
    assert target.clear(7, "a") == -1  # it knows no epoch
    target.client.set(target.epoch, 8)
    assert target.clear(7, "a") == -1
    target.client.set(target.epoch, "8x")
    assert target.clear(7, "a") == -1
    target.client.set(target.epoch, 7)
    assert target.clear(7, "a", "none") == 1
    target.run(_BEGIN, 7)
    assert target.clear(7, "b") == target.clear(9, "b") == -2  # fenced for it anew, by a later epoch
    assert target.client.mget(target.key("a"), target.key("b")) == [None, b"2"]
