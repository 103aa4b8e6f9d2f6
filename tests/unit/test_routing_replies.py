"""What is packed in C is what redis-py's own connection packs, and what is decoded here is what hiredis decodes."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions

from coordkit.routing.ways.replies import Packer, callback_of, decoded, is_kept, parsed


class Name(str):
    """A str of the user's own."""

    __slots__ = ()


class Number(enum.IntEnum):
    """An int that redis-py's two packers write in two ways."""

    ONE = 1


COMMANDS: list[tuple[Any, ...]] = [
    ("GET", "key"),
    ("GET", b"key"),
    ("GET", ""),
    ("set", "é€😀", b"\xff\x00\r\n"),
    ("SET", "k", 0, -5, 10**30),
    ("SET", "k", 1.5, 0.1 + 0.2, 1e16, 1e-7, 1e300, -0.0, float("inf"), float("-inf"), float("nan")),
    ("SET", "k", memoryview(b"view"), bytearray(b"array")),
    ("SET", "k", memoryview(b"abcdef")[::2]),
    ("SET", Name("k"), Number.ONE),
    ("CONFIG GET", "x"),
    ("JSON.SET", "k", "$", "1"),
    (b"GET", "k"),
    (b"CONFIG GET", "k"),
    ("PING",),
    ("SET", "k", "x" * 100_000),
]


@pytest.mark.parametrize("kind", [redis.Connection, redis.asyncio.Connection])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_command_is_packed_as_redis_py_packs_it(kind: Any, encoding: str) -> None:
    connection = kind(encoding=encoding, encoding_errors="replace" if encoding == "latin-1" else "strict")
    packer = Packer(connection)
    packed: dict[int, bytes] = {}
    for number, command in enumerate(COMMANDS):
        try:
            theirs = packed[number] = b"".join(map(bytes, connection.pack_command(*command)))
        except redis.exceptions.DataError:  # of a bytearray, in redis-py 5.0
            with pytest.raises(redis.exceptions.DataError):
                packer.one(command)
            continue
        assert packer.one(command) == theirs, command
        assert packer.many([command, ("GET", "k"), command]) == theirs + packer.one(("GET", "k")) + theirs, command
    plain = [number for number in packed if {bytes, str, int, float}.issuperset(map(type, COMMANDS[number]))]
    assert packer.many([COMMANDS[number] for number in plain]) == b"".join(packed[number] for number in plain)


@pytest.mark.parametrize("in_c", [True, False])
def test_no_number_is_left_to_be_formatted(in_c: bool) -> None:
    """hiredis crashes the process where a signal handler raises while it formats one: Ctrl-C is enough."""
    packer, words = Packer(redis.Connection()), list[Any]()

    def pack_in_c(command: Any) -> bytes:
        words.extend(command)
        return b""

    def pack(*command: Any) -> list[bytes]:
        words.extend(command)
        return []

    packer._in_c, packer._theirs = pack_in_c if in_c else None, pack
    commands = [("SET", "k", 1, "PX", 1.5), ("CLIENT KILL", 5), ("SET", memoryview(b"k"), -7), ("GET", "k")]
    for command in commands:
        packer.one(command)
        packer.many([command])
    packer.many(commands)
    assert words.count(b"1") == 3
    assert {type(word) for word in words} == {str, bytes, memoryview}


@pytest.mark.parametrize("kind", [redis.Connection, redis.asyncio.Connection])
@pytest.mark.parametrize("value", [True, None, {"a": 1}, object()])
def test_what_redis_py_does_not_take_is_refused_in_its_words(kind: Any, value: Any) -> None:
    connection = kind()
    packer = Packer(connection)
    with pytest.raises(redis.exceptions.DataError) as theirs:
        connection.pack_command("SET", "k", value)
    for pack in (lambda: packer.one(("SET", "k", value)), lambda: packer.many([("GET", "k"), ("SET", "k", value)])):
        with pytest.raises(redis.exceptions.DataError) as ours:
            pack()
        assert str(ours.value) == str(theirs.value)


def test_a_reply_is_decoded_at_every_depth() -> None:
    encoder = redis.Redis(decode_responses=True).get_encoder()
    error = redis.exceptions.ResponseError("as it is")
    reply = [b"a", [b"b", None, 1, 1.5, True], {b"k": {b"v"}}, error]
    assert decoded(reply, encoder) == ["a", ["b", None, 1, 1.5, True], {"k": {"v"}}, error]
    with pytest.raises(UnicodeDecodeError):
        decoded([b"\xff"], encoder)


def test_callbacks_are_found_whatever_the_case_and_as_they_are_now() -> None:
    client = redis.Redis()
    assert callback_of(client.response_callbacks, "set") is callback_of(client.response_callbacks, "SET") is not None
    assert callback_of(client.response_callbacks, b"SET") is None  # as redis-py
    assert callback_of(client.response_callbacks, "GET") is None
    client.set_response_callback("get", lambda reply, **options: (reply, options))
    options = {"keys": ["k"], "NEVER_DECODE": True, "EMPTY_RESPONSE": [], "mine": 1}
    assert parsed(client.response_callbacks, ("GET", "k"), options, b"v") == (b"v", {"mine": 1})
    assert parsed(client.response_callbacks, ("GET", "k"), options, redis.exceptions.ResponseError("no")) == []
    with pytest.raises(redis.exceptions.ResponseError, match="no"):
        parsed(client.response_callbacks, ("GET", "k"), {}, redis.exceptions.ResponseError("no"))


def test_a_client_whose_method_is_wrapped_is_used_itself(monkeypatch: Any) -> None:
    client = redis.Redis()
    assert is_kept(client)

    def traced(_: Any) -> None:
        """Stand for what a tracer puts in its place."""

    monkeypatch.setattr(redis.Redis, "execute_command", traced)
    assert not is_kept(client)
