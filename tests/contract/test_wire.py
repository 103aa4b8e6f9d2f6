"""A connection is spoken to directly where that is safe, and answers are the same either way."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import pytest
import redis

from coordkit import _reader, _redis_packing
from coordkit._asyncio.wire import hang_up
from coordkit._ports import Call, Confirm, Form
from coordkit._run import run
from coordkit._threads.connection import connection_of
from coordkit.scripts import load


def kept(flavour: Any, lock: Any) -> Any:
    """Return the wire that was used last."""
    lines = lock.client._coordkit_store._lines
    if flavour.is_async:
        [home] = lines._homes.values()
        return home.shared or home.idle[-1]
    return lines._idle[-1]


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 2, "decode_responses": True}])
@pytest.mark.parametrize("fast", [True, False])
async def test_both_ways_give_the_same(
    flavour: Any,
    maybe: Any,
    coordkit_redis_server: Any,
    coordkit_namespace: str,
    options: dict[str, Any],
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fast:
        monkeypatch.setattr(_reader, "_KNOWN", ())  # as without hiredis, or with a redis-py laid out in another way
    elif not _reader._KNOWN:
        pytest.skip("hiredis is not installed")
    fast = fast and not (options.get("protocol") == 3 and _reader._PUSH is None)  # hiredis before 3.2 hides pushes
    client = flavour.redis(coordkit_redis_server.url, **options)
    lock, other = (flavour.Lock(client, coordkit_namespace, ttl=10) for _ in range(2))
    async with flavour.within(lock) as lease:
        assert type(kept(flavour, lock)).__name__ == ("FastWire" if fast else "Wire")
        assert await maybe(other.try_acquire()) is None
        await maybe(lease.renew())
        assert lease.token > 0
    async with flavour.within(other) as after:
        assert after.token > lease.token


def lines(flavour: Any, quorum: Any) -> list[Any]:
    """Return the wires to the servers of a quorum."""
    panel = quorum._core.panel
    if flavour.is_async:
        [home] = panel._homes.values()
        return [line.wire for line in home.lines]
    return [slot.wire for slot in panel._rows[-1].slots]


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 2, "decode_responses": True}])
@pytest.mark.parametrize("fast", [True, False])
async def test_a_quorum_is_asked_both_ways(
    flavour: Any,
    maybe: Any,
    coordkit_redis_quorum: Any,
    coordkit_namespace: str,
    options: dict[str, Any],
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the servers forget the scripts in between, and when one does not answer for a while."""
    if not fast:
        monkeypatch.setattr(_reader, "_KNOWN", ())
    elif not _reader._KNOWN:
        pytest.skip("hiredis is not installed")
    fast = fast and not (options.get("protocol") == 3 and _reader._PUSH is None)  # hiredis before 3.2 hides pushes
    quorum = flavour.Quorum([flavour.redis(server.url, **options) for server in coordkit_redis_quorum])
    await maybe(quorum.initialise())
    lock, other = (flavour.QuorumLock(quorum, coordkit_namespace, ttl=30) for _ in range(2))
    tokens = []
    async with flavour.within(lock) as lease:
        plain = "ReadWire" if flavour.is_async else "Wire"
        assert {type(wire).__name__ for wire in lines(flavour, quorum)} == {"FastWire" if fast else plain}
        assert await maybe(other.try_acquire()) is None
        await maybe(lease.renew())
        tokens.append(lease.token)
    for server in coordkit_redis_quorum:
        with redis.Redis.from_url(server.url) as client:
            client.script_flush()
    async with flavour.within(other) as lease:
        tokens.append(lease.token)
    before = lines(flavour, quorum)
    try:
        coordkit_redis_quorum[1].pause()
        for _ in range(3):
            async with flavour.within(lock) as lease:
                tokens.append(lease.token)
    finally:
        coordkit_redis_quorum[1].resume()
    async with flavour.within(lock) as lease:
        tokens.append(lease.token)
    assert tokens == sorted(set(tokens))
    assert lines(flavour, quorum) == before  # what it owed was read, and thrown away

    def standing() -> list[str]:
        found = []
        for server in coordkit_redis_quorum:
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                found += client.keys(lock.key)
        return found

    await flavour.until(lambda: not standing())


@pytest.mark.parametrize("fast", [True, False])
async def test_scripts_that_were_forgotten_are_taught_in_the_same_asking(
    flavour: Any, maybe: Any, coordkit_redis_quorum: Any, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr(_reader, "_KNOWN", ())
    quorum = flavour.Quorum([flavour.redis(server.url) for server in coordkit_redis_quorum])
    await maybe(quorum.initialise())
    calls = [Call(load(name), (b"a", b"b", b"c"), ("d", 1, 1)) for name in ("lock_renew", "quorum_release") * 2]

    async def ask() -> Any:
        asking = quorum._core.panel.ask("forgotten", {0: calls, 1: calls}, within=10, enough=lambda _: math.inf)
        return await asking if flavour.is_async else run(asking)

    assert await ask() == {0: [0] * 4, 1: [0] * 4}
    with redis.Redis.from_url(coordkit_redis_quorum[0].url) as client:
        client.script_flush()
    assert await ask() == {0: [0] * 4, 1: [0] * 4}


@pytest.mark.parametrize("name", ["job", "100 %", "%d %b\r\n", "größer"])
def test_a_form_that_is_filled_in_is_what_redis_py_sends(name: str) -> None:
    """Most of it is packed once; what is in a name must not matter."""
    form = Form(load("lock_renew"), (name.encode(), b"{%s}"), 10_000, "", f"{name} 1")
    for holder in ("host:1:abc", f"host:1:abc:{name}"):
        packed = _redis_packing.filled(form, holder)
        theirs = redis.Connection().pack_command(*_redis_packing.evalsha(form.call(holder)))

        assert packed == b"".join(theirs) == _redis_packing.packed(form.call(holder))


@pytest.mark.parametrize("fsync", [True, False])
def test_no_number_is_left_to_be_formatted(fsync: bool) -> None:
    """hiredis's pack_command crashes the process where a signal handler raises while it formats one."""
    call = Call(load("lock_renew"), (b"a", b"b"), ("holder", 10_000, b"", 1))
    commands = [_redis_packing.evalsha(call), *_redis_packing.evals([call, call])]
    confirmed = _redis_packing.confirming(commands[0], Confirm(replicas=1, fsync=fsync, within=0.5))

    assert {type(word) for command in [*commands, *confirmed] for word in command} == {bytes, str}
    assert confirmed[1] == (("WAITAOF", b"1", b"1", b"500") if fsync else ("WAIT", b"1", b"500"))


def test_an_enumeration_is_its_value_whichever_way_it_is_sent() -> None:
    """The first time a server is sent the script's text, and later its number: one word would else be two."""

    class Colour(str, Enum):
        RED = "red"

    class Number(int, Enum):
        ONE = 1

    call = Call(load("lock_renew"), (b"a",), (Colour.RED, Number.ONE))

    assert _redis_packing.packed(call).endswith(b"$3\r\nred\r\n$1\r\n1\r\n")
    for command in (_redis_packing.evalsha(call), *_redis_packing.evals([call, call])):
        assert command[-2:] == (b"red", b"1")


def test_no_number_of_a_handshake_is_left_to_be_formatted(
    coordkit_redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HELLO 3 and SELECT 1 crashed the process just so: 2 of 70,000 acquisitions that a signal handler interrupted."""
    sent: list[tuple[Any, ...]] = []
    connect = redis.connection
    pack = connect.hiredis.pack_command
    monkeypatch.setattr(connect.hiredis, "pack_command", lambda words: sent.append(words) or pack(words))
    pool = redis.ConnectionPool.from_url(coordkit_redis_server.url, protocol=3)
    pool.connection_kwargs["db"] = 1
    connection = connection_of(pool)
    connection.connect()
    connection.disconnect()

    assert {words[0] for words in sent} >= {b"HELLO", b"SELECT"}
    assert {type(word) for words in sent for word in words} <= {bytes, str}


def test_the_packer_of_a_client_stays_as_it_is() -> None:
    """It was wrapped anew for each connection of ours: after a thousand of them it could pack nothing any more."""

    class Packer:
        def pack(self, *args: Any) -> list[bytes]:
            return [repr(args).encode()]

    packer = Packer()
    pool = redis.ConnectionPool(command_packer=packer)
    connection = connection_of(pool)

    assert connection.pack_command("SELECT", 1) == [b"('SELECT', 1)"]
    assert not vars(packer)


async def test_a_connection_whose_transport_knows_no_abort_is_closed() -> None:
    """As those of fakeredis: what stands for a transport there can only be closed."""

    class Stream:
        transport = object()
        closed = False

        def close(self) -> None:
            self.closed = True

    class Connection:
        _writer = stream = Stream()

        async def disconnect(self, **_: bool) -> None:
            self._writer = None

    await hang_up(Connection())
    assert Connection.stream.closed
